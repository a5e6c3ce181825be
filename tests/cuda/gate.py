"""The compile gate: every CUDA text that the project makes, through NVIDIA's own compiler, for every architecture.

It needs no GPU, no driver and no CuPy, only the compiler's library from the package nvidia-cuda-nvrtc. A warning is an
error; so are registers spilled to memory and more registers than a kernel's budget. Run as a module, it compiles what
the tests do and prints what each kernel takes, for docs/cuda_checks.md:

    python -m tests.cuda.gate
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import functools
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnfast.backends.cuda import OPTIONS as BACKEND_OPTIONS
from nnfast.backends.cuda.geometry import SIDES
from nnfast.backends.cuda.wide import THREADS
from nnfast.benchmarking.workloads import WORKLOADS
from nnfast.formulas.activations import ACTIVATIONS
from nnfast.formulas.intervals import lies_within
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import OPTIMIZERS, adam, sgd
from nnfast.kernels.cuda import narrow, sources
from nnfast.kernels.cuda.layout import Limits, lay_out
from nnfast.networks.network import Dense, Dropout, Network
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from tests.cuda.architectures import ARCHITECTURES

# What CuPy adds to a module's own options (test_cupy_compiler.py): single precision flushes denormal numbers to zero.
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
OPTIONS = (*BACKEND_OPTIONS, *CUPY_OPTIONS, "-Werror", "all-warnings", "--ptxas-options=-v")

# With 64 registers a multiprocessor holds 1024 threads of a kernel, half of what it can hold at most. A kernel that is
# better off with more has its own entry: those of narrow networks, which have a multiprocessor to themselves, may use
# what is there for 512 threads, as may those that sum 16 products of a convolution in each thread; float64 formulas are
# long; and windows of any geometry take many indices.
REGISTERS = {
    "": 64, "loss": 104, "update": 80, "rows": 128, "evaluate": 128, "learn": 128, "gradient": 128,
    "convolve": 128, "convolution_gradient": 128,
} | dict.fromkeys((
    "max_pool", "max_pool_gradient", "average_pool", "average_pool_gradient", "statistics", "normalise",
    "normalised_sums", "normalised_gradient",
), 80)  # fmt: skip

# Threads of a block with which a kernel is launched, where not THREADS.
LAUNCHES = {"derivative": 512, "layer_norm_sums": 512}

# What narrow networks are laid out for here: many multiprocessors, with no more shared memory than all have.
LIMITS = Limits(132, min(architecture.shared_memory_per_block for architecture in ARCHITECTURES.values()))

DTYPES = [np.dtype("float32"), np.dtype("float64")]


class GateError(RuntimeError):
    """A text that does not pass."""


@dataclass(frozen=True)
class Text:
    """A text that the project compiles at run time.

    kind: of the function that makes it, such as "loss" of loss_source. formula: the formulas or the network in it.
    launch: threads of a block and bytes of dynamic shared memory, where these depend on the text.
    """

    kind: str
    dtype: str
    formula: str
    code: str
    launch: tuple[int, int] | None = None


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture, as its assembler says. Sizes in bytes."""

    kernel: str
    architecture: str
    registers: int
    shared_memory: int
    stack: int
    spills: int
    launch: tuple[int, int] | None = None

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that can be resident (see Architecture.occupancy)."""
        threads, dynamic = self.launch or (LAUNCHES.get(self.kernel, THREADS), 0)
        return ARCHITECTURES[self.architecture].occupancy(threads, self.registers, self.shared_memory + dynamic)

    def check(self) -> None:
        """Raises GateError for spilled registers, and for more than the kernel's budget."""
        budget = REGISTERS.get(self.kernel, REGISTERS[""])
        where = f"kernel {self.kernel!r} for {self.architecture}"
        if self.spills:
            raise GateError(f"{where} spills {self.spills} bytes of registers to memory")
        if self.registers > budget:
            raise GateError(f"{where} takes {self.registers} registers; its budget is {budget}")


def texts() -> Iterator[Text]:
    """Everything the tables of formulas make of the files in kernels/cuda."""
    for dtype in DTYPES:
        name = dtype.name
        for activation in ACTIVATIONS.values():
            if not activation.output_only:
                yield Text("activation", name, activation.name, sources.activation_source(activation, dtype))
            for loss in LOSSES.values():
                if lies_within(activation.range, loss.domain):
                    pair = f"{activation.name} + {loss.name}"
                    yield Text("loss", name, pair, sources.loss_source(activation, loss, dtype))
        optimizers = {name: make() for name, make in OPTIMIZERS.items()}
        optimizers |= {"momentum": sgd(0.9), "nesterov": sgd(0.9, nesterov=True)}
        for optimizer_name, optimizer in optimizers.items():
            yield Text("update", name, optimizer_name, sources.update_source(optimizer, dtype))
        for source in sources.C_TYPES:
            yield Text("gather", name, f"of {source}", sources.gather_source(np.dtype(source), dtype))
        yield Text("dropout", name, "", sources.dropout_source(dtype))
        yield from _image_texts(dtype)
        yield from _narrow_texts(dtype)


def _image_texts(dtype: np.dtype[Any]) -> Iterator[Text]:
    """Their formulas are those of "activation", so that the shortest and the longest do, in tiles of both widths."""
    name = dtype.name
    hidden = [activation for activation in ACTIVATIONS.values() if not activation.output_only]
    by_length = sorted(hidden, key=lambda activation: len(sources.activation_struct(activation, "F")))
    for activation, side in ((by_length[0], SIDES[0]), (by_length[-1], SIDES[1])):
        formula = f"{activation.name}, side {side}"
        yield Text("convolution", name, formula, sources.convolution_source(activation, side, dtype))
        yield Text("convolution_gradient", name, f"side {side}", sources.convolution_gradient_source(side, dtype))
    yield Text("layer_norm", name, by_length[-1].name, sources.layer_norm_source(by_length[-1], dtype))
    yield Text("batch_norm", name, by_length[-1].name, sources.batch_norm_source(by_length[-1], dtype))
    yield Text("pooling", name, "", sources.pooling_source(dtype))


def _narrow_texts(dtype: np.dtype[Any]) -> Iterator[Text]:
    """Those of a tiny network, of a usual one, and of one that has a bit of everything."""
    everything = Network(
        100, [Dropout(0.2), Dense(256, "gelu"), Dropout(0.5), Dense(250, "mish", bias=False), Dense(37, "softmax")]
    )
    recipe = Recipe(LOSSES["huber"], adam(), dtype)
    networks = {"100-256-250-37": (make_plan(everything, 2000), recipe)}
    for workload in (WORKLOADS["xor"], WORKLOADS["digits"]):
        networks[workload.sizes] = workload.plan(), dataclasses.replace(workload.recipe(), dtype=dtype)
    for sizes, (plan, recipe) in networks.items():
        layout = lay_out(plan, dtype, plan.rows, LIMITS)
        assert layout is not None
        launch = layout.threads, layout.shared_bytes(dtype)
        sparse = plan.network is everything
        code = narrow.rows_source(plan, recipe, layout, dtype, sparse)
        yield Text("rows", dtype.name, sizes, code, launch)
        yield Text("weights", dtype.name, sizes, narrow.weights_source(plan, recipe))


def hungriest(results: Iterable[tuple[Text, Usage]]) -> list[Text]:
    """Of each kernel and type the text that takes the most registers: what no architecture is spared."""
    most: dict[tuple[str, str], tuple[Text, Usage]] = {}
    for text, usage in results:
        key = usage.kernel, text.dtype
        if key not in most or usage.registers > most[key][1].registers:
            most[key] = text, usage
    return [*dict.fromkeys(text for text, _ in most.values())]


def unavailable_reason() -> str | None:
    """None where the compiler can be called, otherwise why not."""
    return None if _libraries() else "NVRTC is not installed; install nvidia-cuda-nvrtc"


@functools.cache
def compile_text(code: str, architecture: str, options: tuple[str, ...] = OPTIONS) -> list[Usage]:
    """Compile to machine code for an architecture ("sm_90"). Raises GateError with the compiler's messages."""
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None)
    try:
        arguments = [f"--gpu-architecture={architecture}".encode(), *(option.encode() for option in options)]
        failed = nvrtc.nvrtcCompileProgram(program, len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise GateError(f"{architecture}: {nvrtc.nvrtcGetErrorString(failed).decode()}\n{log.value.decode()}")
    return [*_usages(log.value.decode())]


def compile_all(pairs: Iterable[tuple[Text, str]]) -> list[tuple[Text, Usage]]:
    """Compile (text, architecture) pairs and check each kernel. Raises GateError, which names the text."""

    def compile_pair(text: Text, architecture: str) -> list[tuple[Text, Usage]]:
        try:
            usages = compile_text(text.code, architecture)
            for usage in usages:
                usage.check()
        except GateError as error:
            raise GateError(f"{text.kind} ({text.formula}, {text.dtype}): {error}") from None
        return [(text, dataclasses.replace(usage, launch=text.launch)) for usage in usages]

    with ThreadPoolExecutor(os.cpu_count()) as executor:  # the compiler works without the interpreter's lock
        found = [executor.submit(compile_pair, *pair) for pair in pairs]
        return [result for future in found for result in future.result()]


def _usages(log: str) -> Iterator[Usage]:
    """What the assembler reports: a paragraph for each kernel."""
    for paragraph in re.split(r"(?=Compiling entry function)", log)[1:]:
        head = re.match(r"Compiling entry function '(\w+)' for '(\w+)'", paragraph)
        assert head, paragraph

        def number(pattern: str, paragraph: str = paragraph) -> int:
            found = re.search(pattern, paragraph)
            return int(found[1]) if found else 0

        registers = number(r"Used (\d+) registers")
        assert registers, f"the assembler's report has changed:\n{log}"
        spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        stack = number(r"(\d+) bytes stack frame")
        yield Usage(head[1], head[2], registers, number(r"(\d+) bytes smem"), stack, spills)


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    return ctypes.CDLL(_libraries()[-1])


@functools.cache
def _libraries() -> list[str]:
    """The compiler's libraries in NVIDIA's packages, the newest last."""
    package = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (package.submodule_search_locations or [])] if package else []
    found = [path for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*") if path.suffix[1:].isdigit()]
    return [str(path) for path in sorted(found, key=lambda path: int(path.suffix[1:]))]


def markdown(results: list[tuple[Text, Usage]]) -> str:
    """A row for each kernel and type, over all its texts: the most bytes and registers, and the least occupancy."""
    kernels: dict[tuple[str, str, str], list[tuple[Text, Usage]]] = {}
    for text, usage in results:
        kernels.setdefault((usage.kernel, text.kind, text.dtype), []).append((text, usage))
    names = [*dict.fromkeys(usage.architecture for _, usage in results)]
    lines = [
        f"| kernel | of | T | texts | static | dynamic | stack | spills | {' | '.join(names)} |",
        f"|---|---|---|--:|--:|--:|--:|--:|{'--:|' * len(names)}",
    ]
    for (kernel, kind, dtype), of_kernel in kernels.items():
        usages = [usage for _, usage in of_kernel]
        cells = []
        for name in names:
            there = [usage for usage in usages if usage.architecture == name]
            registers, occupancy = max(u.registers for u in there), min(u.occupancy for u in there)
            cells.append(f"{registers} / {100 * occupancy:.0f}%")
        sizes = (max(getattr(usage, size) for usage in usages) for size in ("shared_memory", "stack", "spills"))
        static, stack, spills = sizes
        dynamic = max(usage.launch[1] if usage.launch else 0 for usage in usages)
        number = len({text.code for text, _ in of_kernel})
        values = (kernel, kind, dtype, number, static, dynamic, stack, spills, *cells)
        lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def version() -> str:
    """The compiler's."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"NVRTC {major.value}.{minor.value}"


def compile_selection() -> list[tuple[Text, Usage]]:
    """All texts for the oldest architecture, and the hungriest of them for all others."""
    oldest, *others = ARCHITECTURES
    results = compile_all((text, oldest) for text in texts())
    texts_for_others = hungriest(results)
    return results + compile_all((text, name) for name in others for text in texts_for_others)


if __name__ == "__main__":
    print(f"{version()}, {datetime.date.today()}:\n")
    print(markdown(compile_selection()))
