"""Register tiles for interleaved images, written as LLVM IR: convolutions, their weights' gradients, and pooling.

A tile keeps a few sums (or maxima) in registers, each with one lane an image, while it goes through nested loops whose
counts and strides are arguments. Which numbers of sums there are is decided when it is compiled; which of them applies,
when it is called. Loops here are Python's: they unroll into the IR.
"""

from __future__ import annotations

from collections.abc import Sequence

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .tiles import INDEX
from .vectors import constant, load_vector, maximum, multiply_add, register_of, splat_vector, store_vector, sum_lanes


def make_correlation_tile(positions: dict[tuple[int, int], int]):
    """out[p, f] = bias[f] + the sum over three loops of x[p] w[f], for a run of positions p and a few filters f.

    (filters, is_depthwise, length, x, x_start, x_gap, w, w_start, w_gap, bias, out, out_start, out_gap, counts,
    x_steps, w_steps): the first two are one of the keys of `positions`, whose values say how many positions are
    computed at once; length is the number of positions in the run. is_depthwise: 1 to multiply by x[p, f], where each
    filter has a vector of its own, beside that of the filter before. x, w and out are pointers to one element type;
    all else counts elements. x_start, w_start: the first position's vector and the first filter's weight where all
    three loops begin; x_steps, w_steps: how far each loop moves them, the outermost first; x_gap, w_gap: to the next
    position and filter. bias: offset in w of the first filter's bias, -1 without. Filters stand side by side in `out`,
    positions out_gap apart. Where a count is 0, the bias remains.

    An element is one chain of fused multiply-adds: its bits do not depend on its place in a tile.
    """

    @intrinsic
    def tile(
        typing_context, filters, is_depthwise, length, x, x_start, x_gap, w, w_start, w_gap, bias, out, out_start,
        out_gap, counts, x_steps, w_steps,
    ):  # fmt: skip
        n, loops = types.intp, types.UniTuple(types.intp, 3)
        signature = types.void(n, n, n, x, n, n, w, n, n, n, out, n, n, loops, loops, loops)

        def generate(context, builder, signature, arguments):
            shape, length, rest = arguments[:2], arguments[2], arguments[3:]
            vector = register_of(context.get_value_type(x.dtype))

            def run(*shape):
                many = positions[shape]
                with builder.if_else(builder.icmp_signed(">=", length, INDEX(many))) as (long, short):
                    with long:
                        _correlate_run(builder, vector, *shape, many, length, *rest)
                    with short:
                        _correlate_run(builder, vector, *shape, 1, length, *rest)

            _choose(builder, shape, positions, run)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _correlate_run(
    builder, vector, filters, is_depthwise, positions, length, x, x_start, x_gap, w, w_start, w_gap, bias, out,
    out_start, out_gap, *loops,
):  # fmt: skip
    """The whole run, several positions at once."""
    counts, x_steps, w_steps = (cgutils.unpack_tuple(builder, loop, 3) for loop in loops)
    pixels, places = ([builder.mul(gap, INDEX(p)) for p in range(positions)] for gap in (x_gap, out_gap))
    weights = [builder.mul(w_gap, INDEX(f)) for f in range(filters)]
    x, w_first, out = (builder.gep(*pair) for pair in ((x, [x_start]), (w, [w_start]), (out, [out_start])))
    biases = _biases_or_zeros(builder, vector, w, bias, filters)

    def body(sums, pointers):
        pixel, weight = pointers
        totals = list(sums)
        for f in range(filters):
            if f == 0 or is_depthwise:
                places = [builder.gep(pixel, [builder.add(offset, INDEX(f * vector.count))]) for offset in pixels]
                values = [load_vector(builder, place, vector) for place in places]
            factor = splat_vector(builder, builder.load(builder.gep(weight, [weights[f]])), vector)
            for p in range(positions):
                place = p * filters + f
                totals[place] = multiply_add(builder, values[p], factor, sums[place])
        return totals

    steps = list(zip(x_steps, w_steps, strict=True))
    last = builder.sub(length, INDEX(positions))
    with cgutils.for_range_slice(builder, INDEX(0), length, INDEX(positions)) as (start, _):
        # The last tile moves back to end with the run: it computes some positions again, to the same bits
        start = builder.select(builder.icmp_signed("<", start, last), start, last)
        starts = [builder.gep(x, [builder.mul(start, x_gap)]), w_first]
        sums = _loops(builder, counts, starts, steps, biases * positions, body)
        target = builder.gep(out, [builder.mul(start, out_gap)])
        for p in range(positions):
            for f in range(filters):
                place = builder.add(places[p], INDEX(f * vector.count))
                store_vector(builder, sums[p * filters + f], builder.gep(target, [place]))


def _biases_or_zeros(builder, vector, w, bias, filters):
    """What each filter's sum begins with."""
    zero = constant(vector, 0.0)
    before = builder.block
    with builder.if_then(builder.icmp_signed(">=", bias, INDEX(0))):
        numbers = [builder.load(builder.gep(w, [builder.add(bias, INDEX(f))])) for f in range(filters)]
        biases = [splat_vector(builder, number, vector) for number in numbers]
        inside = builder.block
    return [_merge(builder, (zero, before), (value, inside)) for value in biases]


def make_gradient_tile(shapes: Sequence[tuple[int, int, int]]):
    """gradient[t, f] += the sum over two loops, and over the lanes, of x[t] delta[f], for a few taps t and filters f.

    (taps, filters, is_depthwise, x, x_start, x_gap, delta, delta_start, gradient, gradient_start, gradient_gap,
    counts, x_steps, delta_steps): the first three are one of `shapes`, the others as in make_correlation_tile. x_gap,
    gradient_gap: to the next tap. With 0 taps, gradient[f] += the sum of delta[f].
    """

    @intrinsic
    def tile(
        typing_context, taps, filters, is_depthwise, x, x_start, x_gap, delta, delta_start, gradient, gradient_start,
        gradient_gap, counts, x_steps, delta_steps,
    ):  # fmt: skip
        n, loops = types.intp, types.UniTuple(types.intp, 2)
        signature = types.void(n, n, n, x, n, n, delta, n, gradient, n, n, loops, loops, loops)

        def generate(context, builder, signature, arguments):
            vector = register_of(context.get_value_type(x.dtype))
            shape, rest = arguments[:3], arguments[3:]
            _choose(builder, shape, shapes, lambda *shape: _add_gradient(builder, vector, *shape, *rest))
            return context.get_dummy_value()

        return signature, generate

    return tile


def _add_gradient(
    builder, vector, taps, filters, is_depthwise, x, x_start, x_gap, delta, delta_start, gradient, gradient_start,
    gradient_gap, *loops,
):  # fmt: skip
    counts, x_steps, delta_steps = (cgutils.unpack_tuple(builder, loop, 2) for loop in loops)
    pixels = [builder.mul(x_gap, INDEX(t)) for t in range(taps)]

    def body(sums, pointers):
        pixel, slope = pointers
        slopes = _load_all(builder, slope, vector, filters)
        if not taps:
            return [builder.fadd(total, slope) for total, slope in zip(sums, slopes, strict=True)]
        totals = []
        for t in range(taps):
            values = _load_all(builder, builder.gep(pixel, [pixels[t]]), vector, filters if is_depthwise else 1)
            for f in range(filters):
                value = values[f if is_depthwise else 0]
                totals.append(multiply_add(builder, value, slopes[f], sums[t * filters + f]))
        return totals

    starts = [builder.gep(x, [x_start]), builder.gep(delta, [delta_start])]
    steps = list(zip(x_steps, delta_steps, strict=True))
    rows = max(1, taps)
    sums = _loops(builder, counts, starts, steps, [constant(vector, 0.0)] * (rows * filters), body)
    together = min(filters, vector.count)  # sum_lanes gives at most a register's lanes
    for first in range(0, rows * filters, together):
        t, f = divmod(first, filters)
        start = builder.add(gradient_start, INDEX(f))
        place = builder.gep(gradient, [builder.add(start, builder.mul(gradient_gap, INDEX(t)))])
        total = sum_lanes(builder, sums[first : first + together])
        store_vector(builder, builder.fadd(load_vector(builder, place, total.type), total), place)


def make_pooling_tile(kind: str, widths: tuple[int, ...]):
    """out[c] = the maximum of x[c] over a window, or `factor` times the sum, for a few channels c.

    kind: "max" or "average". (channels, images, x, out, counts, steps, factor): channels is one of `widths`; x and out
    are offsets in `images`; counts and steps are those of the window's rows and columns.
    """

    @intrinsic
    def tile(typing_context, channels, images, x, out, counts, steps, factor):
        n, loops = types.intp, types.UniTuple(types.intp, 2)
        signature = types.void(n, images, n, n, loops, loops, images.dtype)

        def generate(context, builder, signature, arguments):
            channels, memory, x, out, counts, steps, factor = arguments
            vector = register_of(context.get_value_type(images.dtype))
            counts, steps = (cgutils.unpack_tuple(builder, loop, 2) for loop in (counts, steps))
            first, out = builder.gep(memory, [x]), builder.gep(memory, [out])

            def pool(channels):
                def body(totals, pointers):
                    pairs = zip(totals, _load_all(builder, pointers[0], vector, channels), strict=True)
                    return [maximum(builder, *pair) if kind == "max" else builder.fadd(*pair) for pair in pairs]

                zeros = [constant(vector, 0.0)] * channels
                totals = _load_all(builder, first, vector, channels) if kind == "max" else zeros
                totals = _loops(builder, counts, [first], [[step] for step in steps], totals, body)
                if kind == "average":
                    totals = [builder.fmul(total, splat_vector(builder, factor, vector)) for total in totals]
                _store_all(builder, totals, out)

            _choose(builder, [channels], [(width,) for width in widths], pool)
            return context.get_dummy_value()

        return signature, generate

    return tile


def make_pooling_gradient_tile(kind: str, widths: tuple[int, ...]):
    """The gradient of a window's pixels from that of its outputs, for a few channels.

    (channels, is_added, images, x, out, slope, target, counts, steps, factor): as in make_pooling_tile. slope is the
    offset of the outputs' gradient, target that of the inputs'. "max": the slope goes to the first pixel that equals
    `out`, "average": `factor` times it to every pixel. is_added: 1 to add to what is there, 0 to overwrite it.
    """

    @intrinsic
    def tile(typing_context, channels, is_added, images, x, out, slope, target, counts, steps, factor):
        n, loops = types.intp, types.UniTuple(types.intp, 2)
        signature = types.void(n, n, images, n, n, n, n, loops, loops, images.dtype)

        def generate(context, builder, signature, arguments):
            channels, is_added, memory, x, out, slope, target, counts, steps, factor = arguments
            vector = register_of(context.get_value_type(images.dtype))
            counts, steps = (cgutils.unpack_tuple(builder, loop, 2) for loop in (counts, steps))
            x, out, slope, target = (builder.gep(memory, [offset]) for offset in (x, out, slope, target))

            def spread(channels, is_added):
                slopes = _load_all(builder, slope, vector, channels)
                if kind == "average":
                    slopes = [builder.fmul(value, splat_vector(builder, factor, vector)) for value in slopes]

                def body(wanted, pointers):
                    parts = slopes
                    if kind == "max":
                        pairs = zip(_load_all(builder, pointers[0], vector, channels), wanted, strict=True)
                        found = [builder.fcmp_ordered("==", *pair) for pair in pairs]
                        zero, nan = constant(vector, 0.0), constant(vector, float("nan"))
                        parts = [builder.select(*pair, zero) for pair in zip(found, slopes, strict=True)]
                        # Nothing equals NaN: what was found is not found again
                        wanted = [builder.select(is_it, nan, value) for is_it, value in zip(found, wanted, strict=True)]
                    if is_added:
                        pairs = zip(_load_all(builder, pointers[1], vector, channels), parts, strict=True)
                        parts = [builder.fadd(*pair) for pair in pairs]
                    _store_all(builder, parts, pointers[1])
                    return wanted

                wanted = _load_all(builder, out, vector, channels) if kind == "max" else []
                _loops(builder, counts, [x, target], [[step, step] for step in steps], wanted, body)

            shapes = [(width, is_added) for width in widths for is_added in (0, 1)]
            _choose(builder, [channels, is_added], shapes, spread)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _load_all(builder, pointer, vector, count):
    """Vectors that stand side by side."""
    return [load_vector(builder, builder.gep(pointer, [INDEX(i * vector.count)]), vector) for i in range(count)]


def _store_all(builder, values, pointer):
    for i, value in enumerate(values):
        store_vector(builder, value, builder.gep(pointer, [INDEX(i * value.type.count)]))


def _choose(builder, shape, shapes, generate):
    """generate(*shape) for the one of `shapes` that the numbers `shape` are when the code runs."""
    done = builder.append_basic_block("done")
    code = INDEX(0)
    for number in shape:
        code = builder.add(builder.mul(code, INDEX(256)), number)
    choice = builder.switch(code, done)
    for numbers in shapes:
        block = builder.append_basic_block("x".join(map(str, numbers)))
        choice.add_case(INDEX(int.from_bytes(bytes(numbers), "big")), block)
        builder.position_at_end(block)
        generate(*numbers)
        builder.branch(done)
    builder.position_at_end(done)


def _loops(builder, counts, pointers, steps, carried, body):
    """Nested loops around carried = body(carried, pointers). Returns what is carried out of them.

    steps: for each loop, the outermost first, how far it moves each pointer.
    """
    if not counts:
        return body(carried, pointers)
    before = builder.block
    loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    firsts = [counts[0], *pointers, *carried]
    builder.cbranch(builder.icmp_signed(">", counts[0], INDEX(0)), loop, done)
    builder.position_at_end(loop)
    phis = [builder.phi(value.type) for value in firsts]
    left, moved, inner = phis[0], phis[1 : len(pointers) + 1], phis[len(pointers) + 1 :]
    results = _loops(builder, counts[1:], moved, steps[1:], inner, body)
    left = builder.sub(left, INDEX(1))
    moved = [builder.gep(pointer, [step]) for pointer, step in zip(moved, steps[0], strict=True)]
    end = builder.block
    for phi, first, following in zip(phis, firsts, [left, *moved, *results], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(following, end)
    builder.cbranch(builder.icmp_signed(">", left, INDEX(0)), loop, done)
    builder.position_at_end(done)
    return [_merge(builder, (first, before), (last, end)) for first, last in zip(carried, results, strict=True)]


def _merge(builder, *incoming):
    """The value that belongs to the block through which the code came here."""
    value = builder.phi(incoming[0][0].type)
    for pair in incoming:
        value.add_incoming(*pair)
    return value
