"""Fitting by steps: scikit-learn's optimizer, draws and warnings around the Runner that train() has, too."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from ..backends import Program, get_backend
from ..formulas.losses import check_target_values
from ..formulas.optimizers import Optimizer, adam, sgd
from ..formulas.schedules import get_schedule
from ..models.history import History
from ..networks.network import Network
from ..plans.plan import Plan
from ..plans.recipe import Recipe
from ..support.interruption import interruptible
from ..training.job import EVALUATION_ROWS
from ..training.runner import Runner
from ..training.state import Progress, State
from . import networks
from .held_out import HeldOut
from .messages import warn_as_scikit_learn
from .rules import FitRules
from .sources import make_source


class StochasticFit:
    """One call of fit or partial_fit with solver "sgd" or "adam".

    X: (n_samples, n_features); y: (n_samples, n_outputs), as scikit-learn's _fit has them.
    """

    def __init__(self, estimator: Any, X: Any, y: NDArray[Any], sample_weight: Any, incremental: bool) -> None:
        self.estimator, self.incremental = estimator, incremental
        self.dtype = estimator.coefs_[0].dtype
        self.network: Network = networks.describe(estimator, X.shape[1])
        if not incremental or not hasattr(estimator, "_optimizer"):
            self._start_optimizer()
        if estimator.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        self.loss = networks.chosen_loss(estimator, self.network, self.dtype)
        if not networks.is_scikit_learns_loss(estimator.loss):
            check_target_values(self.loss, np.asarray(y, np.float64))
        self.source = make_source(X, y, sample_weight, self.network, self.dtype)
        self.rows, self.held_out = self._hold_out(X, y, sample_weight)
        self.batch_size = self._batch_size(len(self.rows))

    def _start_optimizer(self) -> None:
        """scikit-learn's optimizer object over one flat vector: it owns learning rate, state and the stopping rule."""
        e = self.estimator
        flat = [np.empty(self.network.parameter_count, self.dtype)]
        if e.solver == "sgd":
            e._optimizer = SGDOptimizer(
                flat, e.learning_rate_init, e.learning_rate, e.momentum, e.nesterovs_momentum, e.power_t
            )
        else:
            e._optimizer = AdamOptimizer(flat, e.learning_rate_init, e.beta_1, e.beta_2, e.epsilon)
        e._steps = 0  # since then: what dropout masks and Adam's corrections count
        e._mask_seed = None

    def _hold_out(self, X: Any, y: NDArray[Any], sample_weight: Any) -> tuple[NDArray[np.int64], HeldOut | None]:
        """The rows to train on, and the others as validation, if there is any."""
        e = self.estimator
        everything = np.arange(X.shape[0])
        if e.validation_data is not None:
            if len(e.validation_data) not in (2, 3):
                raise ValueError(
                    f"validation_data must be (X, y) or (X, y, sample_weight), got {len(e.validation_data)} things"
                )
            X_val, y_val, weights = e._validate_held_out(*e.validation_data)
        elif e.early_stopping:
            # don't stratify in multilabel classification
            stratify = y if is_classifier(e) and e.n_outputs_ == 1 else None
            everything, rows = train_test_split(
                everything, random_state=e._random_state, test_size=e.validation_fraction, stratify=stratify
            )
            X_val, y_val = X[rows], y[rows]
            weights = None if sample_weight is None else sample_weight[rows]
            if len(rows) < 2:
                raise ValueError(
                    "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
                )
        else:
            return everything, None
        source = make_source(X_val, y_val, weights, self.network, self.dtype)
        return everything, HeldOut(e, source, X_val, y_val, weights)

    def _batch_size(self, n_samples: int) -> int:
        batch_size = self.estimator.batch_size
        if batch_size == "auto":
            return min(200, n_samples)
        if batch_size > n_samples:
            warn_as_scikit_learn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        return int(np.clip(batch_size, 1, n_samples))

    def run(self) -> None:
        """Fit: leaves the estimator with its new weights, also after Ctrl-C."""
        e = self.estimator
        best = getattr(e, "_best_coefs", None)
        # After early stopping scikit-learn's best weights are its current ones, and go on being them: a warm start
        # that never improves on the best score ends with its last weights.
        best_are_current = best is not None and best is e.coefs_
        self.plan: Plan = networks.make_room(self.network, self.batch_size, EVALUATION_ROWS)
        history = History()
        self.program: Program
        with self._program() as self.program:
            self.program.bind(self.source)
            rules = FitRules(e, self.program, self.rows, self.held_out, self.incremental)
            with interruptible() as interruption:
                runner = Runner(
                    self.program, rules, self._state(), n_rows=len(self.rows), batch_size=self.batch_size,
                    epochs=1 if self.incremental else e.max_iter, span_epochs=e.max_iter,
                    schedule=get_schedule(e.schedule), callbacks=e.callbacks, history=history,
                    interruption=interruption,
                )  # fmt: skip
                try:
                    runner.run()
                except KeyboardInterrupt:  # a second one, which does not wait for the stretch's end
                    history.stopped = "interrupted"
                finally:  # also where a callback raises: weights, steps and the optimizer's vectors belong together
                    rules.update_weights()
                    e._steps = runner.progress.step
                    self._save_slots()
        if history.stopped == "interrupted":
            warn_as_scikit_learn("Training interrupted by user.")
        elif history.stopped == "epochs" and not self.incremental:
            warn_as_scikit_learn(
                f"Stochastic Optimizer: Maximum iterations ({e.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
            )
        if e.early_stopping:
            if best_are_current and e._best_coefs is best:
                e._best_coefs, e._best_intercepts, e._best_state = e.coefs_, e.intercepts_, e._state
            e.coefs_, e.intercepts_, e._state = e._best_coefs, e._best_intercepts, e._best_state

    def _program(self) -> Any:
        """The compiled program; partial_fit keeps it for its next call."""
        e = self.estimator
        if e._mask_seed is None and any(rate > 0 for rate in _rates(self.network)):
            e._mask_seed = int(e._random_state.randint(2**31))
        recipe = Recipe(
            self.loss, self._formulas(), self.dtype, float(e.alpha), float(e.l1), e.clip_norm, e._mask_seed or 0
        )

        def compile_program() -> Program:
            return get_backend(e.backend, e.threads).compile(self.plan, recipe)

        if not self.incremental:
            return nullcontext(compile_program())
        return e._programs.lend(networks.program_key(e, self.plan, recipe), compile_program)

    def _formulas(self) -> Optimizer:
        """nnfast's optimizer of the same arithmetic."""
        o = self.estimator._optimizer
        if isinstance(o, SGDOptimizer):
            return _sgd(float(o.momentum), bool(o.nesterov) and o.momentum > 0)
        return _adam(float(o.beta_1), float(o.beta_2), float(o.epsilon))

    def _state(self) -> State:
        """Where the estimator stands: its weights, its optimizer's vectors and steps."""
        e, o = self.estimator, self.estimator._optimizer
        slots = np.zeros_like(self.program.slots)
        if isinstance(o, SGDOptimizer):
            vectors = o.velocities
        else:
            vectors, e._steps = [*o.ms, *o.vs], o.t
        for slot, vector in zip(slots, vectors, strict=False):  # without momentum there is a velocity, but no slot
            slot[...] = vector
        parameters = networks.flatten(self.plan, e.coefs_, e.intercepts_, self.dtype)
        return State(parameters, slots, e._state, Progress(step=e._steps))

    def _save_slots(self) -> None:
        o, slots = self.estimator._optimizer, self.program.slots
        if isinstance(o, AdamOptimizer):
            o.t = t = self.estimator._steps
            o.ms, o.vs = [slots[0]], [slots[1]]
            if t:
                o.learning_rate = o.learning_rate_init * np.sqrt(1 - o.beta_2**t) / (1 - o.beta_1**t)
        elif len(slots):
            o.velocities = [slots[0]]


_sgd, _adam = lru_cache(16)(sgd), lru_cache(16)(adam)  # their formulas are checked once, not at every partial_fit


def _rates(network: Network) -> list[float]:
    return [getattr(layer, "rate", 0.0) for layer in network.layers]
