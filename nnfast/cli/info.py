"""nnfast info: which backends can run here, and on what; or what there is to know of a network or a data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from ..backends import ONLY_IF_NAMED
from ..backends.environment import gather
from .exit_codes import OK
from .options import DATA_SETTINGS, as_options


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
    from ..models.ensemble import Ensemble, first_member, load_trained
    from ..networks.named import NETWORKS, TRAINING_SETTINGS
    from ..support.checks import check_integer
    from ..training.memory import workspace_bytes, workspace_words
    from .run_directory import find_run

    batch_size = check_integer(arguments.batch_size, "--batch-size")
    settings = TRAINING_SETTINGS.get(arguments.subject, {})
    members = 1
    if arguments.subject in NETWORKS:
        network, dtype = NETWORKS[arguments.subject](), "float32"
    else:
        trained = load_trained(find_run(arguments.subject)[0])
        members, model = len(trained) if isinstance(trained, Ensemble) else 1, first_member(trained)
        network, dtype = model.network, model.parameters.dtype.name
    if arguments.json:
        facts = {
            "networks": members,
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
        if members > 1:
            print(f"an ensemble of {members} networks, the first of them:")
        print(network.summary())
        print(workspace_words(network, batch_size, dtype))
        if settings:
            print(_settings_line(f"nnfast train --network {arguments.subject}", settings))
    return OK


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines to read."""
    packages = ", ".join(f"{name} {version or '(not installed)'}" for name, version in facts["packages"].items())
    lines = {"nnfast": f"{facts['nnfast']}, Python {facts['python']}", "packages": packages}
    for name, backend in facts["backends"].items():
        lines[name] = f"available: {backend['description']}" if backend["available"] else f"no: {backend['reason']}"
        if backend["available"] and name in ONLY_IF_NAMED:
            lines[name] += f"; only used where it is named: --backend {name}, or backend='{name}' in Python"
    lines |= {
        "auto": facts["choice"].removeprefix("auto "),
        "cpu": f"{facts['cpu']}, {facts['cores']} cores for this process",
        "threads": f"{facts['threads']} for numba",
        "blas": ", ".join(f"{name}: {library}" for name, library in facts["blas"].items()),
        "gpus": ", ".join(facts["gpus"]) or "none that cuda can use",
        "cache": facts["cache"] or "none",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines.items())
