"""How CPU kernels come to their addresses, and where the compiled code is kept.

A kernel is a Python function in this folder, or one written from a formula. Numba compiles it (compiler.py) to an
object file with one C function, which is kept in a folder named by a hash of all kernels' sources: an edited kernel
never meets old code. LLVM's own loader makes such a file executable in a millisecond, so that neither Numba nor the
kernels' modules, which need it, are imported where all is compiled already.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np

import nnfast.support.random
from nnfast.plans.plan import ROW_GROUP
from nnfast.support.files import write_bytes

from .options import OPTIONS
from .registers import VECTOR_BYTES
from .signatures import Signature

KERNELS = Path(__file__).resolve().parent

# Settings of Numba's that change no code. joblib's workers have the first set, and find what their parent compiled.
HARMLESS = {"NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT"}


class Kernel(NamedTuple):
    """A compiled kernel, which stays where it is as long as the process lives.

    function: returns the Python function, of arrays of `dtype`, that it was compiled from.
    """

    name: str
    address: int
    signature: Signature
    dtype: np.dtype[Any]
    function: Callable[[], Callable[..., Any]]


def user_cache_directory() -> Path:
    """Where this user's compiled code goes: $NNFAST_CACHE_DIR, or nnfast in the system's place for caches."""
    if chosen := os.environ.get("NNFAST_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "nnfast"


@cache
def cache_directory() -> Path | None:
    """The folder of code compiled from these very sources for this processor, or None if none can be made.

    One that cannot be written is read all the same: it may have been filled when a container was built.
    """
    digest = hashlib.sha256()
    # support.random is compiled into the dropout kernel; what formulas become is hashed into their own file names.
    for source in [*sorted(KERNELS.glob("*.py")), Path(nnfast.support.random.__file__)]:
        digest.update(source.read_bytes())
    settings = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("NUMBA_") and name not in HARMLESS
    ]
    features = llvmlite.binding.get_host_cpu_features().flatten()
    for part in (
        importlib.metadata.version("numba"), llvmlite.__version__, sys.version, llvmlite.binding.get_process_triple(),
        llvmlite.binding.get_host_cpu_name(), features, str(VECTOR_BYTES), str(ROW_GROUP), *settings,
    ):  # fmt: skip
        digest.update(part.encode() + b"\0")
    try:
        directory = user_cache_directory().resolve() / f"cpu_{digest.hexdigest()[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where a user has no home
        return None
    return directory


def helper(function: Callable[..., Any]) -> Any:
    """Decorator of a function that only kernels call: it is compiled into them."""
    from numba import njit

    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)


_lock = threading.Lock()
_loaded: dict[str, Kernel] = {}


def _forget_lock() -> None:
    """In a forked process no thread holds the lock, whatever its parent was doing."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def c_callable(
    name: str, signature: Signature, dtype: np.dtype[Any], function: Callable[[], Callable[..., Any]]
) -> Kernel:
    """The kernel of this name for arrays of `dtype`: from memory, from the cache, or compiled now.

    function: returns the Python function, which returns nothing.
    """
    symbol = _symbol(name, dtype)
    if symbol in _loaded:  # without waiting for what another thread compiles
        return _loaded[symbol]
    with _lock:
        if symbol not in _loaded:
            code = _read(symbol)
            if code is None:
                with _enabled():
                    from .compiler import object_code

                    code = object_code(function(), symbol, signature, dtype)
                _write(symbol, code)
            engine = _engine()
            engine.add_object_file(llvmlite.binding.ObjectFileRef.from_data(code))
            engine.finalize_object()
            address = engine.get_function_address(symbol)
            _loaded[symbol] = Kernel(name, address, signature, dtype, function)
        return _loaded[symbol]


@contextlib.contextmanager
def _enabled() -> Iterator[None]:
    """Within this Numba compiles, although NUMBA_DISABLE_JIT may keep it from the user's own functions."""
    from numba.core import config

    previous, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = previous


def written_kernel(kind: str, text: str, signature: Signature, dtype: np.dtype[Any]) -> Kernel:
    """The function `kernel` of a Python text, compiled as by c_callable. kind: what it is, for its file's name."""

    def function() -> Callable[..., Any]:
        namespace: dict[str, Any] = {"__name__": name}
        exec(compile(text, f"<{name}>", "exec"), namespace)
        kernel: Callable[..., Any] = namespace["kernel"]
        return kernel

    name = written_name(kind, text)
    return c_callable(name, signature, dtype, function)


def written_name(kind: str, text: str) -> str:
    """The name of the kernel of that text."""
    return f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def assembly(kernel: Kernel) -> str:
    """The kernel's machine code in the processor's assembly language: it is compiled once more for that."""
    with _lock, _enabled():
        from .compiler import assembly_code

        return assembly_code(kernel.function(), _symbol(kernel.name, kernel.dtype), kernel.signature, kernel.dtype)


def is_compiled(name: str, dtype: np.dtype[Any]) -> bool:
    """Whether that kernel needs no compiling any more."""
    symbol = _symbol(name, dtype)
    return symbol in _loaded or _read(symbol) is not None


def compiled_kernels() -> frozenset[str]:
    """What this process has compiled or loaded so far."""
    return frozenset(_loaded)


def kernel_at(address: int) -> Kernel | None:
    """The kernel of this process with that address, if there is one."""
    return next((kernel for kernel in tuple(_loaded.values()) if kernel.address == address), None)


def _symbol(name: str, dtype: np.dtype[Any]) -> str:
    """The name of a kernel's C function."""
    return f"nnfast_{name}_{dtype.name}"


@cache
def _engine() -> llvmlite.binding.ExecutionEngine:
    """What makes object files executable, and resolves what they call of the C library."""
    llvmlite.binding.initialize_native_target()
    llvmlite.binding.initialize_native_asmprinter()
    machine = llvmlite.binding.Target.from_default_triple().create_target_machine()
    return llvmlite.binding.create_mcjit_compiler(llvmlite.binding.parse_assembly(""), machine)


def _path(symbol: str) -> Path | None:
    directory = cache_directory()
    return directory / f"{symbol}.o" if directory else None


def _read(symbol: str) -> bytes | None:
    """The object file of that name, unless there is none or it is damaged: it begins with a hash of both."""
    path = _path(symbol)
    try:
        content = path.read_bytes() if path else b""
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if code and _digest(symbol, code) == digest else None


def _digest(symbol: str, code: bytes) -> bytes:
    return hashlib.sha256(symbol.encode() + b"\0" + code).digest()


def _write(symbol: str, code: bytes) -> None:
    """Keep an object file, if that is possible. Another process may write the same: each moves its own into place."""
    if path := _path(symbol):
        with contextlib.suppress(OSError):
            write_bytes(path, _digest(symbol, code) + code)
