"""The part of `cupy.cuda` that a program asks about devices, on a machine that has none."""

from types import SimpleNamespace
from typing import Any, Self

from tests.cuda.architectures import SHARED_MEMORY_DEFAULT, Architecture
from tests.cuda.emulator import MAX_THREADS

_RUNTIME_ERRORS = {
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
}


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime, by its number, as `cupy.cuda.runtime.CUDARuntimeError`."""

    def __init__(self, status: int) -> None:
        super().__init__(_RUNTIME_ERRORS[status])
        self.status = status


def runtime(devices: int, architecture: Architecture) -> SimpleNamespace:
    """The part of `cupy.cuda` that asks about devices and waits for them; all work here is already done."""
    version = 13000
    memory = 8 << 30
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
            "totalGlobalMem": memory,
            "multiProcessorCount": 4,
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

        @property
        def compute_capability(self) -> str:
            return "{major}{minor}".format(**properties(self.id))

        @property
        def mem_info(self) -> tuple[int, int]:
            return memory, properties(self.id)["totalGlobalMem"]

        def __enter__(self) -> Self:
            current.append(checked(self.id))
            return self

        def __exit__(self, *exception: object) -> None:
            current.pop()

    class Stream:
        """A stream; its work is done when it is given."""

        done = True

        def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
            checked(current[-1])

        def synchronize(self) -> None:
            pass

        def __enter__(self) -> Self:
            streams.append(self)
            return self

        def __exit__(self, *exception: object) -> None:
            streams.pop()

    streams: list[Stream] = []
    return SimpleNamespace(
        Device=Device,
        Stream=Stream,
        get_current_stream=lambda: streams[-1] if streams else Stream(null=True),
        is_available=lambda: devices > 0,
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDevice=lambda: checked(current[-1]),
            getDeviceCount=count,
            getDeviceProperties=properties,
            deviceSynchronize=lambda: None,
            driverGetVersion=lambda: version,
            runtimeGetVersion=lambda: version,
        ),
    )
