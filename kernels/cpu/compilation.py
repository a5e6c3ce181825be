"""How CPU kernels are compiled and where the compiled code is kept.

Numba caches a function's machine code beside its source and looks only at that one file to see whether it is still
valid. Here a kernel calls kernels in other files, so the cache folder is named by a hash of all of them: an edited
kernel never meets old code. Code generated from formulas is written to the same folder and imported from there,
since Numba can cache only what has a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite.binding
import numba
from numba import njit
from numba.core import config

import nnfast.random

# Division by zero gives infinity, as in NumPy: Python's check in every division would keep loops from vectorising.
# Sums keep their order and NaN stays NaN; only fused multiply-add, signed zero and reciprocals are left to LLVM.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}, "nogil": True}

KERNELS = Path(__file__).resolve().parent


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
    """The folder of code compiled from these very sources for this processor, or None if none can be written."""
    digest = hashlib.sha256()
    # nnfast.random is compiled into the dropout kernel; what formulas become is hashed into their own file names.
    for source in [*sorted(KERNELS.glob("*.py")), Path(nnfast.random.__file__)]:
        digest.update(source.read_bytes())
    for part in (numba.__version__, sys.version, llvmlite.binding.get_host_cpu_name(), str(KERNELS)):
        digest.update(part.encode())
    try:
        directory = user_cache_directory().resolve() / f"cpu_{digest.hexdigest()[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError:
        return None


@contextlib.contextmanager
def caching() -> Iterator[bool]:
    """Within this, a function decorated with cache=<the value> is cached in our folder, if there is one."""
    directory = cache_directory()
    # Numba reads this setting when a function is decorated; the user's own functions must not see our value.
    previous, config.CACHE_DIR = config.CACHE_DIR, str(directory or "")
    try:
        yield directory is not None
    finally:
        config.CACHE_DIR = previous


def kernel(function: Callable[..., Any]) -> Any:
    """Decorator of an entry point: compiled at its first call for the types it is given, and cached."""
    with caching() as enabled:
        return njit(cache=enabled, **OPTIONS)(function)


def helper(function: Callable[..., Any]) -> Any:
    """Decorator of a function that only kernels call: it is compiled into them and needs no cache of its own."""
    return njit(**OPTIONS)(function)


@cache
def generated_module(name: str, source: str) -> ModuleType:
    """Import Python source as a module whose kernels are cached like any other."""
    name = f"nnfast_{name}_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    directory = cache_directory()
    path = directory / f"{name}.py" if directory else None
    try:
        if path and (not path.exists() or path.read_text() != source):
            write_atomically(path, source)
    except OSError:  # the folder was there when the process began
        path = None
    if path is None:
        module = sys.modules[name] = ModuleType(name)
        exec(compile(source, name, "exec"), module.__dict__)
        return module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    # Numba finds the module of cached code by name, so it is registered before it runs.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def write_atomically(path: Path, text: str) -> None:
    """Another process may be writing the same file: each writes its own and moves it into place whole."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def is_compiled(what: str) -> bool:
    """Whether `what` was marked compiled in this cache folder by mark_compiled."""
    directory = cache_directory()
    return directory is not None and (directory / f"{what}.compiled").exists()


def mark_compiled(what: str) -> None:
    directory = cache_directory()
    if directory is not None:
        with contextlib.suppress(OSError):
            (directory / f"{what}.compiled").touch()
