"""The first dense layer on sparse rows (CSR): its products read the numbers that are there, and no dense batch is made.

    z[i] = b + sum of value W[feature] over the numbers of row i        instead of x W + b
    dLoss/dW[feature] = sum of value delta[i] over the rows i with a number of that feature, instead of x^T delta

z[i], delta[i] and W[feature] are rows of as many numbers as the layer has units, so all arithmetic is on whole
registers. Every element is one chain of fused multiply-adds: forward in the order in which a row's numbers are stored,
backward in the order of the batch's rows. Where indices are sorted and none comes twice, that is the chain of the dense
product without its zeros, and has its bits, but for what a zero can do: times infinity it is NaN, and added it makes a
negative zero, as is left by underflow, a positive one.

The kernels are written for the types of values and indices:

    extents(address, rows, n, columns, scale, out)                      takes the place of gather
    outputs(row, parameters, bias, workspace, n, first, last)           rows first..last-1 of a batch
    add_gradient(row, gradient, workspace, first, last, start, stop)    to the rows start..stop-1 of dLoss/dW
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .catalogue import written
from .compilation import Kernel

# A row of the operations table's sparse first layer. VALUES, INDICES: addresses of the source's arrays; EXTENTS: where
# `extents` leaves the batch's rows, two int64 each. The others are offsets, and the outputs' number.
VALUES, INDICES, EXTENTS, Z, DELTA, WEIGHTS, UNITS, ROW_SIZE = range(8)
EXTENT_BYTES = 16

# Rows with a larger share of numbers that are not zero are gathered into a dense batch. Measured: kernels/README.md.
DENSEST = 0.2

_HEADER = """import numpy as np
from nnfast.kernels.cpu.calls import pointer_to
from nnfast.kernels.cpu.sparse import EXTENTS, INDICES, VALUES
from nnfast.kernels.cpu.sparse_products import add_gradient, outputs

NUMBER, INDEX, PLACE = np.{values}(0), np.{indices}(0), np.int64(0)


"""

_EXTENTS = """def kernel(address, rows, n, columns, scale, out):
    starts = pointer_to(pointer_to(address, PLACE)[2], INDEX)
    for i in range(n):
        out[2 * i] = starts[rows[i]]
        out[2 * i + 1] = starts[rows[i] + 1]
"""

_OUTPUTS = """def kernel(row, parameters, bias, workspace, n, first, last):
    values, indices = pointer_to(row[VALUES], NUMBER), pointer_to(row[INDICES], INDEX)
    outputs(row, values, indices, pointer_to(row[EXTENTS], PLACE), parameters, bias, workspace, first, last)
"""

_GRADIENT = """def kernel(row, gradient, workspace, first, last, start, stop):
    values, indices = pointer_to(row[VALUES], NUMBER), pointer_to(row[INDICES], INDEX)
    extents = pointer_to(row[EXTENTS], PLACE)
    add_gradient(row, values, indices, extents, gradient, workspace, first, last, start, stop)
"""


def density(inputs: Any) -> float:
    """The share of numbers that CSR rows hold."""
    rows, columns = inputs.shape
    return float(inputs.indptr[-1] - inputs.indptr[0]) / max(rows * columns, 1)


def repays(inputs: Any) -> bool:
    """Whether the first layer should read these CSR rows itself."""
    return density(inputs) <= DENSEST


class Kernels(NamedTuple):
    """For one type of values and one of indices."""

    extents: Kernel
    outputs: Kernel
    add_gradient: Kernel


@cache
def kernels(values: np.dtype[Any], indices: np.dtype[Any], dtype: np.dtype[Any]) -> Kernels:
    """The kernels for CSR rows of these types, which compute in `dtype`."""
    header = _HEADER.format(values=values.name, indices=indices.name)
    return Kernels(
        written("sparse_extents", header + _EXTENTS, dtype),
        written("sparse_outputs", header + _OUTPUTS, dtype),
        written("sparse_gradient", header + _GRADIENT, dtype),
    )


def sparse_row(inputs: Any, *, extents: int, z: int, delta: int, weights: int, units: int) -> NDArray[np.int64]:
    """The row for CSR rows. extents: an address; z, delta: offsets in the workspace; weights: in the parameters."""
    row = np.empty(ROW_SIZE, np.int64)
    row[VALUES], row[INDICES], row[EXTENTS] = inputs.data.ctypes.data, inputs.indices.ctypes.data, extents
    row[Z], row[DELTA], row[WEIGHTS], row[UNITS] = z, delta, weights, units
    return row
