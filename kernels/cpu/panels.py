"""When matrix products copy their operands or exchange them, and the room that takes. Needs no Numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from .registers import VECTOR_BYTES

# B is streamed from the cache once for every six rows of A. As long as it stays in the second-level cache it is read as
# it lies; a larger one is copied piece by piece, each of DEPTH rows and a tile's columns, into one that stays in the
# first-level cache and whose rows are neighbours. Measured: see kernels/README.md.
DIRECT_BYTES = 2**20 if VECTOR_BYTES == 64 else 2**18
DEPTH = 256
REPAID = 24  # rows of A that repay the copy
PACK_SIZE = DEPTH * 2 * VECTOR_BYTES // 4  # elements of a piece


def is_narrow(inputs: int, outputs: int, dtype: np.dtype[Any]) -> bool:
    """Whether x^T delta is better computed as (delta^T x)^T, whose rows are long enough for whole registers."""
    return outputs * dtype.itemsize < VECTOR_BYTES <= inputs * dtype.itemsize
