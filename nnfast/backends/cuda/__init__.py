"""The CUDA backend: the arrays of a plan on the device, and CUDA kernels made from its formulas.

Rows, parameters and slots stay on the device. A stretch sends its order and step values over once and reads its
losses back once; between the two nothing waits for the device.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from typing import Any

from ...plan import Plan
from ..base import Backend, BackendUnavailableError, Recipe
from .program import CudaProgram
from .wide import WideProgram


class CudaBackend(Backend):
    """One CUDA device. xp: CuPy, or, in tests, a module that stands in for it."""

    name = "cuda"

    def __init__(self, xp: Any, device: int = 0) -> None:
        self.xp = xp
        self.device = device
        self._kernels: dict[tuple[str, str], Any] = {}

    @property
    def description(self) -> str:
        properties = self.xp.cuda.runtime.getDeviceProperties(self.device)
        return f"{properties['name'].decode()} (device {self.device}), CuPy {self.xp.__version__}"

    def compile(self, plan: Plan, recipe: Recipe) -> CudaProgram:
        with self.xp.cuda.Device(self.device):
            return WideProgram(plan, recipe, self)

    def kernel(self, source: str, name: str) -> Any:
        """A kernel compiled from `source` for this device; CuPy keeps the compiled code on disk."""
        if (source, name) not in self._kernels:
            module = self.xp.RawModule(code=source, options=("--std=c++17",))
            self._kernels[source, name] = module.get_function(name)
        return self._kernels[source, name]


def unavailable_reason() -> str | None:
    """Why no CUDA device can be used here. Cheap where there is none: CuPy is imported only beside a driver."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; install nnfast[cuda12] or nnfast[cuda13]"
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"there is no NVIDIA driver ({library} is not found); install it on a machine with an NVIDIA GPU"
    try:
        count = importlib.import_module("cupy").cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's own classes, known only where it can be imported
        return f"CuPy finds no usable CUDA device ({' '.join(str(error).split())})"
    return None if count else "there is no CUDA device"


def create(device: int | None) -> CudaBackend:
    """The backend for one device. Raises BackendUnavailableError for a number that no device has."""
    xp = importlib.import_module("cupy")
    count = xp.cuda.runtime.getDeviceCount()
    number = device or 0
    if number >= count:
        raise BackendUnavailableError(f"backend 'cuda:{number}' is not available: there are {count} devices, from 0")
    return CudaBackend(xp, number)
