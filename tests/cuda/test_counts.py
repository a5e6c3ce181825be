"""What a step and an epoch ask of a GPU, for the networks of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnfast.benchmarking.workloads import get_workload
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import sgd
from nnfast.networks.network import Dense, Network
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from tests.cuda.counts import WORKLOADS, Work, count_epoch, markdown, work_of_step

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cuda.md"


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("path", ["narrow", "wide"])
def test_a_step_launches_so_much_and_an_epoch_waits_once(name: str, path: str) -> None:
    if path == "narrow" and name in ("mnist512", "lenet5"):
        pytest.skip("it has layers of 512 units, or images")
    workload = get_workload(name)
    # gather, loss, update; a product and an activation forward, a derivative and two products back, for each layer, but
    # no activation for the last and no way back from the first
    launches = 2 if path == "narrow" else 3 + 5 * len(workload.plan().dense_operations) - 2
    if name == "lenet5":  # and from its first dense layer there is one
        convolution, pool = 1 + 3, 2  # each forward and back; a weight gradient is a sum of sums
        launches += 1 + 2 * (convolution + pool) + 1  # the second convolution's input gradient
    epoch = count_epoch(workload, path)
    assert (epoch.path, epoch.launches_per_step) == (path, launches)
    counters = epoch.counters
    assert (counters.host_to_device, counters.device_to_host, counters.synchronizations) == (2, 1, 1)
    assert counters.allocations == 0
    assert counters.bytes_to_host == 8 * epoch.steps  # the losses
    # the order, and for each step its place in it, its number and its values
    assert counters.bytes_to_device == 8 * (workload.rows + 3 + 3 * epoch.steps + 8 * epoch.steps)


def test_the_work_of_a_step_by_formula_is_that_by_hand() -> None:
    network = Network(4, [Dense(3, "relu"), Dense(2, "softmax")])
    recipe = Recipe(LOSSES["cross_entropy"], sgd(), np.dtype("float32"))
    work = work_of_step(make_plan(network, 10), recipe, 10, "wide")
    assert work.flops == 10 * (4 * 12 + 6 * 6)
    parameters = 12 + 3 + 6 + 2
    gather, products = 2 * 40, (40 + 12 + 30) * 2 + (30 + 6 + 20) * 3
    elementwise = 2 * 30 + 3 * 30 + 3 * 20 + 2 * 20
    assert work.bytes == 4 * (3 * parameters + gather + products + elementwise)
    narrow = work_of_step(make_plan(network, 10), recipe, 10, "narrow")
    # ten blocks read both layers' weights, and the second's again on the way back; one tile a layer
    assert narrow.bytes == 4 * (2 * parameters + 40 + 10 * (12 + 2 * 6) + 2 * (40 + 30) + 2 * (30 + 20))


def test_the_prediction_adds_launches_to_the_slower_of_arithmetic_and_memory() -> None:
    assert Work(67e6, 3.35e5).seconds(3) == pytest.approx(6e-6 + 1e-6)
    assert Work(67e5, 3.35e7).seconds(2) == pytest.approx(4e-6 + 10e-6)


def test_the_document_has_the_numbers_that_are_counted() -> None:
    assert markdown() in DOCUMENT.read_text()
