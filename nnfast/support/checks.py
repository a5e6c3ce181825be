"""Checks of single values that users hand in: numbers, integers, flags and dtypes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

DTYPES = ("float32", "float64")
LONGEST_SHOWN = 100  # characters of a value in a message


def shown(value: Any) -> str:
    """A value in a few words, for a message: an array or a frame by its type and shape, others by their repr."""
    if shape := getattr(value, "shape", ()):
        return f"{type(value).__name__} of shape {shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def check_callbacks(callbacks: Any) -> tuple[Callable[[Any], Any], ...]:
    """The callbacks as a tuple. Raises TypeError for anything but functions in a list or another iterable."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of functions, got {shown(callbacks)}: put it into a list")
    found = tuple(callbacks)
    for callback in found:
        if not callable(callback):
            raise TypeError(f"callbacks must be functions that take an EpochRecord, got {shown(callback)}")
    return found


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of a run's arithmetic. Raises ValueError for all but float32 and float64."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {shown(dtype)}")
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
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    if not math.isfinite(value) or value < low or (above and value == low):
        raise ValueError(f"{name} must be a finite number {'above' if above else 'from'} {low:g}, got {shown(value)}")
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
        raise TypeError(f"{name} must be {wanted}, got {shown(value)}")
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {wanted}{'' if high is None else f' up to {high}'}, got {number}")
    return number


def check_flag(value: Any, name: str) -> bool:
    """True or False, also NumPy's. Raises TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)
