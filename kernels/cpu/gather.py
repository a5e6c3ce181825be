"""Gathers the rows of a batch: inputs with scaling, targets, class labels as one-hot rows, sample weights.

Sources come in several element types; each gatherer is a kernel whose address goes to the epoch, so that the
epoch is compiled once whatever the source is.

    gather(address, rows, n, columns, scale, out)     address: of the source

For CSR rows, it is the address of three addresses: of values, column indices and row pointers.

A large matrix in Fortran order is gathered from twice. Each number of a row lies on a cache line of its own, so that a
batch's rows would cost 16 times the matrix's lines an epoch. A block of many batches' rows is brought into C order
first, in the order in which they lie in memory, 16 columns at a time: then a line is read once for all rows in it.

    copy_rows(parts, n, columns)           parts: see copy_parts
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .catalogue import written
from .compilation import Kernel

Rows = NDArray[np.int64]

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

_COPY = """import numpy as np
from nnfast.kernels.cpu.calls import pointer_to


def kernel(parts, n, columns):
    source, out = pointer_to(parts[0], np.{source}(0)), pointer_to(parts[1], np.{source}(0))
    rows, places = pointer_to(parts[2], np.int64(0)), pointer_to(parts[3], np.int64(0))
    row_step, column_step = parts[4], parts[5]
    whole = columns // 16 * 16
    for first in range(0, whole, 16):
        for i in range(n):
            start, place = rows[i] * row_step + first * column_step, places[i] * columns + first
            for j in range(16):
                out[place + j] = source[start + j * column_step]
    for i in range(n):
        start, place = rows[i] * row_step, places[i] * columns
        for j in range(whole, columns):
            out[place + j] = source[start + j * column_step]
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
def copy_kernel(source: np.dtype[Any], dtype: np.dtype[Any]) -> Kernel:
    """The copier of rows of one element type, for programs of `dtype`."""
    return written("copy_rows", _COPY.format(source=source.name), dtype)


def copy_parts(matrix: NDArray[Any], rows: Rows, places: Rows, out: NDArray[Any]) -> Rows:
    """What that kernel reads, by addresses: out[places[i]] becomes matrix[rows[i]]."""
    row_step, column_step = (step // matrix.itemsize for step in matrix.strides)
    addresses = (array.ctypes.data for array in (matrix, out, rows, places))
    return np.array([*addresses, row_step, column_step])


@cache
def sparse_kernel(source: np.dtype[Any], index: np.dtype[Any], dtype: np.dtype[Any]) -> Kernel:
    """The gatherer of CSR rows, with values and indices of these types, to `dtype`."""
    text = _SPARSE.format(source=source.name, index=index.name, dtype=dtype.name)
    return written("gather_csr", text, dtype)
