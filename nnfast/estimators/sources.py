"""scikit-learn's arrays as the Source that a program reads, copied only where they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ..backends import Source
from ..models.validation import converted
from ..networks.network import Network
from ..support.arrays import readable

FLOATS = np.dtype(np.float32), np.dtype(np.float64)


def check_sparse(X: Any) -> Any:
    """A sparse matrix whose arrays agree with each other and with its shape; in a format of indices, or as CSR.

    SciPy checks neither the indices of CSR and CSC nor what becomes of its matrices later, and its compiled code, as
    ours, reads and writes where they say. Raises ValueError.
    """
    if X.ndim != 2:
        return X  # which scikit-learn refuses
    if X.format == "coo":
        return type(X)((X.data, (X.row, X.col)), shape=X.shape)  # SciPy checks these when it makes one
    if X.format not in ("csr", "csc", "bsr"):
        X = X.tocsr()
    height, width = X.blocksize if X.format == "bsr" else (1, 1)
    lines, places = X.shape[0] // height, X.shape[1] // width
    if X.format == "csc":
        lines, places = places, lines
    starts, indices = X.indptr, X.indices
    what = f"X is a malformed {type(X).__name__}"
    if starts.shape != (lines + 1,) or starts[0] != 0 or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"{what}: its indptr must hold {lines + 1} numbers that begin with 0 and never fall")
    if indices.ndim != 1 or min(len(indices), len(X.data)) < starts[-1]:
        held = f"{len(indices)} indices and {len(X.data)} values"
        raise ValueError(f"{what}: its indptr counts {starts[-1]} numbers, but there are {held}")
    used = indices[: starts[-1]]
    if len(used) and (used.min() < 0 or used.max() >= places):
        raise ValueError(f"{what}: its indices must lie in [0, {places}), got {used.min()} to {used.max()}")
    return X


def make_inputs(X: Any, dtype: np.dtype[Any]) -> Any:
    """X (n_samples, n_features), dense or sparse, as a backend reads it.

    float32, float64 and, where dense, uint8 are taken as they are, in this machine's byte order, and converted as rows
    are gathered.
    """
    if scipy.sparse.issparse(X):
        X = X.tocsr()
        index = X.indptr.dtype  # a kernel takes one index type
        data = np.ascontiguousarray(X.data, None if X.dtype in FLOATS else dtype)
        indices, starts = np.ascontiguousarray(X.indices, index), np.ascontiguousarray(X.indptr)
        fits = data is X.data and indices is X.indices and starts is X.indptr
        return X if fits else type(X)((data, indices, starts), shape=X.shape)
    return readable(X, X.dtype if X.dtype in FLOATS or X.dtype == np.uint8 else dtype)


def make_source(X: Any, y: NDArray[Any], sample_weight: Any, network: Network, dtype: np.dtype[Any]) -> Source:
    """X, the encoded y (n_samples, n_outputs) and weights as rows to learn from.

    One-hot rows of classes, which are booleans under softmax, become class numbers.
    """
    if y.dtype == np.bool_ and network.output_layer.function.is_row_operation:
        targets: NDArray[Any] = y.argmax(axis=1).astype(np.int64, copy=False)
    else:
        targets = converted(y, dtype, "y")
    weights = None if sample_weight is None else converted(sample_weight, dtype, "sample_weight")
    return Source(make_inputs(X, dtype), targets, weights)
