"""What bounds a training step on one thread: the least time that this core allows, beside what a step takes.

OPENBLAS_NUM_THREADS=1 taskset -c 0 python benchmarks/step_bounds.py [--dtype float64] [--workload A,B]

The least time of the products is their multiply-adds at the rate of registers alone, without a load or a store. The
other passes (gather, biases and activations, derivatives, loss, sums of biases' gradients, update) are timed one by
one, with their arrays in the cache; each is held to NumPy's result first. A step is the engine's, verified as by
`nnfast bench`; a workload that fails is left out. What a step takes above both is loads and remainders of the products,
arrays that have left the cache, the transposition of the weights, and calls.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np
from image_kernel_rates import peak
from kernel_rates import Case, derivatives, gathers, losses, row_sums, seconds_of, updates, values

from nnfast.backends.environment import gather
from nnfast.benchmarking.bench import DifferentResultsError, Reference, Runner, verify
from nnfast.benchmarking.workloads import WORKLOADS, Workload, get_workload
from nnfast.formulas.optimizers import get_optimizer
from nnfast.networks.network import Dense

REPEATS = 9
SECONDS = 0.2  # one repeat takes about so long


def passes(workload: Workload) -> Iterator[Case]:
    """Everything in a step of dense layers but its products."""
    n, plan, dtype = workload.batch_size, workload.plan(), np.dtype(workload.dtype)
    yield gathers(workload.dtype, n, workload.inputs, dtype)
    yield gathers("int64" if workload.data == "classes" else workload.dtype, n, workload.outputs, dtype)
    for layer in workload.network().layers[:-1]:
        assert isinstance(layer, Dense)
        yield values(workload.activation, n, layer.units, dtype)
        yield derivatives(workload.activation, n, layer.units, dtype)
        yield row_sums(n, layer.units, dtype)
    yield losses(workload.output_activation, workload.loss, n, workload.outputs, dtype)
    yield row_sums(n, workload.outputs, dtype)
    yield updates(get_optimizer(workload.optimizer), plan.parameter_count, dtype)


def step_seconds(workload: Workload) -> float:
    """Median processor time of a step, once its results are those of the reference. Raises DifferentResultsError."""
    runner = Runner(workload, "numba", threads=1)
    verify(runner, Reference(workload))
    runner.prepare(20)
    per_step = runner.seconds() / runner.steps
    runner.prepare(max(1, int(SECONDS / per_step)))
    times = []
    for _ in range(REPEATS):
        runner.reset()
        start = time.process_time()
        runner.run()
        times.append((time.process_time() - start) / runner.steps)
    return statistics.median(times)


def main() -> int:
    """Print the table. Returns 0, or 1 where a workload failed its verification, with a line on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--workload", metavar="A,B", default=",".join(WORKLOADS), help="default: all")
    options = parser.parse_args()
    workloads = [dataclasses.replace(get_workload(name), dtype=options.dtype) for name in options.workload.split(",")]
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        sys.exit("one thread is measured: run OPENBLAS_NUM_THREADS=1 taskset -c 0 python benchmarks/step_bounds.py")
    facts = gather()
    packages = ", ".join(f"{name} {facts['packages'][name]}" for name in ("numpy", "numba"))
    print(f"{facts['cpu']} ({facts['backends']['numba']['description']}), {packages}, Python {facts['python']}\n")
    rate = peak(np.dtype(options.dtype))
    print(
        f"Multiply-adds in registers: {rate / 1e9:.1f} GFLOP/s in {options.dtype}. "
        "Microseconds a step; samples a second.\n"
    )
    print("| workload | MFLOP | products, least | other passes | least | a step | of it | least allows | reached |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    failures = 0
    for workload in workloads:
        try:
            step = step_seconds(workload)
        except DifferentResultsError as error:
            print(f"step_bounds: {error}", file=sys.stderr)
            failures += 1
            continue
        flops = workload.flops_per_row() * workload.batch_size
        products = flops / rate
        others = None if workload.named else sum(seconds_of(case) for case in passes(workload))
        least = products + (others or 0.0)
        cells = (
            workload.name, f"{flops / 1e6:.4g}", f"{1e6 * products:.3g}",
            "not measured" if others is None else f"{1e6 * others:.3g}", f"{1e6 * least:.3g}", f"{1e6 * step:.3g}",
            f"{least / step:.0%}", f"{workload.batch_size / least:,.0f}", f"{workload.batch_size / step:,.0f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
