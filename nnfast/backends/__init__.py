"""Backends by name: which there are, which can run here and why the others cannot.

To add one, write backends/<name>/__init__.py with what base.BackendModule lists, and add its name to NAMES.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util

from ..support.checks import shown
from ..support.threads import check_threads
from .base import Backend, BackendModule, BackendUnavailableError, Live, Program, Source, check_place
from .passes import Passes

__all__ = [
    "NAMES", "Backend", "BackendUnavailableError", "Live", "Passes", "Program", "Source", "check_place", "forms",
    "get_backend", "packages", "unavailable",
]  # fmt: skip

NAMES = ("cuda", "numba", "numpy")  # in the order in which "auto" prefers them
ONLY_IF_NAMED = ("cuda",)  # "auto" passes these over, without importing them


def _module(name: str) -> BackendModule:
    module: BackendModule = importlib.import_module(f".{name}", __name__)
    return module


def _modules() -> list[BackendModule]:
    """The packages of the backends that can be imported: without kernels, some cannot."""
    found = []
    for name in NAMES:
        with contextlib.suppress(ModuleNotFoundError):
            found.append(_module(name))
    return found


def forms() -> list[str]:
    """Every form of a name that get_backend takes, "auto" first."""
    return ["auto", *NAMES, *(form for module in _modules() for form in module.FORMS)]


def packages() -> tuple[tuple[str, ...], ...]:
    """What the backends run on; of each group of packages, the first that is installed counts."""
    return tuple(names for module in reversed(_modules()) for names in module.PACKAGES)


def unavailable(name: str) -> str | None:
    """Why the backend cannot run here and what to do about it, or None if it can."""
    try:
        return _module(name).unavailable_reason()
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("nnfast.kernels"):
            raise
        return (
            "nnfast/kernels is missing: this checkout was made without symbolic links; restore it with "
            "git config core.symlinks true && git checkout -- nnfast/kernels"
        )


def get_backend(name: str | Backend = "auto", threads: int | None = None) -> Backend:
    """The backend called "numpy", "numba", "cuda", "cuda:1" (the second device), or "auto".

    "cuda:narrow", "cuda:wide" and "cuda:tf32" set CudaBackend's options, also after a number: "cuda:1:wide:tf32".

    "auto" takes numba, or numpy where numba cannot run or would be slower, and its choice attribute says why. It never
    takes cuda, whose tests have not yet passed on a GPU. A name never becomes another. A Backend is returned as it is.

    threads: how many the numba backend may use at most, in all that a process computes at once; None: what
    NNFAST_NUM_THREADS says, else as many as are fastest while it computes, up to OMP_NUM_THREADS or every processor.
    The results are the same, bit for bit, for any number. It says nothing to the others: the products of numpy are in
    the threads of NumPy's BLAS (OPENBLAS_NUM_THREADS), and cuda computes on the device.

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
        raise TypeError(f"backend must be a name, got {shown(name)}")
    if name == "auto":
        return _choose(threads)
    base, *words = name.split(":")
    options = _module(base).parse_options(words) if base in NAMES else None
    if options is None:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(forms())}")
    reason = unavailable(base)
    if reason:
        others = ", ".join(other for other in NAMES if other != base and unavailable(other) is None)
        raise BackendUnavailableError(f"backend {name!r} is not available: {reason}. Available: {others}")
    return _module(base).create(threads, **options)


def _choose(threads: int | None) -> Backend:
    """The backend for "auto". Looks for no GPU: that imports CuPy and starts the driver."""
    reasons: list[str] = []
    for name in NAMES:
        if name in ONLY_IF_NAMED:
            continue
        if reason := unavailable(name):
            reasons.append(f"no {name}: {reason}")
        elif reason := _module(name).slow_reason():
            reasons.append(f"{name} would be slower: {reason}")
        else:
            break
    else:
        raise BackendUnavailableError(f"no backend can run here: {'; '.join(reasons)}")
    backend = get_backend(name, threads)
    backend.choice = f"auto chose {name}" + (f" ({'; '.join(reasons)})" if reasons else "")
    if importlib.util.find_spec("cupy"):
        backend.choice += "; CuPy is installed, but only --backend cuda or backend='cuda' uses a GPU"
    return backend
