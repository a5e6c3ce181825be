"""Gathers the rows of a batch: inputs with scaling, targets, class labels as one-hot rows, sample weights.

Sources come in several element types; each gatherer is a kernel whose address goes to the epoch, so that the
epoch is compiled once whatever the source is.

    gather(address, rows, n, columns, scale, out)     address: of the source

For CSR rows, it is the address of three addresses: of values, column indices and row pointers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .catalogue import written
from .compilation import Kernel

_SOURCE = """import numpy as np
from nnfast.kernels.cpu.calls import pointer_to

T = np.{dtype}


def kernel(address, rows, n, columns, scale, out):
    source = pointer_to(address, np.{source}(0))
    factor = T(scale)
    for i in range(n):
        start = rows[i] * columns
        for j in range(columns):
            out[i * columns + j] = T(source[start + j]){scaling}
"""

_LABELS = """import numpy as np
from nnfast.kernels.cpu.calls import pointer_to

T = np.{dtype}


def kernel(address, rows, n, columns, scale, out):
    source = pointer_to(address, np.{source}(0))
    for i in range(n):
        for j in range(columns):
            out[i * columns + j] = T(0.0)
        out[i * columns + source[rows[i]]] = T(1.0)
"""

_SPARSE = """import numpy as np
from nnfast.kernels.cpu.calls import pointer_to

T = np.{dtype}


def kernel(address, rows, n, columns, scale, out):
    parts = pointer_to(address, np.int64(0))
    values = pointer_to(parts[0], np.{source}(0))
    indices, starts = pointer_to(parts[1], np.{index}(0)), pointer_to(parts[2], np.{index}(0))
    for i in range(n * columns):
        out[i] = T(0.0)
    for i in range(n):
        for k in range(starts[rows[i]], starts[rows[i] + 1]):
            out[i * columns + indices[k]] += T(values[k])
"""


@cache
def gather_kernel(source: np.dtype[Any], dtype: np.dtype[Any], labels: bool) -> Kernel:
    """The gatherer from a source of one element type to `dtype`."""
    if labels:
        return written("one_hot", _LABELS.format(source=source.name, dtype=dtype.name), dtype)
    # Only integers are scaled: floats were brought to the network's scale when they were made.
    text = _SOURCE.format(source=source.name, dtype=dtype.name, scaling=" * factor" if source != dtype else "")
    return written("gather", text, dtype)


@cache
def sparse_kernel(source: np.dtype[Any], index: np.dtype[Any], dtype: np.dtype[Any]) -> Kernel:
    """The gatherer of CSR rows, with values and indices of these types, to `dtype`."""
    text = _SPARSE.format(source=source.name, index=index.name, dtype=dtype.name)
    return written("gather_csr", text, dtype)
