"""The three matrix products of a dense layer, x W, x^T delta and delta W^T, by register tiles.

Each can be computed for some of its rows or added to what is there. Every element is one chain of fused multiply-adds
along the depth, in order, so a product cut into parts, by threads or by blocks of a batch, has the same bits as in
one piece. No BLAS is called: it packs its operands first, which small matrices do not repay, and its bits depend on
where it is cut.
"""

from __future__ import annotations

from .calls import at, call_void, copy, not_inlined
from .compilation import helper
from .panels import DEPTH, DIRECT_BYTES, REPAID
from .registers import VECTOR_BYTES
from .tiles import make_lane_count, make_product_tile, make_transpose_tile

FEW_ROWS = 4  # a tile for at most this many rows, or for the remainder of more
TRANSPOSED = 8  # rows and columns of a transposed tile


def _make_stripe(vectors: int, share: int, is_masked: bool):
    """C[:, columns of one tile] = S + A B for any number of rows."""
    # Twelve accumulators are enough to hide the latency of FMA, and 16 registers hold them beside the operands.
    tile_rows = 12 // vectors
    many = make_product_tile(tile_rows, vectors, share, is_masked, is_whole=True)
    few = make_product_tile(FEW_ROWS, vectors, share, is_masked, is_whole=False)

    @helper
    def stripe(A, a_row, a_depth, B, b_row, C, c_row, S, s_row, rows, width, depth):
        not_inlined()
        row = 0
        while rows - row >= tile_rows:
            many(
                at(A, row * a_row), a_row, a_depth, B, b_row, at(C, row * c_row), c_row, at(S, row * s_row), s_row,
                tile_rows, width, depth,
            )  # fmt: skip
            row += tile_rows
        while row < rows:
            few(
                at(A, row * a_row), a_row, a_depth, B, b_row, at(C, row * c_row), c_row, at(S, row * s_row), s_row,
                rows - row, width, depth,
            )  # fmt: skip
            row += FEW_ROWS

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
def _stripe(A, a_row, a_depth, B, b_row, C, c_row, S, s_row, rows, width, depth):
    """`width` columns of a product, at most two registers'."""
    if width == 2 * _lanes(A):
        _whole(A, a_row, a_depth, B, b_row, C, c_row, S, s_row, rows, width, depth)
    elif width > _lanes(A):
        _pair(A, a_row, a_depth, B, b_row, C, c_row, S, s_row, rows, width, depth)
    elif width > _half_lanes(A):
        _halves(A, a_row, a_depth, B, b_row, C, c_row, S, s_row, rows, width, depth)
    elif width > _quarter_lanes(A):
        _quarters(A, a_row, a_depth, B, b_row, C, c_row, S, s_row, rows, width, depth)
    else:
        _quarter(A, a_row, a_depth, B, b_row, C, c_row, S, s_row, rows, width, depth)


def multiply(A, a_row, a_depth, B, b_row, C, c_row, rows, columns, depth, S, s_row, pack):
    """C = S + A B.

    A: element (i, k) at i * a_row + k * a_depth. B (depth, columns), C and S (rows, columns): rows b_row, c_row and
    s_row elements apart. S is C itself to add to it, or a single row, s_row 0, for all. pack: room for PACK_SIZE
    elements.
    """
    tile = 2 * _lanes(A)
    is_direct = depth * columns * VECTOR_BYTES <= DIRECT_BYTES * _lanes(A) or rows < REPAID
    first = 0
    while True:  # once at least: a product of no depth is zero
        length = depth if is_direct else min(DEPTH, depth - first)
        for column in range(0, columns, tile):
            width = min(tile, columns - column)
            piece, piece_row = at(B, column), b_row
            if not is_direct:
                piece, piece_row = pack, tile
                for k in range(length):
                    source = at(B, (first + k) * b_row + column)
                    if width == tile:  # a constant length is inlined instead of calling memcpy
                        copy(source, at(pack, k * tile), tile)
                    else:
                        copy(source, at(pack, k * tile), width)
            # Goes on from what the piece before left in C
            _stripe(
                at(A, first * a_depth), a_row, a_depth, piece, piece_row, at(C, column), c_row, at(S, column), s_row,
                rows, width, length,
            )  # fmt: skip
        S, s_row = C, c_row
        first += length
        if first >= depth:
            return


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


@helper
def outputs_product(multiply, pack, x, W, bias, z, n, inputs, outputs):
    """z = x W + bias. x: n rows of `inputs`; W (inputs, outputs); z: n rows of `outputs`. All flat, in C order.

    multiply: the address of `multiply`.
    """
    call_void(multiply, (x, inputs, 1, W, outputs, z, outputs, n, outputs, inputs, bias, 0, pack))


@helper
def weights_product(multiply, pack, x, delta, gradient, n, inputs, outputs, start, stop, zeros, adds):
    """gradient = x^T delta, dLoss/dW from dLoss/dz, or += where adds is 1; rows start..stop-1 of it."""
    target = at(gradient, start * outputs)
    begin, step = (target, outputs) if adds == 1 else (zeros, 0)
    call_void(
        multiply,
        (at(x, start), 1, inputs, delta, outputs, target, outputs, stop - start, outputs, n, begin, step, pack),
    )


@helper
def narrow_weights_product(multiply, pack, x, delta, transposed, n, inputs, outputs, start, stop, zeros, adds):
    """transposed = delta^T x, the transpose of dLoss/dW, or += where adds is 1; columns start..stop-1 of it."""
    target = at(transposed, start)
    begin, step = (target, inputs) if adds == 1 else (zeros, 0)
    call_void(
        multiply,
        (delta, 1, outputs, at(x, start), inputs, target, inputs, outputs, stop - start, n, begin, step, pack),
    )


@helper
def inputs_product(multiply, pack, delta, W_transposed, dx, n, inputs, outputs, zeros):
    """dx = delta W^T: dLoss/dx from dLoss/dz. W_transposed: (outputs, inputs)."""
    call_void(
        multiply, (delta, outputs, 1, W_transposed, inputs, dx, inputs, n, inputs, outputs, zeros, 0, pack)
    )  # fmt: skip


@helper
def sum_of_rows(multiply, pack, one, block, columns, sums, n, count, zeros, adds):
    """sums = the sum of a block's n rows, dLoss/db from dLoss/dz, or += where adds is 1; `count` columns of it.

    A product as well, with ones. one: points to a 1.
    """
    begin = sums if adds == 1 else zeros
    call_void(multiply, (one, 0, 0, block, columns, sums, columns, 1, count, n, begin, 0, pack))
