"""The CUDA backend: the arrays of a plan on the device, and CUDA kernels made from its formulas.

Rows, parameters and slots stay on the device. A stretch sends its order and step values over once and reads its
losses back once; between the two nothing waits for the device. Narrow networks take a path of their own (narrow.py),
all others the wide one (wide.py); kernels/cuda/layout.py has the rule.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...kernels.cuda.layout import NARROW_ROWS, NARROW_UNITS, PATHS, Limits, choose_path, why_not_narrow
from ...plans.plan import Plan
from ...plans.recipe import Recipe
from ..base import Backend, BackendUnavailableError, Program, Source, lacking, never_slow
from .images import ImageProgram
from .memory import DeviceRows, reporting_memory, upload
from .narrow import NarrowProgram
from .passes import ImagePasses, WidePasses
from .program import CudaProgram
from .wide import WideProgram

logger = logging.getLogger("nnfast")

FORMS = ("cuda:N", "cuda:narrow", "cuda:wide", "cuda:tf32")
PACKAGES = (("cupy", "cupy-cuda12x", "cupy-cuda13x"),)
TF32_CAPABILITY = 80  # 8.0, Ampere
OPTIONS = ("--std=c++17",)  # of NVIDIA's compiler; CuPy adds its own, among them that float32 has no denormal numbers

_compute_type = threading.Lock()  # CuPy has one setting for all threads: who sets it for a product holds this


class CudaBackend(Backend):
    """One CUDA device.

    path: "narrow", "wide", or "auto" for the rule of layout.choose_path. tf32: let matrix products round the factors
    to 10 bits of mantissa, for speed; only the wide path has such products. xp: a stand-in for CuPy, in tests.

    Raises ValueError for an unknown path, BackendUnavailableError where the device is missing or too old for tf32.
    """

    name = "cuda"

    def __init__(self, device: int = 0, *, path: str = "auto", tf32: bool = False, xp: Any = None) -> None:
        if path not in PATHS:
            raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
        if xp is None and (reason := unavailable_reason()):
            raise BackendUnavailableError(f"backend 'cuda' is not available: {reason}")
        self._stand_in = xp
        self.xp = importlib.import_module("cupy") if xp is None else xp
        self.device, self.path, self.tf32 = device, path, tf32
        self._kernels: dict[tuple[str, str], Any] = {}
        self._rows: dict[tuple[int, str], tuple[weakref.ref[Source], DeviceRows]] = {}
        count = self.xp.cuda.runtime.getDeviceCount()
        if device >= count:
            raise BackendUnavailableError(
                f"backend 'cuda:{device}' is not available: there are {count} devices, from 0"
            )
        if tf32 and (found := int(self.xp.cuda.Device(device).compute_capability)) < TF32_CAPABILITY:
            raise BackendUnavailableError(
                f"backend 'cuda:tf32' is not available: tf32 needs compute capability 8.0, but device {device} has "
                f"{found / 10}; leave tf32 out"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, also one in another process, is made by the constructor: modules and kernels cannot be copied."""
        make = functools.partial(type(self), path=self.path, tf32=self.tf32, xp=self._stand_in)
        return make, (self.device,), {"choice": self.choice}

    @functools.cached_property
    def _properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = self.xp.cuda.runtime.getDeviceProperties(self.device)
        return properties

    @functools.cached_property
    def limits(self) -> Limits:
        """What programs are laid out for."""
        return Limits(self._properties["multiProcessorCount"], self._properties["sharedMemPerBlockOptin"])

    @property
    def description(self) -> str:
        rule = {"auto": f"narrow path to {NARROW_UNITS} units and batches of {NARROW_ROWS}, else wide"}
        parts = [
            f"{self._properties['name'].decode()} (device {self.device})",
            f"CuPy {self.xp.__version__}",
            rule.get(self.path, f"{self.path} path"),
            *(["tf32"] if self.tf32 else []),
        ]
        return ", ".join(parts)

    def choose(self, plan: Plan, dtype: np.dtype[Any]) -> str:
        path, reason = self._choose(plan, dtype)
        return f"{path} path: {reason}"

    def _choose(self, plan: Plan, dtype: np.dtype[Any]) -> tuple[str, str]:
        if self.path == "auto":
            return choose_path(plan, dtype, self.limits)
        if self.path == "narrow" and (reason := why_not_narrow(plan, dtype, self.limits)):
            raise ValueError(f"this network cannot take the narrow path: {reason}; use path 'auto' or 'wide'")
        return self.path, "asked for"

    def refusal(self, plan: Plan) -> str | None:
        return lacking(plan, ImageProgram.passes)

    def _compile(self, plan: Plan, recipe: Recipe) -> CudaProgram:
        path, reason = self._choose(plan, recipe.dtype)
        logger.info("cuda:%d: %s path: %s", self.device, path, reason)
        is_dense = all(type(operation) in WideProgram.passes for operation in plan.operations)
        program = NarrowProgram if path == "narrow" else WideProgram if is_dense else ImageProgram
        with self.xp.cuda.Device(self.device), reporting_memory(self.xp, plan, recipe, self.device):
            return program(plan, recipe, self)

    def passes(self, program: Program) -> WidePasses:
        assert isinstance(program, CudaProgram)
        is_dense = all(type(operation) in WideProgram.passes for operation in program.plan.operations)
        passes = WidePasses if is_dense else ImagePasses
        with self.xp.cuda.Device(self.device), reporting_memory(self.xp, program.plan, program.recipe, self.device):
            return passes(program, self)

    def kernel(self, source: str, name: str) -> Any:
        """A kernel compiled from `source` for this device; CuPy keeps the compiled code on disk."""
        if (source, name) not in self._kernels:
            module = self.xp.RawModule(code=source, options=OPTIONS)
            self._kernels[source, name] = module.get_function(name)
        return self._kernels[source, name]

    def rows(self, source: Source, dtype: np.dtype[Any]) -> DeviceRows:
        """The source on the device, for programs in `dtype`: sent once for all, and there for as long as it lives."""
        key = id(source), dtype.name
        if key not in self._rows:
            there = upload(self.xp, source, dtype, self.device)
            self._rows[key] = weakref.ref(source, lambda _: self._rows.pop(key, None)), there
        return self._rows[key][1]

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """out = a b, the factors rounded as tf32 says, whatever CuPy's setting is outside."""
        core = self.xp._core
        kinds = core._routines_linalg
        wanted = kinds.COMPUTE_TYPE_TF32 if self.tf32 else kinds.COMPUTE_TYPE_DEFAULT
        with _compute_type:
            before = core.get_compute_type(np.float32)
            if before == wanted:
                self.xp.matmul(a, b, out=out)
                return
            core.set_compute_type(np.float32, wanted)
            try:
                self.xp.matmul(a, b, out=out)
            finally:
                core.set_compute_type(np.float32, before)


slow_reason = never_slow


def parse_options(words: Sequence[str]) -> dict[str, Any] | None:
    """What follows "cuda" in a backend's name as options of CudaBackend; None for words that mean nothing.

    A device's number comes first, then, in any order, a path and "tf32".
    """
    options: dict[str, Any] = {}
    for index, word in enumerate(words):
        if word.isdecimal() and word.isascii() and index == 0:
            options["device"] = int(word)
        elif word in PATHS and "path" not in options:
            options["path"] = word
        elif word == "tf32" and "tf32" not in options:
            options["tf32"] = True
        else:
            return None
    return options


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
    return _missing_library() if count else "there is no CUDA device"


@functools.cache
def _missing_library() -> str | None:
    """Why CuPy, which brings neither a compiler nor cuBLAS, can find none of its own on this machine."""
    try:
        cupy = importlib.import_module("cupy")
        cupy.RawModule(code='extern "C" __global__ void nothing() {}', options=OPTIONS).get_function("nothing")
        importlib.import_module("cupy.cublas")
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        return f"CuPy finds no CUDA libraries ({reason}); install nnfast[cuda12], nnfast[cuda13] or the CUDA toolkit"
    return None


def create(threads: int | None, **options: Any) -> CudaBackend:
    """The backend for one device; see CudaBackend. threads: of no meaning here."""
    return CudaBackend(**options)
