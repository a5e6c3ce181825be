"""The table of activation functions: a = f(z) and its derivative, as formulas for every backend.

To add one, add a row. A derivative may use z (the pre-activation) and a (the activation): where it uses only a, no
backend keeps z. At a kink it states the left derivative. Formulas are written so that no intermediate overflows and
no digits cancel: `exp` only ever sees a negative number here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..support.checks import shown
from .derivatives import check_derivative
from .formula import FormulaError, NamedConstants, check, check_constants
from .intervals import SIMPLEX, check_interval

CHECK_POINTS = np.concatenate([[0.0, 1e-4, -1e-4], np.linspace(-20, 20, 83), [-60.0, 60.0]])


ACTIVATIONS: dict[str, Activation] = {}  # filled at the end, from _ROWS
ALIASES = {"swish": "silu", "logistic": "sigmoid", "linear": "identity"}


@dataclass(frozen=True)
class Activation(NamedConstants):
    """An elementwise activation made of formulas, a row of ACTIVATIONS or a user's own.

    value: formula of z. derivative: formula of z, a. constants: named numbers the formulas may use; changing one
    recompiles nothing. range: the interval the values lie in, as mathematics writes it, which decides the losses it
    may stand under. output_only: refused in hidden layers.

    Raises FormulaError (a ValueError) for a formula outside the grammar, for the name of a row of the table that has
    other formulas (other constants may keep it), or, with the point, for a derivative that is not the value's.
    """

    name: str
    value: str
    derivative: str
    constants: tuple[tuple[str, float], ...] | Mapping[str, float] = ()
    range: str = "(-inf, inf)"
    output_only: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"an activation's name must be text, got {self.name!r}")
        object.__setattr__(self, "constants", check_constants(self.constants))
        check_interval(self.range)
        if row := ACTIVATIONS.get(ALIASES.get(self.name, self.name)):
            self._check_name(row)
        if self.is_row_operation and not (self.output_only and self.range == SIMPLEX):
            raise FormulaError(f"activation {self.name!r}: softmax stands in the last layer only")
        if self.is_row_operation or not ACTIVATIONS:
            return  # softmax has no formula; the table's own rows are checked by the tests, not at every import
        check(self.value, ("z", *self.constant_names))
        check(self.derivative, ("z", "a", *self.constant_names))

        def value(z: Any) -> Any:
            return np.broadcast_to(self.function(z), z.shape)

        check_derivative(
            value, lambda z: self.derivative_function(z, value(z)), CHECK_POINTS, f"activation {self.name!r}", "z"
        )

    @property
    def is_row_operation(self) -> bool:
        """Softmax: its outputs depend on the whole row, so every backend writes it out itself."""
        return self.value == "softmax(z)"

    @functools.cached_property
    def derivative_uses_z(self) -> bool:
        return not self.is_row_operation and "z" in check(self.derivative, ("z", "a", *self.constant_names))

    def function(self, z: Any) -> Any:
        """f(z) in NumPy, elementwise; for softmax, over the last axis."""
        if self.is_row_operation:
            exponentials = np.exp(z - z.max(axis=-1, keepdims=True))  # the largest exponent is 0: no overflow
            return exponentials / exponentials.sum(axis=-1, keepdims=True)
        return self._evaluate(self.value, ("z",), z)

    def derivative_function(self, z: Any, a: Any) -> Any:
        """f'(z) in NumPy, elementwise. z may be None where derivative_uses_z is False."""
        return self._evaluate(self.derivative, ("a", "z"), a, z)

    def backward(self, z: Any, a: Any, gradient: Any) -> Any:
        """dLoss/dz from gradient = dLoss/da: the chain rule, in NumPy."""
        if self.is_row_operation:
            # da_k/dz_j = a_k (delta_kj - a_j), so dL/dz_j = a_j (g_j - sum_k g_k a_k)
            return a * (gradient - (gradient * a).sum(axis=-1, keepdims=True))
        return gradient * self.derivative_function(z, a)

    def __repr__(self) -> str:
        return repr(self.name) if ACTIVATIONS.get(self.name) == self else self._full_repr()

    def _full_repr(self) -> str:
        return f"Activation({self.name!r}, value={self.value!r}, derivative={self.derivative!r})"


# sigmoid(x) = 1 / (1 + exp(-x)), written with exp(-|x|) so that it neither overflows nor loses digits at x << 0.
def _sigmoid(x: str) -> str:
    return f"where({x} >= 0, 1, exp(-abs({x}))) / (1 + exp(-abs({x})))"


_SIGMOID = f"({_sigmoid('z')})"

# GELU, tanh form (Hendrycks & Gimpel 2016): z/2 (1 + tanh u), u = sqrt(2/pi) (z + 0.044715 z^3). Since
# (1 + tanh u) / 2 = sigmoid(2u), it is z sigmoid(2u), which keeps its digits where tanh u is near -1.
_GELU_GATE = f"({_sigmoid('(scale * (z + cubic * z**3))')})"

# Mish (Misra 2019): z tanh(softplus(z)). With w = exp(-|z|), tanh(log(1 + exp(z))) is a ratio of polynomials in w:
# (1 + 2w) / (1 + 2w + 2w^2) for z >= 0 and w(w + 2) / (w(w + 2) + 2) for z < 0.
_W = "exp(-abs(z))"
_MISH_TOP = f"where(z >= 0, 1 + 2 * {_W}, {_W} * ({_W} + 2))"
_MISH_GATE = f"({_MISH_TOP} / ({_MISH_TOP} + where(z >= 0, 2 * {_W}**2, 2)))"

# lambda and lambda * alpha, which make mean 0 and variance 1 a fixed point (Klambauer et al. 2017)
_SELU = {"scale": 1.0507009873554804934193349852946, "floor": 1.7580993408473768599402175208123}

_ROWS = (
    Activation("identity", value="z", derivative="1"),
    Activation("sigmoid", value=_sigmoid("z"), derivative="a * (1 - a)", range="(0, 1)"),
    Activation("tanh", value="tanh(z)", derivative="(1 - a) * (1 + a)", range="(-1, 1)"),
    Activation("relu", value="max(z, 0)", derivative="where(a > 0, 1, 0)", range="[0, inf)"),
    Activation(
        "leaky_relu",
        value="where(z > 0, z, slope * z)",
        derivative="where(a > 0, 1, slope)",
        constants={"slope": 0.01},
    ),
    # Clevert et al. 2016
    Activation(
        "elu",
        value="where(z > 0, z, alpha * expm1(min(z, 0)))",
        derivative="where(a > 0, 1, a + alpha)",
        constants={"alpha": 1.0},
        range="(-1, inf)",
    ),
    Activation(
        "selu",
        value="where(z > 0, scale * z, floor * expm1(min(z, 0)))",
        derivative="where(a > 0, scale, a + floor)",
        constants=_SELU,
        range="(-1.7581, inf)",
    ),
    # derivative: sigmoid(z) = 1 - exp(-softplus(z))
    Activation("softplus", value="max(z, 0) + log1p(exp(-abs(z)))", derivative="-expm1(-a)", range="(0, inf)"),
    # z s(z) with s = sigmoid; derivative s + z s (1 - s) = s + a (1 - s)
    Activation(
        "silu",
        value=f"z * {_SIGMOID}",
        derivative=f"{_SIGMOID} + a * (1 - {_SIGMOID})",
        range="[-0.27847, inf)",
    ),
    # a = z s(2u): derivative s + z s (1 - s) 2 du/dz
    Activation(
        "gelu",
        value=f"z * {_GELU_GATE.replace('scale', 'twice')}",
        derivative=f"{_GELU_GATE.replace('scale', 'twice')} + a * (1 - {_GELU_GATE.replace('scale', 'twice')})"
        " * twice * (1 + 3 * cubic * z**2)",
        constants={"twice": 2 * (2 / np.pi) ** 0.5, "cubic": 0.044715},
        range="[-0.17005, inf)",
    ),
    # a = z t, t = tanh(softplus z): derivative t + z (1 - t^2) s
    Activation(
        "mish",
        value=f"z * {_MISH_GATE}",
        derivative=f"{_MISH_GATE} + z * (1 - {_MISH_GATE}) * (1 + {_MISH_GATE}) * {_SIGMOID}",
        range="[-0.30885, inf)",
    ),
    Activation(
        "hard_sigmoid",
        value="max(min(z / 6 + 0.5, 1), 0)",
        derivative="where(z > -3, where(z <= 3, 1 / 6, 0), 0)",
        range="[0, 1]",
    ),
    # Howard et al. 2019
    Activation(
        "hard_swish",
        value="z * max(min(z / 6 + 0.5, 1), 0)",
        derivative="where(z > -3, where(z <= 3, z / 3 + 0.5, 1), 0)",
        range="[-0.375, inf)",
    ),
    # Rates of counts. Held at exp(80), which float32 can still square the root of: a rate of 5e34 is a diverged run.
    Activation(
        "exp",
        value="exp(min(z, 80))",
        derivative="where(z > 80, 0, a)",
        range="(0, inf)",
        output_only=True,
    ),
    # exp(z_j) / sum_k exp(z_k): a row operation, see Activation.function and backward.
    Activation("softmax", value="softmax(z)", derivative="a * (1 - a)", range="simplex", output_only=True),
)

ACTIVATIONS.update({row.name: row for row in _ROWS})


def get_activation(activation: str | Activation) -> Activation:
    """The row of that name, or the user's own Activation unchanged. Raises ValueError for an unknown name."""
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"activation must be a name or an Activation, got {shown(activation)}")
    name = ALIASES.get(activation, activation)
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; known: {', '.join([*ACTIVATIONS, *ALIASES])}")
    return ACTIVATIONS[name]
