"""Blocks of a matrix that is not in C order: rows for many steps, brought into it together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Source
from .frame import as_c_function

BLOCK_BYTES = 2**24


def in_c_order(source: Source) -> bool:
    """Whether batches can be gathered from a source as it lies in memory."""
    return source.is_sparse or source.inputs.flags.c_contiguous


def step_blocks(source: Source, bounds: NDArray[np.int64]) -> Iterator[slice]:
    """The steps, in parts whose rows fit into a block; a step that does not is a part by itself."""
    most = BLOCK_BYTES // max(1, source.inputs.shape[1] * source.inputs.itemsize)
    first, end = 0, len(bounds) - 1
    while True:
        fitting = int(np.searchsorted(bounds, bounds[first] + most, side="right")) - 1
        last = min(max(fitting, first + 1), end)
        yield slice(first, last)
        if last == end:
            return
        first = last


def block(source: Source, rows: NDArray[np.int64], dtype: np.dtype[Any]) -> Source:
    """These rows of a source, in C order."""
    inputs, targets, weights = source.inputs, source.targets, source.sample_weight
    out = np.empty((len(rows), inputs.shape[1]), inputs.dtype)
    copy_rows, parts_of = _copier(inputs.dtype, dtype)
    places = np.argsort(rows)  # as they lie in memory
    in_order = rows[places]
    parts = parts_of(inputs, in_order, places, out)
    copy_rows(parts.ctypes.data, len(rows), inputs.shape[1])
    return Source(
        out, None if targets is None else targets[rows], None if weights is None else weights[rows], source.scale
    )


@cache
def _copier(source: np.dtype[Any], dtype: np.dtype[Any]) -> Any:
    from ...kernels.cpu import gather

    return as_c_function(gather.copy_kernel(source, dtype)), gather.copy_parts
