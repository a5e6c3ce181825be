"""Tells plainly valid data and parameters, which scikit-learn's checks would pass on unchanged, in less time.

Those checks know data frames, array libraries and many kinds of targets, and take longer than a step on few rows. What
is not plain goes through them, and errors and warnings are theirs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from .sources import FLOATS

MOST_NUMBERS = 2**18  # in an array: with more, the checks are a small part, and these would need memory
MOST_KEPT = 256  # sets of valid parameters
WARNED_ROWS = 20  # with more, some versions of scikit-learn warn if classes outnumber half of them

_SIMPLE = frozenset({bool, int, float, str, type(None)})

_valid: set[tuple[Any, ...]] = set()


def is_matrix_of_floats(X: Any) -> bool:
    """Whether X is a matrix of floats, dense or sparse; scikit-learn may still refuse its numbers."""
    return (type(X) is np.ndarray or scipy.sparse.issparse(X)) and X.ndim == 2 and X.dtype in FLOATS


def are_plain_rows(X: Any) -> bool:
    """Whether X is a small matrix of finite floats, dense, CSR or CSC. A sparse one was checked by check_sparse."""
    if not is_matrix_of_floats(X) or 0 in X.shape:
        return False
    numbers = X
    if type(X) is not np.ndarray:
        if X.format not in ("csr", "csc"):
            return False
        numbers = X.data
    return numbers.size <= MOST_NUMBERS and bool(np.isfinite(numbers).all())


def are_plain_numbers(y: Any, rows: int) -> bool:
    """Whether y is a small array of finite floats with `rows` rows: a vector, or a matrix of several columns."""
    return (
        type(y) is np.ndarray
        and (y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1))
        and len(y) == rows
        and y.size <= MOST_NUMBERS
        and y.dtype in FLOATS
        and bool(np.isfinite(y).all())
    )


def are_plain_labels(y: Any, rows: int) -> bool:
    """Whether y is a vector of `rows` integers."""
    return (
        type(y) is np.ndarray
        and y.shape == (rows,)
        and rows <= MOST_NUMBERS
        and y.dtype.kind in "iu"
        and y.dtype.isnative  # else scikit-learn's classes have another type
    )


def encoded(y: NDArray[Any], classes: Any, *, all_present: bool) -> NDArray[np.bool_] | None:
    """Plain labels as scikit-learn's LabelBinarizer of these classes encodes them, as booleans.

    None where scikit-learn is to look: where a label is no class, where a class is missing that should be present,
    where versions of it warn of many classes, and for classes of another type.
    """
    if type(classes) is not np.ndarray or classes.dtype != y.dtype:
        return None
    codes = classes.searchsorted(y)
    if not (classes.take(codes, mode="clip") == y).all():
        return None
    present = np.count_nonzero(np.bincount(codes))
    if (all_present and present < len(classes)) or (len(y) > WARNED_ROWS and 2 * present > len(y)):
        return None
    if len(classes) > 2:
        return codes[:, np.newaxis] == np.arange(len(classes))
    return (codes == 1)[:, np.newaxis]


def check_once(estimator: Any, check: Callable[[], Any]) -> None:
    """Call `check` of the estimator's parameters, unless it passed the same values, of the same types, before."""
    values = [getattr(estimator, name, None) for name in estimator._parameter_constraints]
    single = [part for value in values for part in (value if type(value) is tuple else (value,))]
    if not _SIMPLE.issuperset(map(type, single)):
        check()
        return
    key = type(estimator), *values, *map(type, single)
    if key in _valid:
        return
    check()
    if len(_valid) >= MOST_KEPT:
        _valid.clear()
    _valid.add(key)
