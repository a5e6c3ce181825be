"""Where the threads of one stretch of steps wait for each other, between the parts of a step.

A wait is over in far less time than the operating system takes to wake a thread, so a thread first looks again and
again; only when another has been kept from its processor does it give its own away.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compilation import helper

# The barrier, on cache lines of their own: how many have arrived, how often all have, and whether one will not come.
ARRIVED, ROUND, BROKEN, SIZE = 0, 8, 16, 24

LOOKS = 200  # before a thread gives its processor away: some microseconds

INDEX = ir.IntType(64)


@helper
def wait(barrier, threads, give_way):
    """Return when all `threads` threads have called this. barrier: (SIZE,) int64, zeros at first.

    give_way: the address of a C function without arguments that lets another thread run. Where BROKEN is set, nobody
    waits any more: the threads then run to their ends, with results that are of no use.
    """
    if threads == 1:
        return
    current = _load(barrier, ROUND)
    if _add(barrier, ARRIVED, 1) == threads - 1:
        _store(barrier, ARRIVED, 0)
        _store(barrier, ROUND, current + 1)
        return
    looks = 0
    while _load(barrier, ROUND) == current:
        looks += 1
        if looks % LOOKS == 0:
            if _load(barrier, BROKEN) != 0:
                return
            _call(give_way)
        else:
            _pause()


def _place(context, builder, signature, values):
    array = context.make_array(signature.args[0])(context, builder, value=values[0])
    return builder.gep(array.data, [values[1]])


@intrinsic
def _load(typing_context, array, index):
    def generate(context, builder, signature, values):
        return builder.load_atomic(_place(context, builder, signature, values), "seq_cst", 8, typ=INDEX)

    return types.int64(array, types.int64), generate


@intrinsic
def _store(typing_context, array, index, value):
    def generate(context, builder, signature, values):
        builder.store_atomic(values[2], _place(context, builder, signature, values), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def _add(typing_context, array, index, value):
    """Adds to the element and returns what was there before."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", _place(context, builder, signature, values), values[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def _pause(typing_context):
    """Tells the processor that this is a waiting loop."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")

    def generate(context, builder, signature, values):
        if is_x86:
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _call(typing_context, address):
    """Calls the C function at an address."""

    def generate(context, builder, signature, values):
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@cache
def give_way_address() -> int:
    """The address of the operating system's function that lets another thread run."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address
