"""The table of losses, and which output activations each stands on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.backends.numpy.program import delta_of_outputs, loss_of_outputs
from nnfast.formulas.activations import ACTIVATIONS, Activation
from nnfast.formulas.choices import format_choice
from nnfast.formulas.formula import FormulaError
from nnfast.formulas.losses import CANONICAL_PAIRS, LOSSES, Loss, check_pair, check_target_values, get_loss
from tests.tables import reference

TEXTBOOK = {
    "squared_error": lambda a, y: (a - y) ** 2 / 2,
    "sum_squared_error": lambda a, y: (y - a) ** 2,
    "absolute_error": lambda a, y: abs(y - a),
    "huber": lambda a, y: (a - y) ** 2 / 2 if abs(a - y) <= 1 else abs(a - y) - 0.5,
    "log_cosh": lambda a, y: math.log(math.cosh(a - y)),
    "poisson": lambda a, y: a - y * math.log(a) - (y - y * math.log(y) if y else 0),
    "binary_cross_entropy": lambda a, y: -y * math.log(a) - (1 - y) * math.log(1 - a),
    "cross_entropy": lambda a, y: -y * math.log(a),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_the_textbook_s(name: str) -> None:
    textbook = reference(TEXTBOOK, name, "TEXTBOOK in tests/test_losses.py")
    for a in (0.01, 0.3, 0.9):
        for y in (0.0, 0.2, 1.0):
            value = LOSSES[name].function(np.array([a]), np.array([y]))[0]
            assert value == pytest.approx(textbook(a, y), rel=1e-12, abs=1e-15)


def test_log_cosh_keeps_its_digits_near_zero_and_far_away() -> None:
    for dtype, tolerance in (("float64", 1e-14), ("float32", 1e-6)):
        r = np.array([1e-4, 1e-3, 0.999, 1.001, 20.0, 1000.0], dtype)
        with np.errstate(over="raise"):
            value = LOSSES["log_cosh"].function(r, np.zeros_like(r))
        # log cosh r = r^2/2 - r^4/12 + r^6/45 - ... for small r
        expected = [
            5e-9 - 1e-16 / 12,
            5e-7 - 1e-12 / 12 + 1e-18 / 45,
            *(math.log(math.cosh(x)) for x in r[2:5].astype(float)),
            1000 - math.log(2),
        ]
        np.testing.assert_allclose(value, expected, rtol=tolerance * 3)


@pytest.mark.parametrize("pair", CANONICAL_PAIRS, ids="-".join)
@pytest.mark.parametrize("z", [0.0, 1e-4, -3.0, 3.0])
def test_a_canonical_pair_is_the_chain_rule_in_short(pair: tuple[str, str], z: float) -> None:
    activation, loss = ACTIVATIONS[pair[0]], LOSSES[pair[1]]
    zs, ys = np.array([[z]]), np.array([[0.3]])
    a = activation.function(zs)
    np.testing.assert_allclose(loss_of_outputs(activation, loss, zs, a, ys), loss.function(a, ys)[0], rtol=1e-12)
    by_chain_rule = activation.backward(zs, a, loss.derivative_function(a, ys))
    np.testing.assert_allclose(delta_of_outputs(activation, loss, zs, a, ys), by_chain_rule, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_canonical_pairs_stay_exact_where_the_output_rounds_to_certainty(dtype: str) -> None:
    z, y = np.array([[60.0]], dtype), np.array([[0.0]], dtype)
    sigmoid, bce = ACTIVATIONS["sigmoid"], LOSSES["binary_cross_entropy"]
    assert loss_of_outputs(sigmoid, bce, z, sigmoid.function(z), y)[0] == 60
    z3, one_hot = np.array([[60.0, 0.0, -60.0]], dtype), np.array([[0.0, 0.0, 1.0]], dtype)
    softmax = ACTIVATIONS["softmax"]
    assert loss_of_outputs(softmax, LOSSES["cross_entropy"], z3, softmax.function(z3), one_hot)[0] == 120


def test_pairs_outside_the_domain_are_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"loss 'cross_entropy' needs outputs in simplex, but activation 'relu'.*softmax"
    ):
        check_pair(ACTIVATIONS["relu"], LOSSES["cross_entropy"])
    with pytest.raises(ValueError, match=r"loss 'poisson' needs outputs in \(0, inf\)"):
        check_pair(ACTIVATIONS["relu"], LOSSES["poisson"])
    with pytest.raises(ValueError, match="binary_cross_entropy"):
        check_pair(ACTIVATIONS["tanh"], LOSSES["binary_cross_entropy"])
    check_pair(ACTIVATIONS["hard_sigmoid"], LOSSES["binary_cross_entropy"])


def test_an_activation_of_the_same_name_is_not_taken_for_the_canonical_partner() -> None:
    other = Activation(
        "mine", value="0.5 + 0.25 * z / (1 + abs(z)) + 0 * z", derivative="0.25 / (1 + abs(z))**2", range="(0, 1)"
    )
    object.__setattr__(other, "name", "sigmoid")  # as one that was pickled before its name was refused
    z, y = np.array([[2.0]]), np.array([[1.0]])
    a = other.function(z)
    assert delta_of_outputs(other, LOSSES["binary_cross_entropy"], z, a, y) != a - y


def test_targets_outside_the_domain_are_refused_with_row_and_output() -> None:
    with pytest.raises(ValueError, match=r"'poisson' needs targets in \[0, inf\); row 1, output 0 is -1"):
        check_target_values(LOSSES["poisson"], np.array([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="rows of probabilities that sum to 1; row 0"):
        check_target_values(LOSSES["cross_entropy"], np.array([[0.5, 0.2]]))
    check_target_values(LOSSES["cross_entropy"], np.array([[0.5, 0.5]]))


def test_a_wrong_derivative_is_refused_with_the_point() -> None:
    with pytest.raises(FormulaError, match=r"loss 'bad' at y = \S+: at a = \S+ the derivative is given as"):
        Loss("bad", value="(a - y)**2", derivative="a - y")


def test_unknown_losses_and_reductions_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown loss 'mse'; known: squared_error"):
        get_loss("mse")
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, got 'none'"):
        Loss("mine", value="a - y", derivative="1", reduction="none")


@given(delta=st.floats(1e-3, 1e3))
def test_a_loss_s_constant_may_be_chosen_in_its_text(delta: float) -> None:
    chosen = get_loss(f"huber:delta={delta!r}")
    assert chosen == dataclasses.replace(LOSSES["huber"], constants={"delta": delta})
    assert get_loss(format_choice(chosen.name, dict(chosen.constants))) == chosen
    r = np.array([-3 * delta, -delta / 2, 0.0, delta / 2, 3 * delta])
    np.testing.assert_allclose(chosen.function(r, np.zeros(5)), delta**2 * np.array([2.5, 0.125, 0, 0.125, 2.5]))
    assert get_loss("huber") is LOSSES["huber"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("huber:delta=0", "delta of loss 'huber' must be a finite number above 0, got 0"),
        ("huber:delta=-1", "must be a finite number above 0, got -1"),
        ("huber:delta=inf", "must be a finite number above 0, got inf"),
        ("huber:delta=true", "delta of loss 'huber' must be a number, got True"),
        ("huber:epsilon=1", "loss 'huber' has no option 'epsilon'; it has: delta"),
        ("log_cosh:delta=1", "loss 'log_cosh' has no option 'delta'; it has: none"),
        ("huber:delta=1,delta=2", "with each option once"),
        ("hubert:delta=1", "unknown loss 'hubert'; known: squared_error"),
    ],
)
def test_a_loss_s_constant_out_of_its_range_is_refused(text: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        get_loss(text)


@pytest.mark.parametrize("name", LOSSES)
def test_a_name_of_the_table_stands_for_the_table_s_formulas_alone(name: str) -> None:
    with pytest.raises(FormulaError, match=rf"loss '{name}' differs from .* in .*value.*: give it a name of its own"):
        Loss(name, value="7 * (a - y)**2", derivative="14 * (a - y)")
    other = {"mean": "sum", "sum": "mean"}[LOSSES[name].reduction]
    with pytest.raises(FormulaError, match=r"differs from .* in reduction:"):
        dataclasses.replace(LOSSES[name], reduction=other)
    assert dataclasses.replace(LOSSES["huber"], constants={"delta": 2.0}) != LOSSES["huber"]


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_passes_the_check_that_users_own_must_pass(name: str) -> None:
    assert dataclasses.replace(LOSSES[name], name="mine").value == LOSSES[name].value
