"""The width of this processor's vector registers, which decides how numbers lie in memory. Needs no Numba."""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np


def vector_bytes() -> int:
    """The width of this processor's vector registers."""
    features = llvmlite.binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


VECTOR_BYTES = vector_bytes()


def group_size(dtype: np.dtype[Any]) -> int:
    """How many images of this dtype make a group: one a lane of a register (see images.py)."""
    return VECTOR_BYTES // dtype.itemsize
