"""Epoch throughput: every backend on every workload, held to the reference's results before it is timed.

Backends stand side by side in each workload's table. A round is the workload's epochs, from the initial weights.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from nnfast.backends import Source
from nnfast.benchmarking.bench import TOLERANCES, VERIFIED_STEPS, Reference, Runner, verify
from nnfast.benchmarking.workloads import WORKLOADS, get_workload

ROUNDS = 5


@cache
def source_of(name: str) -> Source:
    return get_workload(name).source()


@cache
def reference_of(name: str) -> Reference:
    return Reference(get_workload(name), source_of(name))


@pytest.mark.parametrize("name", WORKLOADS)
def test_epoch(name: str, backend: str, benchmark: Any, machine: dict[str, Any]) -> None:
    workload = get_workload(name)
    benchmark.group = f"{name}: {workload.sizes}, batch {workload.batch_size}, {workload.epochs} epochs a round"
    runner = Runner(workload, backend, source_of(name))
    differences = verify(runner, reference_of(name))
    if benchmark.disabled:
        runner.prepare(VERIFIED_STEPS)

    losses = benchmark.pedantic(runner.run, setup=runner.reset, rounds=ROUNDS, warmup_rounds=1)

    assert len(losses) == runner.steps
    benchmark.extra_info |= {
        "backend": runner.backend.name,
        "runs_on": runner.backend.description,
        "epochs": workload.epochs,
        "differences": differences,
        "tolerances": TOLERANCES[workload.dtype],
        **machine,
    }
    if benchmark.stats:
        seconds = benchmark.stats.stats.median / runner.rows
        benchmark.extra_info["samples_per_second"] = 1 / seconds
        benchmark.extra_info["gflops"] = workload.flops_per_row() / seconds / 1e9
