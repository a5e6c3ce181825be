"""nnfast's CPU engine: one call of Program.run for the whole stretch, as `nnfast bench` makes it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from nnfast.backends import Source
from nnfast.bench import Runner
from nnfast.workloads import Workload

from .peer import Peer


class Engine(Peer):
    """The numba backend. It reads the number of its threads from the environment (see workers.environment)."""

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self._runner = Runner(workload, "numba", Source(self.inputs, self.targets))

    def reset(self) -> None:
        self._runner.reset()

    def train(self) -> None:
        self._losses = self._runner.run()

    def losses(self) -> NDArray[Any]:
        return self._losses

    def parameters(self) -> NDArray[Any]:
        return self._runner.program.parameters
