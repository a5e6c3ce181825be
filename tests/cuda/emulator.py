"""CUDA on the CPU: kernels, which g++ compiles from the same text and which are watched as they run.

Threads of a block are fibers (emulation/execution.cpp): barriers, warp shuffles and votes, shared memory and atomics
work, in three orders of threads and blocks. Every access to memory is judged (emulation/memory_check.cpp): one outside
its array, one that races with another thread's, misaligned or undefined arithmetic ends the launch with the place in
the kernel's text. ctypes calls the kernels, each argument's type checked against the C++ signature.

It proves what a kernel computes, on any Linux machine with g++, and nothing about speed. What it cannot see: how blocks
interleave, since they run one after another (what they share without atomics is refused as a race); an overrun from one
part of a kernel's dynamic shared memory into the next, where a launch does not name them with space in between, or from
one argument into another that overlaps it; the fused multiply-adds of nvcc (here contraction is off); tensor cores,
asynchronous copies and cooperative groups, which do not compile. A thread that spins until another writes waits for
ever.
"""

import ctypes
import functools
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.cuda import gxx
from tests.cuda.architectures import ARCHITECTURES, SHARED_MEMORY_DEFAULT, Architecture

ORDERS = ("forward", "reverse", "random")
MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)

_FOLDER = Path(__file__).with_name("emulation")
_RUNTIME = ("execution.cpp", "memory_check.cpp", "emulation.h")

# The sanitizers' calls are answered by memory_check.cpp, so their own libraries are not linked.
# -O0: a text is compiled once and run for milliseconds, and compiling takes the time.
# -fno-gnu-unique: shared memory of an inline device function is each text's own, not one object for the process.
# -Wdouble-promotion: a float kernel that computes in double by a stray literal is right, and slow.
_COMPILE = ("-std=c++17", "-O0", "-g1", "-ffp-contract=off", "-fPIC", "-shared", "-fno-gnu-unique", "-Wl,-Bsymbolic")
_CHECKS = ("-fsanitize=thread,undefined", "--param=tsan-instrument-func-entry-exit=0")
_LIBRARIES = ("-lm", "-lgcc", "-lc", "-Wl,-z,defs")  # a check that memory_check.cpp does not answer: an error here
_WARNINGS = ("-Wall", "-Wdouble-promotion", "-Werror", "-Wno-unknown-pragmas")

# Options of NVRTC that change speed, rounding or debugging but no meaning.
_MEANINGLESS_HERE = re.compile(
    r"--?std=c\+\+(14|17)|--?fmad=(true|false)|--?use_fast_math|--?(generate-)?line-?info|--?restrict|--?w"
    r"|--device-as-default-execution-space"
)
_FLUSH = "-ftz=true"

_BOUND = r"(?:__launch_bounds__\s*\(([^(),]*)(?:,[^()]*)?\)\s*)?"
_KERNEL = re.compile(rf"__global__\s+{_BOUND}void\s+{_BOUND}(\w+)\s*\(")
_TEMPLATE_BEFORE = re.compile(r"template\s*<[^{};]*>\s*(?:extern\s*\"C\"\s*)?\Z")
# CUDA's own way to name the dynamic shared memory; in C++ a reference to an array whose size is not known.
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\s*\d+\s*\)\s*)?([\w\s]+?)\s*\b(\w+)\s*\[\s*\]\s*;"
)
_DYNAMIC_SHARED_HERE = r"\1 (&\2)[] = *reinterpret_cast<\1 (*)[]>(cuda_on_cpu_dynamic_shared);"

_SLOTS = 64  # as in emulation.h
_SLOT_SIZE = 1 << 30
_GUARD = 1 << 28
_ALIGNMENT = 512  # CuPy's allocations; an array keeps its address modulo this
_MAX_BLOCKS = 1 << 22


class LaunchError(RuntimeError):
    """A launch that CUDA refuses: its grid, its block, or its shared memory."""


class KernelError(RuntimeError):
    """A thread did what CUDA forbids."""


class OutOfBoundsError(KernelError):
    """An access outside the arrays that the kernel was given and its shared memory."""


class RaceError(KernelError):
    """Two threads use one place, one of them to write, with no barrier in between."""


class BarrierError(KernelError):
    """Threads that should meet do not: some have left, wait elsewhere, or name other lanes."""


class UndefinedBehaviorError(KernelError):
    """Arithmetic, an index or an address that C++ leaves undefined."""


_VIOLATIONS = (OutOfBoundsError, RaceError, BarrierError, UndefinedBehaviorError)  # as in emulation.h, from 1
_NOBODY = 2**32 - 1


class Parameter(NamedTuple):
    """One parameter of a kernel, or the type of one argument given for it."""

    dtype: np.dtype[Any]
    is_pointer: bool

    def __str__(self) -> str:
        return f"{self.dtype.name}{'*' if self.is_pointer else ''}"


class _Index(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))

    def __str__(self) -> str:
        return f"({self.x}, {self.y}, {self.z})"


class _Slot(ctypes.Structure):
    _fields_ = (("start", ctypes.c_size_t), ("size", ctypes.c_size_t), ("name", ctypes.c_char_p))


class _Part(ctypes.Structure):
    _fields_ = (("start", ctypes.c_size_t), ("size", ctypes.c_size_t))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", _Index),
        ("block", _Index),
        ("order", ctypes.c_int),
        ("flush", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("thread", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("image", ctypes.c_void_p * 4),
        ("slots", _Slot * _SLOTS),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
    )


class _Report(ctypes.Structure):
    _fields_ = (
        ("violation", ctypes.c_int),
        ("block", _Index),
        ("thread", _Index),
        ("line", ctypes.c_int),
        ("code", ctypes.c_size_t * 2),
        ("text", ctypes.c_char * 400),
    )


@dataclass
class Kernel:
    """A compiled kernel: `kernel((blocks,), (threads,), (array, np.int32(n), ...), shared_mem=bytes)`.

    An array is passed as a pointer and must be C-contiguous; a NumPy scalar is passed by value. A Python int
    is an int64, a float a float64 and a bool a bool, as in CuPy: a parameter `int n` refuses a Python int.
    """

    name: str
    parameters: tuple[Parameter, ...]
    writes: tuple[bool, ...]  # by parameter: whether it is a pointer to what is not const
    max_threads_per_block: int  # that of __launch_bounds__
    architecture: Architecture
    module: "Module" = field(repr=False)
    _max_dynamic: int | None = None

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        shared_parts: Sequence[tuple[int, int]] = (),
        order: str = "forward",
        seed: int = 0,
    ) -> None:
        """Runs every thread of every block in one of ORDERS ("random": the same sequence for the same seed).

        shared_parts: where dynamic shared memory is cut up, each part's offset and size in bytes; none: it is not.

        The kernel works on copies, so a launch that fails leaves the arrays as they were. Raises TypeError for an
        argument of another type than the parameter's, LaunchError for a launch that CUDA refuses, and the kinds of
        KernelError.
        """
        if order not in ORDERS:
            raise ValueError(f"order is {order!r}, but must be one of {', '.join(ORDERS)}")
        sizes = self._dimensions("grid", grid, MAX_GRID) + self._dimensions("block", block, MAX_BLOCK)
        threads = sizes[3] * sizes[4] * sizes[5]
        if threads > self.max_threads_per_block:
            raise LaunchError(
                f"kernel {self.name!r}: block {block} has {threads} threads; the limit is {self.max_threads_per_block}"
            )
        if (blocks := sizes[0] * sizes[1] * sizes[2]) > _MAX_BLOCKS:
            raise ValueError(f"kernel {self.name!r}: {blocks} blocks; the emulator runs at most {_MAX_BLOCKS}")
        if not 0 <= shared_mem <= self.max_dynamic_shared_size_bytes:
            raise LaunchError(
                f"kernel {self.name!r}: {shared_mem} bytes of dynamic shared memory; the limit is "
                f"{self.max_dynamic_shared_size_bytes}, beside {self.shared_size_bytes} static ones; "
                "max_dynamic_shared_size_bytes raises it"
            )
        values = [self._checked(i, value) for i, value in enumerate(self._matched(args))]
        launch = self.module.prepare(self.name)
        launch.grid, launch.block = _Index(*sizes[:3]), _Index(*sizes[3:])
        launch.order, launch.seed = ORDERS.index(order), seed
        launch.slots[_SLOTS - 1] = _Slot(_GUARD, shared_mem, b"dynamic shared memory")
        parts = (_Part * len(shared_parts))(*shared_parts)
        launch.parts, launch.part_count = ctypes.addressof(parts), len(parts)
        groups = self._place(launch, args, values)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        launch.arguments = ctypes.addressof(pointers)
        self.module.run(self.name)
        for group in groups:
            group.copy_back()

    @property
    def shared_size_bytes(self) -> int:
        """Static shared memory: that of the kernel's whole text, which is no less than the kernel's."""
        return self.module.static_shared

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """The most dynamic shared memory a launch may ask for; it can be set, up to what the architecture has."""
        default = SHARED_MEMORY_DEFAULT - self.shared_size_bytes
        return default if self._max_dynamic is None else self._max_dynamic

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        limit = self.architecture.shared_memory_per_block - self.shared_size_bytes
        if not 0 <= size <= limit:
            raise LaunchError(
                f"kernel {self.name!r}: {size} bytes of dynamic shared memory; "
                f"{self.architecture.name} has {limit} beside {self.shared_size_bytes} static ones"
            )
        self._max_dynamic = size

    def _place(self, launch: _Launch, args: Sequence[Any], values: list[Any]) -> list["_Group"]:
        """Gives every array a slot of its own, and arrays that overlap one together; sets the pointers in `values`."""
        arrays = sorted((value.ctypes.data, i) for i, value in enumerate(args) if isinstance(value, np.ndarray))
        groups: list[_Group] = []
        for address, i in arrays:
            end = address + args[i].nbytes
            if groups and address < groups[-1].end:
                groups[-1].end = max(groups[-1].end, end)
            else:
                groups.append(_Group(address, end))
            groups[-1].members.append(i)
        if len(groups) >= _SLOTS:
            raise ValueError(f"kernel {self.name!r}: {len(groups)} arrays; the emulator takes at most {_SLOTS - 1}")
        for number, group in enumerate(groups):
            start = _GUARD + group.address % _ALIGNMENT
            if start + group.size > _SLOT_SIZE:
                raise ValueError(f"kernel {self.name!r}: an array of {group.size} bytes is too large for the emulator")
            group.copy = self.module.arena + number * _SLOT_SIZE + start
            group.writes = any(self.writes[i] for i in group.members)
            names = " and ".join(f"argument {i} ({self.parameters[i].dtype.name})" for i in sorted(group.members))
            launch.slots[number] = _Slot(start, group.size, names.encode())
            ctypes.memmove(group.copy, group.address, group.size)
            for i in group.members:
                values[i].value = group.copy + args[i].ctypes.data - group.address
        for number in range(len(groups), _SLOTS - 1):
            launch.slots[number] = _Slot()
        return groups

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
            if self.writes[position] and not value.flags.writeable:
                raise TypeError(f"{where} is read-only, but the kernel's parameter is no pointer to const")
            return ctypes.c_void_p()  # the address of its copy comes later
        return (ctypes.c_char * value.itemsize).from_buffer_copy(value.tobytes())


@dataclass
class _Group:
    """Arrays that share memory, as one range of bytes, and where its copy for a launch lies."""

    address: int
    end: int
    members: list[int] = field(default_factory=list)
    copy: int = 0
    writes: bool = False

    @property
    def size(self) -> int:
        return self.end - self.address

    def copy_back(self) -> None:
        if self.writes:
            ctypes.memmove(self.address, self.copy, self.size)


class Module:
    """The kernels of one compiled text. flush: whether they take denormal numbers, and give them, as zero."""

    def __init__(self, library: Path, runtime: ctypes.PyDLL, flush: bool = False) -> None:
        # PyDLL keeps the interpreter's lock during a launch: threadIdx and its like exist once.
        self.library = ctypes.PyDLL(str(library))
        self._path, self._runtime, self._flush = library, runtime, flush
        self.arena: int = runtime.cuda_on_cpu_arena()
        if not self.arena:
            raise OSError(
                "the emulator needs a terabyte of address space (of memory only what it touches); see ulimit -v"
            )
        self._image = (ctypes.c_void_p * 4)()
        self.library.cuda_on_cpu_image(self._image)
        self.static_shared = (self._image[3] or 0) - (self._image[2] or 0)
        if self.static_shared > SHARED_MEMORY_DEFAULT:
            raise gxx.CompileError(
                f"{self.static_shared} bytes of static shared memory; the limit is {SHARED_MEMORY_DEFAULT}"
            )

    def get_function(self, name: str, architecture: Architecture = ARCHITECTURES["sm_80"]) -> Kernel:
        """The kernel of that name, declared `extern "C" __global__ void`; LookupError where there is none.

        architecture: of the device that it is for, which decides how much shared memory it may have.
        """
        try:
            self.library[name]  # a C++ name is mangled: the driver does not find it, so we do not either
            describe = self.library[f"cuda_on_cpu_signature_{name}"]
        except AttributeError:
            raise LookupError(f'named symbol not found: no kernel `extern "C" __global__ void {name}`') from None
        describe.restype = ctypes.c_char_p
        codes = describe().decode().split()
        return Kernel(
            name,
            tuple(Parameter(np.dtype(code.lstrip("*@")), code[0] in "*@") for code in codes),
            tuple(code.startswith("*") for code in codes),
            self.library[f"cuda_on_cpu_bound_{name}"](),
            architecture,
            self,
        )

    def prepare(self, name: str) -> _Launch:
        """The launch that `run` runs, to be filled in."""
        launch = _Launch.from_address(self._runtime.cuda_on_cpu_prepare())
        launch.thread = ctypes.cast(self.library[f"cuda_on_cpu_thread_{name}"], ctypes.c_void_p)
        launch.image = self._image
        launch.flush = self._flush
        return launch

    def run(self, name: str) -> None:
        """Runs the prepared launch. Raises KernelError for what a thread must not do."""
        if address := self._runtime.cuda_on_cpu_run():
            report = _Report.from_address(address)
            where = f"line {report.line}" if report.line else self._line(report.code[0])
            text = report.text.decode()
            if report.code[1]:
                text = text.replace("{other}", f"in {self._line(report.code[1])}")
            who = "" if report.thread.x == _NOBODY else f"thread {report.thread} of "
            raise _VIOLATIONS[report.violation - 1](f"kernel {name!r}, {where}: {who}block {report.block}: {text}")

    def _line(self, code: int) -> str:
        """The line of the kernel's text before a return address, by the debugging information."""
        command = ["addr2line", "-i", "-e", str(self._path), hex(code - 1)]
        frames = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(r"kernel\.cu:(\d+)", frames)
        return f"line {found[1]}" if found else "an unknown line"


@functools.cache
def load(code: str, options: tuple[str, ...] = ()) -> Module:
    """Compiles CUDA C text, or takes it from the cache; `options` are NVRTC's.

    Raises gxx.CompileError with the compiler's message (its line numbers are the text's own), ValueError for an
    option whose meaning the emulator does not know.
    """
    flags = _flags(options)
    runtime = _runtime()
    library = gxx.build(
        lambda: {"kernel.cpp": _source(code, flags)},
        [*_COMPILE, *_CHECKS, *_WARNINGS, *flags, "-I", str(_FOLDER)],
        ["-nodefaultlibs", "-L", str(runtime.parent), f"-l:{runtime.name}", "-Wl,-rpath,$ORIGIN", *_LIBRARIES],
        depends_on=[code, (_FOLDER / "cuda_on_cpu.h").read_text(), Path(__file__).read_text()],
    )
    # The processor flushes either no type or both, CUDA single precision alone: what works in double is left as it is.
    return Module(library, _open_runtime(runtime), _FLUSH in options and re.search(r"\bfloat\b", code) is not None)


def _source(code: str, flags: Sequence[str]) -> str:
    """The C++ text of a CUDA text, lines numbered as there, and the entry points of its kernels."""
    return "\n".join(
        [
            '#include "cuda_on_cpu.h"',
            '#line 1 "kernel.cu"',
            _DYNAMIC_SHARED.sub(_DYNAMIC_SHARED_HERE, code),
            '#line 1 "emulator"',
            *(f"CUDA_ON_CPU_EXPORT({name}, {bound})" for name, bound in _kernels(code, flags).items()),
            "CUDA_ON_CPU_IMAGE",
            "",
        ]
    )


def _runtime() -> Path:
    sources = {name: (_FOLDER / name).read_text() for name in _RUNTIME}
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    return gxx.build(lambda: sources, flags, [], depends_on=list(sources.values()))


@functools.cache
def _open_runtime(path: Path) -> ctypes.PyDLL:
    runtime = ctypes.PyDLL(str(path))
    for name in ("arena", "prepare", "run"):
        getattr(runtime, f"cuda_on_cpu_{name}").restype = ctypes.c_void_p
    return runtime


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
        elif option != _FLUSH and not _MEANINGLESS_HERE.fullmatch(option):
            raise ValueError(f"the emulator does not know the compiler option {option!r}")
    return flags


def _kernels(code: str, flags: Sequence[str]) -> dict[str, str]:
    """The kernels in the text, after the preprocessor, and the most threads that a block of each may have."""
    text = gxx.run("-E", "-P", "-x", "c++", *flags, "-", text=code)
    found = (match for match in _KERNEL.finditer(text) if not _TEMPLATE_BEFORE.search(text, 0, match.start()))
    # A kernel declared first and defined later is found twice.
    return {name: (before or after or str(MAX_THREADS)).strip() for before, after, name in (m.groups() for m in found)}
