"""Checks of single values that users hand in: numbers, integers, flags and dtypes."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

DTYPES = ("float32", "float64")


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of a run's arithmetic. Raises ValueError for all but float32 and float64."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return np.dtype(found.name)  # in this machine's byte order


def check_unmasked(values: Any, name: str) -> None:
    """Raise ValueError for masked values: NumPy's own conversions drop the mask, and go on with what it hides."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        count, first = np.ma.count_masked(values), np.argwhere(np.ma.getmaskarray(values))[0].tolist()
        raise ValueError(
            f"{name} holds {count} masked values, the first at {first}: fill them in with .filled(...), or leave their "
            "rows out"
        )


def check_number(value: Any, name: str, low: float, *, above: bool = False) -> float:
    """A finite number from `low` (or above it). Raises TypeError or ValueError, naming the parameter."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < low or (above and value == low):
        raise ValueError(f"{name} must be a finite number {'above' if above else 'from'} {low:g}, got {value!r}")
    return float(value)


def check_fits(value: float, name: str, dtype: np.dtype[Any]) -> None:
    """Raise ValueError for a number that `dtype` would make infinite."""
    largest = float(np.finfo(dtype).max)
    if abs(value) > largest:
        raise ValueError(f"{name} must be at most {largest:.3g} in {dtype.name}, got {value:g}")


def check_integer(value: Any, name: str, low: int = 1, high: int | None = None) -> int:
    """An int from `low` to `high`, from any type of integer but booleans. Raises TypeError or ValueError."""
    wanted = "a positive integer" if low == 1 else f"an integer from {low}"
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {wanted}{'' if high is None else f' up to {high}'}, got {number}")
    return number


def check_flag(value: Any, name: str) -> bool:
    """True or False, also NumPy's. Raises TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)
