"""The processor's count of instructions, by Linux's perf_event_open(2) through ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

SYSTEM_CALLS = {"x86_64": 298, "aarch64": 241}  # perf_event_open's number
HARDWARE, SOFTWARE = 0, 1  # perf_event_attr.type
INSTRUCTIONS, TASK_CLOCK = 1, 1  # perf_event_attr.config of a hardware and of a software event
ATTRIBUTES_SIZE = 112
INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6


class NoCounterError(OSError):
    """This system has no such counter, or does not show it to us."""


class Counter:
    """Counts an event in this process, and in the threads it starts from now on, outside the kernel."""

    def __init__(self, kind: int = HARDWARE, event: int = INSTRUCTIONS) -> None:
        number = SYSTEM_CALLS.get(platform.machine()) if platform.system() == "Linux" else None
        if number is None:
            raise NoCounterError(f"perf_event_open is not known on {platform.system()} {platform.machine()}")
        flags = INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR
        # type, size, config, sample_period, sample_type, read_format, flags; the rest is zero
        attributes = struct.pack("=IIQQQQQ", kind, ATTRIBUTES_SIZE, event, 0, 0, 0, flags).ljust(ATTRIBUTES_SIZE, b"\0")
        libc = ctypes.CDLL(None, use_errno=True)
        # Of this process, on any core, in no group
        self._file: int = libc.syscall(number, ctypes.create_string_buffer(attributes, ATTRIBUTES_SIZE), 0, -1, -1, 0)
        if self._file < 0:
            raise NoCounterError(f"perf_event_open: {os.strerror(ctypes.get_errno())}")

    def read(self) -> int:
        """The count since the counter was made."""
        (count,) = struct.unpack("=Q", os.read(self._file, 8))
        return int(count)

    def close(self) -> None:
        os.close(self._file)
