"""The table of optimizers: one elementwise pass over the flat parameter vector, as formulas for every backend.

p is a parameter, g its gradient, and every slot (m, v, ...) a vector like p that starts at zero. The updates are
applied in their order, each seeing the ones before it. Scalars depend on the step alone: the host computes them in
float64, from t (the step's number, from 1), learning_rate and the constants, and hands them to the backend, so that
changing a constant or the learning rate recompiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..support.checks import check_flag, check_number, shown
from .choices import check_options, parse_choice
from .formula import FormulaError, check, check_constants, check_name, numpy_function

Formulas = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Optimizer:
    """An optimizer made of formulas, a row of OPTIMIZERS or a user's own.

    updates: pairs of (slot name or "p", formula of p, g, the slots, the scalars, learning_rate and the constants).
    scalars: pairs of (name, formula of t, learning_rate and the constants), evaluated once a step in float64.
    learning_rate: the default one.

    Raises FormulaError (a ValueError) for a formula outside the grammar or updates that never change p.
    """

    name: str
    updates: Formulas | Mapping[str, str]
    constants: tuple[tuple[str, float], ...] | Mapping[str, float] = ()
    scalars: Formulas | Mapping[str, str] = ()
    learning_rate: float = 0.001

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", check_constants(self.constants))
        for field in ("updates", "scalars"):
            pairs = getattr(self, field)
            object.__setattr__(self, field, tuple(pairs.items() if isinstance(pairs, Mapping) else map(tuple, pairs)))
            if len(dict(getattr(self, field))) < len(getattr(self, field)):
                raise FormulaError(f"optimizer {self.name!r}: {field} name something twice")
        if "p" not in dict(self.updates):
            raise FormulaError(f"optimizer {self.name!r}: no update of p, so nothing would be learnt")
        taken = {"p", "g", "t", "learning_rate"}
        for name in (*self.slots, *dict(self.scalars), *dict(self.constants)):
            check_name(name, f"optimizer {self.name!r}: the name")
            if name in taken:
                raise FormulaError(f"optimizer {self.name!r}: the name {name!r} is used twice")
            taken.add(name)
        for text in dict(self.scalars).values():
            check(text, ("t", "learning_rate", *dict(self.constants)))
        for text in dict(self.updates).values():
            check(text, ("p", "g", *self.slots, *self.step_names))

    @property
    def slots(self) -> tuple[str, ...]:
        """The state vectors' names, in the order in which they are stored."""
        return tuple(name for name in dict(self.updates) if name != "p")

    @property
    def step_names(self) -> tuple[str, ...]:
        """The names of what step_values computes for a step."""
        return ("learning_rate", *dict(self.scalars), *dict(self.constants))

    def step_values(self, rates: NDArray[np.float64], first_step: int, dtype: Any = np.float64) -> NDArray[Any]:
        """Learning rate, scalars and constants of consecutive steps, numbered from first_step = 0.

        rates: (n_steps,) learning rates. Returns (n_steps, len(step_names)), computed in float64, in `dtype`; numbers
        beyond its range are infinite, and found by the loss.
        """
        t = np.arange(first_step + 1, first_step + 1 + len(rates), dtype=np.float64)
        constants = [np.float64(value) for value in dict(self.constants).values()]
        columns: list[Any] = [rates]
        with np.errstate(all="ignore"):
            for text in dict(self.scalars).values():
                function = numpy_function(text, ("t", "learning_rate", *dict(self.constants)))
                columns.append(function(t, rates, *constants))
            columns.extend(constants)
            values = np.empty((len(rates), len(columns)), dtype)
            for index, column in enumerate(columns):
                values[:, index] = column
        return values

    def apply(self, p: Any, g: Any, slots: Any, values: Any) -> None:
        """One step in NumPy, in place. p, g: (n,); slots: (len(self.slots), n); values: a row of step_values."""
        state = dict(zip(self.slots, slots, strict=True)) | {"p": p}
        scalars = dict(zip(self.step_names, values, strict=True))
        names = ("p", "g", *self.slots, *self.step_names)
        for target, text in dict(self.updates).items():
            now = {**state, "g": g, **scalars}
            state[target][...] = numpy_function(text, names)(*(now[name] for name in names))

    def __repr__(self) -> str:
        constants = "".join(f", {name}={value:g}" for name, value in dict(self.constants).items())
        return f"{self.name}({constants[2:]})"


def _share(value: float, name: str) -> float:
    """A number in [0, 1). Raises TypeError or ValueError."""
    number = check_number(value, name, 0)
    if number >= 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return number


def sgd(momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    """Gradient descent, with momentum in scikit-learn's form: v is the last update, so the rate acts on g alone."""
    if check_number(momentum, "momentum", 0) > 1:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum!r}")
    velocity = "momentum * v - learning_rate * g"
    if check_flag(nesterov, "nesterov"):
        updates = {"v": velocity, "p": "p + (momentum * v - learning_rate * g)"}
    elif momentum:
        updates = {"v": velocity, "p": "p + v"}
    else:
        return Optimizer("sgd", {"p": "p - learning_rate * g"}, learning_rate=0.01)
    return Optimizer("sgd", updates, {"momentum": float(momentum)}, learning_rate=0.01)


def rmsprop(decay: float = 0.9, epsilon: float = 1e-8) -> Optimizer:
    """RMSprop (Tieleman & Hinton 2012): the gradient over the root of its mean square."""
    return Optimizer(
        "rmsprop",
        {"v": "decay * v + gain * g**2", "p": "p - learning_rate * g / (sqrt(v) + epsilon)"},
        {"decay": _share(decay, "decay"), "epsilon": check_number(epsilon, "epsilon", 0)},
        {"gain": "1 - decay"},
    )


def adagrad(epsilon: float = 1e-8) -> Optimizer:
    """Adagrad (Duchi et al. 2011): the gradient over the root of the sum of its squares."""
    return Optimizer(
        "adagrad",
        {"v": "v + g**2", "p": "p - learning_rate * g / (sqrt(v) + epsilon)"},
        {"epsilon": check_number(epsilon, "epsilon", 0)},
        learning_rate=0.01,
    )


# m and v are running means of g and g^2, started at 0; dividing by 1 - beta**t undoes that start (Kingma & Ba 2015).
_MOMENTS = {"m": "beta_1 * m + gain_1 * g", "v": "beta_2 * v + gain_2 * g**2"}
_GAINS = {"gain_1": "1 - beta_1", "gain_2": "1 - beta_2"}


def _moment_constants(beta_1: float, beta_2: float, epsilon: float) -> dict[str, float]:
    return {
        "beta_1": _share(beta_1, "beta_1"),
        "beta_2": _share(beta_2, "beta_2"),
        "epsilon": check_number(epsilon, "epsilon", 0),
    }


def adam(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Adam (Kingma & Ba 2015) in the order of their section 2, last paragraph, as scikit-learn has it.

    Both corrections are folded into the rate, so epsilon stands beside the uncorrected root.
    """
    return Optimizer(
        "adam",
        {**_MOMENTS, "p": "p - rate * m / (sqrt(v) + epsilon)"},
        _moment_constants(beta_1, beta_2, epsilon),
        {**_GAINS, "rate": "learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t)"},
    )


def adamw(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.01) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019) as PyTorch has it: epsilon beside the corrected root, all parameters decay."""
    return Optimizer(
        "adamw",
        {**_MOMENTS, "p": "p * keep - rate * m / (sqrt(v) / root + epsilon)"},
        {**_moment_constants(beta_1, beta_2, epsilon), "weight_decay": check_number(weight_decay, "weight_decay", 0)},
        {
            **_GAINS,
            "keep": "1 - learning_rate * weight_decay",
            "rate": "learning_rate / (1 - beta_1**t)",
            "root": "sqrt(1 - beta_2**t)",
        },
    )


def nadam(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Nadam (Dozat 2016) with constant momentum: Adam that looks one step of the first moment ahead."""
    return Optimizer(
        "nadam",
        {**_MOMENTS, "p": "p - learning_rate * (ahead * m + now * g) / (sqrt(v) / root + epsilon)"},
        _moment_constants(beta_1, beta_2, epsilon),
        {
            **_GAINS,
            "ahead": "beta_1 / (1 - beta_1**(t + 1))",
            "now": "(1 - beta_1) / (1 - beta_1**t)",
            "root": "sqrt(1 - beta_2**t)",
        },
    )


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd, "rmsprop": rmsprop, "adagrad": adagrad, "adam": adam, "adamw": adamw, "nadam": nadam,
}  # fmt: skip


def get_optimizer(optimizer: str | Optimizer, **options: Any) -> Optimizer:
    """The optimizer of a name and its options, or an Optimizer unchanged.

    Parameters
    ----------
    optimizer : str or Optimizer
        A name of OPTIMIZERS, also with options in the text: "sgd:momentum=0.9,nesterov=true".
    **options
        The same as keywords, beside a name alone.

    Raises
    ------
    TypeError or ValueError for an unknown name or option, and for a value out of its range.
    """
    if isinstance(optimizer, Optimizer):
        if options:
            raise ValueError(f"options {', '.join(options)} go with an optimizer's name, not with {optimizer!r}")
        return optimizer
    if not isinstance(optimizer, str):
        raise TypeError(f"optimizer must be a name or an Optimizer, got {shown(optimizer)}")
    name, options = parse_choice(optimizer, "optimizer", options)
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    check_options(f"optimizer {name!r}", options, [key for key in OPTIMIZERS[name].__annotations__ if key != "return"])
    return OPTIMIZERS[name](**options)
