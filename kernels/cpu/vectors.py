"""Vector registers: how LLVM IR handles them, and a type for loops that keep registers in their variables.

Images lie in groups of as many as a register has lanes, one image a lane (images.py), and what a kernel does to a pixel
it does to a whole register. Where its loops are plain, they are written in Python with the type Lanes, as in
`total += load(x, i)`, and need no vectoriser; register tiles are written as IR (image_tiles.py).
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from .registers import VECTOR_BYTES
from .tiles import make_lane_count

lane_count = make_lane_count(1)  # lane_count(pointer): how many of its elements a register holds


def register_of(element):
    """The IR type of a register full of an element type."""
    return ir.VectorType(element, VECTOR_BYTES // (4 if element == ir.FloatType() else 8))


def load_vector(builder, pointer, vector):
    """The vector of an IR type at a pointer to its element, wherever that lies."""
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = 4 if vector.element == ir.FloatType() else 8
    return value


def store_vector(builder, value, pointer):
    instruction = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()))
    instruction.align = 4 if value.type.element == ir.FloatType() else 8


def load_masked(builder, pointer, vector, count):
    """The first `count` numbers of the vector at a pointer, and zeros; nothing behind them is touched."""
    mask = _before(builder, vector, count)
    return _masked(builder, "load", vector, vector, pointer, mask, constant(vector, 0.0))


def store_masked(builder, value, pointer, count):
    """The first `count` numbers only."""
    _masked(builder, "store", ir.VoidType(), value.type, pointer, _before(builder, value.type, count), value)


def shuffle(builder, first, second, places):
    """Elements of `first`, and behind them of `second`, by their places."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


def splat_vector(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return shuffle(builder, first, undefined, [0] * vector.count)


def constant(vector, number):
    """A number in all lanes."""
    return ir.Constant(vector, [number] * vector.count)


def multiply_add(builder, a, b, c):
    """a b + c, rounded once."""
    vector = a.type
    bits = 32 if vector.element == ir.FloatType() else 64
    kind = ir.FunctionType(vector, [vector] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{vector.count}f{bits}")
    return builder.call(fma, [a, b, c])


def maximum(builder, a, b):
    """Lane by lane the larger one; NaN where either is NaN."""
    larger = builder.select(builder.fcmp_ordered(">", a, b), a, b)
    return builder.select(builder.fcmp_unordered("uno", a, a), a, larger)


def sum_lanes(builder, vectors):
    """A vector of the sums over the lanes of each of 1, 2, 4, ... vectors.

    Lane i is added to lane i + h, for h = lanes / 2, lanes / 4, ..., 1: for two vectors at once as long as there are
    two, which changes no bit.
    """
    lanes, parts = vectors[0].type.count, 1
    assert len(vectors) <= lanes
    while lanes > 1:
        half = lanes // 2
        low = [part * lanes + i for part in range(parts) for i in range(half)]
        if len(vectors) > 1:
            low += [parts * lanes + place for place in low]
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
            parts *= 2
        else:
            pairs = [(vectors[0], ir.Constant(vectors[0].type, ir.Undefined))]
        high = [place + half for place in low]
        vectors = [builder.fadd(shuffle(builder, *pair, low), shuffle(builder, *pair, high)) for pair in pairs]
        lanes = half
    return vectors[0]


class Lanes(types.Type):
    """A vector of `count` numbers of one type. What is loaded is as long as a register."""

    def __init__(self, dtype, count):
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"Lanes({count} x {dtype})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        element = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


def _lanes(pointer):
    return Lanes(pointer.dtype, VECTOR_BYTES * 8 // pointer.dtype.bitwidth)


@intrinsic
def load(typing_context, pointer, offset):
    """The numbers from an offset on; any alignment."""

    def generate(context, builder, signature, arguments):
        vector = context.get_value_type(signature.return_type)
        return load_vector(builder, builder.gep(arguments[0], [arguments[1]]), vector)

    return _lanes(pointer)(pointer, types.intp), generate


@intrinsic
def store(typing_context, value, pointer, offset):
    def generate(context, builder, signature, arguments):
        store_vector(builder, arguments[0], builder.gep(arguments[1], [arguments[2]]))
        return context.get_dummy_value()

    return types.void(value, pointer, types.intp), generate


@intrinsic
def load_some(typing_context, pointer, offset, count):
    """The first `count` numbers from an offset on, and zeros; nothing behind them is touched."""

    def generate(context, builder, signature, arguments):
        pointer, offset, count = arguments
        vector = context.get_value_type(signature.return_type)
        return load_masked(builder, builder.gep(pointer, [offset]), vector, count)

    return _lanes(pointer)(pointer, types.intp, types.intp), generate


@intrinsic
def store_some(typing_context, value, pointer, offset, count):
    """The first `count` numbers only."""

    def generate(context, builder, signature, arguments):
        value, pointer, offset, count = arguments
        store_masked(builder, value, builder.gep(pointer, [offset]), count)
        return context.get_dummy_value()

    return types.void(value, pointer, types.intp, types.intp), generate


@intrinsic
def rest_of(typing_context, pointer):
    """Room for a register full of a pointer's elements, to begin with zeros: for what a loop over whole ones leaves."""

    def generate(context, builder, signature, arguments):
        vector = context.get_value_type(_lanes(signature.args[0]))
        place = cgutils.alloca_once_value(builder, constant(vector, 0.0))
        return builder.bitcast(place, context.get_value_type(signature.return_type))

    return pointer(pointer), generate


@intrinsic
def keep(typing_context, value, count):
    """The first `count` numbers, and zeros."""

    def generate(context, builder, signature, arguments):
        value, count = arguments
        return builder.select(_before(builder, value.type, count), value, constant(value.type, 0.0))

    return value(value, types.intp), generate


def _before(builder, vector, count):
    """Which lanes come before `count`."""
    numbers = ir.VectorType(ir.IntType(64), vector.count)
    places = ir.Constant(numbers, list(range(vector.count)))
    return builder.icmp_signed("<", places, splat_vector(builder, count, numbers))


def _masked(builder, name, result, vector, place, mask, value):
    """LLVM's masked load, which puts `value` where it does not load, or store."""
    bits = 32 if vector.element == ir.FloatType() else 64
    align = ir.IntType(32)(bits // 8)
    arguments = [place, align, mask, value] if name == "load" else [value, place, align, mask]
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.v{vector.count}f{bits}.p0")
    return builder.call(function, arguments)


@intrinsic
def fma(typing_context, a, b, c):
    """a b + c, rounded once."""

    def generate(context, builder, signature, arguments):
        return multiply_add(builder, *arguments)

    return a(a, a, a), generate


@intrinsic
def splat(typing_context, pointer, number):
    """A number in all lanes of a register of a pointer's elements."""

    def generate(context, builder, signature, arguments):
        return splat_vector(builder, arguments[1], context.get_value_type(signature.return_type))

    return _lanes(pointer)(pointer, pointer.dtype), generate


@intrinsic
def widen(typing_context, value):
    """The same numbers in float64."""

    def generate(context, builder, signature, arguments):
        wide = context.get_value_type(signature.return_type)
        return arguments[0] if arguments[0].type == wide else builder.fpext(arguments[0], wide)

    return Lanes(types.float64, value.count)(value), generate


@intrinsic
def total(typing_context, value):
    """The sum of the lanes, in the order of sum_lanes."""

    def generate(context, builder, signature, arguments):
        return builder.extract_element(sum_lanes(builder, arguments), ir.Constant(ir.IntType(32), 0))

    return value.dtype(value), generate


@intrinsic
def lane(typing_context, value, place):
    """One number."""

    def generate(context, builder, signature, arguments):
        return builder.extract_element(*arguments)

    return value.dtype(value, types.intp), generate


def _define(operation, instruction):
    """a <operation> b for vectors of one type."""

    @type_callable(operation)
    def typing(context):
        def typer(a, b):
            return a if isinstance(a, Lanes) and a == b else None

        return typer

    @lower_builtin(operation, Lanes, Lanes)
    def generate(context, builder, signature, arguments):
        return getattr(builder, instruction)(*arguments)


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
):
    _define(_operation, _instruction)
