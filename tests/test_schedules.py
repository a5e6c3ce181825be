"""Learning-rate schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnfast.formulas.schedules import (
    SCHEDULES,
    CosineDecay,
    InverseScaling,
    Plateau,
    ReduceOnPlateau,
    Span,
    StepDecay,
    get_schedule,
)
from tests.tables import reference

SPAN = Span(steps_per_epoch=10, total_steps=100)
STEPS = np.arange(100)


# The factor of a step, of ten an epoch and a hundred in all, with the options that the schedule has by itself. What a
# plateau does depends on losses, and has a test of its own.
TEXTBOOK = {
    "constant": lambda step: 1,
    "step": lambda step: 0.5 ** (step // 100),
    "exponential": lambda step: 0.95 ** (step / 10),
    "inverse_scaling": lambda step: 1 / math.sqrt(step + 1),
    "cosine": lambda step: (1 + math.cos(math.pi * step / 100)) / 2,
    "plateau": lambda step: 1,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_the_textbook_s_wherever_a_stretch_begins(name: str) -> None:
    textbook = reference(TEXTBOOK, name, "TEXTBOOK in tests/test_schedules.py")
    schedule = get_schedule(name)
    whole = schedule.factors(STEPS, SPAN)
    np.testing.assert_allclose(whole, [textbook(step) for step in STEPS], rtol=1e-12)
    assert whole.shape == (100,)
    assert whole.dtype == np.float64
    assert (whole > -1e-15).all()
    assert (whole <= 1).all()
    np.testing.assert_array_equal(schedule.factors(STEPS[37:64], SPAN), whole[37:64])


def test_step_decay_steps_at_epochs() -> None:
    factors = StepDecay(every=3, factor=0.5).factors(STEPS, SPAN)
    assert factors[29] == 1
    assert factors[30] == 0.5
    assert factors[99] == 0.125


def test_exponential_decay_multiplies_by_its_factor_every_epoch() -> None:
    factors = get_schedule("exponential", factor=0.9).factors(STEPS, SPAN)
    np.testing.assert_allclose(factors[10:] / factors[:-10], 0.9, rtol=1e-12)


def test_inverse_scaling_divides_by_a_power_of_the_step() -> None:
    assert InverseScaling(0.5).factors(STEPS, SPAN)[3] == pytest.approx(0.5)


def test_cosine_warms_up_and_ends_at_its_final_factor() -> None:
    factors = CosineDecay(warmup=1, final=0.1).factors(np.arange(101), SPAN)
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert factors[100] == pytest.approx(0.1)
    assert (np.diff(factors[10:]) < 0).all()


def test_a_plateau_lowers_the_rate_after_patience_and_never_below_the_minimum() -> None:
    schedule, plateau = ReduceOnPlateau(factor=0.1, patience=2, tolerance=0.01, minimum=0.01), Plateau()
    seen = []
    for loss in (1.0, 0.995, 0.9, 0.9, 0.899, 0.9, 0.9, 0.9, 0.9):
        schedule.observe(plateau, loss)
        seen.append(plateau.factor)
    assert seen == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_unknown_schedules_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'cosin'; known: constant, step"):
        get_schedule("cosin")
    with pytest.raises(ValueError, match="schedule 'step' has no option 'gamma'; it has: every, factor"):
        get_schedule("step", gamma=0.1)
    with pytest.raises(ValueError, match="factor must lie between 0 and 1, got 2"):
        get_schedule("exponential", factor=2)
    with pytest.raises(ValueError, match="every must be a positive integer, got 0"):
        get_schedule("step", every=0)
