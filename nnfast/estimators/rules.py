"""scikit-learn's rules for the Runner: its draws, rates and stopping, and the attributes that it sets every epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

from ..backends import Program
from ..models.history import EpochRecord
from ..training.runner import Losses, Order, Rules
from ..training.state import Progress
from . import networks
from .held_out import HeldOut, Judgement


class FitRules(Rules):
    """One call of fit or partial_fit. rows: those to train on, in the source that the program is bound to.

    Whether to go on is decided after every epoch, as scikit-learn does. But with `n_iter_no_change` epochs of patience
    no decision can fall before as many more have passed, so that small epochs can share a stretch.
    """

    def __init__(
        self,
        estimator: Any,
        program: Program,
        rows: NDArray[np.int64],
        held_out: HeldOut | None,
        incremental: bool,
    ) -> None:
        self._estimator, self._program, self._held_out = estimator, program, held_out
        self._incremental, self._prints = incremental, bool(estimator.verbose)
        self._order, self._time, self._drawn = rows, estimator.t_, 0
        self._judgement: Judgement | None = None
        estimator.n_iter_ = 0

    def order(self, epoch: int, progress: Progress) -> Order:
        if epoch == self._drawn:
            self._drawn += 1
            if self._estimator.shuffle:  # scikit-learn's shuffle of the last order, draw for draw
                self._order = self._order[self._estimator._random_state.permutation(len(self._order))]
        return self._order

    def draws(self) -> dict[str, Any]:
        _, words, position, has_gauss, gauss = self._estimator._random_state.get_state()
        return {
            "order": self._order.copy(), "drawn": self._drawn, "words": words, "position": position,
            "has_gauss": has_gauss, "gauss": gauss,
        }  # fmt: skip

    def restore_draws(self, draws: dict[str, Any]) -> None:
        self._order, self._drawn = draws["order"], draws["drawn"]
        state = "MT19937", draws["words"], draws["position"], draws["has_gauss"], draws["gauss"]
        self._estimator._random_state.set_state(state)

    def learning_rate(self, epoch: int) -> float:
        optimizer = self._estimator._optimizer  # of another kind than the solver, if that was set after a partial_fit
        rate = optimizer.learning_rate_init if isinstance(optimizer, AdamOptimizer) else optimizer.learning_rate
        self._time += len(self._order)
        optimizer.iteration_ends(self._time)
        return float(rate)

    def epoch_loss(self, losses: Losses, order: Order, bounds: NDArray[np.int64]) -> float:
        return float(losses @ np.diff(bounds)) / len(order)

    def unheard_epochs(self, progress: Progress) -> float:
        e = self._estimator
        if self._incremental or self._held_out or self._prints:
            return 1
        return float(e.n_iter_no_change + 1 - e._no_improvement_count)  # which may be infinite

    def measure(self, record: EpochRecord) -> dict[str, float]:
        e = self._estimator
        e.n_iter_ += 1
        e.loss_ = np.float64(record.loss)  # as scikit-learn has it
        e.t_ += len(self._order)
        e.loss_curve_.append(e.loss_)
        if self._prints:
            print("Iteration %d, loss = %.8f" % (e.n_iter_, e.loss_))  # noqa: UP031 - scikit-learn's own line
        if not self._held_out:
            return {}
        self.update_weights()
        self._judgement = self._held_out.judge(self._program)
        e.validation_loss_curve_.append(np.float64(self._judgement.loss))
        name = "validation_accuracy" if is_classifier(e) else "validation_r2"
        return {"validation_loss": self._judgement.loss, name: self._judgement.score}

    def observe(self, record: EpochRecord, progress: Progress) -> None:
        self._estimator._note_epoch(self._judgement)
        if self._judgement and self._prints:
            print("Validation score: %f" % self._judgement.score)  # noqa: UP031

    def model(self) -> Any:
        self.update_weights()
        return self._estimator

    def reason_to_stop(self, progress: Progress) -> str | None:
        """Whether the fit is over; or scikit-learn's optimizer lowers its rate and goes on."""
        e = self._estimator
        if e._no_improvement_count <= e.n_iter_no_change:
            return None
        what = "Validation score" if e.early_stopping else "Training loss"
        # scikit-learn's own line
        message = "%s did not improve more than tol=%f for %d consecutive epochs." % (what, e.tol, e.n_iter_no_change)  # noqa: UP031
        if e._optimizer.trigger_stopping(message, self._prints):
            return "early stopping"
        e._no_improvement_count = 0
        return None

    def diverged(self, loss: float, epoch: int, progress: Progress) -> None:
        """scikit-learn goes on, and refuses weights that are not finite in the end."""

    def update_weights(self) -> None:
        """Give the estimator the program's weights."""
        e = self._estimator
        e.coefs_, e.intercepts_ = networks.unflatten(self._program.plan, self._program.parameters)
        e._state = self._program.state
