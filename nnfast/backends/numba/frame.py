"""Calls from Python into compiled code: a kernel as a callable, and the frame by which run_steps is called."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
        self._function = c_function("run_frames", dtype)
        self.numbers, self._count = np.zeros(tables.FRAME_SIZE, np.int64), 1
        self._stacks: dict[str, Any] = {}
        self._set_address()
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
            number = address_of(value) if isinstance(value, np.ndarray) else value
            self.numbers[self._places[name]] = number if number < 2**63 else number - 2**64  # a seed is a uint64

    def _set_address(self) -> None:
        self.address = address_of(self.numbers)
        # Made once: to convert them at each call would take longer than the call
        self._alone = ctypes.c_void_p(self.address), *map(ctypes.c_int64, (self._count, 0, 1))

    def replaced(self, **arguments: Any) -> Frame:
        """A frame that differs in these arguments."""
        other = copy.copy(self)
        other.numbers, other._arguments = self.numbers.copy(), self._arguments.copy()
        other._set_address()
        other.set(**arguments)
        return other

    def repeated(self, **stacks: Any) -> Frame:
        """Frames that run one after the other in one call, each with its own part of these arrays in C order."""
        other = copy.copy(self)
        other._stacks, other._count = stacks, len(next(iter(stacks.values())))
        other.numbers = np.tile(self.numbers, (other._count, 1))
        for name, stack in stacks.items():
            other.numbers[:, self._places[name]] = address_of(stack) + stack.strides[0] * np.arange(other._count)
        other._set_address()
        return other

    def run(self, thread: int = 0, threads: int = 1) -> None:
        """Call run_steps, as number `thread` of `threads` threads."""
        if self._is_checked:
            from ...kernels.cpu.signatures import check_call

            given = self._arguments | {"pack": self._arguments["pack"][thread], "thread": thread, "threads": threads}
            for k in range(self._count):
                given |= {name: stack[k] for name, stack in self._stacks.items()}
                check_call("run_steps", self._signature, self._dtype, [given[p.name] for p in self._signature])
        if threads == 1:
            self._function(*self._alone)
        else:
            self._function(self.address, self._count, thread, threads)


def address_of(array: NDArray[Any]) -> int:
    """Where an array begins. To ask its buffer takes a third as long as array.ctypes, which serves all arrays."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    except (TypeError, ValueError):  # it is read-only, empty, or not in C order
        address: int = array.ctypes.data
        return address


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
