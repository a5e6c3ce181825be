"""From a kernel written in Python to machine code: Numba types and lowers it, LLVM optimises and emits it, each once.

Left to itself, Numba optimises every function that a kernel calls, emits machine code for it and wraps it for Python,
although all of them are inlined in the end; and it has to be imported and started before it can load what it compiled
earlier. Here a kernel becomes one object file with one C function, which LLVM alone can load (compilation.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import TargetMachine
from numba import njit, types
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from .options import OPTIONS
from .signatures import Signature, check_names


class _Library(JITCodeLibrary):
    """A function's code on its way into a kernel: linked with what it calls, but neither optimised nor emitted."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # only compiled functions call it

    def emit(self, entry: str, emit: Callable[[TargetMachine, Any], Any]) -> Any:
        """The code, in the form that `emit` gives it, whose only visible function is `entry`."""
        module = self._final_module
        for symbol in (*module.functions, *module.global_variables):
            if not symbol.is_declaration:
                symbol.linkage = "external" if symbol.name == entry else "internal"
        module.verify()
        super()._optimize_final_module()
        return emit(self._codegen._tm, module)


class _Codegen(JITCPUCodegen):
    _library_class = _Library

    def set_env(self, env_name: str, env: Any) -> None:
        pass  # for functions that Python calls


@contextmanager
def _kernel_codegen() -> Iterator[None]:
    """Within this, what Numba compiles for the CPU goes into kernels."""
    context = cpu_target.target_context
    context.refresh()  # compiles what every program needs, in Numba's own way
    previous = context._internal_codegen
    context._internal_codegen = _Codegen("nnfast")
    try:
        yield
    finally:
        context._internal_codegen = previous


def object_code(function: Callable[..., Any], symbol: str, signature: Signature, dtype: np.dtype[Any]) -> bytes:
    """Compile a Python function that returns nothing to an object file with the C function `symbol`."""
    return bytes(_compile(function, symbol, signature, dtype, TargetMachine.emit_object))


def assembly_code(function: Callable[..., Any], symbol: str, signature: Signature, dtype: np.dtype[Any]) -> str:
    """The same in assembly language."""
    return str(_compile(function, symbol, signature, dtype, TargetMachine.emit_assembly))


def _compile(
    function: Callable[..., Any],
    symbol: str,
    signature: Signature,
    dtype: np.dtype[Any],
    emit: Callable[[TargetMachine, Any], Any],
) -> Any:
    check_names(symbol, signature, inspect.signature(function).parameters)
    kinds = {"T": numba.from_dtype(dtype), "int64": types.int64, "uint64": types.uint64, "float64": types.float64}
    own_types = types.void(*(kinds[p.dtype] if p.shape is None else types.CPointer(kinds[p.dtype]) for p in signature))
    with global_compiler_lock, _kernel_codegen():
        dispatcher = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)
        dispatcher.compile(own_types)
        compiled = dispatcher.overloads[own_types.args]
        context = cpu_target.target_context
        library = context.codegen().create_library(symbol)
        library.add_ir_module(_wrapper(context, compiled.fndesc, symbol))
        library.add_linking_library(compiled.library)
        library.finalize()
        return library.emit(symbol, emit)


def _wrapper(context: Any, description: Any, symbol: str) -> Any:
    """The C function, which calls the compiled one: that takes two pointers more, for a result and an exception."""
    module = context.create_module(symbol)
    types_of_arguments = [context.get_value_type(kind) for kind in description.argtypes]
    kernel = ir.Function(module, ir.FunctionType(ir.VoidType(), types_of_arguments), symbol)
    convention = context.call_conv
    inner_type = convention.get_function_type(description.restype, description.argtypes)
    inner = ir.Function(module, inner_type, description.llvm_func_name)
    builder = ir.IRBuilder(kernel.append_basic_block())
    # Kernels raise nothing: they check nothing, and no memory is asked for.
    convention.call_function(builder, inner, description.restype, description.argtypes, kernel.args)
    builder.ret_void()
    return module
