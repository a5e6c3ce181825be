"""Backends by name: which there are, which can run here and why the others cannot.

To add one, write backends/<name>/__init__.py with unavailable_reason() and create(), and add its name to NAMES.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from ..support.threads import check_threads
from .base import Backend, BackendUnavailableError, Program, Source, check_place

__all__ = [
    "NAMES", "Backend", "BackendUnavailableError", "Program", "Source", "check_place", "get_backend",
    "unavailable",
]  # fmt: skip

NAMES = ("cuda", "numba", "numpy")
CHOSEN_BY_AUTO = ("numba", "numpy")
MADE_OF_KERNELS = ("cuda", "numba")
KERNELS = Path(__file__).resolve().parents[1] / "kernels"


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __name__)


def unavailable(name: str) -> str | None:
    """Why the backend cannot run here and what to do about it, or None if it can."""
    if name in MADE_OF_KERNELS and not KERNELS.is_dir():
        return (
            "nnfast/kernels is missing: this checkout was made without symbolic links; restore it with "
            "git config core.symlinks true && git checkout -- nnfast/kernels"
        )
    reason: str | None = _module(name).unavailable_reason()
    return reason


def get_backend(name: str | Backend = "auto", threads: int | None = None) -> Backend:
    """The backend called "numpy", "numba", "cuda", "cuda:1" (the second device), or "auto".

    "cuda:narrow", "cuda:wide" and "cuda:tf32" set CudaBackend's options, also after a number: "cuda:1:wide:tf32".

    "auto" takes numba, or numpy where numba cannot run or would be slower, and its choice attribute says why. It never
    takes cuda, whose tests have not yet passed on a GPU. A name never becomes another. A Backend is returned as it is.

    threads: how many the numba backend may use at most, in all that a process computes at once; None: what
    NNFAST_NUM_THREADS or OMP_NUM_THREADS says, else every processor. The results are the same, bit for bit, for any
    number. It says nothing to the others: the products of numpy are in the threads of NumPy's BLAS
    (OPENBLAS_NUM_THREADS), and cuda computes on the device.

    Raises ValueError for an unknown name, for threads out of range or beside a Backend, which has its own;
    BackendUnavailableError for a backend that cannot run here.
    """
    threads = check_threads(threads)
    if isinstance(name, Backend):
        if threads is not None:
            raise ValueError(
                f"threads={threads} beside a Backend, which has its own: give it to get_backend({name.name!r}, "
                f"threads={threads})"
            )
        return name
    if not isinstance(name, str):
        raise TypeError(f"backend must be a name, got {name!r}")
    if name == "auto":
        return _choose(threads)
    base, *words = name.split(":")
    options = None
    if base in NAMES:
        options = _module(base).parse_options(words) if words and base == "cuda" else None if words else {}
    if options is None:
        raise ValueError(
            f"unknown backend {name!r}; known: auto, {', '.join(NAMES)}, cuda:N, cuda:narrow, cuda:wide, cuda:tf32"
        )
    if base == "numba":
        options["threads"] = threads
    reason = unavailable(base)
    if reason:
        others = ", ".join(other for other in NAMES if other != base and unavailable(other) is None)
        raise BackendUnavailableError(f"backend {name!r} is not available: {reason}. Available: {others}")
    backend: Backend = _module(base).create(**options)
    return backend


def _choose(threads: int | None) -> Backend:
    """The backend for "auto". Looks for no GPU: that imports CuPy and starts the driver."""
    name, why = "numba", ""
    if reason := unavailable("numba"):
        name, why = "numpy", f" (no numba: {reason})"
    elif reason := _module("numba").slow_reason():
        name, why = "numpy", f" (numba would be slower: {reason})"
    backend = get_backend(name, threads)
    backend.choice = f"auto chose {name}{why}"
    if importlib.util.find_spec("cupy"):
        backend.choice += "; CuPy is installed, but only --backend cuda or backend='cuda' uses a GPU"
    return backend
