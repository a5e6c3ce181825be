"""From a user's targets to the network's and back: labels to class indices, numbers to standardised ones.

A target encoding is one of `ClassTargets` and `NumberTargets`. Both have `fit`, `encode`, `decode`,
`n_outputs`, `to_state` and `from_state`; `fit_targets` and `targets_from_state` pick one by task and by what
a model file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
from nnfast.data.table import check_finite, listed
from nnfast.support.arrays import array_module, to_host
from nnfast.support.checks import check_unmasked

Task = Literal["classification", "regression"]

# More distinct whole numbers than this are taken for quantities, not for labels.
MAX_INFERRED_CLASSES = 20


@dataclass(frozen=True, eq=False)
class ClassTargets:
    """Classification: labels and the indices of the classes, which are the network's outputs.

    classes: the distinct labels, sorted: a 1-D array of str, int64, float64 or bool, of at least two.
    """

    classes: NDArray[Any]
    kind: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        classes = self.classes
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            raise TypeError(f"classes must be a 1-D array, got {type(classes).__name__}")
        if classes.dtype.kind != "U" and classes.dtype not in (np.int64, np.float64, np.bool_):
            raise TypeError(f"classes must be str, int64, float64 or bool, got {classes.dtype}")
        check_finite(classes, "classes")
        if len(classes) < 2:
            held = f"only {listed(classes)}" if len(classes) else "none"
            raise ValueError(f"a classifier needs at least two classes, but y holds {held}")
        if not (classes[:-1] < classes[1:]).all():
            raise ValueError("classes must be distinct and sorted")

    @classmethod
    def fit(cls, y: ArrayLike) -> ClassTargets:
        """The classes among labels of shape (n_samples,) or (n_samples, 1): strings, bools or finite numbers.

        Integers become int64, floats float64. Raises TypeError or ValueError for anything else and for a
        single class.
        """
        return cls(np.unique(_labels(y)))

    @property
    def n_outputs(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def encode(self, y: ArrayLike) -> NDArray[np.int64]:
        """The index of every label's class, shape (n_samples,). Raises ValueError for an unknown label."""
        labels = _labels(y)
        if (labels.dtype.kind == "U") != (self.classes.dtype.kind == "U"):
            raise TypeError(
                f"the labels are {_kind_of(labels)} (the first is {listed(labels[:1])}), "
                f"but the known classes are {_kind_of(self.classes)}: {listed(self.classes)}"
            )
        index, is_known = positions(self.classes, labels)
        if not is_known.all():
            row = int(np.argmin(is_known))
            raise ValueError(
                f"the label {listed(labels[row : row + 1])} in row {row} (counted from 0) is unknown; "
                f"known are {listed(self.classes)}"
            )
        return index.astype(np.int64)

    def decode(self, indices: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """The labels of class indices of any shape, where the indices are, unless they are text.

        Raises ValueError for an index that is no class.
        """
        if self.classes.dtype.kind == "U":
            indices = to_host(indices)
        xp = array_module(indices)
        indices = xp.asarray(indices)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"class indices must be integers, got {indices.dtype}")
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self.classes)):
            raise ValueError(
                f"class indices must lie in [0, {len(self.classes)}), got {indices.min()} to {indices.max()}"
            )
        labels: NDArray[Any] = xp.asarray(self.classes)[indices]
        return labels

    def to_state(self) -> tuple[Arrays, Description]:
        """Its arrays and what JSON holds of it; text goes to JSON, other classes to an array."""
        if self.classes.dtype.kind == "U":
            return {}, {"kind": self.kind, "classes": self.classes.tolist()}
        return {"classes": self.classes}, {"kind": self.kind}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> ClassTargets:
        """The targets that `to_state` described. Raises TypeError or ValueError for any other state."""
        if "classes" in description:
            check_keys(arrays, set(), description, {"kind", "classes"})
            return cls(text_array(description["classes"], "classes"))
        check_keys(arrays, {"classes"}, description, {"kind"})
        return cls(arrays["classes"])


@dataclass(frozen=True, eq=False)
class NumberTargets:
    """Regression: numbers, and the standardised numbers that the network is trained on.

    mean, scale: float64 (k,), one per target column. is_flat: whether targets are (n_samples,), with k = 1,
    or (n_samples, k).
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    is_flat: bool
    kind: ClassVar[str] = "numbers"

    def __post_init__(self) -> None:
        check_mean_and_scale(self.mean, self.scale)
        if not isinstance(self.is_flat, bool):
            raise TypeError(f"is_flat must be True or False, got {self.is_flat!r}")
        if len(self.mean) == 0 or (self.is_flat and len(self.mean) != 1):
            raise ValueError(f"targets need a column, and flat ones exactly one; got {len(self.mean)} means")

    @classmethod
    def fit(cls, y: ArrayLike, *, standardize: bool = True) -> NumberTargets:
        """Learn mean and scale, as for inputs, of targets (n_samples,) or (n_samples, k).

        standardize: False leaves the numbers as they are (mean 0, scale 1). Raises TypeError or ValueError
        for values that are no finite numbers.
        """
        numbers, is_flat = _target_matrix(y)
        if not standardize:
            return cls(np.zeros(numbers.shape[1]), np.ones(numbers.shape[1]), is_flat)
        return cls(*mean_and_scale(numbers, "the target", None), is_flat)

    @property
    def n_outputs(self) -> int:
        """How many numbers the network gives per row."""
        return len(self.mean)

    def encode(self, y: ArrayLike) -> NDArray[np.float64]:
        """Standardised float64 targets of y's own shape. Raises ValueError for another shape."""
        numbers, is_flat = _target_matrix(y)
        if (is_flat, numbers.shape[1]) != (self.is_flat, len(self.mean)):
            expected = "(n_samples,)" if self.is_flat else f"(n_samples, {len(self.mean)})"
            raise ValueError(f"the targets have shape {np.shape(y)}; expected {expected}, as when fitted")
        encoded = standardised(numbers, self.mean, self.scale, "the target")
        return encoded[:, 0] if is_flat else encoded

    def decode(self, outputs: ArrayLike) -> NDArray[np.float64]:
        """The numbers in the user's units, float64: (n_samples,) for flat targets, else (n_samples, k).

        outputs: the network's, (n_samples, k), or what `encode` gave; the numbers are where these are.
        """
        xp = array_module(outputs)
        values = xp.asarray(outputs, dtype=np.float64)
        if self.is_flat and values.ndim == 1:
            values = values[:, np.newaxis]
        if values.ndim != 2 or values.shape[1] != len(self.mean):
            raise ValueError(f"the outputs have shape {np.shape(outputs)}; expected (n_samples, {len(self.mean)})")
        decoded: NDArray[np.float64] = values * xp.asarray(self.scale) + xp.asarray(self.mean)
        return decoded[:, 0] if self.is_flat else decoded

    def to_state(self) -> tuple[Arrays, Description]:
        """Its arrays (`mean`, `scale`) and what JSON holds of it."""
        return {"mean": self.mean, "scale": self.scale}, {"kind": self.kind, "is_flat": self.is_flat}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> NumberTargets:
        """The targets that `to_state` described. Raises TypeError or ValueError for any other state."""
        check_keys(arrays, {"mean", "scale"}, description, {"kind", "is_flat"})
        return cls(arrays["mean"], arrays["scale"], description["is_flat"])


TargetEncoding = ClassTargets | NumberTargets

TARGETS: dict[str, type[ClassTargets] | type[NumberTargets]] = {
    "classification": ClassTargets,
    "regression": NumberTargets,
}


def fit_targets(y: ArrayLike, task: str) -> TargetEncoding:
    """The target encoding for "classification" or "regression", fitted on `y`."""
    if task not in TARGETS:
        raise ValueError(f"the task must be one of {listed(TARGETS)}, got {task!r}")
    return TARGETS[task].fit(y)


def targets_from_state(arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> TargetEncoding:
    """The target encoding whose `to_state` gave these. Raises TypeError or ValueError for any other."""
    kinds = {targets.kind: targets for targets in TARGETS.values()}
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"the targets' kind must be one of {listed(kinds)}, got {kind!r}")
    return kinds[kind].from_state(arrays, description)


def infer_task(y: ArrayLike, name: str | None = None) -> tuple[Task, str]:
    """Guess the task from the targets: `(task, reason)`, the reason a phrase to announce.

    Strings and bools are labels. Whole numbers are, where at most 20 are distinct and each occurs more than
    twice on average. All other numbers, and several target columns, are quantities.

    name: the target's name, for the reason: "the target 'price' has 312 distinct numbers".
    """
    values = np.asarray(y)
    subject = "the target" if name is None else f"the target {name!r}"
    if values.ndim == 2 and values.shape[1] > 1:
        return "regression", f"{subject} has {values.shape[1]} columns"
    labels = _labels(values)
    if labels.dtype.kind == "U":
        return "classification", f"{subject} holds text"
    if labels.dtype.kind == "b":
        return "classification", f"{subject} holds true and false"
    n_distinct = len(np.unique(labels))
    if labels.dtype.kind == "f" and (labels != np.round(labels)).any():
        return "regression", f"{subject} has {n_distinct} distinct numbers, not all of them whole"
    if n_distinct > MAX_INFERRED_CLASSES:
        return "regression", f"{subject} has {n_distinct} distinct numbers"
    if 2 * n_distinct >= len(labels):
        return "regression", f"{subject} has {n_distinct} distinct numbers in only {len(labels)} rows"
    return "classification", f"{subject} has only {n_distinct} distinct whole numbers"


def _labels(y: ArrayLike) -> NDArray[Any]:
    """Labels as a 1-D array of str, bool, int64 or float64."""
    check_unmasked(y, "the target")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (n_samples,) or (n_samples, 1), got {labels.shape}")
    if labels.dtype.kind in "OT":
        # What pandas and lists of mixed things give. Only one kind of label is read out of it: "1" is not 1.
        values = labels.tolist()
        for kind in (str, bool):
            if all(isinstance(value, kind) for value in values):
                return np.array(values, dtype=kind)
        odd = next(value for value in values if not isinstance(value, str))
        raise TypeError(f"labels must all be strings, all bools or all numbers in a number array; found {odd!r}")
    if labels.dtype.kind in "iu":
        if labels.size and labels.dtype == np.uint64 and labels.max() > np.iinfo(np.int64).max:
            raise ValueError(f"whole-number labels must fit into int64, got {labels.max()}")
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        check_finite(labels, "the target")
        return labels.astype(np.float64)
    if labels.dtype.kind not in "bU":
        raise TypeError(f"labels must be strings, bools or numbers, got dtype {labels.dtype}")
    return labels


def _target_matrix(y: ArrayLike) -> tuple[NDArray[np.float64], bool]:
    """Targets as a float64 matrix (n_samples, k), and whether they came as (n_samples,)."""
    check_unmasked(y, "the target")
    values = np.asarray(y)
    if values.dtype.kind not in "buif":
        raise TypeError(f"the targets of a regression must be numbers, got dtype {values.dtype}")
    if values.ndim not in (1, 2) or values.shape[1:] == (0,):
        raise ValueError(f"the targets have shape {values.shape}; expected (n_samples,) or (n_samples, k)")
    values = values.astype(np.float64, copy=False)
    check_finite(values, "the target")
    return (values[:, np.newaxis], True) if values.ndim == 1 else (values, False)


def _kind_of(labels: NDArray[Any]) -> str:
    return "text" if labels.dtype.kind == "U" else "numbers"
