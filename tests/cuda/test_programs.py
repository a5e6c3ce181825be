"""What a training step costs the CUDA backend in launches, transfers and memory, counted by the twin."""

from __future__ import annotations

import numpy as np
import pytest

from nnfast.backends import Source
from nnfast.backends.cuda import CudaBackend
from nnfast.backends.cuda.program import CudaProgram
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam
from nnfast.networks.network import Dense, Dropout, Network
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from tests.cuda import gxx
from tests.cuda.twin import Counters, Twin, make_twin

pytestmark = pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))

NETWORK = Network(6, [Dense(9, "relu"), Dropout(0.5), Dense(7, "tanh"), Dense(3, "softmax")])
ROWS = 23


def make_program(**options: float) -> tuple[Twin, CudaProgram]:
    """A program on a twin of its own, bound to rows of data."""
    xp = make_twin()
    recipe = Recipe(LOSSES["cross_entropy"], adam(), np.dtype("float32"), **options)  # type: ignore[arg-type]
    plan = make_plan(NETWORK, 8)
    program = CudaBackend(path="wide", xp=xp).compile(plan, recipe)
    program.parameters = plan.initial_parameters(0)
    random = np.random.default_rng(0)
    program.bind(Source(random.normal(size=(ROWS, 6)).astype("float32"), random.integers(0, 3, ROWS)))
    return xp, program


def run(program: CudaProgram, epochs: int, before: int = 0) -> None:
    """Epochs of three steps each, the last of seven rows, after other steps."""
    bounds = np.append((np.arange(epochs)[:, np.newaxis] * ROWS + [0, 8, 16]).reshape(-1), epochs * ROWS)
    program.run(np.arange(epochs * ROWS) % ROWS, bounds, np.full(3 * epochs, 0.01), first_step=3 * before)


def counted(xp: Twin, program: CudaProgram, epochs: int) -> Counters:
    """What one call costs, after an equal one."""
    run(program, epochs)
    xp.counters.reset()
    run(program, epochs)
    return xp.counters


@pytest.mark.parametrize("options", [{}, {"alpha": 0.1, "clip_norm": 0.5}])
def test_a_stretch_is_sent_over_once_read_back_once_and_allocates_nothing(options: dict[str, float]) -> None:
    for epochs in (1, 5):
        counters = counted(*make_program(**options), epochs)
        assert (counters.host_to_device, counters.device_to_host, counters.allocations) == (2, 1, 0)


def test_a_wide_step_launches_what_it_is_made_of() -> None:
    # gather, 2 hidden activations, dropout, loss, 3 deltas, update; 8 products and the way back through dropout
    counters = counted(*make_program(), 1)
    assert (counters.kernel_launches, counters.array_operations) == (3 * 9, 3 * 9)
    # one more launch looks at the whole gradient
    assert counted(*make_program(clip_norm=1.0), 1).kernel_launches == 3 * 10


def test_however_a_run_is_cut_into_stretches_its_result_is_the_same_bit_for_bit() -> None:
    results = []
    for stretches in ([4], [1, 3], [1, 1, 2]):
        _, program = make_program()
        for index, epochs in enumerate(stretches):
            run(program, epochs, sum(stretches[:index]))
        results.append(program.parameters)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_programs_that_read_one_source_have_it_sent_once() -> None:
    xp, first = make_program()
    source = first._source
    assert source is not None
    second = first._backend.compile(first.plan, first.recipe)
    xp.counters.reset()
    second.bind(source)
    assert xp.counters.host_to_device == 0
    other = Source(source.inputs, source.targets)
    second.bind(other)
    assert xp.counters.host_to_device > 0


def test_rows_leave_the_device_with_their_source() -> None:
    _, program = make_program()
    assert len(program._backend._rows) == 1
    random = np.random.default_rng(1)
    program.evaluate(Source(random.normal(size=(ROWS, 6)).astype("float32"), random.integers(0, 3, ROWS)))
    assert len(program._backend._rows) == 1
