"""The three matrix products of a dense layer, x W, x^T delta and delta W^T, by register tiles.

Each can be computed for some of its rows or added to what is there. Every element is one chain of fused multiply-adds
along the depth, in order, so a product cut into parts, by threads or by blocks of a batch, has the same bits as in
one piece. No BLAS is called: it packs its operands first, which small matrices do not repay, and its bits depend on
where it is cut.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba import cfunc, types

from .calls import call_void
from .compilation import OPTIONS, caching, helper
from .tiles import VECTOR_BYTES, make_lane_count, make_product_tile, make_transpose_tile

# B is streamed from the cache once for every six rows of A. As long as it stays in the second-level cache it is read as
# it lies; a larger one is copied piece by piece, each of DEPTH rows and a tile's columns, into one that stays in the
# first-level cache and whose rows are neighbours. Measured: see kernels/README.md.
DIRECT_BYTES = 2**20 if VECTOR_BYTES == 64 else 2**18
DEPTH = 256
REPAID = 24  # rows of A that repay the copy
PACK_SIZE = DEPTH * 2 * VECTOR_BYTES // 4  # elements of a piece

FEW_ROWS = 3  # a tile for what is left when fewer rows remain than a whole one takes
TRANSPOSED = 8  # rows and columns of a transposed tile


def _make_stripe(vectors: int, share: int, is_masked: bool):
    """C[:, columns of one tile] = A B or += A B, from the offsets a, b and c on, for any number of rows."""
    # Twelve accumulators are enough to hide the latency of FMA, and 16 registers hold them beside the operands.
    tile_rows = 12 // vectors
    many, few, one = (make_product_tile(rows, vectors, share, is_masked) for rows in (tile_rows, FEW_ROWS, 1))

    @helper
    def stripe(A, a, a_row, a_depth, B, b, b_row, C, c, c_row, rows, width, adds, depth):
        row = 0
        while rows - row >= tile_rows:
            many(A, a + row * a_row, a_row, a_depth, B, b, b_row, C, c + row * c_row, c_row, width, adds, depth)
            row += tile_rows
        while rows - row >= FEW_ROWS:
            few(A, a + row * a_row, a_row, a_depth, B, b, b_row, C, c + row * c_row, c_row, width, adds, depth)
            row += FEW_ROWS
        while row < rows:
            one(A, a + row * a_row, a_row, a_depth, B, b, b_row, C, c + row * c_row, c_row, width, adds, depth)
            row += 1

    return stripe


# Narrow matrices are computed in vectors of a half or a quarter of a register, which cost less.
_whole = _make_stripe(2, 1, False)
_pair = _make_stripe(2, 1, True)
_halves = _make_stripe(2, 2, True)
_quarters = _make_stripe(2, 4, True)
_quarter = _make_stripe(1, 4, True)
_lanes = make_lane_count(1)
_half_lanes = make_lane_count(2)
_quarter_lanes = make_lane_count(4)


@helper
def _stripe(A, a, a_row, a_depth, B, b, b_row, C, c, c_row, rows, width, adds, depth):
    """`width` columns of a product, at most two registers'."""
    if width == 2 * _lanes(A):
        _whole(A, a, a_row, a_depth, B, b, b_row, C, c, c_row, rows, width, adds, depth)
    elif width > _lanes(A):
        _pair(A, a, a_row, a_depth, B, b, b_row, C, c, c_row, rows, width, adds, depth)
    elif width > _half_lanes(A):
        _halves(A, a, a_row, a_depth, B, b, b_row, C, c, c_row, rows, width, adds, depth)
    elif width > _quarter_lanes(A):
        _quarters(A, a, a_row, a_depth, B, b, b_row, C, c, c_row, rows, width, adds, depth)
    else:
        _quarter(A, a, a_row, a_depth, B, b, b_row, C, c, c_row, rows, width, adds, depth)


def multiply(A, a_row, a_depth, B, b_row, C, c_row, rows, columns, depth, adds, pack):
    """C = A B, or C += A B where adds is 1.

    A: element (i, k) at i * a_row + k * a_depth. B (depth, columns), C (rows, columns): rows b_row and c_row elements
    apart. pack: room for PACK_SIZE elements.
    """
    tile = 2 * _lanes(A)
    if depth * columns * VECTOR_BYTES <= DIRECT_BYTES * _lanes(A) or rows < REPAID:
        for column in range(0, columns, tile):
            width = min(tile, columns - column)
            _stripe(A, 0, a_row, a_depth, B, column, b_row, C, column, c_row, rows, width, adds, depth)
        return
    for first in range(0, depth, DEPTH):
        length = min(DEPTH, depth - first)
        for column in range(0, columns, tile):
            width = min(tile, columns - column)
            for k in range(length):
                for j in range(width):
                    pack[k * tile + j] = B[(first + k) * b_row + column + j]
            # Goes on from what the piece before left in C
            _stripe(
                A, first * a_depth, a_row, a_depth, pack, 0, tile, C, column, c_row, rows, width,
                adds if first == 0 else 1, length,
            )  # fmt: skip


_transpose_tile = make_transpose_tile(TRANSPOSED)


def transpose(A, a_row, out, out_row, rows, columns):
    """out (columns, rows) = the transpose of A (rows, columns). a_row, out_row: elements from one row to the next."""
    if rows < TRANSPOSED or columns < TRANSPOSED:
        for i in range(rows):
            for j in range(columns):
                out[j * out_row + i] = A[i * a_row + j]
        return
    i = 0
    while i < rows:
        i = min(i, rows - TRANSPOSED)  # the last tile is moved back to end with the matrix
        j = 0
        while j < columns:
            j = min(j, columns - TRANSPOSED)
            _transpose_tile(A, i * a_row + j, a_row, out, j * out_row + i, out_row)
            j += TRANSPOSED
        i += TRANSPOSED


@cache
def multiply_kernel(dtype: np.dtype[Any]) -> Any:
    """`multiply` as a C callable, whose address goes to the epoch: compiled once, called from several places."""
    P, N = types.CPointer(numba.from_dtype(dtype)), types.int64
    with caching() as enabled:
        return cfunc(types.void(P, N, N, P, N, P, N, N, N, N, N, P), cache=enabled, **OPTIONS)(multiply)


@cache
def transpose_kernel(dtype: np.dtype[Any]) -> Any:
    """`transpose` as a C callable."""
    P, N = types.CPointer(numba.from_dtype(dtype)), types.int64
    with caching() as enabled:
        return cfunc(types.void(P, N, P, N, N, N), cache=enabled, **OPTIONS)(transpose)


def is_narrow(inputs: int, outputs: int, dtype: np.dtype[Any]) -> bool:
    """Whether x^T delta is better computed as (delta^T x)^T, whose rows are long enough for whole registers."""
    return outputs * dtype.itemsize < VECTOR_BYTES and inputs > outputs


@helper
def outputs_product(multiply, pack, x, W, z, n, inputs, outputs):
    """z = x W. x: n rows of `inputs`; W (inputs, outputs); z: n rows of `outputs`. All flat, in C order.

    multiply: the address of multiply_kernel.
    """
    call_void(multiply, (x, inputs, 1, W, outputs, z, outputs, n, outputs, inputs, 0, pack))


@helper
def weights_product(multiply, pack, x, delta, gradient, n, inputs, outputs, start, stop, adds):
    """gradient = x^T delta, dLoss/dW from dLoss/dz, or += where adds is 1; rows start..stop-1 of it."""
    call_void(
        multiply,
        (
            x[start:], 1, inputs, delta, outputs, gradient[start * outputs :], outputs, stop - start, outputs, n,
            adds, pack,
        ),
    )  # fmt: skip


@helper
def narrow_weights_product(multiply, pack, x, delta, transposed, n, inputs, outputs, start, stop, adds):
    """transposed = delta^T x, the transpose of dLoss/dW, or += where adds is 1; columns start..stop-1 of it."""
    call_void(
        multiply,
        (delta, 1, outputs, x[start:], inputs, transposed[start:], inputs, outputs, stop - start, n, adds, pack),
    )


@helper
def inputs_product(multiply, pack, delta, W_transposed, dx, n, inputs, outputs):
    """dx = delta W^T: dLoss/dx from dLoss/dz. W_transposed: (outputs, inputs)."""
    call_void(multiply, (delta, outputs, 1, W_transposed, inputs, dx, inputs, n, inputs, outputs, 0, pack))
