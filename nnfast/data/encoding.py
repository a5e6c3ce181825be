"""From a table's or a matrix's columns to the network's input numbers.

Fitted on the training part once, then stored in the model file beside the weights, as arrays and a
description that JSON can hold. Images are not encoded here: their bytes are scaled in the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnfast.data.fitted import (
    Arrays,
    Description,
    check_keys,
    check_mean_and_scale,
    mean_and_scale,
    positions,
    standardised,
    text_array,
)
from nnfast.data.table import MAX_TEXT_LENGTH, Table, check_finite, check_names, column_names, listed
from nnfast.support.checks import check_unmasked

# One-hot, a column of names or numbers in disguise would ask for an input per row.
MAX_CATEGORIES = 1000


@dataclass(frozen=True, eq=False)
class InputEncoding:
    """Turns a table, or a matrix of numbers, into the network's input matrix.

    Number columns are standardised, (x - mean) / scale, with the mean and the population standard deviation
    of the rows it was fitted on; constant columns get scale 1. A category column becomes one 0/1 column per
    category, in sorted order, at its place. Both as scikit-learn's StandardScaler and OneHotEncoder compute
    them.

    mean, scale: float64, one entry per number column. names: the columns' names, None for a matrix without
    names. categories: for each category column its sorted distinct values.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    names: tuple[str, ...] | None = None
    categories: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_mean_and_scale(self.mean, self.scale)
        if self.names is None:
            if self.categories:
                raise ValueError("categories belong to named columns, but there are no names")
        else:
            check_names(self.names)
            if unknown := [name for name in self.categories if name not in self.names]:
                raise ValueError(f"there are categories for {listed(unknown)}, which are no columns")
        for name, values in self.categories.items():
            if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind != "U":
                raise TypeError(f"the categories of {name!r} must be a 1-D array of str")
            if not 1 <= len(values) <= MAX_CATEGORIES or not (values[:-1] < values[1:]).all():
                raise ValueError(f"the categories of {name!r} must be 1 to {MAX_CATEGORIES} distinct, sorted values")
        n_numbers = self.n_columns - len(self.categories)
        if self.n_columns == 0 or len(self.mean) != n_numbers:
            raise ValueError(
                f"{self.n_columns} columns, {len(self.categories)} of them categories, need {n_numbers} "
                f"means and at least one column, got {len(self.mean)} means"
            )

    @classmethod
    def fit(cls, inputs: Table | ArrayLike, names: Sequence[str] | None = None) -> InputEncoding:
        """Learn the encoding of a table or of a matrix of numbers (n_samples, n_features).

        names: the columns' names, for a matrix that has some; a data frame brings its own. Raises TypeError or
        ValueError for values that are no finite numbers or too large to standardise, for no rows, and for a column
        of more than 1000 categories.
        """
        categories: dict[str, NDArray[np.str_]] = {}
        number_names: Sequence[str] | None
        if isinstance(inputs, Table):
            if names is not None:
                raise TypeError("a table brings its own names; names are given with a matrix only")
            names = inputs.names
            for name, column in zip(inputs.names, inputs.columns, strict=True):
                if column.dtype.kind == "U":
                    categories[name] = _distinct_texts(name, column)
            number_names = [name for name in inputs.names if name not in categories]
            matrix = np.empty((inputs.n_rows, len(number_names)))
            for position, name in enumerate(number_names):
                matrix[:, position] = inputs[name]
        else:
            matrix = _number_matrix(inputs)
            if names is None:
                names = column_names(inputs)
            if names is not None and len(names) != matrix.shape[1]:
                raise ValueError(f"{len(names)} names for a matrix of {matrix.shape[1]} columns")
            number_names = names
        check_finite(matrix, "the input", number_names)
        mean, scale = mean_and_scale(matrix, "the input", number_names)
        return cls(mean, scale, None if names is None else tuple(names), categories)

    @property
    def n_columns(self) -> int:
        """How many columns it takes."""
        return len(self.mean) if self.names is None else len(self.names)

    @property
    def n_features(self) -> int:
        """How many numbers a row becomes."""
        return len(self.mean) + sum(len(values) for values in self.categories.values())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name per feature: "age", "color=red"; x0, x1, ... for a matrix without names."""
        if self.names is None:
            return tuple(f"x{position}" for position in range(len(self.mean)))
        return tuple(
            feature
            for name in self.names
            for feature in (
                [f"{name}={value}" for value in self.categories[name]] if name in self.categories else [name]
            )
        )

    def transform(self, inputs: Table | ArrayLike) -> NDArray[np.float64]:
        """Encode rows: float64 (n_samples, n_features).

        A table, or a data frame of numbers, needs the columns it was fitted on, in any order. A matrix, or a
        data frame where there are no names to compare, is taken in their order, and only where all of them are
        numbers. Raises TypeError or ValueError for missing or extra columns, a column
        of the other kind, a category unknown from fitting, and values that are not finite.
        """
        if not isinstance(inputs, Table):
            if self.categories:
                raise TypeError(
                    f"the columns {listed(self.categories)} are categories: "
                    f"pass a nnfast.data.Table with the columns {listed(self.names or ())}"
                )
            matrix = _number_matrix(inputs)
            found = column_names(inputs)
            if self.names is not None and found is not None and found != self.names:
                self._check_columns(found)
                matrix = matrix[:, [found.index(name) for name in self.names]]
            if matrix.shape[1] != len(self.mean):
                raise ValueError(
                    f"the input has {matrix.shape[1]} columns; the encoding was fitted on {len(self.mean)}"
                )
            check_finite(matrix, "the input", self.names)
            return standardised(matrix, self.mean, self.scale, "the input", self.names)
        if self.names is None:
            raise TypeError(f"the encoding was fitted on a matrix without names: pass one of {len(self.mean)} columns")
        self._check_columns(inputs.names)
        encoded = np.zeros((inputs.n_rows, self.n_features))
        feature = number = 0
        for name in self.names:
            if name in self.categories:
                index = self._category_indices(name, inputs[name])
                encoded[np.arange(inputs.n_rows), feature + index] = 1.0
                feature += len(self.categories[name])
            else:
                column = self._numbers(name, inputs[name])
                mean, scale = self.mean[number], self.scale[number]
                encoded[:, feature] = standardised(column, mean, scale, f"column {name!r}")
                feature += 1
                number += 1
        return encoded

    def to_state(self) -> tuple[Arrays, Description]:
        """Its arrays (`mean`, `scale`) and what JSON holds of it: names and categories."""
        return {"mean": self.mean, "scale": self.scale}, {
            "names": None if self.names is None else list(self.names),
            "categories": {name: values.tolist() for name, values in self.categories.items()},
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> InputEncoding:
        """The encoding that `to_state` described. Raises TypeError or ValueError for any other state."""
        check_keys(arrays, {"mean", "scale"}, description, {"names", "categories"})
        names, categories = description["names"], description["categories"]
        if not (names is None or isinstance(names, list)) or not isinstance(categories, dict):
            raise TypeError("names must be a list or null, and categories an object")
        return cls(
            arrays["mean"],
            arrays["scale"],
            None if names is None else tuple(names),
            {name: text_array(values, f"categories of {name!r}") for name, values in categories.items()},
        )

    def _check_columns(self, found: tuple[str, ...]) -> None:
        assert self.names is not None
        missing = [name for name in self.names if name not in found]
        extra = [name for name in found if name not in self.names]
        if missing or extra:
            parts = [f"lack the columns {listed(missing)}"] * bool(missing)
            parts += [f"have the unknown columns {listed(extra)}"] * bool(extra)
            raise ValueError(f"the inputs {' and '.join(parts)}; expected exactly {listed(self.names)}")

    def _category_indices(self, name: str, values: NDArray[Any]) -> NDArray[np.intp]:
        known = self.categories[name]
        if values.dtype.kind != "U":
            raise TypeError(
                f"column {name!r} holds numbers, but was categories ({listed(known, 5)}) when fitted; "
                "read it as text: read_csv(..., text_columns=...)"
            )
        index, is_known = positions(known, values)
        if not is_known.all():
            row = int(np.argmin(is_known))
            raise ValueError(
                f"column {name!r} holds the unknown category {str(values[row])!r} in row {row} "
                f"(counted from 0); known are {listed(known)}"
            )
        return index

    def _numbers(self, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
        if values.dtype.kind == "U":
            row = next((row for row, cell in enumerate(values) if not _is_number(cell)), 0)
            raise TypeError(
                f"column {name!r} holds {str(values[row])!r} in row {row} (counted from 0), but was numbers when fitted"
            )
        check_finite(values, f"column {name!r}")
        return values


def _distinct_texts(name: str, column: NDArray[Any]) -> NDArray[np.str_]:
    distinct = np.unique(column)
    if len(distinct) > MAX_CATEGORIES:
        raise ValueError(
            f"column {name!r} holds {len(distinct)} different texts, such as {listed(distinct[:2])}; "
            f"a category column may have at most {MAX_CATEGORIES}: remove the column, "
            "or write its numbers as numbers"
        )
    longest = int(np.strings.str_len(distinct).max(initial=0))
    if longest > MAX_TEXT_LENGTH:
        raise ValueError(
            f"column {name!r} holds a text of {longest} characters; a category has at most {MAX_TEXT_LENGTH}"
        )
    return distinct


def _number_matrix(inputs: ArrayLike) -> NDArray[np.float64]:
    check_unmasked(inputs, "the input")
    matrix = np.asarray(inputs)
    if matrix.dtype.kind not in "buif":
        raise TypeError(
            f"the input has dtype {matrix.dtype}; expected bools, integers or floats, "
            "or a Table, which may also hold text"
        )
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"the input has shape {matrix.shape}; expected (n_samples, n_features)")
    return matrix.astype(np.float64, copy=False)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
