"""nnfast info: which backends can run here, and on what; or what there is to know of a network or a data set."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from .. import __version__
from . import OK
from .options import DATA_SETTINGS, as_options

# Of each line, the first that is installed counts.
PACKAGES = (
    ("numpy",),
    ("scipy",),
    ("numba",),
    ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    ("safetensors",),
    ("matplotlib",),
)


def info_command(arguments: argparse.Namespace) -> int:
    """Run `nnfast info`."""
    if arguments.subject in DATA_SETTINGS:
        return _data_command(arguments)
    if arguments.subject is not None:
        return _network_command(arguments)
    facts = gather()
    print(json.dumps(facts, indent=2, ensure_ascii=False) if arguments.json else describe(facts))
    return OK


def _data_command(arguments: argparse.Namespace) -> int:
    from ..data import EMBEDDED, Table

    name = arguments.subject
    data, settings = EMBEDDED[name](), DATA_SETTINGS[name]
    test_rows = 0 if data.y_test is None else len(data.y_test)
    assert not isinstance(data.x_train, Table)  # embedded sets are arrays
    shape = data.x_train.shape[1:]
    if arguments.json:
        facts = {
            "training_rows": len(data.y_train),
            "test_rows": test_rows,
            "input_shape": shape,
            "input_scale": data.input_scale,
            "settings": settings,
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        rows = f"{len(data.y_train):,} rows" + (f" to train on and {test_rows:,} to test with" if test_rows else "")
        print(f"{name}: {rows}, inputs of shape {shape}, scaled by {data.input_scale:.4g}")
        print(_settings_line(f"nnfast train {name}", settings))
    return OK


def _settings_line(command: str, settings: Mapping[str, Any]) -> str:
    return f"{command} begins with {' '.join(as_options(settings))}; other options override these"


def _network_command(arguments: argparse.Namespace) -> int:
    from ..backends import get_backend
    from ..memory import workspace_bytes
    from ..model import Model
    from ..networks import NETWORKS, TRAINING_SETTINGS
    from ..validation import check_count
    from .run_directory import find_run

    batch_size = check_count(arguments.batch_size, "--batch-size")
    settings = TRAINING_SETTINGS.get(arguments.subject, {})
    if arguments.subject in NETWORKS:
        network, dtype = NETWORKS[arguments.subject](), "float32"
    else:
        model = Model.load(find_run(arguments.subject)[0])
        network, dtype = model.network, model.parameters.dtype.name
    if arguments.json:
        facts = {
            "parameters": network.parameter_count,
            "dtype": dtype,
            "batch_size": batch_size,
            "backend": get_backend("auto").name,
            "workspace_bytes": workspace_bytes(network, batch_size, dtype),
            "network": json.loads(network.to_json()),
            "settings": settings,
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(network.summary(batch_size, dtype))
        if settings:
            print(_settings_line(f"nnfast train --network {arguments.subject}", settings))
    return OK


def gather() -> dict[str, Any]:
    """What there is to know, as JSON holds it."""
    from ..backends import NAMES, get_backend, unavailable
    from ..threads import thread_count

    backends: dict[str, Any] = {}
    for name in NAMES:
        reason = unavailable(name)
        backends[name] = {
            "available": reason is None,
            "reason": reason,
            "description": None if reason else get_backend(name).description,
        }
    return {
        "nnfast": __version__,
        "python": platform.python_version(),
        "packages": {names[0]: _version(names) for names in PACKAGES},
        "backends": backends,
        "auto": get_backend("auto").name,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": _cores(),
        "threads": thread_count(),
        "blas": _blas(),
        "gpus": _gpus() if backends["cuda"]["available"] else [],
        "cache": _cache(),
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines to read."""
    packages = ", ".join(f"{name} {version or '(not installed)'}" for name, version in facts["packages"].items())
    lines = {"nnfast": f"{facts['nnfast']}, Python {facts['python']}", "packages": packages}
    for name, backend in facts["backends"].items():
        lines[name] = f"available: {backend['description']}" if backend["available"] else f"no: {backend['reason']}"
    lines |= {
        "auto": f"chooses {facts['auto']}",
        "cpu": f"{facts['cpu']}, {facts['cores']} cores for this process",
        "threads": f"{facts['threads']} for numba",
        "blas": ", ".join(f"{name}: {library}" for name, library in facts["blas"].items()),
        "gpus": ", ".join(facts["gpus"]) or "none",
        "cache": facts["cache"] or "none",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines.items())


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()


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

    from ..backends import get_backend

    return [get_backend(f"cuda:{number}").description for number in range(cupy.cuda.runtime.getDeviceCount())]


def _cache() -> str | None:
    try:
        from ..kernels.cpu.compilation import user_cache_directory

        return str(user_cache_directory())
    except (ImportError, RuntimeError):  # the latter where a user has no home
        return None
