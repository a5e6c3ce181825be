"""Intervals as mathematics writes them: where an activation's values lie, and what a loss accepts."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIMPLEX = "simplex"  # rows of numbers in (0, 1) that sum to one: softmax's range


class Interval(NamedTuple):
    """low and high ends, and whether each belongs to the interval."""

    low: float
    high: float
    has_low: bool
    has_high: bool


def parse_interval(text: str) -> Interval:
    """`"[0, inf)"` as an Interval. Raises ValueError for anything else."""
    match = re.fullmatch(r"([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])", text)
    try:
        if match is None:
            raise ValueError
        low, high = float(match[2]), float(match[3])
    except ValueError:
        raise ValueError(f"{text!r} is not an interval; write one as '(0, 1)' or '[0, inf)'") from None
    if not low < high:
        raise ValueError(f"the interval {text!r} is empty")
    return Interval(low, high, match[1] == "[", match[4] == "]")


def check_interval(text: str) -> None:
    """Raise ValueError unless `text` is an interval or 'simplex'."""
    if text != SIMPLEX:
        parse_interval(text)


def lies_within(inner: str, outer: str) -> bool:
    """Whether every point of `inner` belongs to `outer`."""
    if inner == outer:
        return True
    if outer == SIMPLEX:
        return False
    a = parse_interval("(0, 1)" if inner == SIMPLEX else inner)
    b = parse_interval(outer)
    low_fits = a.low > b.low or (a.low == b.low and (b.has_low or not a.has_low))
    high_fits = a.high < b.high or (a.high == b.high and (b.has_high or not a.has_high))
    return low_fits and high_fits


def contains(interval: str, values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of the values lie in the interval; for 'simplex', in [0, 1]."""
    low, high, has_low, has_high = parse_interval("[0, 1]" if interval == SIMPLEX else interval)
    above = values >= low if has_low else values > low
    below = values <= high if has_high else values < high
    return above & below
