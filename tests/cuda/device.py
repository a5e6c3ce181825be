"""The part of `cupy.cuda` that a program asks about devices and their memory, on a machine that has none."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any, Self

from tests.cuda.architectures import SHARED_MEMORY_DEFAULT, Architecture
from tests.cuda.emulator import MAX_THREADS
from tests.cuda.streams import CUDARuntimeError, Memory, Streams, get_elapsed_time

_VERSION = 13000
_UNIT = 512  # bytes in which the pool gives memory out


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`."""

    def __init__(self, size: int, total: int) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class Pool:
    """Counts a device's memory; it keeps none that an array has given back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0

    def take(self, memory: Memory) -> None:
        """Raises OutOfMemoryError where that much is not free; given back when the memory is no longer referenced."""
        size = -(-memory.host.nbytes // _UNIT) * _UNIT
        if self.used + size > self.size:
            raise OutOfMemoryError(size, self.used)
        self.used += size
        weakref.finalize(memory, self._give_back, size)

    def _give_back(self, size: int) -> None:
        self.used -= size


def make_cuda(devices: int, architecture: Architecture, pool: Pool, streams: Streams) -> SimpleNamespace:
    """What stands for the module `cupy.cuda`."""
    current = [0]

    def count() -> int:
        if not devices:
            raise CUDARuntimeError(100)
        return devices

    def checked(number: int) -> int:
        if not 0 <= number < count():
            raise CUDARuntimeError(101)
        return number

    def properties(number: int) -> dict[str, Any]:
        checked(number)
        return {
            "name": b"Emulated GPU",
            "totalGlobalMem": pool.size,
            "multiProcessorCount": 4,
            "clockRate": 1_500_000,
            "memoryClockRate": 5_000_000,
            "memoryBusWidth": 128,
            "major": architecture.major,
            "minor": architecture.minor,
            "warpSize": 32,
            "maxThreadsPerBlock": MAX_THREADS,
            "sharedMemPerBlock": SHARED_MEMORY_DEFAULT,
            "sharedMemPerBlockOptin": architecture.shared_memory_per_block,
        }

    class Device:
        """A device by its number, which is checked on use, as in CuPy."""

        def __init__(self, device: int | None = None) -> None:
            self.id = current[-1] if device is None else int(device)

        def use(self) -> None:
            current[-1] = checked(self.id)

        def synchronize(self) -> None:
            checked(self.id)
            streams.wait_for_all()

        @property
        def compute_capability(self) -> str:
            return "{major}{minor}".format(**properties(self.id))

        @property
        def mem_info(self) -> tuple[int, int]:
            total = properties(self.id)["totalGlobalMem"]
            return total - pool.used, total

        def __enter__(self) -> Self:
            current.append(checked(self.id))
            return self

        def __exit__(self, *exception: object) -> None:
            current.pop()

    return SimpleNamespace(
        Device=Device,
        Stream=streams.Stream,
        Event=streams.Event,
        get_current_stream=lambda: streams.current,
        get_elapsed_time=get_elapsed_time,
        is_available=lambda: devices > 0,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDevice=lambda: checked(current[-1]),
            getDeviceCount=count,
            getDeviceProperties=properties,
            deviceSynchronize=streams.wait_for_all,
            driverGetVersion=lambda: _VERSION,
            runtimeGetVersion=lambda: _VERSION,
        ),
    )
