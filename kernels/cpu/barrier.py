"""Where the threads of one stretch of steps wait for each other, between the parts of a step.

A wait is over in far less time than the operating system takes to wake a thread, so a thread first looks again and
again; only when another has been kept from its processor does it give its own away.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compilation import helper
from .tables import ARRIVED, BROKEN, ROUND, STOP, STOPPED

LOOKS = 200  # before a thread gives its processor away: some microseconds

INDEX = ir.IntType(64)


@helper
def wait(barrier, threads, give_way):
    """Return when all `threads` threads have called this. barrier: (BARRIER_SIZE,) int64, zeros at first.

    give_way: the address of a C function without arguments that lets another thread run. Where BROKEN is set, no
    thread waits any more: the threads then run to their ends, with results that are of no use.
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


@helper
def stop_if_asked(barrier, next_step):
    """Let the team end before `next_step` where STOP is set. One thread calls this, before the others' last wait()."""
    if _load(barrier, STOP) != 0:
        _store(barrier, STOPPED, next_step)


@helper
def has_stopped(barrier, step):
    """Whether the team ended before this step: all threads see the same, since STOPPED is written between waits."""
    stopped = _load(barrier, STOPPED)
    return stopped != 0 and stopped <= step


@intrinsic
def _load(typing_context, pointer, index):
    def generate(context, builder, signature, values):
        return builder.load_atomic(builder.gep(values[0], [values[1]]), "seq_cst", 8, typ=INDEX)

    return types.int64(pointer, types.int64), generate


@intrinsic
def _store(typing_context, pointer, index, value):
    def generate(context, builder, signature, values):
        builder.store_atomic(values[2], builder.gep(values[0], [values[1]]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), generate


@intrinsic
def _add(typing_context, pointer, index, value):
    """Adds to the element and returns what was there before."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", builder.gep(values[0], [values[1]]), values[2], "seq_cst")

    return types.int64(pointer, types.int64, types.int64), generate


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
