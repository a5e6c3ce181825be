"""Calls from Python into compiled code: a kernel as a callable, and the frame by which run_steps is called."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ...kernels.cpu.compilation import Kernel


class Frame:
    """What run_steps is called with, by the names of its parameters, as one vector of integers (kernels/cpu/frame.py).

    An array's address is asked for once, here, and the array is held. pack: (threads, PACK_SIZE).

    numbers: the vector, for entries that change from call to call; places are in kernels/cpu/tables.py.
    """

    def __init__(self, dtype: np.dtype[Any], is_checked: bool, **arguments: Any) -> None:
        from ...kernels.cpu import tables
        from ...kernels.cpu.catalogue import kernel

        run_steps = kernel("run_steps", dtype)
        self._dtype, self._is_checked, self._signature = dtype, is_checked, run_steps.signature
        self._function = c_function("run_frame", dtype)
        self.numbers = np.zeros(tables.FRAME_SIZE, np.int64)
        self._address = self.numbers.ctypes.data
        self._arguments: dict[str, Any] = {}
        self.numbers[tables.AT_RUN_STEPS] = run_steps.address
        self.numbers[tables.PACK_BYTES] = arguments["pack"].strides[0]
        self._places = {
            parameter.name: getattr(tables, f"AT_{parameter.name.upper()}") for parameter in self._signature[:-2]
        }
        self.set(**arguments)

    def set(self, **arguments: Any) -> None:
        """Replace some of the arguments."""
        for name, value in arguments.items():
            self._arguments[name] = value
            number = value.ctypes.data if isinstance(value, np.ndarray) else value
            self.numbers[self._places[name]] = number if number < 2**63 else number - 2**64  # a seed is a uint64

    def replaced(self, **arguments: Any) -> Frame:
        """A frame that differs in these arguments."""
        other = copy.copy(self)
        other.numbers, other._arguments = self.numbers.copy(), self._arguments.copy()
        other._address = other.numbers.ctypes.data
        other.set(**arguments)
        return other

    def run(self, thread: int = 0, threads: int = 1) -> None:
        """Call run_steps, as number `thread` of `threads` threads."""
        if self._is_checked:
            from ...kernels.cpu.signatures import check_call

            given = self._arguments | {"pack": self._arguments["pack"][thread], "thread": thread, "threads": threads}
            check_call("run_steps", self._signature, self._dtype, [given[p.name] for p in self._signature])
        self._function(self._address, thread, threads)


@cache
def c_function(name: str, dtype: np.dtype[Any]) -> Callable[..., None]:
    """A kernel of the catalogue as a C function, which takes addresses and numbers."""
    from ...kernels.cpu.catalogue import kernel

    return as_c_function(kernel(name, dtype))


def as_c_function(compiled: Kernel) -> Callable[..., None]:
    """A kernel as a C function, which takes addresses and numbers."""
    types: dict[str, Any] = {"int64": ctypes.c_int64, "uint64": ctypes.c_uint64, "float64": ctypes.c_double}
    kinds = (types[p.dtype] if p.shape is None else ctypes.c_void_p for p in compiled.signature)
    return ctypes.CFUNCTYPE(None, *kinds)(compiled.address)


def call_kernel(name: str, dtype: np.dtype[Any], *arguments: Any) -> None:
    """Call a kernel with the numbers and arrays in its signature, which are checked."""
    from ...kernels.cpu.catalogue import kernel
    from ...kernels.cpu.signatures import check_call

    check_call(name, kernel(name, dtype).signature, dtype, arguments)
    addresses = (value.ctypes.data if isinstance(value, np.ndarray) else value for value in arguments)
    c_function(name, dtype)(*addresses)
