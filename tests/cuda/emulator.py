"""CUDA on the CPU: kernels, which g++ compiles from the same text, and a runtime that answers as a GPU's.

ctypes calls the kernels, each argument's type checked against the C++ signature. It proves what a kernel
computes, on any machine with g++, and nothing about speed. What it cannot see: a race between threads that no
order of whole threads brings out, an overrun that stays inside mapped memory, and the fused multiply-adds of
nvcc (here contraction is off).
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np

ORDERS = ("forward", "reverse", "random")
MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)

_HEADER = Path(__file__).with_name("cuda_on_cpu.h")

# -Wdouble-promotion: a float kernel that computes in double by a stray literal is right, and slow.
_COMPILE = ("-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wl,-Bsymbolic")
_WARNINGS = ("-Wall", "-Wdouble-promotion", "-Werror", "-Wno-unknown-pragmas")

# Options of NVRTC that change speed, rounding or debugging but no meaning.
_MEANINGLESS_HERE = re.compile(
    r"--?std=c\+\+(14|17)|--?fmad=(true|false)|--?use_fast_math|--?(generate-)?line-?info|--?restrict|--?w"
)

_KERNEL = re.compile(
    r"__global__\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?(\w+)\s*\("
)
_TEMPLATE_BEFORE = re.compile(r"template\s*<[^{};]*>\s*(?:extern\s*\"C\"\s*)?\Z")


class CompileError(RuntimeError):
    """The text is not CUDA C that the emulator understands; the compiler's own message follows."""


class LaunchError(RuntimeError):
    """A grid or block that CUDA does not launch."""


class Parameter(NamedTuple):
    """One parameter of a kernel, or the type of one argument given for it."""

    dtype: np.dtype[Any]
    is_pointer: bool

    def __str__(self) -> str:
        return f"{self.dtype.name}{'*' if self.is_pointer else ''}"


def available() -> str | None:
    """None where kernels can be emulated, otherwise the reason why not."""
    return None if shutil.which("g++") else "g++ is not installed; the CUDA kernels cannot be emulated"


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: `kernel((blocks,), (threads,), (array, np.int32(n), ...))`.

    An array is passed as a pointer and must be C-contiguous; a NumPy scalar is passed by value. A Python int
    is an int64, a float a float64 and a bool a bool, as in CuPy: a parameter `int n` refuses a Python int.
    """

    name: str
    parameters: tuple[Parameter, ...]
    entry: Callable[..., None]

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        order: str = "forward",
        seed: int = 0,
    ) -> None:
        """Runs every thread of every block in one of ORDERS ("random": the same sequence for the same seed).

        Raises TypeError for an argument of another type than the parameter's, LaunchError for a grid or block
        that CUDA does not launch.
        """
        if order not in ORDERS:
            raise ValueError(f"order is {order!r}, but must be one of {', '.join(ORDERS)}")
        sizes = self._dimensions("grid", grid, MAX_GRID) + self._dimensions("block", block, MAX_BLOCK)
        threads = sizes[3] * sizes[4] * sizes[5]
        if threads > MAX_THREADS:
            raise LaunchError(f"kernel {self.name!r}: block {block} has {threads} threads; the limit is {MAX_THREADS}")
        values = [self._checked(i, value) for i, value in enumerate(self._matched(args))]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self.entry((ctypes.c_uint * 6)(*sizes), pointers, ORDERS.index(order), ctypes.c_uint64(seed))

    def _dimensions(self, what: str, given: tuple[int, ...], limits: tuple[int, int, int]) -> tuple[int, ...]:
        if not isinstance(given, tuple):
            raise TypeError(f"kernel {self.name!r}: {what} must be a tuple, not {given!r}")
        if not 1 <= len(given) <= 3:
            raise LaunchError(f"kernel {self.name!r}: {what} {given} must have one to three sizes")
        sizes = (*(int(size) for size in given), 1, 1)[:3]
        for size, limit in zip(sizes, limits, strict=True):
            if not 1 <= size <= limit:
                raise LaunchError(f"kernel {self.name!r}: {what} {given}: {size} is not in 1..{limit}")
        return sizes

    def _matched(self, args: Sequence[Any]) -> Sequence[Any]:
        if len(args) != len(self.parameters):
            expected = ", ".join(map(str, self.parameters))
            raise TypeError(
                f"kernel {self.name!r} takes {len(self.parameters)} arguments ({expected}), not {len(args)}"
            )
        return args

    def _checked(self, position: int, value: Any) -> Any:
        """The ctypes object whose address the kernel's parameter is read from."""
        where = f"kernel {self.name!r}: argument {position}"
        if isinstance(value, np.ndarray):
            if not value.flags.c_contiguous:
                raise TypeError(f"{where} is not C-contiguous (shape {value.shape}, strides {value.strides})")
            given = Parameter(value.dtype, True)
        else:
            value = _scalar(value, where)
            given = Parameter(value.dtype, False)
        if given != self.parameters[position]:
            raise TypeError(f"{where} is {given}, but the kernel takes {self.parameters[position]}")
        if given.is_pointer:
            return ctypes.c_void_p(value.ctypes.data)
        return (ctypes.c_char * value.itemsize).from_buffer_copy(value.tobytes())


@dataclass(frozen=True)
class Module:
    """The kernels of one compiled text."""

    library: ctypes.PyDLL

    def get_function(self, name: str) -> Kernel:
        """The kernel of that name, declared `extern "C" __global__ void`; LookupError where there is none."""
        try:
            self.library[name]  # a C++ name is mangled: the driver does not find it, so we do not either
            entry = self.library[f"cuda_on_cpu_launch_{name}"]
        except AttributeError:
            raise LookupError(f'named symbol not found: no kernel `extern "C" __global__ void {name}`') from None
        describe = self.library[f"cuda_on_cpu_signature_{name}"]
        describe.restype = ctypes.c_char_p
        entry.restype = None
        parameters = tuple(
            Parameter(np.dtype(code.lstrip("*")), code.startswith("*")) for code in describe().decode().split()
        )
        return Kernel(name, parameters, entry)


@functools.cache
def load(code: str, options: tuple[str, ...] = ()) -> Module:
    """Compiles CUDA C text, or takes it from the cache; `options` are NVRTC's.

    Raises CompileError with the compiler's message (its line numbers are the text's own), ValueError for an
    option whose meaning the emulator does not know.
    """
    flags = _flags(options)
    source = "\n".join(
        [
            f'#include "{_HEADER.name}"',
            '#line 1 "kernel.cu"',
            code,
            '#line 1 "emulator"',
            *(f"CUDA_ON_CPU_EXPORT({name})" for name in _kernel_names(code, flags)),
            "",
        ]
    )
    everything = "\0".join([source, _HEADER.read_text(), *_COMPILE, *_WARNINGS, *flags, _compiler_version()])
    folder = _cache_folder()
    library = folder / f"{hashlib.sha256(everything.encode()).hexdigest()[:24]}.so"
    if not library.exists():
        # Compiled aside, then renamed: another process sees the whole library or none.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path, built = Path(scratch, "kernel.cpp"), Path(scratch, "kernel.so")
            path.write_text(source)
            _gxx(*_COMPILE, *_WARNINGS, *flags, "-I", str(_HEADER.parent), str(path), "-o", str(built))
            built.replace(library)
    # PyDLL keeps the interpreter's lock during a launch: threadIdx and its like exist once per library.
    return Module(ctypes.PyDLL(str(library)))


_RUNTIME_ERRORS = {
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
}


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime, by its number, as `cupy.cuda.runtime.CUDARuntimeError`."""

    def __init__(self, status: int) -> None:
        super().__init__(_RUNTIME_ERRORS[status])
        self.status = status


def runtime(devices: int) -> SimpleNamespace:
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
            "major": 8,
            "minor": 0,
            "warpSize": 32,
            "maxThreadsPerBlock": MAX_THREADS,
            "sharedMemPerBlock": 48 << 10,
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


def _scalar(value: Any, where: str) -> np.generic:
    if isinstance(value, np.generic):
        return value
    for python_type, numpy_type in ((bool, np.bool_), (int, np.int64), (float, np.float64)):
        if isinstance(value, python_type):
            return numpy_type(value)
    raise TypeError(f"{where} has the unsupported type {type(value)}")


def _flags(options: tuple[str, ...]) -> list[str]:
    flags = []
    for option in options:
        if re.fullmatch(r"-D\w+(=.*)?", option, re.DOTALL):
            flags.append(option)
        elif not _MEANINGLESS_HERE.fullmatch(option):
            raise ValueError(f"the emulator does not know the compiler option {option!r}")
    return flags


def _kernel_names(code: str, flags: Sequence[str]) -> list[str]:
    """The kernels in the text, after the preprocessor has removed comments and expanded declaring macros."""
    text = _gxx("-E", "-P", "-x", "c++", *flags, "-", text=code)
    found = (match for match in _KERNEL.finditer(text) if not _TEMPLATE_BEFORE.search(text, 0, match.start()))
    # A kernel declared first and defined later is found twice.
    return list(dict.fromkeys(match[1] for match in found))


def _gxx(*arguments: str, text: str | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(["g++", *arguments], input=text, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise CompileError(f"the kernels do not compile:\n{done.stderr}")
    return done.stdout


@functools.cache
def _compiler_version() -> str:
    return _gxx("--version")


def _cache_folder() -> Path:
    if base := os.environ.get("NNFAST_CACHE_DIR"):
        folder = Path(base, "cuda_on_cpu")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir(), f"nnfast-{os.getuid()}-cuda_on_cpu")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        # The temporary folder is everybody's: a library planted there by another user would run as us.
        raise PermissionError(f"{folder} belongs to another user; set NNFAST_CACHE_DIR to a folder of your own")
    return folder
