"""What L-BFGS minimises: the loss over all rows and its gradient, added up over blocks of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Program, Source, get_backend
from ..formulas.losses import check_target_values
from ..plans.plan import ROWS_AT_ONCE
from ..plans.recipe import Recipe
from . import networks
from .programs import Programs
from .sources import make_source


def check_parameters(estimator: Any) -> None:
    """Raise ValueError for what only steps can do."""
    defaults = {
        "dropout": 0.0,
        "l1": 0.0,
        "clip_norm": None,
        "schedule": "constant",
        "validation_data": None,
        "callbacks": (),
    }
    for name, default in defaults.items():
        value = getattr(estimator, name)
        if value != default and list(np.atleast_1d(value)) != []:
            raise ValueError(f"{name}={value!r} needs solver='sgd' or 'adam': lbfgs takes all rows at once, no steps")
    if estimator.network is not None and not networks.is_perceptron(estimator.network):
        raise ValueError("a network with other layers than Dense and Dropout needs solver='sgd' or 'adam'")


@contextlib.contextmanager
def objective(estimator: Any, X: Any, y: NDArray[Any], sample_weight: Any) -> Iterator[Objective]:
    """Within this, the Objective of an estimator's network, by one of its programs."""
    dtype = np.dtype(np.float64)
    network = networks.describe(estimator, X.shape[1])
    loss = networks.chosen_loss(estimator, network, dtype)
    if not networks.is_scikit_learns_loss(estimator.loss):
        check_target_values(loss, np.asarray(y, np.float64))
    plan = networks.make_room(network, 1, min(ROWS_AT_ONCE, X.shape[0]))
    # Without penalty, so that blocks add up; it is added here, once
    recipe = Recipe(loss, networks.NO_STEPS, dtype)

    def compile_program() -> Program:
        return get_backend(estimator.backend, estimator.threads).compile(plan, recipe)

    programs = vars(estimator).get("_programs") or Programs()
    with programs.lend(networks.program_key(estimator, plan, recipe), compile_program) as program:
        yield Objective(estimator, program, make_source(X, y, sample_weight, network, dtype))


class Objective:
    """Loss and gradient of an estimator's network on the rows of a source.

    Computed in float64, as scikit-learn computes them under L-BFGS for any data.
    """

    def __init__(self, estimator: Any, program: Program, source: Source) -> None:
        self._alpha = float(estimator.alpha)
        self._program, plan = program, program.plan
        starts = range(0, source.n_rows, plan.rows)
        blocks = [source] if len(starts) == 1 else [_block(source, start, start + plan.rows) for start in starts]
        weighted = [(block, _weight(block)) for block in blocks]
        self._blocks = [(block, weight) for block, weight in weighted if weight != 0]
        self._is_mean = program.recipe.loss.reduction == "mean"
        self._divisor = sum(weight for _, weight in weighted) if self._is_mean else 1.0
        sizes = [array.size for array in (*estimator.coefs_, *estimator.intercepts_)]
        self._places = [slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
        self._weights = slice(0, sum(sizes[: len(estimator.coefs_)]))
        # Held from call to call: fresh memory takes longer than what is done with it
        self._flat, self._slope = np.empty(plan.parameter_count), np.empty(self._weights.stop)
        coefs, intercepts = networks.unflatten(plan, self._flat)
        self._arrays = [*coefs, *intercepts]

    def __call__(self, packed: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The loss and its gradient at a vector of all weights, then all intercepts, as scikit-learn packs them."""
        program = self._program
        for array, place in zip(self._arrays, self._places, strict=True):
            array[...] = packed[place].reshape(array.shape)
        program.parameters = self._flat
        if len(self._blocks) == 1:
            loss, flat = program.loss_and_gradient(self._blocks[0][0])
        else:
            loss, flat = 0.0, np.zeros(program.plan.parameter_count)
            for block, weight in self._blocks:
                share = (weight if self._is_mean else 1.0) / self._divisor
                block_loss, block_gradient = program.loss_and_gradient(block)
                loss += block_loss * share
                flat += block_gradient * share
        coefs, intercepts = networks.unflatten(program.plan, flat)
        gradient = np.concatenate([array.reshape(-1) for array in (*coefs, *intercepts)])
        W, strength = packed[self._weights], self._alpha / self._divisor
        gradient[self._weights] += np.multiply(W, strength, out=self._slope)
        return loss + 0.5 * strength * (W @ W), gradient


def _block(source: Source, start: int, end: int) -> Source:
    assert source.targets is not None
    weights = None if source.sample_weight is None else source.sample_weight[start:end]
    return Source(source.inputs[start:end], source.targets[start:end], weights)


def _weight(source: Source) -> float:
    return float(source.n_rows if source.sample_weight is None else source.sample_weight.sum(dtype=np.float64))
