"""`nnfast bench`: the backends side by side on the same networks, first held to the same results, then timed.

A figure counts only if all backends did the same work: from the same weights and orders, every backend must reach
the numpy backend's gradient, losses and parameters. Then they are timed in turn (A B A B), so that a machine that
slows down slows all of them, and the median is reported.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import NAMES, Source, get_backend, unavailable
from .backends.base import Vector
from .validation import check_count
from .workloads import DTYPE, WORKLOADS, Workload, get_workload

REFERENCE = "numpy"
VERIFIED_STEPS = 20
MEASURED_SECONDS = (0.1, 0.4)  # a measurement takes about so long: short stretches repeat, long ones are cut

# How far a backend may be from the numpy backend in float32, over VERIFIED_STEPS. Rounding gives 1e-6, 2e-7 and 2e-7
# (the first twice that where sums have 10,000 terms). Adam divides by the gradient's size, so that one weight whose
# gradient is rounding alone may step either way: parameters are compared by the norm, not by the largest.
TOLERANCES = {
    "gradient": 1e-4,  # of the first batch: max |a - b| / max |b|
    "losses": 1e-4,  # of every step: max |a - b| / |b|
    "parameters": 1e-3,  # after the last step: |a - b| / |b|
}


@dataclass(frozen=True)
class Outcome:
    """What a backend made of a workload's first steps."""

    gradient: Vector
    losses: NDArray[np.float64]
    parameters: Vector

    def differences(self, reference: Outcome) -> dict[str, float]:
        """Differences from the reference, named and measured as in TOLERANCES."""
        with np.errstate(all="ignore"):  # what is NaN or infinite is found by comparing with the tolerance
            gradient = abs(self.gradient - reference.gradient).max() / abs(reference.gradient).max()
            losses = (abs(self.losses - reference.losses) / abs(reference.losses)).max()
            parameters = self.parameters.astype(np.float64) - reference.parameters
            norm = np.linalg.norm(parameters) / np.linalg.norm(reference.parameters)
        return {"gradient": float(gradient), "losses": float(losses), "parameters": float(norm)}


class Runner:
    """A workload on one backend, ready to be run from its start any number of times."""

    def __init__(self, workload: Workload, backend: str, source: Source | None = None) -> None:
        self.workload = workload
        self.backend = get_backend(backend)
        self.source = source or workload.source()
        recipe = workload.recipe()
        self.program = self.backend.compile(workload.plan(), recipe)
        self.program.bind(self.source)
        self.learning_rate = recipe.optimizer.learning_rate
        self._parameters = workload.initial_parameters()
        self._slots = np.zeros_like(self.program.slots)
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
        """Back to the initial weights and an optimizer that has seen nothing."""
        self.program.parameters = self._parameters
        self.program.slots = self._slots

    def run(self) -> NDArray[np.float64]:
        """The steps' losses."""
        return self.program.run(self.order, self.bounds, self.rates, 0)

    def outcome(self) -> Outcome:
        """Gradient of the first batch, and what the first steps give; the first call compiles."""
        steps = self.steps
        self.prepare(VERIFIED_STEPS)
        self.reset()
        rows = self.order[self.bounds[0] : self.bounds[1]]
        assert self.source.targets is not None
        _, gradient = self.program.loss_and_gradient(Source(self.source.inputs[rows], self.source.targets[rows]))
        losses = self.run()
        parameters = self.program.parameters
        self.prepare(steps)
        return Outcome(gradient, losses, parameters)

    def seconds(self) -> float:
        """The time of one run from the start."""
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
                f"{difference:.2g} after {VERIFIED_STEPS} steps (at most {TOLERANCES[what]:g} is rounding); not timed"
            )
    return differences


def measure(runners: list[Runner], repeats: int) -> list[list[float]]:
    """Seconds a row of every runner, `repeats` times, taken in turn. The runners must be warm."""
    calls = []
    low, high = MEASURED_SECONDS
    for runner in runners:
        runner.prepare(VERIFIED_STEPS)
        per_step = runner.seconds() / runner.steps
        runner.prepare(max(1, int(high / per_step)))
        calls.append(max(1, math.ceil(low / (per_step * runner.steps))))
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(repeats):
        for taken, runner, count in zip(seconds, runners, calls, strict=True):
            taken.append(sum(runner.seconds() for _ in range(count)) / (count * runner.rows))
    return seconds


def environment() -> dict[str, Any]:
    """What a figure depends on: versions, processor, cores and BLAS threads."""
    versions = {"python": platform.python_version()}
    for package in ("nnfast", "numpy", "scipy", "numba", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "cpu": cpu_name(),
        "cores": available_cores(),
        "blas_threads": blas_threads(),
        "platform": platform.platform(),
    }


def cpu_name() -> str:
    """The processor's name, as its maker writes it where the system tells, with the core Numba compiles for."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    try:
        import llvmlite.binding
    except ImportError:
        return name
    return f"{name} ({llvmlite.binding.get_host_cpu_name()})"


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas_threads() -> int:
    """Threads that matrix products may use: as the libraries say, or, without threadpoolctl, as they are told."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
            if os.environ.get(variable, "").isdecimal():
                return int(os.environ[variable])
        return available_cores()
    pools = [int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(pools, default=1)


def bench_command(backends: list[str] | None, workloads: list[str] | None, repeats: int, as_json: bool) -> int:
    """Measure the backends (default: all that can run here) on the workloads (default: all of the table).

    The numpy backend is always among them: the others are held to its results and compared with its speed. Prints a
    table, or with as_json one JSON object, on stdout. Returns 0, or 1 with a line on stderr, before anything is
    timed, when results differ. Raises ValueError for unknown names and BackendUnavailableError.
    """
    repeats = check_count(repeats, "repeats")
    chosen = [get_workload(name) for name in (workloads or WORKLOADS)]
    if not backends:
        backends = [name for name in reversed(NAMES) if unavailable(name) is None]
    names = list(dict.fromkeys([REFERENCE, *backends]))
    described = {name: get_backend(name).description for name in names}  # unknown and unavailable ones end it here

    try:
        prepared = [_prepare(workload, names) for workload in chosen]
    except DifferentResultsError as error:
        print(f"nnfast: {error}", file=sys.stderr)
        return 1

    where = environment()
    if not as_json:
        print(_heading(where, described, repeats))
    results = []
    for runners, differences in prepared:
        result = _result(runners, measure(runners, repeats), differences, names)
        results.append(result)
        if not as_json:
            print(_lines(result), flush=True)
    if as_json:
        missing = {name: unavailable(name) for name in NAMES}
        report = {
            "environment": where,
            "backends": described,
            "unavailable": {name: reason for name, reason in missing.items() if reason},
            "dtype": DTYPE.name,
            "repeats": repeats,
            "tolerances": TOLERANCES,
            "workloads": results,
        }
        print(json.dumps(report))
    return 0


def _prepare(workload: Workload, names: list[str]) -> tuple[list[Runner], list[dict[str, float]]]:
    """One verified runner for every backend; they share the host's copy of the rows."""
    source = workload.source()
    runners = [Runner(workload, name, source) for name in names]
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


_COLUMNS = "{:<13} {:<15} {:>6}  {:<8} {:>13} {:>8} {:>9}"


def _heading(where: dict[str, Any], described: dict[str, str], repeats: int) -> str:
    lines = [
        f"{where['cpu']}, {where['cores']} cores, {where['blas_threads']} BLAS threads; {DTYPE.name}, training steps,",
        f"median of {repeats}. Results verified equal to {REFERENCE}'s before timing. GFLOP/s: matrix products alone.",
        *(f"  {name}: {text}" for name, text in described.items()),
        "",
        _COLUMNS.format("workload", "network", "batch", "backend", "samples/s", "GFLOP/s", "speed-up"),
    ]
    return "\n".join(lines)


def _lines(result: dict[str, Any]) -> str:
    """A workload's lines of the table."""
    lines = []
    first = (result["name"], result["network"], f"{result['batch_size']}")
    for name, figures in result["results"].items():
        rate, gflops, speedup = (figures[key] for key in ("samples_per_second", "gflops", "speedup"))
        lines.append(_COLUMNS.format(*first, name, f"{rate:,.0f}", f"{gflops:.2f}", f"{speedup:.2f}x"))
        first = ("", "", "")
    return "\n".join(lines)
