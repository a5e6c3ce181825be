"""What a figure or a run depends on: versions, processor, devices, and which backends can run here."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..support.threads import thread_count
from . import NAMES, get_backend, packages, unavailable

PACKAGES = (("scipy",), ("safetensors",), ("matplotlib",))  # beside those that the backends name

CPU_INFO = Path("/proc/cpuinfo")  # Linux


def gather() -> dict[str, Any]:
    """What there is to know, as JSON holds it."""
    backends: dict[str, Any] = {}
    for name in NAMES:
        reason = unavailable(name)
        backends[name] = {
            "available": reason is None,
            "reason": reason,
            "description": None if reason else get_backend(name).description,
        }
    chosen = get_backend("auto")
    return {
        "nnfast": __version__,
        "python": platform.python_version(),
        "packages": {names[0]: installed_version(*names) for names in packages() + PACKAGES},
        "backends": backends,
        "auto": chosen.name,
        "choice": chosen.choice,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": _cores(),
        "threads": thread_count(),
        "blas": _blas(),
        "gpus": _gpus() if backends["cuda"]["available"] else [],
        "cache": _cache(),
    }


def installed_version(*names: str) -> str | None:
    """The version of the first of these packages that is installed; None if none is."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _cpu() -> str:
    """The name that Linux gives the processor, or LLVM's: on ARM, Linux tells numbers only."""
    for line in CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    try:
        import llvmlite.binding
    except ImportError:
        return platform.machine()
    return f"{platform.machine()} {llvmlite.binding.get_host_cpu_name()}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _blas() -> dict[str, str]:
    """The BLAS that NumPy and SciPy were built with; the numpy backend uses NumPy's, the numba backend none."""
    import numpy
    import scipy

    found = {}
    for module in (numpy, scipy):
        built: Any = module.show_config(mode="dicts")
        blas = built.get("Build Dependencies", {}).get("blas", {})
        found[module.__name__] = f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    return found


def _gpus() -> list[str]:
    import cupy

    return [get_backend(f"cuda:{number}").description for number in range(cupy.cuda.runtime.getDeviceCount())]


def _cache() -> str | None:
    try:
        from ..kernels.cpu.compilation import user_cache_directory

        return str(user_cache_directory())
    except (ImportError, RuntimeError):  # the latter where a user has no home
        return None
