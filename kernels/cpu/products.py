"""The three matrix products of a dense layer: x W, x^T delta and delta W^T, by register tiles or by BLAS.

BLAS packs its operands first, which pays only from a certain size on; below it, tiles work on the arrays as they lie.
Where a size is no multiple of a tile, the last tile is moved back to end with the matrix: it computes some elements a
second time, to the same bits, and nothing outside is read.
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

# Tiles stream B from the cache once for every six rows of A. Measured (see kernels/README.md): they stay ahead of BLAS
# while B fits into the second-level cache, and fall behind where it does not; with 32-byte registers, which need twice
# the instructions, from an eighth of that.
TILED_BYTES = 2**21 if VECTOR_BYTES == 64 else 2**18


FEW_ROWS = 4  # a tile for matrices of fewer rows than a whole one takes
TRANSPOSED = 8  # rows and columns of a transposed tile


def _make_stripe(vectors: int, share: int):
    """C[:, columns of one piece] = A B, from the offsets b and c on, for any number of rows."""
    # Twelve accumulators are enough to hide the latency of FMA, and 16 registers hold them beside the operands.
    tile_rows = 12 // vectors
    many, few, one = (make_product_tile(rows, vectors, share) for rows in (tile_rows, FEW_ROWS, 1))

    @helper
    def stripe(A, a_row, a_depth, B, b, b_row, C, c, c_row, gap, rows, depth):
        row = 0
        while row < rows:
            if rows >= tile_rows:
                row = min(row, rows - tile_rows)
                many(A, row * a_row, a_row, a_depth, B, b, b_row, C, c + row * c_row, c_row, gap, depth)
                row += tile_rows
            elif rows >= FEW_ROWS:
                row = min(row, rows - FEW_ROWS)
                few(A, row * a_row, a_row, a_depth, B, b, b_row, C, c + row * c_row, c_row, gap, depth)
                row += FEW_ROWS
            else:
                one(A, row * a_row, a_row, a_depth, B, b, b_row, C, c + row * c_row, c_row, gap, depth)
                row += 1

    return stripe


def _make_multiply(share: int):
    """C = A B for matrices of at least as many columns as a vector of this share of a register has lanes."""
    pair, single = _make_stripe(2, share), _make_stripe(1, share)
    lane_count = make_lane_count(share)

    @helper
    def multiply(A, a_row, a_depth, B, C, rows, columns, depth):
        lanes = lane_count(A)
        column = 0
        while column < columns:
            left = columns - column
            if left > lanes:
                gap = min(lanes, left - lanes)
                pair(A, a_row, a_depth, B, column, columns, C, column, columns, gap, rows, depth)
                column += 2 * lanes
            else:
                column = columns - lanes
                single(A, a_row, a_depth, B, column, columns, C, column, columns, 0, rows, depth)
                column += lanes

    return multiply


_full, _half, _quarter = (_make_multiply(share) for share in (1, 2, 4))
_eighth = _make_stripe(1, 8)
_eighth_lanes = make_lane_count(8)
_column = _make_stripe(1, 16)
_lanes = make_lane_count(1)
_transpose_tile = make_transpose_tile(TRANSPOSED)


def multiply(A, a_row, a_depth, B, C, rows, columns, depth):
    """C = A B. A: element (i, k) at i * a_row + k * a_depth; B (depth, columns) and C (rows, columns) in C order."""
    lanes = _lanes(A)
    if columns >= lanes:
        _full(A, a_row, a_depth, B, C, rows, columns, depth)
    elif 2 * columns >= lanes:
        _half(A, a_row, a_depth, B, C, rows, columns, depth)
    elif 4 * columns >= lanes:
        _quarter(A, a_row, a_depth, B, C, rows, columns, depth)
    elif 8 * columns >= lanes:
        column = 0
        while column < columns:
            column = min(column, columns - _eighth_lanes(A))
            _eighth(A, a_row, a_depth, B, column, columns, C, column, columns, 0, rows, depth)
            column += _eighth_lanes(A)
    else:
        for column in range(columns):
            _column(A, a_row, a_depth, B, column, columns, C, column, columns, 0, rows, depth)


def transpose(A, out, rows, columns):
    """out (columns, rows) = the transpose of A (rows, columns), both in C order."""
    if rows < TRANSPOSED or columns < TRANSPOSED:
        for i in range(rows):
            for j in range(columns):
                out[j * rows + i] = A[i * columns + j]
        return
    i = 0
    while i < rows:
        i = min(i, rows - TRANSPOSED)
        j = 0
        while j < columns:
            j = min(j, columns - TRANSPOSED)
            _transpose_tile(A, i * columns + j, columns, out, j * rows + i, rows)
            j += TRANSPOSED
        i += TRANSPOSED


@cache
def multiply_kernel(dtype: np.dtype[Any]) -> Any:
    """`multiply` as a C callable, whose address goes to the epoch: compiled once, called from three places."""
    P, N = types.CPointer(numba.from_dtype(dtype)), types.int64
    with caching() as enabled:
        return cfunc(types.void(P, N, N, P, P, N, N, N), cache=enabled, **OPTIONS)(multiply)


@cache
def transpose_kernel(dtype: np.dtype[Any]) -> Any:
    """`transpose` as a C callable."""
    P, N = types.CPointer(numba.from_dtype(dtype)), types.int64
    with caching() as enabled:
        return cfunc(types.void(P, P, N, N), cache=enabled, **OPTIONS)(transpose)


@helper
def _is_tiled(size, B):
    """Whether B has at most `size` elements' worth of bytes for tiles."""
    return size * B.itemsize <= TILED_BYTES


@helper
def outputs_product(multiply, x, W, z, n, inputs, outputs):
    """z = x W. x: n rows of `inputs`; W (inputs, outputs); z: n rows of `outputs`. All flat, in C order.

    multiply: the address of multiply_kernel.
    """
    if _is_tiled(inputs * outputs, W):
        call_void(multiply, (x, inputs, 1, W, z, n, outputs, inputs))
    else:
        np.dot(x.reshape(n, inputs), W.reshape(inputs, outputs), z.reshape(n, outputs))


@helper
def weights_product(multiply, transpose, x, delta, gradient, scratch, n, inputs, outputs):
    """gradient = x^T delta: dLoss/dW from dLoss/dz.

    With fewer outputs than a register has lanes, (delta^T x)^T, whose rows are long enough for whole registers.
    """
    if outputs * delta.itemsize < VECTOR_BYTES and inputs > outputs and _is_tiled(n * inputs, x):
        call_void(multiply, (delta, 1, outputs, x, scratch, outputs, inputs, n))
        call_void(transpose, (scratch, gradient, outputs, inputs))
    elif _is_tiled(n * outputs, delta):
        call_void(multiply, (x, 1, inputs, delta, gradient, inputs, outputs, n))
    else:
        np.dot(x.reshape(n, inputs).T, delta.reshape(n, outputs), gradient.reshape(inputs, outputs))


@helper
def inputs_product(multiply, transpose, delta, W, scratch, dx, n, inputs, outputs):
    """dx = delta W^T: dLoss/dx from dLoss/dz. scratch: room for W's transpose."""
    if _is_tiled(inputs * outputs, W):
        call_void(transpose, (W, scratch, inputs, outputs))
        call_void(multiply, (delta, outputs, 1, scratch, dx, n, inputs, outputs))
    else:
        np.dot(delta.reshape(n, outputs), W.reshape(inputs, outputs).T, dx.reshape(n, inputs))
