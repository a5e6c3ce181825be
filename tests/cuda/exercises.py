"""Runs of every CUDA text and of the backend around them, held to NumPy: what a mutant must not pass.

`exercise(file, text, order)` runs what one file holds, with `text` in its place. A kernel of kernels/cuda is reached
through the backend, so that whatever the backend does with it is part of the check.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp

import nnfast.backends.cuda
import nnfast.backends.cuda.wide
from nnfast.backends import Backend, Source, get_backend
from nnfast.backends.cuda import CudaBackend
from nnfast.formulas.optimizers import adam, sgd
from nnfast.kernels.cuda import sources
from nnfast.kernels.cuda.layout import Layout
from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Dropout, Flatten, LayerNorm, MaxPool2D
from nnfast.networks.network import Network
from nnfast.plans.plan import Plan
from nnfast.plans.recipe import Recipe
from tests.cuda import emulator, gate
from tests.cuda.twin import Twin, make_twin
from tests.programs import make_program, recipe
from tests.tolerances import ONE_STEP, TEN_STEPS, difference

ROOT = Path(__file__).resolve().parents[2]
BACKEND = "nnfast/backends/cuda/"
KERNELS = "kernels/cuda/"
TEST_KERNELS = "tests/cuda/kernels/"


def exercise(file: str, text: str, order: str) -> None:
    """Raises AssertionError where numbers are not NumPy's, and what the emulator and the twin raise.

    file: below the project's root; order: of threads and blocks, one of emulator.ORDERS.
    """
    if file.startswith(TEST_KERNELS):
        module = emulator.load(text)
        RUNS[Path(file).stem](
            lambda name, *launch, **options: module.get_function(name)(*launch, **options, order=order)
        )
    else:
        path, cases = cases_of(file)
        with _replaced(file, text) as make_backend:
            for case in cases:
                case.check(make_backend(path=path, xp=make_twin(order)))


def cases_of(file: str) -> tuple[str, tuple[Case, ...]]:
    """The path on which a file of the backend or its kernels is exercised, and the cases."""
    if Path(file).name in IMAGE_FILES:
        return "wide", IMAGE_CASES
    if Path(file).name in WIDE_FILES:
        return "wide", WIDE_CASES
    if "narrow" in file or "layout" in file:
        return "narrow", CASES
    return "wide", (*CASES, *WIDE_CASES)


def compiled_text(file: str, text: str) -> str:
    """A CUDA text of the project that contains this one: the shortest that gate.texts() makes of the file."""
    if file.startswith(TEST_KERNELS):
        return text
    with _replaced(file, text):
        return min((made.code for made in gate.texts() if text in made.code), key=len)


@contextmanager
def _replaced(file: str, text: str) -> Iterator[Callable[..., CudaBackend]]:
    """The CUDA backend's class while `text` stands in for a file: one of the kernels', or of its own."""
    if file.endswith(".py"):
        with tempfile.TemporaryDirectory() as folder, patch.dict("sys.modules"):
            shutil.copytree(ROOT / BACKEND, folder, dirs_exist_ok=True)
            Path(folder, Path(file).name).write_text(text)
            if file.startswith(KERNELS):
                _loaded("nnfast." + file.removesuffix(".py").replace("/", "."), Path(folder, Path(file).name))
            yield _loaded("nnfast.backends.mutated_cuda", Path(folder, "__init__.py")).CudaBackend
    else:
        assert file.startswith(KERNELS), file
        original = sources._file
        changed = Path(file).name
        with patch.object(sources, "_file", lambda name: text if name == changed else original(name)):
            yield CudaBackend


def _loaded(name: str, path: Path) -> Any:
    """The module of a file, under a name of its own or in another module's place."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The project's kernels


@dataclass(frozen=True, eq=False)
class Case:
    """A few steps of training, an evaluation, a prediction and gradients, on the backend under test and on NumPy."""

    network: Network
    recipe: Recipe
    make_inputs: Callable[[np.random.Generator], object]
    make_targets: Callable[[np.random.Generator], np.ndarray]
    rows: int = 23
    batch: int = 8
    steps: int = 4
    scale: float = 1.0
    max_blocks: int = nnfast.backends.cuda.wide.MAX_BLOCKS

    def check(self, backend: CudaBackend) -> None:
        wide, narrow = (sys.modules[f"{type(backend).__module__}.{path}"] for path in ("wide", "narrow"))
        spaced = functools.partial(lay_out_with_gaps, narrow.lay_out, backend.xp)
        with patch.object(wide, "MAX_BLOCKS", self.max_blocks), patch.object(narrow, "lay_out", spaced):
            results = self.run(backend)
        for ours, reference in zip(results, self.reference, strict=True):
            assert difference(ours, reference) < TEN_STEPS[self.recipe.dtype.name]

    @functools.cached_property
    def reference(self) -> list[np.ndarray]:
        return self.run(get_backend("numpy"))

    def run(self, backend: Backend) -> list[np.ndarray]:
        random = np.random.default_rng(5)
        weights = random.random(self.rows).astype(self.recipe.dtype)
        source = Source(self.make_inputs(random), self.make_targets(random), weights, self.scale)
        program = make_program(backend, self.network, self.recipe, self.batch)
        program.bind(source)
        losses = []
        for steps in (self.steps, 3 * self.steps, 1):  # buffers grow, and are larger than what is asked of them
            count = (steps - 1) * self.batch + self.batch // 2  # the last batch is half a one
            bounds = np.append(np.arange(0, count, self.batch), count)
            order = np.arange(count) * 7 % self.rows
            losses.append(program.run(order, bounds, np.full(steps, 0.01), first_step=2**33 + len(losses)))
        loss, outputs = program.evaluate(source)
        some_loss, some_outputs = program.evaluate(source, np.arange(self.rows)[::-2].copy())
        first = slice(0, self.batch)
        batch = Source(source.inputs[first], source.targets[first], weights[first], self.scale)
        differentiated = make_program(backend, self.network, self.recipe, self.batch, gives_input_gradient=True)
        return [
            *losses, program.parameters, program.slots, np.array(loss), outputs, program.predict(source),
            np.array(some_loss), some_outputs,
            *map(np.asarray, program.loss_and_gradient(batch)), program.state,
            differentiated.input_gradient(batch),
        ]  # fmt: skip


GAP = 3  # groups of numbers between two parts of a narrow block's shared memory


def lay_out_with_gaps(lay_out: Callable[..., Layout | None], xp: Twin, plan: Plan, *arguments: Any) -> Layout | None:
    """A layout with space between its parts, which the emulator then knows: an overrun meets no other part."""
    layout = lay_out(plan, *arguments)
    if layout is None:
        return None
    ends = [*sorted(layout.places.values())[1:], layout.scratch, layout.size]
    places, parts, shift = {}, [], 0
    for (key, place), end in zip(sorted(layout.places.items(), key=lambda item: item[1]), ends, strict=False):
        places[key] = place + shift
        parts.append((place + shift, end - place))
        shift += GAP
    parts.append((layout.scratch + shift, layout.size - layout.scratch))
    spaced = dataclasses.replace(layout, places=places, scratch=layout.scratch + shift, size=layout.size + shift)
    dtype = arguments[0]
    group = layout.rows * dtype.itemsize
    xp.shared_parts[spaced.shared_bytes(dtype)] = [(group * start, group * width) for start, width in parts]
    return spaced


def _csr(random: np.random.Generator) -> sp.csr_array:
    return sp.csr_array(random.normal(size=(23, 7)) * (random.random((23, 7)) < 0.4))


CASES = (
    # bytes, labels, dropout of an odd number of elements, softmax with cross-entropy
    Case(
        Network(7, [Dense(5, "tanh"), Dropout(0.3), Dense(3, "softmax")]),
        recipe("cross_entropy", adam(), alpha=0.1, seed=2**40 + 1),
        lambda random: random.integers(0, 256, (23, 7)).astype(np.uint8),
        lambda random: random.integers(0, 3, 23),
        batch=7,
        scale=1 / 255,
    ),
    # outputs whose exponentials overflow
    Case(
        Network(2, [Dense(3, "softmax")]),
        recipe("cross_entropy", sgd()),
        lambda random: 1e3 * random.normal(size=(23, 2)),
        lambda random: random.integers(0, 3, 23),
    ),
    # sparse rows, a derivative that reads z, softmax with a loss of its own
    Case(
        Network(7, [Dense(6, "gelu"), Dense(4, "softmax")]),
        recipe("huber", sgd(0.9), l1=0.01, clip_norm=0.1),
        _csr,
        lambda random: random.random((23, 4)),
    ),
    # float32, several blocks, a canonical pair, an odd number of columns
    Case(
        Network(3, [Dense(33, "relu"), Dense(5, "sigmoid")]),
        recipe("binary_cross_entropy", sgd(), "float32"),
        lambda random: random.normal(size=(40, 3)).astype(np.float32),
        lambda random: (random.random((40, 5)) < 0.5).astype(np.float32),
        rows=40,
        batch=32,
        steps=2,
    ),
    # one block strides over everything; an elementwise loss without a pair; a layer without bias
    Case(
        Network(2, [Dropout(0.5), Dense(35, "silu"), Dense(3, "elu", bias=False), Dense(1, "tanh")]),
        recipe("absolute_error", sgd()),
        lambda random: random.normal(size=(300, 2)),
        lambda random: random.random((300, 1)),
        rows=300,
        batch=300,
        steps=2,
        max_blocks=1,
    ),
)

WIDE_FILES = {"layer_norm.cu"}  # of flat rows, which the narrow path does not take

WIDE_CASES = (
    # several blocks, rows wider than a warp
    Case(
        Network(5, [Dense(35), LayerNorm(0.1, "silu"), Dense(3), LayerNorm(activation="tanh"), Dense(2)]),
        recipe("squared_error", sgd(0.9), alpha=0.1),
        lambda random: random.normal(size=(23, 5)),
        lambda random: random.normal(size=(23, 2)),
        batch=17,
        steps=1,
    ),
    # float32, one block strides over everything, the inputs' gradient is not wanted
    Case(
        Network(11, [LayerNorm(), Dense(2)]),
        recipe("squared_error", dtype="float32"),
        lambda random: random.normal(size=(70, 11)).astype(np.float32),
        lambda random: random.normal(size=(70, 2)).astype(np.float32),
        rows=70,
        batch=70,
        steps=1,
        max_blocks=1,
    ),
)

IMAGE_FILES = {
    "correlation.cu", "convolution.cu", "convolution_gradient.cu", "pooling.cu", "batch_norm.cu", "geometry.py",
    "images.py",
}  # fmt: skip

IMAGE_CASES = (
    # bytes; groups, padding, strides and dilation; every sum in several chunks; pools that overlap and reach outside
    Case(
        Network(
            (7, 6, 2),
            [
                Conv2D(4, 3, padding=1, groups=2, bias=False), BatchNorm(0.3, 0.01, "silu"),
                MaxPool2D(3, stride=2, padding=1),
                Conv2D(6, (2, 3), stride=(2, 1), padding="same", dilation=(1, 2), groups=2, activation="silu"),
                AveragePool2D(2, stride=1, padding=1), AveragePool2D(3, stride=2), Conv2D(4, 1), Flatten(), Dense(3),
            ],
        ),
        recipe("squared_error", sgd(0.9), alpha=0.1),
        lambda random: random.integers(0, 8, (23, 84)).astype(np.uint8),
        lambda random: random.normal(size=(23, 3)),
        batch=7,
        steps=1,
        scale=1 / 8,
    ),
    # one block strides over everything, in wide tiles; pixels that are equal
    Case(
        Network(
            (4, 4),
            [
                MaxPool2D(2, stride=1), Conv2D(35, 2, activation="silu"), BatchNorm(activation="silu"),
                MaxPool2D(2), Conv2D(33, 1), Flatten(), BatchNorm(), Dense(2),
            ],
        ),
        recipe("squared_error"),
        lambda random: random.integers(0, 2, (23, 16)).astype(np.float64),
        lambda random: random.normal(size=(23, 2)),
        batch=17,
        steps=1,
        max_blocks=1,
    ),
)  # fmt: skip


# The kernels that test the emulator, on sizes that fit nothing: `launch` takes a kernel's name and what a launch takes,
# with NumPy's arrays.


def _run_reduction(launch: Callable[..., None]) -> None:
    random = np.random.default_rng(0)
    for rows, columns, threads in ((3, 1, 32), (5, 700, 256), (1, 257, 64)):
        x, sums = random.standard_normal((rows, columns)).astype(np.float32), np.zeros(rows, np.float32)
        launch("sum_rows", (rows,), (threads,), (x, sums, np.int32(columns)))
        assert difference(sums, x.sum(axis=1, dtype=np.float64)) < ONE_STEP["float32"]


def _run_transposition(launch: Callable[..., None]) -> None:
    for rows, columns in ((1, 1), (16, 16), (19, 45)):
        x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
        y = np.full((columns, rows), np.nan, np.float32)
        grid = (-(-columns // 16), -(-rows // 16))
        launch("transpose", grid, (16, 16), (x, y, np.int32(rows), np.int32(columns)))
        np.testing.assert_array_equal(y, x.T)


def _run_histogram(launch: Callable[..., None]) -> None:
    random = np.random.default_rng(0)
    for n, bins in ((1, 1), (1000, 70)):
        values, counts = random.integers(0, bins, n).astype(np.uint8), np.zeros(bins, np.int32)
        launch("histogram", (3,), (64,), (values, counts, np.int32(n), np.int32(bins)), shared_mem=4 * bins)
        np.testing.assert_array_equal(counts, np.bincount(values, minlength=bins))


RUNS = {"reduction": _run_reduction, "transposition": _run_transposition, "histogram": _run_histogram}
