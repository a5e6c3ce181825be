"""Fitting by steps: scikit-learn's loop of epochs, with a stretch of steps in every call of the program.

Whether to go on is decided after every epoch, as scikit-learn does. But with `n_iter_no_change` epochs of patience no
decision can fall before so many more, so that small epochs nobody watches share a call.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
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
from ..formulas.schedules import ReduceOnPlateau, Span, get_schedule
from ..models.history import EpochRecord
from ..networks.network import Network
from ..plans.plan import Plan
from ..plans.recipe import Recipe
from ..support.interruption import interruptible
from ..training.train import EVALUATION_ROWS, STRETCH_ROWS, STRETCH_SECONDS
from . import networks
from .held_out import HeldOut
from .sources import make_source
from .watching import Watcher, warn_as_scikit_learn


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
        self.takes_all = len(self.rows) == self.source.n_rows  # then a row's place in the order is its number
        self.batch_size = self._batch_size(len(self.rows))
        self.bounds = np.append(np.arange(0, len(self.rows), self.batch_size), len(self.rows))
        self.rows_per_step = np.diff(self.bounds)
        self.steps_per_epoch = len(self.rows_per_step)
        self.schedule = get_schedule(estimator.schedule)
        self.plateau = self.schedule.start() if isinstance(self.schedule, ReduceOnPlateau) else None
        self.seconds_per_step = 1e-4

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
        self.watcher = Watcher(e)
        self.program: Program
        with self._program() as self.program:
            self.program.parameters = networks.flatten(self.plan, e.coefs_, e.intercepts_, self.dtype)
            self.program.state = e._state
            self.program.bind(self.source)
            self._restore_slots()
            try:
                with interruptible() as self.interruption:
                    self._epochs()
            except KeyboardInterrupt:
                warn_as_scikit_learn("Training interrupted by user.")
            self._update_weights()
            self._save_slots()
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
        shown = self.loss.reported, self.loss.reported_within  # which losses are not compared by
        key: Hashable = (self.network, self.plan.rows, str(e.backend), e.threads, recipe, *shown)
        return e._programs.lend(key, compile_program)

    def _formulas(self) -> Optimizer:
        """nnfast's optimizer of the same arithmetic."""
        o = self.estimator._optimizer
        if isinstance(o, SGDOptimizer):
            return _sgd(float(o.momentum), bool(o.nesterov) and o.momentum > 0)
        return _adam(float(o.beta_1), float(o.beta_2), float(o.epsilon))

    def _restore_slots(self) -> None:
        o = self.estimator._optimizer
        slots = self.program.slots
        if isinstance(o, SGDOptimizer):
            state = o.velocities
        else:
            state, self.estimator._steps = [*o.ms, *o.vs], o.t
        for slot, vector in zip(slots, state, strict=False):  # without momentum there is a velocity, but no slot
            slot[...] = vector
        self.program.slots = slots

    def _save_slots(self) -> None:
        o, slots = self.estimator._optimizer, self.program.slots
        if isinstance(o, AdamOptimizer):
            o.t = t = self.estimator._steps
            o.ms, o.vs = [slots[0]], [slots[1]]
            if t:
                o.learning_rate = o.learning_rate_init * np.sqrt(1 - o.beta_2**t) / (1 - o.beta_1**t)
        elif len(slots):
            o.velocities = [slots[0]]

    def _update_weights(self) -> None:
        e = self.estimator
        e.coefs_, e.intercepts_ = networks.unflatten(self.plan, self.program.parameters)
        e._state = self.program.state

    def _epochs(self) -> None:
        e, n = self.estimator, len(self.rows)
        o = e._optimizer  # not of the solver's kind where that was changed since the first partial_fit
        e.n_iter_ = 0
        order = np.arange(n)
        while e.n_iter_ < e.max_iter:
            orders = []
            rates = []
            for ahead in range(self._epochs_at_once()):
                if e.shuffle:  # scikit-learn's shuffle of the last order, draw for draw
                    order = order[e._random_state.permutation(n)]
                orders.append(order)
                rates.append(o.learning_rate_init if isinstance(o, AdamOptimizer) else o.learning_rate)
                o.iteration_ends(e.t_ + (ahead + 1) * n)
            self._run(np.concatenate(orders), np.repeat(rates, self.steps_per_epoch))
            if self.interruption.noted:
                raise KeyboardInterrupt
            if self._stops():
                break
            if self.incremental:
                break
            if e.n_iter_ == e.max_iter:
                warn_as_scikit_learn(
                    f"Stochastic Optimizer: Maximum iterations ({e.max_iter}) reached and the optimization hasn't "
                    "converged yet.",
                    ConvergenceWarning,
                )

    def _epochs_at_once(self) -> int:
        """How many epochs may run before anybody has to decide anything."""
        e = self.estimator
        if self.incremental or self.held_out or self.watcher.is_watching or self.plateau:
            return 1
        patience = e.n_iter_no_change + 1 - e._no_improvement_count
        by_time = STRETCH_SECONDS / (self.seconds_per_step * self.steps_per_epoch)
        return max(1, int(min(patience, e.max_iter - e.n_iter_, by_time, STRETCH_ROWS // len(self.rows))))

    def _run(self, order: NDArray[np.int64], rates: NDArray[np.float64]) -> None:
        """Train on whole epochs, in stretches, and record those that were finished, also when interrupted."""
        e = self.estimator
        epochs = len(order) // len(self.rows)
        starts = (np.arange(epochs)[:, np.newaxis] * len(self.rows) + self.bounds[:-1]).ravel()
        bounds = np.append(starts, len(order))
        steps = np.arange(e._steps, e._steps + len(rates))
        span = Span(self.steps_per_epoch, self.steps_per_epoch * e.max_iter)
        rates = rates * self.schedule.factors(steps, span) * (self.plateau.factor if self.plateau else 1.0)
        rows = order if self.takes_all else self.rows[order]
        losses = np.empty(len(rates))
        done, start = 0, time.perf_counter()
        try:
            while done < len(rates) and not self.interruption.noted:
                end = min(done + max(1, int(STRETCH_SECONDS / self.seconds_per_step)), len(rates))
                first, last = bounds[done], bounds[end]
                began = time.perf_counter()
                losses[done:end] = self.program.run(
                    rows[first:last], bounds[done : end + 1] - first, rates[done:end], e._steps
                )
                self.seconds_per_step = max((time.perf_counter() - began) / (end - done), 1e-9)
                e._steps += end - done
                done = end
        finally:
            finished = done // self.steps_per_epoch
            seconds = (time.perf_counter() - start) / max(finished, 1)
            for index in range(finished):
                part = slice(index * self.steps_per_epoch, (index + 1) * self.steps_per_epoch)
                self._record(losses[part], rates[part][-1], seconds)

    def _record(self, losses: NDArray[np.float64], rate: float, seconds: float) -> None:
        """Note a finished epoch, as scikit-learn does, and tell whoever watches."""
        e, n = self.estimator, len(self.rows)
        e.n_iter_ += 1
        e.loss_ = losses @ self.rows_per_step / n  # np.float64, as scikit-learn's
        e.t_ += n
        e.loss_curve_.append(e.loss_)
        self.watcher.say("Iteration %d, loss = %.8f" % (e.n_iter_, e.loss_))  # noqa: UP031 - scikit-learn's own line
        metrics: dict[str, float] = {}
        judgement = None
        if self.held_out:
            self._update_weights()
            judgement = self.held_out.judge(self.program)
            e.validation_loss_curve_.append(np.float64(judgement.loss))
            metrics["validation_loss"] = judgement.loss
            metrics["validation_accuracy" if is_classifier(e) else "validation_r2"] = judgement.score
        e._note_epoch(judgement)
        if judgement:
            self.watcher.say("Validation score: %f" % judgement.score)  # noqa: UP031
        if self.plateau:
            self.plateau.observe(metrics.get("validation_loss", e.loss_))
        if self.watcher.is_watching:
            self.watcher.tell(EpochRecord(e.n_iter_, e.loss_, float(rate), seconds, metrics))

    def _stops(self) -> bool:
        """Whether the fit is over; or scikit-learn's optimizer lowers its rate and goes on."""
        e = self.estimator
        if self.watcher.stopped:
            return True
        if e._no_improvement_count <= e.n_iter_no_change:
            return False
        what = "Validation score" if e.early_stopping else "Training loss"
        # scikit-learn's own line
        message = "%s did not improve more than tol=%f for %d consecutive epochs." % (what, e.tol, e.n_iter_no_change)  # noqa: UP031
        if e._optimizer.trigger_stopping(message, self.watcher.prints):
            return True
        e._no_improvement_count = 0
        return False


_sgd, _adam = lru_cache(16)(sgd), lru_cache(16)(adam)  # their formulas are checked once, not at every partial_fit


def _rates(network: Network) -> list[float]:
    return [getattr(layer, "rate", 0.0) for layer in network.layers]
