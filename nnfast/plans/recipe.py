"""What a program minimises, and by which optimizer: the part of a training that is not in its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formulas.activations import Activation
from ..formulas.losses import Loss
from ..formulas.optimizers import Optimizer
from ..support.checks import check_fits
from .plan import Plan


@dataclass(frozen=True)
class Recipe:
    """What a program minimises, and how. Only loss, the optimizer's formulas and dtype may cost a compilation.

    alpha: L2 penalty alpha * sum(W**2) / 2. l1: penalty l1 * sum(|W|). Both act on weights, not biases, and are
    divided like the loss. clip_norm: the largest norm of the whole gradient, or None. seed: of the dropout masks.
    """

    loss: Loss
    optimizer: Optimizer
    dtype: np.dtype[Any]
    alpha: float = 0.0
    l1: float = 0.0
    clip_norm: float | None = None
    seed: int = 0


def check_constants_fit(plan: Plan, recipe: Recipe) -> None:
    """Raise ValueError for a penalty or a constant of a formula that the recipe's dtype makes infinite."""
    check_fits(recipe.alpha, "alpha", recipe.dtype)
    check_fits(recipe.l1, "l1", recipe.dtype)
    functions = [op.layer.function for op in plan.operations]
    rows: list[Loss | Optimizer | Activation] = [recipe.loss, recipe.optimizer, *filter(None, functions)]
    for row in rows:
        for name, value in dict(row.constants).items():
            check_fits(value, f"{name} of {row.name!r}", recipe.dtype)
    for op in plan.operations:
        if (epsilon := getattr(op.layer, "epsilon", None)) is not None:
            check_fits(epsilon, f"epsilon of {op.layer.kind}", recipe.dtype)


def batch_divisor(loss: Loss, total_weight: Any) -> Any:
    """What a batch's weighted sum of losses and penalties is divided by; of several totals, of each or of all."""
    return total_weight if loss.reduction == "mean" else 1.0
