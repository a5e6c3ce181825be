"""Calls a compiled function by its address, so that one compiled epoch serves every activation, loss and optimizer.

An address is an integer in a table. Arrays are passed as pointers to their first element, numbers as they are: the
caller answers for the types, as one does with a function pointer in C.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def call_void(typing_context, address, arguments):
    """Calls the C function at an address, which returns nothing, with a tuple of arguments."""

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
def unowned(typing_context, array):
    """The same array without its owner, so that views of it cost no reference counting. The caller keeps it alive."""

    def generate(context, builder, signature, values):
        view = context.make_array(signature.args[0])(context, builder, value=values[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        view.parent = ir.Constant(view.parent.type, None)
        return view._getvalue()

    return array(array), generate
