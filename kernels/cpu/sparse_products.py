"""The products of a first layer that reads sparse rows. What they compute, and their arguments: sparse.py."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compilation import helper
from .sparse import DELTA, UNITS, WEIGHTS, Z
from .vectors import (
    fma,
    lane_count,
    load,
    load_masked,
    load_some,
    load_vector,
    multiply_add,
    register_of,
    splat,
    splat_vector,
    store,
    store_masked,
    store_some,
    store_vector,
)


def _piece(builder, place, vector, width):
    """A register from memory; of `width` numbers, unless that is None."""
    return load_vector(builder, place, vector) if width is None else load_masked(builder, place, vector, width)


def _make_tile(vectors: int, is_masked: bool):
    """A few registers of one row of z = x W + bias: the sum over the numbers begin..end-1 of value W[index].

    (values, indices, begin, end, W, w, units, bias, b, z, place, width): the registers begin in W[0] at w and in bias
    at b, and go to z from place on. is_masked: of the last one, only `width` numbers exist.
    """

    @intrinsic
    def tile(typing_context, values, indices, begin, end, W, w, units, bias, b, z, place, width):
        n = types.intp
        signature = types.void(values, indices, n, n, W, n, n, bias, n, z, n, n)

        def generate(context, builder, signature, arguments):
            values, indices, begin, end, W, w, units, bias, b, z, place, width = arguments
            value_type, index_type, element = (signature.args[i].dtype for i in (0, 1, 4))
            vector = register_of(context.get_value_type(element))
            steps = [ir.IntType(64)(j * vector.count) for j in range(vectors)]
            masks = [None] * (vectors - 1) + [width if is_masked else None]
            start = builder.gep(bias, [b])
            sums = [
                cgutils.alloca_once_value(builder, _piece(builder, builder.gep(start, [step]), vector, mask))
                for step, mask in zip(steps, masks, strict=True)
            ]
            with cgutils.for_range(builder, builder.sub(end, begin)) as loop:
                k = builder.add(begin, loop.index)
                value = context.cast(builder, builder.load(builder.gep(values, [k])), value_type, element)
                index = context.cast(builder, builder.load(builder.gep(indices, [k])), index_type, n)
                start = builder.gep(W, [builder.add(w, builder.mul(index, units))])
                factor = splat_vector(builder, value, vector)
                for j in range(vectors):
                    piece = _piece(builder, builder.gep(start, [steps[j]]), vector, masks[j])
                    builder.store(multiply_add(builder, factor, piece, builder.load(sums[j])), sums[j])
            start = builder.gep(z, [place])
            for j in range(vectors):
                target, total = builder.gep(start, [steps[j]]), builder.load(sums[j])
                if masks[j] is None:
                    store_vector(builder, total, target)
                else:
                    store_masked(builder, total, target, width)
            return context.get_dummy_value()

        return signature, generate

    return tile


# Four chains hide the latency of a multiply-add; eight read the values and indices half as often.
_eight, _four, _one = (_make_tile(vectors, False) for vectors in (8, 4, 1))
_last = _make_tile(1, True)


@helper
def outputs(row, values, indices, extents, W, bias, workspace, first, last):
    """The rows first..last-1 of z = x W + bias."""
    lanes, units = lane_count(workspace), row[UNITS]
    for i in range(first, last):
        begin, end = extents[2 * i], extents[2 * i + 1]
        column = 0
        while column < units:
            left = units - column
            w, place = row[WEIGHTS] + column, row[Z] + i * units + column
            if left >= 8 * lanes:
                _eight(values, indices, begin, end, W, w, units, bias, column, workspace, place, lanes)
                column += 8 * lanes
            elif left >= 4 * lanes:
                _four(values, indices, begin, end, W, w, units, bias, column, workspace, place, lanes)
                column += 4 * lanes
            elif left >= lanes:
                _one(values, indices, begin, end, W, w, units, bias, column, workspace, place, lanes)
                column += lanes
            else:
                _last(values, indices, begin, end, W, w, units, bias, column, workspace, place, left)
                column += left


@helper
def add_gradient(row, values, indices, extents, gradient, workspace, first, last, start, stop):
    """The rows first..last-1 of the batch added to the rows start..stop-1 of dLoss/dW.

    Each thread passes all indices and takes its own, since who owns which row of W is settled by the update.
    """
    lanes, units = lane_count(workspace), row[UNITS]
    whole = units // lanes * lanes
    for i in range(first, last):
        delta = row[DELTA] + i * units
        for k in range(extents[2 * i], extents[2 * i + 1]):
            feature = np.int64(indices[k])
            if feature < start or feature >= stop:
                continue
            value = splat(gradient, values[k])
            place = row[WEIGHTS] + feature * units
            for j in range(0, whole, lanes):
                total = fma(value, load(workspace, delta + j), load(gradient, place + j))
                store(total, gradient, place + j)
            if whole < units:
                left = units - whole
                piece = load_some(workspace, delta + whole, left)
                total = fma(value, piece, load_some(gradient, place + whole, left))
                store_some(total, gradient, place + whole, left)
