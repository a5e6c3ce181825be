"""Calls a compiled function by its address, so that one compiled epoch serves every activation, loss and optimizer.

An address is an integer in a table. Arrays are passed as pointers to their first element, numbers as they are: the
caller answers for the types, as one does with a function pointer in C.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _caller(result_type, result_ir):
    def call(typing_context, address, arguments):
        def generate(context, builder, signature, values):
            passed = []
            for index, kind in enumerate(signature.args[1]):
                value = builder.extract_value(values[1], index)
                if isinstance(kind, types.Array):
                    value = context.make_array(kind)(context, builder, value=value).data
                passed.append(value)
            function_type = ir.FunctionType(result_ir, [value.type for value in passed])
            result = builder.call(builder.inttoptr(values[0], function_type.as_pointer()), passed)
            return context.get_dummy_value() if result_type == types.void else result

        return result_type(address, arguments), generate

    return intrinsic(call)


call_void = _caller(types.void, ir.VoidType())
call_float64 = _caller(types.float64, ir.DoubleType())


@intrinsic
def unowned(typing_context, array):
    """The same array without its owner, so that views of it cost no reference counting. The caller keeps it alive."""

    def generate(context, builder, signature, values):
        view = context.make_array(signature.args[0])(context, builder, value=values[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        view.parent = ir.Constant(view.parent.type, None)
        return view._getvalue()

    return array(array), generate
