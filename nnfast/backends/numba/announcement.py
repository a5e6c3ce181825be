"""Says, before kernels are compiled, which ones and how long that takes."""

from __future__ import annotations

import logging
import sys
from typing import Any, assert_never

import numpy as np

from ...plans.operations import (
    BatchNormOperation,
    ConvolutionOperation,
    DenseOperation,
    DropoutOperation,
    LayerNormOperation,
    PoolingOperation,
)
from ...plans.plan import Plan

logger = logging.getLogger("nnfast.numba")

# The parts of the kernels that compile when a plan first needs them, and the seconds each takes: on a fast idle core,
# and on one that five processes share. Processor time here was 5 to 6, 3 to 4, 1 and 1 to 2 seconds. What takes less
# than a second is not announced: formulas, dropout, penalties, sparse rows.
COMPILING_SECONDS = {"dense layers": (3, 30), "convolutions": (2, 20), "pooling": (1, 8), "BatchNorm": (1, 8)}

_announced: set[tuple[str, np.dtype[Any]]] = set()  # kernels, by name


def announce(plan: Plan, dtype: np.dtype[Any]) -> None:
    """Say once which kernels for a plan will be compiled, if any have to be, and how long that takes.

    In the log, which the command line shows; on a terminal also where the log has no handler.
    """
    from ...kernels.cpu import compilation

    parts = []
    for part, kernels in compiled_parts(plan).items():
        new = [name for name in kernels if (name, dtype) not in _announced]
        _announced.update((name, dtype) for name in new)
        if not all(compilation.is_compiled(name, dtype) for name in new):
            parts.append(part)
    if parts:
        what = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        low, high = (sum(COMPILING_SECONDS[part][end] for part in parts) for end in (0, 1))
        message = f"nnfast: compiling {dtype.name} CPU kernels for {what} (once; {low} to {high} seconds)"
        logger.info(message)
        if sys.stderr.isatty() and not logger.hasHandlers():
            print(message, file=sys.stderr, flush=True)


def compiled_parts(plan: Plan) -> dict[str, list[str]]:
    """The parts that COMPILING_SECONDS names, and the kernels that a plan needs of each."""
    parts = {"dense layers": ["run_steps"]}
    for index, op in enumerate(plan.operations):
        match op:
            case ConvolutionOperation():
                parts["convolutions"] = ["correlate", "add_gradient"]
            case PoolingOperation():
                parts.setdefault("pooling", []).extend(f"{op.kind}_{way}" for way in ("forward", "backward"))
            case BatchNormOperation():
                layout = "image" if index < plan.image_operations else "flat"
                phases = ("statistics", "forward", "backward", "sums")
                parts.setdefault("BatchNorm", []).extend(f"{layout}_{phase}" for phase in phases)
            case DenseOperation() | DropoutOperation() | LayerNormOperation():
                pass  # with the dense layers, and in less than a second
            case _:
                assert_never(op)
    return parts
