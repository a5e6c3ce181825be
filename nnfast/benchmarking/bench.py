"""`nnfast bench`: the backends side by side on the same networks, first held to the same results, then timed.

A figure counts only if all backends did the same work: from the same weights and orders, every backend must reach
the numpy backend's gradient, losses and parameters. Then they are timed in turn (A B A B), so that a machine that
slows down slows all of them, and the median is reported.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import NAMES, Source, get_backend, unavailable
from ..backends.environment import gather
from ..support.checks import check_integer
from ..support.threads import thread_count
from .workloads import DTYPE, WORKLOADS, Workload, get_workload

REFERENCE = "numpy"
VERIFIED_STEPS = 5
PILOT_STEPS = 20
MEASURED_SECONDS = (0.1, 0.4)  # a measurement takes about so long: short stretches repeat, long ones are cut

# How far a backend may be from the numpy backend, in float32. Rounding alone gives 3e-7, 1e-7 and 1e-5. But where it
# carries one z of a ReLU over zero, Adam, which divides by the gradient's size, makes the most of it: over 40 seeds
# of mnist512 up to 2e-7, 4e-5 and 7e-3 within five steps, and 1e-3 in the losses within twenty.
TOLERANCES = {
    "gradient": 1e-3,  # of the first batch: |a - b| / |b|
    "losses": 1e-3,  # of every step: max |a - b| / |b|
    "change": 0.05,  # of the parameters, by all the steps: |a - b| / |b|
}


@dataclass(frozen=True)
class Outcome:
    """What a backend made of a workload's first steps, the last of them as short as the last of an epoch."""

    gradient: NDArray[np.float64]
    losses: NDArray[np.float64]
    change: NDArray[np.float64]

    def differences(self, reference: Outcome) -> dict[str, float]:
        """Differences from the reference, named and measured as in TOLERANCES."""
        with np.errstate(all="ignore"):  # what is NaN or infinite is found by comparing with the tolerance
            return {
                "gradient": _distance(self.gradient, reference.gradient),
                "losses": float((abs(self.losses - reference.losses) / abs(reference.losses)).max()),
                "change": _distance(self.change, reference.change),
            }


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


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

    def outcome(self) -> Outcome:
        """What the first steps give. The first call compiles."""
        order, bounds = self.workload.stretch(VERIFIED_STEPS)
        bounds[-1] -= -self.workload.rows % self.workload.batch_size
        first = order[: bounds[1]]
        assert self.source.targets is not None
        self.reset()
        _, gradient = self.program.loss_and_gradient(Source(self.source.inputs[first], self.source.targets[first]))
        losses = self.program.run(order[: bounds[-1]], bounds, self.rates[:VERIFIED_STEPS], 0)
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


def verify(runner: Runner, reference: Outcome) -> dict[str, float]:
    """The runner's differences from the reference. Raises DifferentResultsError where one is beyond its tolerance."""
    differences = runner.outcome().differences(reference)
    for what, difference in differences.items():
        if not difference <= TOLERANCES[what]:  # so that NaN is refused
            raise DifferentResultsError(
                f"{runner.workload.name}: {runner.backend.name} and {REFERENCE} differ in their {what} by "
                f"{difference:.2g}, more than the {TOLERANCES[what]:g} that rounding may cause; nothing is timed"
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
        runner.run()  # the first run of so many steps may allocate, and capture graphs
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
) -> int:
    """Measure the backends (default: all that can run here) on the workloads (default: all of the table).

    The numpy backend is always among them: the others are held to its results and compared with its speed. threads:
    see get_backend. Prints a table, or with as_json one JSON object, on stdout. Returns 0, or 1 with a line on stderr,
    before anything is timed, when results differ. Raises ValueError for unknown names and BackendUnavailableError.
    """
    repeats = check_integer(repeats, "repeats")
    chosen = [get_workload(name) for name in (workloads or WORKLOADS)]
    if not backends:
        backends = [name for name in reversed(NAMES) if unavailable(name) is None]
    names = list(dict.fromkeys([REFERENCE, *backends]))
    # Unknown and unavailable ones end it here
    described = {name: get_backend(name, threads).description for name in names}

    try:
        prepared = [_prepare(workload, names, threads) for workload in chosen]
    except DifferentResultsError as error:
        print(f"nnfast: {error}", file=sys.stderr)
        return 1

    where = environment(threads)
    if not as_json:
        print(_heading(where, described, repeats))
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
            "dtype": DTYPE.name,
            "repeats": repeats,
            "tolerances": TOLERANCES,
            "workloads": results,
        }
        print(json.dumps(report))
    return 0


def _prepare(workload: Workload, names: list[str], threads: int | None) -> tuple[list[Runner], list[dict[str, float]]]:
    """One verified runner for every backend; they share the host's copy of the rows."""
    source = workload.source()
    runners = [Runner(workload, name, source, threads) for name in names]
    reference = runners[0].outcome()
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


def _heading(where: dict[str, Any], described: dict[str, str], repeats: int) -> str:
    lines = [
        f"{where['cpu']}, {where['cores']} cores, {where['blas_threads']} for BLAS; training in {DTYPE.name}.",
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
