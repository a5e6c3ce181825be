"""nnfast: one call of Program.run for the whole stretch, as `nnfast bench` makes it."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import NDArray

from nnfast.backends import Source
from nnfast.backends.cuda import CudaBackend
from nnfast.benchmarking.bench import Runner
from nnfast.benchmarking.workloads import Workload

from .peer import Peer


class Engine(Peer):
    """The fast backend of a device. Numba's reads the number of its threads from the environment (see workers.py)."""

    backends: ClassVar[dict[str, str]] = {"cpu": "numba", "cuda": "cuda"}

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        super().__init__(workload, threads, device)
        self._runner = Runner(workload, self.backends[device], Source(self.inputs, self.targets))
        backend = self._runner.backend
        self._xp = backend.xp if isinstance(backend, CudaBackend) else None
        self._events = [self._xp.cuda.Event() for _ in range(2)] if self._xp else []

    def reset(self) -> None:
        self._runner.reset()

    def train(self) -> None:
        for event in self._events[:1]:
            event.record()
        self._losses = self._runner.run()
        for event in self._events[1:]:
            event.record()

    def stream_seconds(self) -> float | None:
        if self._xp is None:
            return None
        self._events[1].synchronize()
        return float(self._xp.cuda.get_elapsed_time(*self._events)) / 1e3

    def losses(self) -> NDArray[Any]:
        return self._losses

    def parameters(self) -> NDArray[Any]:
        return self._runner.program.parameters


class NumbaEngine(Engine):
    """The CPU's beside a GPU."""

    backends: ClassVar[dict[str, str]] = {"cuda": "numba"}


class NumPyEngine(Engine):
    """The reference beside a GPU."""

    backends: ClassVar[dict[str, str]] = {"cuda": "numpy"}
