"""nnfast beside scikit-learn, PyTorch and JAX on the same training, on a CPU or a GPU: `python -m benchmarks.peers`.

PEERS lists them. A peer is one class (see `peer.py`) in a module that is imported in a process of its own only, so
that no library's threads and settings reach another's.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from dataclasses import dataclass

from .peer import Peer

HOME = "nnfast"  # the peer that the others are compared with
PRODUCT = "blas"  # what is measured beside the peers: BLAS's large product
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Entry:
    """Where a peer is found, and on which of DEVICES it is compared.

    package: what is installed for it; programs: what must be on the path besides.
    """

    title: str
    module: str
    kind: str
    imported: str
    package: str
    programs: tuple[str, ...] = ()
    devices: tuple[str, ...] = DEVICES

    def missing(self) -> str | None:
        """Why this peer cannot run here and what to do about it, or None if it can."""
        if importlib.util.find_spec(self.imported) is None:
            return f"{self.title} is not installed: left out; pip install {self.package}"
        for program in self.programs:
            if shutil.which(program) is None:
                return f"{self.title} needs {program}, which is not on the path: left out"
        return None

    def load(self) -> type[Peer]:
        """The peer's class. Imports its library."""
        peer: type[Peer] = getattr(importlib.import_module(f".{self.module}", __name__), self.kind)
        return peer


PEERS = {
    "scikit-learn": Entry("scikit-learn", "scikit_learn", "ScikitLearn", "sklearn", "scikit-learn", devices=("cpu",)),
    "torch": Entry("PyTorch", "pytorch", "Eager", "torch", "torch"),
    "torch-compiled": Entry("PyTorch, compiled", "pytorch", "Compiled", "torch", "torch", programs=("g++",)),
    "torch-graphs": Entry(
        "PyTorch, CUDA graphs", "pytorch", "Graphed", "torch", "torch", programs=("g++",), devices=("cuda",)
    ),
    "jax": Entry("JAX", "jax_scan", "Scan", "jax", "jax"),
    "numpy": Entry("nnfast, numpy", "engine", "NumPyEngine", "numpy", "numpy", devices=("cuda",)),
    "numba": Entry("nnfast, numba", "engine", "NumbaEngine", "numba", "numba", devices=("cuda",)),
    HOME: Entry("nnfast", "engine", "Engine", "numba", "numba"),
}
