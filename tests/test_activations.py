"""The table of activations: values and derivatives, walked row by row."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from nnfast.formulas.activations import ACTIVATIONS, ALIASES, Activation, get_activation
from nnfast.formulas.derivatives import one_sided_slopes
from nnfast.formulas.formula import FormulaError, numpy_function
from nnfast.formulas.intervals import contains
from tests.tables import reference
from tests.tolerances import FORMULA

POINTS = np.array([0, 1e-4, -1e-4, 0.5, -0.5, 3.7, -3.7, 20, -20, 1000, -1000], dtype=np.float64)
ELEMENTWISE = [name for name, row in ACTIVATIONS.items() if not row.is_row_operation]


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


def _softplus(z: float) -> float:
    return max(z, 0) + math.log1p(math.exp(-abs(z)))


# Every row written again, one number at a time, in the form in which its paper or textbook states it.
TEXTBOOK = {
    "identity": lambda z: z,
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "relu": lambda z: max(z, 0),
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "selu": lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * math.expm1(z)),
    "softplus": _softplus,
    "silu": lambda z: z * _sigmoid(z),
    "gelu": lambda z: z * _sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)),
    "mish": lambda z: z * math.tanh(_softplus(z)),
    "hard_sigmoid": lambda z: min(max(z + 3, 0), 6) / 6,
    "hard_swish": lambda z: z * min(max(z + 3, 0), 6) / 6,
    "exp": lambda z: math.exp(min(z, 80)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_are_the_textbook_s_to_the_last_digits_and_nothing_overflows(name: str, dtype: str) -> None:
    z = POINTS.astype(dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        values = ACTIVATIONS[name].function(z)
    textbook = reference(TEXTBOOK, name, "TEXTBOOK in tests/test_activations.py")
    expected = np.array([textbook(float(point)) for point in z])
    # Rounding an exponent z is an error in exp(z) |z| times as large.
    amplified = 1 + abs(z.astype(np.float64))
    assert values.dtype == dtype
    np.testing.assert_array_less(
        abs(values - expected), FORMULA[dtype] * amplified * abs(expected) + np.finfo(dtype).tiny
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_lose_no_digits_and_nothing_overflows(name: str, dtype: str) -> None:
    """As a function of the z and a it is given, against the same formula with twice the digits."""
    activation = ACTIVATIONS[name]
    z = POINTS.astype(dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        a = activation.function(z)
        derivative = np.broadcast_to(activation.derivative_function(z, a), z.shape)
    precise = np.longdouble if dtype == "float64" else np.float64
    constants = [precise(z.dtype.type(value)) for value in activation.constant_values]
    function = numpy_function(activation.derivative, ("a", "z", *activation.constant_names))
    expected = np.broadcast_to(function(a.astype(precise), z.astype(precise), *constants), z.shape)
    amplified = 1 + abs(z.astype(np.float64))
    bound = FORMULA[dtype] * amplified * abs(expected).astype(np.float64) + np.finfo(dtype).tiny
    np.testing.assert_array_less(abs(derivative - expected).astype(np.float64), bound)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_are_the_left_slope_of_the_value(name: str) -> None:
    activation = ACTIVATIONS[name]
    points = np.concatenate([np.linspace(-9, 9, 37), [-3.0, 0.0, 3.0, 1e-4, -1e-4]])
    left, _ = one_sided_slopes(activation.function, points)
    stated = activation.derivative_function(points, activation.function(points))
    np.testing.assert_allclose(np.broadcast_to(stated, points.shape), left, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_lie_in_the_stated_range(name: str) -> None:
    activation = ACTIVATIONS[name]
    low_and_high_included = activation.range.replace("(", "[").replace(")", "]")  # rounding reaches the ends
    values = activation.function(np.linspace(-30, 30, 6001))
    assert contains(low_and_high_included.replace("inf]", "inf)").replace("[-inf", "(-inf"), values).all()


def test_softmax_is_a_probability_however_large_the_inputs() -> None:
    softmax = ACTIVATIONS["softmax"]
    z = np.array([[1000.0, 0.0, -1000.0], [1e-4, 0, -1e-4], [-5000, -5000, -5000]])
    with np.errstate(over="raise", invalid="raise"):
        a = softmax.function(z)
    np.testing.assert_allclose(a.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(a[2], 1 / 3, rtol=1e-15)
    np.testing.assert_allclose(a, softmax.function(z + 7), rtol=1e-9, atol=1e-300)


def test_softmax_s_backward_is_its_jacobian() -> None:
    softmax = ACTIVATIONS["softmax"]
    random = np.random.default_rng(0)
    z, gradient = random.normal(size=(1, 5)), random.normal(size=(1, 5))

    def value(moved: NDArray[np.float64]) -> float:
        return float((softmax.function(moved) * gradient).sum())

    slopes = [(value(z + step) - value(z - step)) / 2e-6 for step in 1e-6 * np.eye(5)[:, np.newaxis]]
    np.testing.assert_allclose(softmax.backward(z, softmax.function(z), gradient)[0], slopes, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_only_what_the_derivative_names_is_kept(name: str) -> None:
    """Where the derivative does without z, it is computed without z: from None, which no number can be taken of."""
    activation = ACTIVATIONS[name]
    a = activation.function(POINTS)
    assert activation.derivative_uses_z == ("z" in re.findall(r"\w+", activation.derivative))
    if not activation.derivative_uses_z:
        activation.derivative_function(None, a)


def test_a_wrong_derivative_is_refused_with_the_point() -> None:
    with pytest.raises(
        FormulaError, match=r"activation 'bad': at z = \S+ the derivative is given as \S+, but .* is \S+"
    ):
        Activation("bad", value="tanh(z)", derivative="1 - a")
    with pytest.raises(FormulaError, match="at z = "):
        Activation(
            "bad", value="where(z > 5, z - 4, where(z > 0, z, 0))", derivative="where(z > 5, 2, where(z > 0, 1, 0))"
        )


def test_a_value_that_is_not_finite_is_refused_with_the_point() -> None:
    with pytest.raises(FormulaError, match=r"the value is not finite at z = "):
        Activation("bad", value="log(z)", derivative="1 / z")


def test_at_a_kink_any_slope_between_the_two_passes() -> None:
    for slope in ("0", "0.5", "1"):
        Activation("kink", value="max(z, 0)", derivative=f"where(z > 0, 1, where(z < 0, 0, {slope}))")
    with pytest.raises(FormulaError, match="at z = 0"):
        Activation("kink", value="max(z, 0)", derivative="where(z > 0, 1, where(z < 0, 0, 1.5))")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown activation 'rellu'; known: identity, sigmoid"):
        get_activation("rellu")
    assert get_activation("swish") is ACTIVATIONS["silu"]


@pytest.mark.parametrize("name", [*ACTIVATIONS, *ALIASES])
def test_a_name_of_the_table_stands_for_the_table_s_formulas_alone(name: str) -> None:
    with pytest.raises(
        FormulaError, match=rf"activation '{name}' differs from .* in .*value.*: give it a name of its own"
    ):
        Activation(name, value="2.5 * z", derivative="2.5")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_row_of_the_table_may_be_written_again_and_have_other_constants(name: str) -> None:
    row = ACTIVATIONS[name]
    assert dataclasses.replace(row) == row
    other = dataclasses.replace(row, constants={key: 1.125 * value for key, value in row.constants})
    assert (other == row) == (not row.constants)


def test_activations_are_values() -> None:
    def make() -> Activation:
        return Activation("mine", value="k * z", derivative="k", constants={"k": 2.0})

    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != ACTIVATIONS["identity"]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_row_passes_the_check_that_users_own_must_pass(name: str) -> None:
    assert dataclasses.replace(ACTIVATIONS[name], name="mine").value == ACTIVATIONS[name].value
