"""`nnfast bench`: the backends side by side on the same networks, first held to the same results, then timed.

A figure counts only if all backends did the same work: from the same weights, over the same batches, every backend
must reach the gradient, losses and parameters of the numpy backend in float64. Then they are timed in turn (A B A B),
so that a machine that slows down slows all of them, and the median is reported.

Results are compared over rows that lie far from kinks. Where ReLU's z is within rounding of 0, or two pixels of a max
pool are within rounding of each other, two backends may rightly send the gradient different ways, and no tolerance
tells that from a mistake. The rows of the verified steps keep tens of times as far from all kinks as rounding reaches.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from ..backends import NAMES, Source, get_backend, unavailable
from ..backends.environment import gather
from ..backends.numpy import NumpyBackend
from ..backends.numpy.layers import pad, taps
from ..backends.numpy.program import NumpyProgram
from ..formulas.activations import Activation
from ..networks.windows import Window
from ..plans.operations import (
    BatchNormOperation,
    ConvolutionOperation,
    DenseOperation,
    DropoutOperation,
    LayerNormOperation,
    PoolingOperation,
    Span,
)
from ..plans.recipe import Recipe
from ..support.checks import check_dtype, check_integer
from ..support.threads import thread_count
from .workloads import WORKLOADS, Workload, get_workload

REFERENCE = "numpy"
VERIFIED_STEPS = 5
CANDIDATES = 4  # batches whose rows are looked at for one verified batch
PILOT_STEPS = 20
MEASURED_SECONDS = (0.1, 0.4)  # a measurement takes about so long: short stretches repeat, long ones are cut

# How far a backend may be from the numpy backend in float64. Over the workloads with twelve seeds, rounding alone gives
# up to 7e-6, 2e-7 and 6e-5 in float32, and 7e-15, 3e-15 and 5e-14 in float64.
TOLERANCES = {
    "float32": {
        "gradient": 1e-4,  # of the first batch: max |a - b| / max |b|, in the array where it is largest
        "losses": 1e-5,  # of every step: max |a - b| / |b|
        "change": 1e-3,  # of the parameters, by all the steps: |a - b| / |b|, in the array where it is largest
    },
    "float64": {"gradient": 1e-12, "losses": 1e-13, "change": 1e-11},
}


@dataclass(frozen=True)
class Outcome:
    """What a workload's first steps give: the first batch's gradient, every step's loss, the parameters' change."""

    gradient: NDArray[np.float64]
    losses: NDArray[np.float64]
    change: NDArray[np.float64]

    def differences(self, reference: Outcome, arrays: Iterable[Span]) -> dict[str, float]:
        """Differences from the reference, named and measured as in TOLERANCES. arrays: of the parameters.

        The gradient is compared element by element. The change is not: Adam's steps are as long for an element whose
        gradient is all rounding.
        """
        with np.errstate(all="ignore"):  # what is NaN or infinite is found by comparing with the tolerance
            return {
                "gradient": _distance(self.gradient, reference.gradient, arrays, np.inf),
                "losses": float((abs(self.losses - reference.losses) / abs(reference.losses)).max()),
                "change": _distance(self.change, reference.change, arrays, 2),
            }


def _distance(a: NDArray[np.float64], b: NDArray[np.float64], arrays: Iterable[Span], norm: float) -> float:
    """|a - b| / |b| in the array where it is largest, so that a mistake in a small one shows."""
    pairs = ((array.view(a).reshape(-1), array.view(b).reshape(-1)) for array in arrays)
    return float(np.max([np.linalg.norm(x - y, norm) / np.linalg.norm(y, norm) for x, y in pairs]))


class Reference:
    """The numpy backend in float64 on a workload's first steps, over rows that lie far from kinks.

    order, bounds: the steps, as Program.run takes them; the last is as short as the last of an epoch. outcome: what
    they give. margin: the least distance from a kink (see kink_distances).
    """

    def __init__(self, workload: Workload, source: Source | None = None, recipe: Recipe | None = None) -> None:
        self._source, recipe = source or workload.source(), recipe or workload.recipe()
        plan = workload.plan()
        self.arrays = tuple(plan.named_parameters.values())
        self.margin = math.inf
        program = NumpyBackend().compile(plan, dataclasses.replace(recipe, dtype=np.dtype(np.float64)))
        assert isinstance(program, NumpyProgram)
        self._program = program
        self._program.bind(self._source)
        self._program.parameters = start = workload.initial_parameters().astype(np.float64)
        order, bounds = workload.stretch()
        candidates = itertools.cycle(np.split(order, bounds[1:-1]))
        self.bounds = bounds[: VERIFIED_STEPS + 1].copy()
        self.bounds[-1] = self.bounds[-2] + (workload.rows % workload.batch_size or workload.batch_size)
        rate = np.array([recipe.optimizer.learning_rate])
        batches, losses = [], []
        for step, size in enumerate(np.diff(self.bounds)):
            batches.append(self._farthest(np.concatenate(list(itertools.islice(candidates, CANDIDATES))), size))
            if step == 0:
                _, gradient = self._program.loss_and_gradient(rows_of(self._source, batches[0]))
            losses.append(self._program.run(batches[-1], np.array([0, size]), rate, step))
        self.order = np.concatenate(batches)
        change = self._program.parameters - start
        self.outcome = Outcome(gradient.astype(np.float64), np.concatenate(losses), change)

    def _farthest(self, rows: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Of some rows, the `size` that now lie farthest from a kink."""
        distances = kink_distances(self._program, rows_of(self._source, rows))
        farthest = np.argsort(-distances, kind="stable")[:size]
        self.margin = min(self.margin, float(distances[farthest].min()))
        return rows[farthest]


def rows_of(source: Source, rows: NDArray[np.int64]) -> Source:
    """Some rows of a source, as a source."""
    assert source.targets is not None
    return Source(source.inputs[rows], source.targets[rows])


def kink_distances(program: NumpyProgram, source: Source) -> NDArray[np.float64]:
    """How far every row keeps from the nearest kink: in its layer's root mean squares, and inf without any. (rows,).

    Of an activation with a kink, how far z is from 0, where all of the table have it; of a max pool, how far a
    window's largest pixel is above the next. Equal ones are ReLU's zeros, through which no gradient passes.
    """
    nearest = np.full(source.n_rows, np.inf)
    for op, passed in program.trace(source):
        match op:
            case PoolingOperation():
                if op.kind != "max":
                    continue
                numbers = passed.inputs
                distances = _leads(numbers, op.window)
                distances[distances == 0] = np.inf
            case DenseOperation() | ConvolutionOperation() | BatchNormOperation() | LayerNormOperation():
                if not _has_kink(op.layer.function):
                    continue
                numbers, distances = passed.z, abs(passed.z)
            case DropoutOperation():
                continue
            case _:
                assert_never(op)
        scale = np.sqrt(np.square(numbers).mean())
        nearest = np.minimum(nearest, distances.reshape(len(nearest), -1).min(axis=1) / scale)
    return nearest


def _has_kink(activation: Activation) -> bool:
    """Whether its slope jumps at 0."""
    if activation.is_row_operation:
        return False
    z = np.array([-1e-6, 1e-6])
    left, right = activation.derivative_function(z, activation.function(z))
    return bool(abs(right - left) > 0.001)


def _leads(images: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """The largest pixel of every window and channel less the second largest."""
    padded = pad(images, window, -np.inf)
    largest = second = np.full((len(images), *window.output_shape), -np.inf)
    for _, _, tap in taps(window):
        second = np.maximum(second, np.minimum(largest, padded[tap]))
        largest = np.maximum(largest, padded[tap])
    return largest - second


class Runner:
    """A workload on one backend, ready to be run from its start any number of times."""

    def __init__(
        self, workload: Workload, backend: str, source: Source | None = None, threads: int | None = None
    ) -> None:
        self.workload = workload
        self.backend = get_backend(backend, threads)
        self.source = source or workload.source()
        recipe = workload.recipe()
        self.program = self.backend.compile(workload.plan(), recipe)
        self.program.bind(self.source)
        self.learning_rate = recipe.optimizer.learning_rate
        self._parameters = workload.initial_parameters()
        self._slots = np.zeros_like(self.program.slots)
        self._state = self.program.state
        self.prepare(workload.steps)

    def prepare(self, steps: int) -> None:
        """Choose the steps that run() takes."""
        self.order, self.bounds = self.workload.stretch(steps)
        self.rates = np.full(len(self.bounds) - 1, self.learning_rate)

    @property
    def steps(self) -> int:
        return len(self.rates)

    @property
    def rows(self) -> int:
        """Rows that run() trains on, each as often as it comes."""
        return len(self.order)

    def reset(self) -> None:
        """Back to the initial weights, and to an optimizer and statistics that have seen nothing."""
        self.program.parameters = self._parameters
        self.program.slots = self._slots
        self.program.state = self._state

    def run(self) -> NDArray[np.float64]:
        """The steps' losses."""
        return self.program.run(self.order, self.bounds, self.rates, 0)

    def outcome(self, reference: Reference) -> Outcome:
        """What the reference's steps give here. The first call compiles."""
        order, bounds = reference.order, reference.bounds
        self.reset()
        _, gradient = self.program.loss_and_gradient(rows_of(self.source, order[: bounds[1]]))
        losses = self.program.run(order, bounds, self.rates[: len(bounds) - 1], 0)
        change = self.program.parameters.astype(np.float64) - self._parameters
        return Outcome(gradient.astype(np.float64), losses, change)

    def seconds(self) -> float:
        """The time of one run from the start. It ends with the losses on the host: a device has finished by then."""
        self.reset()
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


class DifferentResultsError(ArithmeticError):
    """Two backends did not do the same work, so that their speeds say nothing."""


def verify(runner: Runner, reference: Reference) -> dict[str, float]:
    """The runner's differences from the reference. Raises DifferentResultsError where one is beyond its tolerance."""
    workload = runner.workload
    differences = runner.outcome(reference).differences(reference.outcome, reference.arrays)
    for what, difference in differences.items():
        tolerance = TOLERANCES[workload.dtype][what]
        if not difference <= tolerance:  # so that NaN is refused
            raise DifferentResultsError(
                f"{workload.name}: {runner.backend.name} in {workload.dtype} and {REFERENCE} in float64 differ in "
                f"their {what} by {difference:.2g}, more than the {tolerance:g} that rounding may cause; "
                f"{workload.name} is not timed"
            )
    return differences


def measure(runners: list[Runner], repeats: int) -> list[list[float]]:
    """Seconds a row of every runner, `repeats` times, taken in turn. The runners must be warm."""
    calls = []
    low, high = MEASURED_SECONDS
    for runner in runners:
        runner.prepare(PILOT_STEPS)
        per_step = runner.seconds() / runner.steps
        runner.prepare(max(1, int(high / per_step)))
        runner.run()  # the first run of this length may allocate memory and capture graphs
        calls.append(max(1, math.ceil(low / (per_step * runner.steps))))
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(repeats):
        for taken, runner, count in zip(seconds, runners, calls, strict=True):
            taken.append(sum(runner.seconds() for _ in range(count)) / (count * runner.rows))
    return seconds


def environment(threads: int | None = None) -> dict[str, Any]:
    """What a figure depends on: what `nnfast info` tells, the threads of numba, and those of NumPy's products."""
    facts = gather()
    blas_threads = _blas_threads()
    return facts | {
        "threads": thread_count(threads),
        "blas_threads": facts["cores"] if blas_threads is None else blas_threads,
    }


def _blas_threads() -> int | None:
    """What the libraries say or, without threadpoolctl, what they are told; None where they take all cores."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        told = [os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")]
        return next((int(text) for text in told if text.isdecimal()), None)
    pools = [int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(pools, default=None)


def bench_command(
    backends: list[str] | None,
    workloads: list[str] | None,
    repeats: int,
    as_json: bool,
    threads: int | None = None,
    dtype: str = "float32",
) -> int:
    """Measure the backends (default: all that can run here) on the workloads (default: all of the table).

    The numpy backend is always among them: the others are compared with its speed. threads: see get_backend. dtype: of
    the training. Prints a table, or with as_json one JSON object, on stdout. A workload on which results differ is not
    timed, and a line on stderr says so, before anything is timed; then 1 is returned, else 0. Raises ValueError for
    unknown names and BackendUnavailableError.
    """
    repeats = check_integer(repeats, "repeats")
    dtype = check_dtype(dtype).name
    chosen = [dataclasses.replace(get_workload(name), dtype=dtype) for name in (workloads or WORKLOADS)]
    if not backends:
        backends = [name for name in reversed(NAMES) if unavailable(name) is None]
    names = list(dict.fromkeys([REFERENCE, *backends]))
    # Unknown and unavailable ones end it here
    described = {name: get_backend(name, threads).description for name in names}

    prepared, failures = [], {}
    for workload in chosen:
        try:
            prepared.append(_prepare(workload, names, threads))
        except DifferentResultsError as error:
            print(f"nnfast: {error}", file=sys.stderr)
            failures[workload.name] = str(error)

    where = environment(threads)
    if prepared and not as_json:
        print(_heading(where, described, repeats, dtype))
    results = []
    for runners, differences in prepared:
        result = _result(runners, measure(runners, repeats), differences, names)
        results.append(result)
        if not as_json:
            print(_lines(result), flush=True)
    if as_json:
        report = {
            "environment": where,
            "backends": described,
            "dtype": dtype,
            "repeats": repeats,
            "tolerances": TOLERANCES[dtype],
            "workloads": results,
            "failures": failures,
        }
        print(json.dumps(report))
    return 1 if failures else 0


def _prepare(workload: Workload, names: list[str], threads: int | None) -> tuple[list[Runner], list[dict[str, float]]]:
    """One verified runner for every backend; they share the host's copy of the rows."""
    source = workload.source()
    runners = [Runner(workload, name, source, threads) for name in names]
    reference = Reference(workload, source)
    return runners, [verify(runner, reference) for runner in runners]


def _result(
    runners: list[Runner], seconds: list[list[float]], differences: list[dict[str, float]], names: list[str]
) -> dict[str, Any]:
    """One workload's figures, as JSON has them."""
    workload = runners[0].workload
    flops = workload.flops_per_row()
    medians = [statistics.median(taken) for taken in seconds]
    return {
        "name": workload.name,
        "network": workload.sizes,
        "parameters": workload.network().parameter_count,
        "rows": workload.rows,
        "batch_size": workload.batch_size,
        "flops_per_epoch": workload.flops_per_epoch(),
        "results": {
            name: {
                "samples_per_second": 1 / median,
                "gflops": flops / median / 1e9,
                "speedup": medians[0] / median,
                "spread": [1 / max(taken), 1 / min(taken)],
                "differences": difference,
            }
            for name, taken, median, difference in zip(names, seconds, medians, differences, strict=True)
        },
    }


_COLUMNS = "{:<13} {:<15} {:>6}  {:<8} {:>13} {:>7} {:>8} {:>9}"


def _heading(where: dict[str, Any], described: dict[str, str], repeats: int, dtype: str) -> str:
    lines = [
        f"{where['cpu']}, {where['cores']} cores, {where['blas_threads']} for BLAS; training in {dtype}.",
        f"Median of {repeats}; results held to {REFERENCE}'s before timing. GFLOP/s count the products alone.",
        "Spread: fastest less slowest. Far above 10% the machine is busy; OPENBLAS_NUM_THREADS=1 gives calmer figures.",
        *(f"  {name}: {text}" for name, text in described.items()),
        "",
        _COLUMNS.format("workload", "network", "batch", "backend", "samples/s", "spread", "GFLOP/s", "speed-up"),
    ]
    return "\n".join(lines)


def _lines(result: dict[str, Any]) -> str:
    """A workload's lines of the table."""
    lines = []
    first = (result["name"], result["network"], f"{result['batch_size']}")
    for name, figures in result["results"].items():
        rate, gflops, speedup = (figures[key] for key in ("samples_per_second", "gflops", "speedup"))
        low, high = figures["spread"]
        spread = (high - low) / rate
        lines.append(_COLUMNS.format(*first, name, f"{rate:,.0f}", f"{spread:.0%}", f"{gflops:.3g}", f"{speedup:.2f}x"))
        first = ("", "", "")
    return "\n".join(lines)
