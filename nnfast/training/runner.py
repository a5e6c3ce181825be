"""The one loop of training: stretches of steps, and what is due between them, for train() and the estimators alike.

A program runs a stretch of steps in one call; everything else happens between two stretches, so that Ctrl-C, progress
and decisions cost nothing inside. A stretch is part of an epoch or, where several may pass unheard, whole epochs.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Program
from ..formulas.schedules import ReduceOnPlateau, Schedule, Span
from ..models.history import EpochRecord, History
from ..support.interruption import Interruption
from .state import Progress, State

STRETCH_SECONDS = 0.2  # at most this long between two looks at the world
STRETCH_ROWS = 2**22  # and at most this many rows, for the memory of their order

Order = NDArray[np.int64]
Losses = NDArray[np.float64]
Callback = Callable[[EpochRecord], Any]

_NO_LOSSES: Losses = np.zeros(0)


class Rules(ABC):
    """What the owner of a run decides: the order of rows, the rate, what an epoch was worth and when to stop."""

    @abstractmethod
    def order(self, epoch: int, progress: Progress) -> Order:
        """The rows of epoch number `epoch`, counted from 0, each as often as it comes. Asked once an epoch, in order.

        After a restart it is asked again for an unfinished epoch, and must give the same.
        """

    def draws(self) -> dict[str, Any]:
        """What order() goes on from, as arrays, numbers and text, if orders are not functions of the epoch."""
        return {}

    def restore_draws(self, draws: dict[str, Any]) -> None:  # noqa: B027 - most rules draw nothing
        """Let order() go on from what draws() gave."""

    @abstractmethod
    def learning_rate(self, epoch: int) -> float:
        """The rate of an epoch, before schedule and plateau. Asked once an epoch, in order."""

    @abstractmethod
    def epoch_loss(self, losses: Losses, order: Order, bounds: NDArray[np.int64]) -> float:
        """The losses of an epoch's steps as one number; step k took the rows order[bounds[k]:bounds[k + 1]]."""

    def unheard_epochs(self, progress: Progress) -> float:
        """How many epochs may pass before observe() can change anything; 1 if it must hear of each."""
        return 1

    def measure(self, record: EpochRecord) -> dict[str, float]:
        """Scores of the program's present weights on rows held out, by name. record: of the epoch, without them."""
        return {}

    @abstractmethod
    def observe(self, record: EpochRecord, progress: Progress) -> None:
        """Take note of a finished epoch, before callbacks hear of it."""

    @abstractmethod
    def model(self) -> Any:
        """What is being trained, with the program's present weights, for callbacks."""

    def reason_to_stop(self, progress: Progress) -> str | None:
        """Why the run ends after this epoch, as History.stopped has it, or None."""
        return None

    @abstractmethod
    def diverged(self, loss: float, epoch: int, progress: Progress) -> None:
        """A step of epoch number `epoch` had an infinite or NaN loss. What this raises ends the run."""


class Runner:
    """A run: a program bound to its rows, the rules of its owner, and how far it has come.

    state: where it begins. n_rows: in an epoch, which may leave rows of the source out. batch_size: rows a step.
    epochs: at most. span_epochs: how many the schedule is drawn over, where they are not those of this run.
    """

    def __init__(
        self,
        program: Program,
        rules: Rules,
        state: State,
        *,
        n_rows: int,
        batch_size: int,
        epochs: int,
        span_epochs: int | None = None,
        schedule: Schedule,
        callbacks: Sequence[Callback] = (),
        history: History,
        interruption: Interruption,
    ) -> None:
        self.program, self.rules, self.epochs, self.schedule = program, rules, epochs, schedule
        self.callbacks, self.history, self.interruption = callbacks, history, interruption
        self._bounds = np.append(np.arange(0, n_rows, batch_size), n_rows)
        self._n_rows, steps = n_rows, len(self._bounds) - 1
        self.span = Span(steps, steps * (epochs if span_epochs is None else span_epochs))
        # A guess until the first stretch was timed: some overhead, and a slow processor
        self._seconds_per_step = 1e-4 + program.plan.flops_per_row() * batch_size / 2e9
        self._unfinished: Order | None = None  # the order of the unfinished epoch
        self.restore(state)

    @property
    def state(self) -> State:
        """A copy of where the run stands."""
        progress = replace(self.progress.copy(), random_state=self.rules.draws())
        return State(self.program.parameters, self.program.slots, self.program.state, progress)

    def restore(self, state: State) -> None:
        """Go on from there. Epochs that the history has of a later time are forgotten."""
        self.program.parameters, self.program.slots = state.parameters, state.slots
        self.program.state = state.statistics
        self.progress = state.progress.copy()
        if state.progress.random_state:
            self.rules.restore_draws(state.progress.random_state)
        self.history.rewind(self.progress.epoch)
        self._unfinished = None

    @property
    def is_over(self) -> bool:
        return self.history.stopped != "epochs" or self.progress.epoch >= self.epochs

    def run(self) -> None:
        """Advance until all epochs are run, a rule or a callback ends the run, or Ctrl-C interrupts it."""
        while not self.is_over:
            if self.interruption.noted:
                self.history.stopped = "interrupted"
                return
            self.advance()

    def advance(self) -> None:
        """Run one stretch, then do what is due at the end of every epoch that it finished."""
        progress, per_epoch = self.progress, self.span.steps_per_epoch
        first, count = len(progress.losses), self._steps_at_once()
        orders, epoch_rates = self._courses(math.ceil((first + count) / per_epoch))
        starts = (np.arange(len(orders))[:, np.newaxis] * self._n_rows + self._bounds[:-1]).reshape(-1)
        bounds = np.append(starts, len(orders) * self._n_rows)[first : first + count + 1]
        order = np.concatenate(orders)[bounds[0] : bounds[-1]]
        steps = np.arange(progress.step, progress.step + count)
        factors = self.schedule.factors(steps, self.span) * progress.plateau.factor
        rates = np.repeat(epoch_rates, per_epoch)[first : first + count] * factors

        start = time.perf_counter()
        losses = self.program.run(np.ascontiguousarray(order, np.int64), bounds - bounds[0], rates, progress.step)
        self._seconds_per_step = max((time.perf_counter() - start) / count, 1e-9)
        progress.step += count
        wrong = ~np.isfinite(losses)
        if wrong.any():
            step = int(np.argmax(wrong))
            self.rules.diverged(float(losses[step]), progress.epoch + (first + step) // per_epoch, progress)
        self._note(losses, rates, orders)

    def _steps_at_once(self) -> int:
        """How many steps the next stretch has: within an epoch, or whole epochs."""
        first, per_epoch = len(self.progress.losses), self.span.steps_per_epoch
        by_time = min(STRETCH_SECONDS / self._seconds_per_step, float(2**62))
        epochs = 1
        if not first and not self.callbacks and not isinstance(self.schedule, ReduceOnPlateau):
            most = min(self.epochs - self.progress.epoch, STRETCH_ROWS // self._n_rows, int(by_time / per_epoch))
            epochs = max(1, int(min(most, self.rules.unheard_epochs(self.progress))))
        return max(1, min(int(by_time), epochs * per_epoch - first))

    def _courses(self, count: int) -> tuple[list[Order], list[float]]:
        """The orders and rates of the unfinished epoch and those after it."""
        progress, orders, rates = self.progress, [], []
        for epoch in range(progress.epoch, progress.epoch + count):
            is_unfinished = epoch == progress.epoch and len(progress.losses) > 0
            if not is_unfinished:
                progress.learning_rate = self.rules.learning_rate(epoch)
            if not is_unfinished or self._unfinished is None:
                self._unfinished = self.rules.order(epoch, progress)
            orders.append(self._unfinished)
            rates.append(progress.learning_rate)
        return orders, rates

    def _note(self, losses: Losses, rates: NDArray[np.float64], orders: list[Order]) -> None:
        """Count the steps of a stretch, epoch by epoch."""
        progress, per_epoch = self.progress, self.span.steps_per_epoch
        done = 0
        for order in orders:
            earlier = len(progress.losses)
            part = losses[done : done + per_epoch - earlier]
            progress.losses = np.concatenate([progress.losses, part]) if earlier else part
            progress.seconds += len(part) * self._seconds_per_step
            progress.threads += len(part) * (self.program.threads or 0.0)
            done += len(part)
            if len(progress.losses) == per_epoch:
                self._finish_epoch(order, float(rates[done - 1]))

    def _finish_epoch(self, order: Order, rate: float) -> None:
        progress = self.progress
        progress.epoch += 1
        loss, seconds = self.rules.epoch_loss(progress.losses, order, self._bounds), progress.seconds
        threads = None if self.program.threads is None else progress.threads / self.span.steps_per_epoch
        progress.losses, progress.seconds, progress.threads = _NO_LOSSES, 0.0, 0.0
        record = EpochRecord(progress.epoch, loss, rate, seconds, threads=threads)
        if metrics := self.rules.measure(record):
            record = replace(record, metrics=metrics)
        self.history.append(record)
        if isinstance(self.schedule, ReduceOnPlateau):
            self.schedule.observe(progress.plateau, record.metrics.get("validation_loss", loss))
        self.rules.observe(record, progress)
        if self.callbacks:
            record = replace(record, model=self.rules.model())
        reason = None
        for callback in self.callbacks:  # each hears of the epoch, also after one that asked to stop
            answer = callback(record)
            if isinstance(answer, bool | np.bool_) and answer:  # and not a 1, which write() may return
                reason = "callback"
        reason = reason or self.rules.reason_to_stop(progress)
        if reason is not None:
            self.history.stopped = reason
