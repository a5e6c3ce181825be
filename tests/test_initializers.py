"""The table of initializers: the distributions their papers state."""

from __future__ import annotations

import numpy as np
import pytest

from nnfast.networks.initializers import INITIALIZERS
from tests.tables import reference

FAN_IN, FAN_OUT = 400, 600
DEVIATIONS = {
    "zeros": 0.0,
    "uniform": 0.05 / 3**0.5,
    "uniform_0_1": 1 / 12**0.5,
    "normal": 0.05,
    "glorot_uniform": (2 / (FAN_IN + FAN_OUT)) ** 0.5,
    "glorot_normal": (2 / (FAN_IN + FAN_OUT)) ** 0.5,
    "he_uniform": (2 / FAN_IN) ** 0.5,
    "he_normal": (2 / FAN_IN) ** 0.5,
    "lecun_uniform": (1 / FAN_IN) ** 0.5,
    "lecun_normal": (1 / FAN_IN) ** 0.5,
    "orthogonal": (1 / FAN_OUT) ** 0.5,
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_weights_have_the_stated_spread(name: str) -> None:
    deviation = reference(DEVIATIONS, name, "DEVIATIONS in tests/test_initializers.py")
    weights = INITIALIZERS[name](np.random.default_rng(0), FAN_IN, FAN_OUT, FAN_OUT)
    assert weights.shape == (FAN_IN, FAN_OUT)
    assert weights.std() == pytest.approx(deviation, rel=0.01)
    middle = 0.5 if name == "uniform_0_1" else 0.0
    assert weights.mean() == pytest.approx(middle, abs=4 * deviation / 490)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(5, 9), (9, 5), (4, 4), (1, 3)])
def test_orthogonal_weights_are_orthonormal_along_the_shorter_side(fan_in: int, fan_out: int) -> None:
    weights = INITIALIZERS["orthogonal"](np.random.default_rng(0), fan_in, fan_out, fan_out)
    product = weights @ weights.T if fan_in <= fan_out else weights.T @ weights
    np.testing.assert_allclose(product, np.eye(min(fan_in, fan_out)), atol=1e-12)


def test_the_tutorial_s_weights_lie_between_zero_and_one() -> None:
    weights = INITIALIZERS["uniform_0_1"](np.random.default_rng(0), 50, 50, 50)
    assert weights.min() >= 0
    assert weights.max() < 1


def test_what_an_input_reaches_decides_the_limit_and_not_the_columns() -> None:
    weights = INITIALIZERS["glorot_uniform"](np.random.default_rng(0), 27, 500, 27 * 500)
    assert weights.shape == (27, 500)
    assert abs(weights).max() == pytest.approx((6 / (27 + 27 * 500)) ** 0.5, rel=1e-3)
