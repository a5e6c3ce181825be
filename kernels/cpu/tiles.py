"""Register tiles for products of small matrices: vector instructions written as LLVM IR.

A tile computes a few rows and columns of C = A B entirely in registers: for each step k along the depth it loads a
piece of B's row k, multiplies it by one element of A per row, and adds to the accumulators with fused multiply-add.
The piece is a number of vectors; a vector is a register, or a half, a quarter, ... of one (its `share`) for narrow
matrices. Loops here are Python's: they unroll into the IR.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .registers import VECTOR_BYTES

INDEX = ir.IntType(64)


def lanes_of(kind, share: int) -> int:
    """Elements in a vector of this share of a register. kind: the Numba type of a pointer."""
    return max(1, VECTOR_BYTES // (kind.dtype.bitwidth // 8) // share)


def make_lane_count(share: int):
    """lanes(A): the elements in a vector, as a constant of the compiled code."""

    @intrinsic
    def lanes(typing_context, A):
        def generate(context, builder, signature, arguments):
            return INDEX(lanes_of(signature.args[0], share))

        return types.intp(A), generate

    return lanes


def _at(builder, pointer, *terms):
    """pointer + the sum of the terms, in elements."""
    offset = terms[0]
    for term in terms[1:]:
        offset = builder.add(offset, term)
    return builder.gep(pointer, [offset])


def _load(builder, pointer, vector_type, align):
    value = builder.load(builder.bitcast(pointer, vector_type.as_pointer()))
    value.align = align
    return value


def _store(builder, value, pointer, align):
    instruction = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()))
    instruction.align = align


def _splat(builder, scalar, lanes):
    vector = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)


def _declare(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _lane_mask(builder, width, lanes):
    """<lanes x i1>, true in the first `width` lanes."""
    numbers = ir.Constant(ir.VectorType(INDEX, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, _splat(builder, width, lanes))


def _load_masked(builder, pointer, vector_type, align, mask, otherwise):
    arguments = [pointer, ir.IntType(32)(align), mask, otherwise]
    load = _declare(
        builder, f"llvm.masked.load.{_suffix(vector_type)}.p0", vector_type, [part.type for part in arguments]
    )
    return builder.call(load, arguments)


def _store_masked(builder, value, pointer, align, mask):
    arguments = [value, pointer, ir.IntType(32)(align), mask]
    store = _declare(
        builder, f"llvm.masked.store.{_suffix(value.type)}.p0", ir.VoidType(), [part.type for part in arguments]
    )
    builder.call(store, arguments)


def _suffix(vector_type):
    return f"v{vector_type.count}{'f32' if vector_type.element == ir.FloatType() else 'f64'}"


def make_product_tile(rows: int, vectors: int, share: int, is_masked: bool, is_whole: bool):
    """A few rows and columns of C = S + A B, as a function to be called in kernels.

    (A, a_row, a_depth, B, b_row, C, c_row, S, s_row, count, width, depth): pointers to one element type, each with the
    strides between rows (and for A between steps along the depth), in elements. Of the tile's rows, `count` exist;
    unless is_whole, that can be fewer than all, and the last of them is computed again for those that do not. Of its
    columns, `width` exist; is_masked: where that can be fewer than all, the last vector is masked. Every element's bits
    come from one chain of fused multiply-adds along the depth, which begins with S, wherever the element lies in a tile
    and into however many pieces the depth is cut.
    """

    @intrinsic
    def tile(typing_context, A, a_row, a_depth, B, b_row, C, c_row, S, s_row, count, width, depth):
        n = types.intp
        signature = types.void(A, n, n, B, n, C, n, S, n, n, n, n)

        def generate(context, builder, signature, arguments):
            A, a_row, a_depth, B, b_row, C, c_row, S, s_row, count, width, depth = arguments
            element = context.get_value_type(signature.args[0].dtype)
            align = 4 if element == ir.FloatType() else 8
            lanes = lanes_of(signature.args[0], share)
            kind = ir.VectorType(element, lanes)
            fma = _declare(builder, f"llvm.fma.{_suffix(kind)}", kind, [kind] * 3)
            zero = ir.Constant(kind, [0.0] * lanes)
            mask = _lane_mask(builder, builder.sub(width, INDEX((vectors - 1) * lanes)), lanes) if is_masked else None

            def load(j, pointer):
                if mask is not None and j == vectors - 1:
                    return _load_masked(builder, pointer, kind, align, mask, zero)
                return _load(builder, pointer, kind, align)

            a_offsets = [builder.mul(a_row, INDEX(i)) for i in range(rows)]
            c_starts, s_starts = [C], [S]
            for i in range(1, rows):
                c_step, s_step = c_row, s_row
                if not is_whole:
                    exists = builder.icmp_signed(">", count, INDEX(i))
                    a_offsets[i] = builder.select(exists, a_offsets[i], a_offsets[i - 1])
                    c_step, s_step = (builder.select(exists, step, INDEX(0)) for step in (c_row, s_row))
                c_starts.append(builder.gep(c_starts[-1], [c_step]))
                s_starts.append(builder.gep(s_starts[-1], [s_step]))
            sums = [[cgutils.alloca_once(builder, kind) for _ in range(vectors)] for _ in range(rows)]
            for i in range(rows):
                for j in range(vectors):
                    builder.store(load(j, builder.gep(s_starts[i], [INDEX(j * lanes)])), sums[i][j])
            with cgutils.for_range(builder, depth) as loop:
                piece = builder.gep(B, [builder.mul(loop.index, b_row)])
                pieces = [load(j, builder.gep(piece, [INDEX(j * lanes)])) for j in range(vectors)]
                along = builder.mul(loop.index, a_depth)
                for i in range(rows):
                    factor = _splat(builder, builder.load(builder.gep(A, [builder.add(a_offsets[i], along)])), lanes)
                    for j in range(vectors):
                        total = builder.call(fma, [factor, pieces[j], builder.load(sums[i][j])])
                        builder.store(total, sums[i][j])
            for i in range(rows):
                for j in range(vectors):
                    pointer = builder.gep(c_starts[i], [INDEX(j * lanes)])
                    if mask is not None and j == vectors - 1:
                        _store_masked(builder, builder.load(sums[i][j]), pointer, align, mask)
                    else:
                        _store(builder, builder.load(sums[i][j]), pointer, align)
            return context.get_dummy_value()

        return signature, generate

    return tile


def make_transpose_tile(lanes: int):
    """out[:lanes, :lanes] = the transpose of A[:lanes, :lanes], in registers.

    (A, a, a_row, out, o, o_row): pointers with the offsets of their first elements and the strides between rows.
    """

    @intrinsic
    def tile(typing_context, A, a, a_row, out, o, o_row):
        number = types.intp
        signature = types.void(A, number, number, out, number, number)

        def generate(context, builder, signature, arguments):
            A, a, a_row, out, o, o_row = arguments
            element = context.get_value_type(signature.args[0].dtype)
            align = 4 if element == ir.FloatType() else 8
            kind = ir.VectorType(element, lanes)
            rows = [_load(builder, _at(builder, A, a, builder.mul(a_row, INDEX(i))), kind, align) for i in range(lanes)]
            # Swap the off-diagonal halves of every 2h x 2h block, for h = lanes / 2, ..., 1.
            half = lanes // 2
            while half:
                low = [j if j & half == 0 else j - half + lanes for j in range(lanes)]
                high = [j + half if j & half == 0 else j + lanes for j in range(lanes)]
                masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), places) for places in (low, high)]
                for i in range(lanes):
                    if i & half == 0:
                        upper, lower = rows[i], rows[i + half]
                        rows[i] = builder.shuffle_vector(upper, lower, masks[0])
                        rows[i + half] = builder.shuffle_vector(upper, lower, masks[1])
                half //= 2
            for i in range(lanes):
                _store(builder, rows[i], _at(builder, out, o, builder.mul(o_row, INDEX(i))), align)
            return context.get_dummy_value()

        return signature, generate

    return tile
