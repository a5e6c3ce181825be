"""scikit-learn's arrays as the Source that a program reads, copied only where they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ..backends import Source
from ..network import Network


def make_inputs(X: Any, dtype: np.dtype[Any]) -> Any:
    """X (n_samples, n_features), dense or sparse, as a backend reads it.

    float32, float64 and, where dense, uint8 are taken as they are and converted as rows are gathered.
    """
    if scipy.sparse.issparse(X):
        X = X.tocsr()
        if X.indices.dtype != X.indptr.dtype:  # a kernel takes one index type
            X = type(X)((X.data, X.indices.astype(X.indptr.dtype), X.indptr), shape=X.shape)
        return X if X.dtype.name in ("float32", "float64") else X.astype(dtype)
    if X.dtype.name not in ("float32", "float64", "uint8"):
        X = X.astype(dtype)
    return np.ascontiguousarray(X)


def make_source(X: Any, y: NDArray[Any], sample_weight: Any, network: Network, dtype: np.dtype[Any]) -> Source:
    """X, the encoded y (n_samples, n_outputs) and weights as rows to learn from.

    One-hot rows of classes, which are booleans under softmax, become class numbers.
    """
    if y.dtype == np.bool_ and network.output_layer.function.is_row_operation:
        targets: NDArray[Any] = y.argmax(axis=1).astype(np.int64, copy=False)
    else:
        targets = np.ascontiguousarray(y, dtype)
    weights = None if sample_weight is None else np.ascontiguousarray(sample_weight, dtype)
    return Source(make_inputs(X, dtype), targets, weights)
