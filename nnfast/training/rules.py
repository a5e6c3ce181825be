"""train()'s rules for its Runner: orders, losses, validation, early stopping, what is kept of a diverging run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..backends import Program, Source
from ..backends.base import batch_totals, weight_of
from ..models.history import EpochRecord
from ..models.metrics import score
from ..models.model import Model
from .runner import Losses, Order, Rules
from .state import Progress
from .stopping import DivergenceError, EarlyStopping

Orders = Callable[[int], Order]


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a source: those numbered `rows`, or all of them."""

    source: Source
    rows: Order | None = None

    @property
    def n_rows(self) -> int:
        return self.source.n_rows if self.rows is None else len(self.rows)

    @property
    def has_weight(self) -> bool:
        """Whether any of the rows counts."""
        return weight_of(self.source, self.rows) > 0

    def of(self, values: NDArray[Any] | None) -> Any:
        """The values of these rows among those of all."""
        return values if values is None or self.rows is None else values[self.rows]


class TrainingRules(Rules):
    """train()'s rules: the best weights are remembered, for early stopping and for a run that diverges.

    Without early stopping they are those after epoch 2, 4, 8, ..., if its loss was below the first epoch's and below
    that of the others before it. So they do not depend on how long a stretch is, and tiny epochs can share one.
    """

    def __init__(
        self,
        program: Program,
        model: Model,
        training: Part,
        held_out: Part | None,
        orders: Orders,
        learning_rate: float,
        early_stopping: EarlyStopping | None,
    ) -> None:
        self._program, self._model, self._training, self._held_out = program, model, training, held_out
        self._orders, self._rate, self._early_stopping = orders, learning_rate, early_stopping
        self._start = model.parameters.copy(), model.state.copy()

    def order(self, epoch: int, progress: Progress) -> Order:
        places = self._orders(epoch)
        return places if self._training.rows is None else self._training.rows[places]

    def learning_rate(self, epoch: int) -> float:
        return self._rate

    def epoch_loss(self, losses: Losses, order: Order, bounds: NDArray[np.int64]) -> float:
        """Their average by the batches' weights, or the sum of summed losses."""
        if self._model.loss.reduction == "sum":
            return float(losses.sum())
        return float(np.average(losses, weights=batch_totals(self._training.source, order, bounds)))

    def unheard_epochs(self, progress: Progress) -> float:
        if self._held_out is not None or self._early_stopping:
            return 1
        return (1 << progress.epoch.bit_length()) - progress.epoch

    def measure(self, record: EpochRecord) -> dict[str, float]:
        held_out = self._held_out
        if held_out is None:
            return {}
        loss, outputs = self._program.evaluate(held_out.source, held_out.rows)
        targets, weights = held_out.of(held_out.source.targets), held_out.of(held_out.source.sample_weight)
        scores = score(outputs, targets, self._model.targets, weights)
        return {f"validation_{name}": value for name, value in {"loss": loss, **scores}.items()}

    def observe(self, record: EpochRecord, progress: Progress) -> None:
        if not self._early_stopping:
            if record.epoch == 1:
                progress.best_value = record.loss
            elif record.epoch & (record.epoch - 1) == 0:
                self._remember_if_better(record.loss, record.epoch, progress)
            return
        value = self._watched_value(record, self._early_stopping.monitor)
        is_better = value < progress.best_value - self._early_stopping.tolerance
        progress.waited = 0 if is_better else progress.waited + 1
        self._remember_if_better(value, record.epoch, progress)

    def _watched_value(self, record: EpochRecord, monitor: str | None) -> float:
        """The number that decides which epoch is the best, with its sign turned where more is better."""
        known = {"loss": record.loss, **record.metrics}
        name = monitor or ("validation_loss" if self._held_out else "loss")
        return known[name] if name.endswith("loss") else -known[name]

    def _remember_if_better(self, value: float, epoch: int, progress: Progress) -> None:
        if value < progress.best_value:
            learnt = self._program.parameters, self._program.state
            if _all_finite(*learnt):  # the update after a finite loss can be the one that diverges
                progress.best_value, progress.best_epoch = value, epoch
                progress.best_parameters, progress.best_statistics = learnt

    def model(self) -> Model:
        self._model.parameters[...], self._model.state[...] = self._program.parameters, self._program.state
        return self._model

    def reason_to_stop(self, progress: Progress) -> str | None:
        early_stopping = self._early_stopping
        return "early stopping" if early_stopping and progress.waited >= early_stopping.patience else None

    def diverged(self, loss: float, epoch: int, progress: Progress) -> None:
        self._fail(f"the loss became {loss}", epoch, progress)

    def finish(self, progress: Progress) -> None:
        """Give the model what was learnt: the last weights, or the best where early stopping restores them."""
        learnt = self._program.parameters, self._program.state
        if not _all_finite(*learnt):
            self._fail("the weights became infinite or NaN", max(progress.epoch, 1) - 1, progress)
        if self._early_stopping and self._early_stopping.restore_best and progress.best_epoch:
            assert progress.best_parameters is not None
            assert progress.best_statistics is not None
            learnt = progress.best_parameters, progress.best_statistics
            self._model.history.best_epoch = progress.best_epoch
        self._model.parameters[...], self._model.state[...] = learnt

    def _fail(self, what: str, epoch: int, progress: Progress) -> NoReturn:
        """Give the model the best weights so far, or those it began with, and raise DivergenceError."""
        model = self._model
        model.history.stopped = "diverged"
        kept, weights = "the initial weights are kept", self._start
        if progress.best_parameters is not None and progress.best_statistics is not None:
            kept = f"the weights of epoch {progress.best_epoch} are kept"
            weights = progress.best_parameters, progress.best_statistics
        model.parameters[...], model.state[...] = weights
        raise DivergenceError(
            f"{what} in epoch {epoch + 1}: try a learning rate below {self._rate:g}, clip_norm=1, or standardised "
            f"inputs; {kept}",
            model,
        )


def _all_finite(*vectors: NDArray[Any]) -> bool:
    return all(bool(np.isfinite(vector).all()) for vector in vectors)
