"""Arrays on a CUDA device beside NumPy's: telling them apart, and fetching them. Never imports CuPy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

SMALL_BYTES = 2**24  # an array of another order than C is copied whole up to this size: it is gathered sooner then


def is_on_device(array: Any) -> bool:
    """Whether it is a CuPy array. Who has one has imported CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def array_module(array: Any) -> Any:
    """CuPy for an array of its own, else NumPy."""
    return sys.modules["cupy"] if is_on_device(array) else np


def to_host(array: Any) -> Any:
    """A NumPy array of a CuPy array's values; anything else as it is."""
    return array.get() if is_on_device(array) else array


def readable(values: Any, dtype: np.dtype[Any]) -> Any:
    """The values in `dtype`, where they are, as programs read them: in C order, or large and in any order on the host.

    Not copied if they are so already.
    """
    if (
        isinstance(values, np.ndarray)
        and values.nbytes > SMALL_BYTES
        and values.dtype == dtype
        and values.flags.aligned
    ):
        return values
    return array_module(values).ascontiguousarray(values, dtype)
