"""Pointers as C has them, and calls by address, so that one compiled epoch serves every activation, loss and optimizer.

An address is an integer in a table. Arguments are passed as they are: the caller answers for the types, as one does
with a function pointer in C.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def call_void(typing_context, address, arguments):
    """Calls the C function at an address, which returns nothing, with a tuple of arguments: an array by its data."""

    def generate(context, builder, signature, values):
        passed = []
        for index, kind in enumerate(signature.args[1]):
            value = builder.extract_value(values[1], index)
            if isinstance(kind, types.Array):
                value = context.make_array(kind)(context, builder, value=value).data
            passed.append(value)
        function_type = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        builder.call(builder.inttoptr(values[0], function_type.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


@intrinsic
def not_inlined(typing_context):
    """As a function's first statement: marks it noinline, to relieve register pressure."""

    def generate(context, builder, signature, values):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def at(typing_context, pointer, offset):
    """The pointer `offset` elements further on."""

    def generate(context, builder, signature, values):
        return builder.gep(values[0], [values[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def as_element(typing_context, pointer, number):
    """A number in the type that the pointer points to."""

    def generate(context, builder, signature, values):
        return context.cast(builder, values[1], signature.args[1], signature.return_type)

    return pointer.dtype(pointer, number), generate


@intrinsic
def copy(typing_context, source, target, count):
    """Copies `count` elements, of arrays that do not overlap."""

    def generate(context, builder, signature, values):
        source, target, count = values
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        cgutils.raw_memcpy(builder, target, source, count, size)
        return context.get_dummy_value()

    return types.void(source, source, types.intp), generate


@intrinsic
def pointer_to(typing_context, address, like):
    """An address as a pointer to elements of the type of `like`."""

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), generate
