"""The table of losses: the loss of one output a against its target y, and its derivative, as formulas.

A loss is summed over a row's outputs; over a batch it is the average weighted by the rows' sample weights, or, with
reduction "sum", the plain weighted sum. It stands on every output activation whose range lies in its domain. Where
loss and activation are canonical partners (CANONICAL_PAIRS), loss and dLoss/dz are computed straight from z: the
derivative of the activation cancels, and nothing is divided by a vanishing number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..support.checks import check_number, shown
from .activations import ACTIVATIONS, Activation
from .choices import check_options, parse_choice
from .derivatives import check_derivative
from .formula import NamedConstants, check, check_constants
from .intervals import SIMPLEX, check_interval, contains, lies_within, parse_interval

REDUCTIONS = ("mean", "sum")


LOSSES: dict[str, Loss] = {}  # filled at the end, from _ROWS


@dataclass(frozen=True)
class Loss(NamedConstants):
    """A loss made of formulas of a (the output) and y (the target), a row of LOSSES or a user's own.

    value, derivative: formulas of a, y and the constants; the derivative is dvalue/da. domain: the interval of
    outputs it is defined for ("simplex": rows that sum to one). targets: the interval of targets. reduction: how
    rows are put together, "mean" or "sum". reported: a formula of a and y to give out as the loss where a canonical
    pair minimises value: other libraries scale or clip the number they show, but not the gradient. reported_within: the
    same for softmax with cross_entropy, the least and the largest -log a to give out.

    Raises FormulaError (a ValueError) for a formula outside the grammar, for the name of a row of the table that has
    other formulas (other constants may keep it), or, with the point, for a derivative that is not the value's.
    """

    name: str
    value: str
    derivative: str
    constants: tuple[tuple[str, float], ...] | Mapping[str, float] = ()
    domain: str = "(-inf, inf)"
    targets: str = "(-inf, inf)"
    reduction: str = "mean"
    reported: str | None = field(default=None, compare=False)
    reported_within: tuple[float, float] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", check_constants(self.constants))
        check_interval(self.domain)
        check_interval(self.targets)
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}")
        if row := LOSSES.get(self.name):
            self._check_name(row)
        if not LOSSES:
            return  # the table's own rows are checked by the tests, not at every import
        names = ("a", "y", *self.constant_names)
        check(self.value, names)
        check(self.derivative, names)
        if self.reported is not None:
            check(self.reported, ("a", "y"))
        for target in _points(self.targets, 7):

            def value(a: Any, y: Any = target) -> Any:
                return np.broadcast_to(self.function(a, np.full_like(a, y)), a.shape)

            def derivative(a: Any, y: Any = target) -> Any:
                return self.derivative_function(a, np.full_like(a, y))

            what = f"loss {self.name!r} at y = {target:.6g}"
            check_derivative(value, derivative, _points(self.domain, 25), what, "a")

    def function(self, a: Any, y: Any) -> Any:
        """The loss of every output, in NumPy. Shape of a."""
        return self._evaluate(self.value, ("a", "y"), a, y)

    def derivative_function(self, a: Any, y: Any) -> Any:
        """dLoss/da of every output, in NumPy. Shape of a."""
        return self._evaluate(self.derivative, ("a", "y"), a, y)

    def __repr__(self) -> str:
        return repr(self.name) if LOSSES.get(self.name) == self else self._full_repr()

    def _full_repr(self) -> str:
        return f"Loss({self.name!r}, value={self.value!r}, derivative={self.derivative!r})"


def _points(interval: str, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Points inside an interval, well away from its ends, to check a derivative at."""
    low, high, *_ = parse_interval("(0, 1)" if interval == SIMPLEX else interval)
    if np.isinf(low) and np.isinf(high):
        return np.linspace(-9.7, 9.9, count)
    if np.isinf(high):
        return low + np.linspace(0.13, 9.9, count)
    if np.isinf(low):
        return high - np.linspace(0.13, 9.9, count)
    return low + (high - low) * np.linspace(0.011, 0.983, count)


# A probability or rate that rounded to 0 counts as this: the loss stays finite, the gradient still points away.
_TINY = "1e-30"

_ROWS = (
    # Half the squared error, so that its derivative is a - y (scikit-learn's convention as well).
    Loss("squared_error", value="0.5 * (a - y)**2", derivative="a - y"),
    # The tutorial's: the plain sum over outputs and rows.
    Loss("sum_squared_error", value="(a - y)**2", derivative="2 * (a - y)", reduction="sum"),
    Loss("absolute_error", value="abs(a - y)", derivative="where(a > y, 1, where(a < y, -1, 0))"),
    # Huber 1964: quadratic up to delta, linear beyond.
    Loss(
        "huber",
        value="where(abs(a - y) <= delta, 0.5 * (a - y)**2, delta * (abs(a - y) - 0.5 * delta))",
        derivative="max(min(a - y, delta), -delta)",
        constants={"delta": 1.0},
    ),
    # log cosh r. Near 0 from cosh r - 1 = expm1(|r|)^2 exp(-|r|) / 2; elsewhere |r| + log1p(exp(-2 |r|)) - log 2.
    Loss(
        "log_cosh",
        value="where(abs(a - y) < 1,"
        " log1p(0.5 * expm1(min(abs(a - y), 1))**2 * exp(-min(abs(a - y), 1))),"
        " abs(a - y) + log1p(exp(-2 * abs(a - y))) - 0.6931471805599453)",
        derivative="tanh(a - y)",
    ),
    # Half the Poisson deviance: a - y + y log(y / a), zero where a = y.
    Loss(
        "poisson",
        value=f"a - y + where(y > 0, y * (log(max(y, {_TINY})) - log(max(a, {_TINY}))), 0)",
        derivative=f"1 - y / max(a, {_TINY})",
        domain="(0, inf)",
        targets="[0, inf)",
    ),
    Loss(
        "binary_cross_entropy",
        value=f"-(y * log(max(a, {_TINY})) + (1 - y) * log(max(1 - a, {_TINY})))",
        derivative=f"(a - y) / max(a * (1 - a), {_TINY})",
        domain="[0, 1]",
        targets="[0, 1]",
    ),
    Loss(
        "cross_entropy",
        value=f"-y * log(max(a, {_TINY}))",
        derivative=f"-y / max(a, {_TINY})",
        domain=SIMPLEX,
        targets=SIMPLEX,
    ),
)

LOSSES.update({row.name: row for row in _ROWS})


def given_slopes() -> Loss:
    """A loss whose derivative by an output is that output's target: the targets hand in dLoss/doutputs."""
    return Loss("given_slopes", value="y * a", derivative="y", reduction="sum")


@dataclass(frozen=True)
class CanonicalPair:
    """Loss and dLoss/dz of an output activation and its natural loss, as formulas of z, a and y."""

    value: str
    delta: str


# In each, dLoss/da * da/dz comes to a - y: the reason these pairs are called canonical.
CANONICAL_PAIRS: dict[tuple[str, str], CanonicalPair] = {
    ("identity", "squared_error"): CanonicalPair(value="0.5 * (z - y)**2", delta="z - y"),
    # -y log s(z) - (1 - y) log(1 - s(z)) = log(1 + exp(z)) - y z
    ("sigmoid", "binary_cross_entropy"): CanonicalPair(value="max(z, 0) - y * z + log1p(exp(-abs(z)))", delta="a - y"),
    # log a = z
    ("exp", "poisson"): CanonicalPair(value=f"a - y + where(y > 0, y * (log(max(y, {_TINY})) - z), 0)", delta="a - y"),
}


def is_softmax_cross_entropy(activation: Activation, loss: Loss) -> bool:
    """The canonical pair that is a row operation, written out by every backend.

    -sum_k y_k log a_k = sum_k y_k (log sum_j exp(z_j) - z_k), and dLoss/dz = a - y since the y sum to one.
    """
    return activation == ACTIVATIONS["softmax"] and loss == LOSSES["cross_entropy"]


def canonical_pair(activation: Activation, loss: Loss) -> CanonicalPair | None:
    """The pair's fused formulas, if these two are the tables' own rows and canonical partners."""
    is_own = ACTIVATIONS.get(activation.name) == activation and LOSSES.get(loss.name) == loss
    pair = CANONICAL_PAIRS.get((activation.name, loss.name)) if is_own else None
    return CanonicalPair(loss.reported, pair.delta) if pair and loss.reported else pair


def get_loss(loss: str | Loss) -> Loss:
    """The row of a name, with other constants if the text has some, or the user's own Loss unchanged.

    Parameters
    ----------
    loss : str or Loss
        A name of LOSSES, also with values for its constants, which must be above 0: "huber:delta=2".

    Raises
    ------
    TypeError or ValueError for an unknown name or constant, and for a value out of its range.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss must be a name or a Loss, got {shown(loss)}")
    name, options = parse_choice(loss, "loss")
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    row = LOSSES[name]
    check_options(f"loss {name!r}", options, row.constant_names)
    chosen = {key: check_number(value, f"{key} of loss {name!r}", 0, above=True) for key, value in options.items()}
    return replace(row, constants=dict(row.constants) | chosen) if chosen else row


def check_pair(activation: Activation, loss: Loss) -> None:
    """Raise ValueError, naming both, unless the outputs' range lies in the loss's domain."""
    if not lies_within(activation.range, loss.domain):
        fitting = [row.name for row in ACTIVATIONS.values() if lies_within(row.range, loss.domain)]
        raise ValueError(
            f"loss {loss.name!r} needs outputs in {loss.domain}, but activation {activation.name!r} gives outputs in "
            f"{activation.range}; use one of {', '.join(fitting)}"
        )


def check_target_values(loss: Loss, targets: np.ndarray[Any, Any]) -> None:
    """Raise ValueError, with row and output, unless every target (n_rows, n_outputs) is one the loss accepts."""
    wrong = ~contains(loss.targets, targets)
    if loss.targets == SIMPLEX and not wrong.any():
        wrong = abs(targets.sum(axis=1, keepdims=True) - 1) > 1e-3
    if wrong.any():
        row, output = np.argwhere(wrong)[0]
        needs = "rows of probabilities that sum to 1" if loss.targets == SIMPLEX else f"targets in {loss.targets}"
        raise ValueError(f"loss {loss.name!r} needs {needs}; row {row}, output {output} is {targets[row, output]:.6g}")
