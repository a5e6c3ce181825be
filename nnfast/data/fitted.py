"""What fitted encodings consist of: means and scales, sorted values, and a state that is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.data.table import MAX_TEXT_LENGTH, check_finite

# A state is what a model file stores: numbers as arrays, the rest as what JSON holds.
Arrays = dict[str, NDArray[Any]]
Description = dict[str, Any]


def mean_and_scale(
    matrix: NDArray[np.float64], what: str, names: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each column's mean and population standard deviation, (n_columns,); scale 1 for a constant column.

    what, names: how an error calls the matrix and its columns. Raises ValueError for no rows and for numbers
    so large that their squares are not finite.
    """
    n_rows = len(matrix)
    if n_rows == 0:
        raise ValueError(f"{what} has no rows; at least one is needed to standardise")
    with np.errstate(over="ignore", invalid="ignore"):
        mean = matrix.mean(axis=0)
        variance = matrix.var(axis=0)
        # A variance that rounding alone can produce is none; the bound is scikit-learn's.
        rounding = np.finfo(np.float64).eps * n_rows
        is_constant = variance <= rounding * variance + (rounding * mean) ** 2
    is_finite = np.isfinite(mean) & np.isfinite(variance)
    if not is_finite.all():
        column = int(np.argmin(is_finite))
        called = column if names is None else repr(names[column])
        raise ValueError(
            f"{what} holds numbers up to {np.abs(matrix[:, column]).max():g} in column {called}, "
            "too large to standardise; use another unit"
        )
    return mean, np.where(is_constant, 1.0, np.sqrt(variance))


def standardised(
    values: NDArray[np.float64], mean: Any, scale: Any, what: str, names: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """(values - mean) / scale. what, names: as in mean_and_scale. Raises ValueError where that is not finite."""
    with np.errstate(over="ignore"):
        moved: NDArray[np.float64] = (values - mean) / scale
    check_finite(moved, f"{what}, standardised,", names)
    return moved


def check_mean_and_scale(mean: object, scale: object) -> None:
    """Raise TypeError or ValueError unless these are finite float64 vectors of one length, scale positive."""
    for name, values in (("mean", mean), ("scale", scale)):
        if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.ndim != 1:
            found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            raise TypeError(f"{name} must be a 1-D float64 array, got {found}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")
    assert isinstance(mean, np.ndarray)
    assert isinstance(scale, np.ndarray)
    if len(mean) != len(scale):
        raise ValueError(f"mean and scale must have one length, got {len(mean)} and {len(scale)}")
    if (scale <= 0).any():
        raise ValueError(f"scale must be positive, got {scale.min()}")


def positions(known: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where each value stands in the sorted `known`, and whether it does; both shaped as `values`."""
    index = np.searchsorted(known, values).clip(max=len(known) - 1)
    return index, known[index] == values


def text_array(values: object, what: str) -> NDArray[np.str_]:
    """A list out of JSON as a str array. Raises TypeError or ValueError unless it holds short strings."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{what} must be a list of strings")
    if any(len(value) > MAX_TEXT_LENGTH for value in values):
        raise ValueError(f"{what} must be strings of at most {MAX_TEXT_LENGTH} characters")
    return np.array(values, dtype=np.str_)


def check_keys(
    arrays: Mapping[str, object],
    array_keys: set[str],
    description: Mapping[str, object],
    description_keys: set[str],
) -> None:
    """Raise ValueError unless a state has exactly these arrays and these entries."""
    for found, expected, what in (
        (set(arrays), array_keys, "arrays"),
        (set(description), description_keys, "entries"),
    ):
        if found != expected:
            raise ValueError(f"expected the {what} {sorted(expected)}, got {sorted(found, key=str)}")
