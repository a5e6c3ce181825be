"""train(): epochs, validation, early stopping, schedules, callbacks and history, once for all backends.

The backend runs stretches of steps; everything here happens between them, so that Ctrl-C, progress and decisions
cost nothing inside. A stretch is part of an epoch, or, for tiny networks that nobody watches, many epochs.
"""

from __future__ import annotations

import math
import secrets
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Backend, Program, Source, check_place, get_backend
from ..data.encoding import InputEncoding
from ..data.splits import split_rows
from ..data.table import Table
from ..data.targets import ClassTargets, TargetEncoding
from ..formulas.losses import Loss, check_pair, get_loss
from ..formulas.optimizers import Optimizer, get_optimizer
from ..formulas.schedules import Plateau, ReduceOnPlateau, Schedule, Span, get_schedule
from ..models.history import EpochRecord, History
from ..models.metrics import score
from ..models.model import Model
from ..models.validation import check_state, check_vector, choose_targets, default_loss, make_source
from ..networks.network import Network
from ..plans.plan import make_plan
from ..plans.recipe import Recipe
from ..support.arrays import take_rows
from ..support.checks import check_dtype, check_fits, check_flag, check_integer, check_number
from ..support.interruption import Interruption, interruptible
from ..support.random import ShuffledOrders, check_seed

STRETCH_SECONDS = 0.2  # at most this long between two looks at the world
STRETCH_ROWS = 2**22  # and at most this many rows, for the memory of their order
EVALUATION_ROWS = 256  # a program is laid out for at least so many rows, so that evaluation is not done in crumbs

Orders = Callable[[int], NDArray[np.int64]]
Callback = Callable[[EpochRecord], Any]


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a run when the watched number has not improved by more than `tolerance` for `patience` epochs.

    monitor: "validation_loss", "validation_accuracy", "validation_r2", "loss", or None for the validation loss where
    there is validation, else the training loss. restore_best: give the model the best epoch's weights.
    """

    patience: int = 10
    tolerance: float = 0.0
    monitor: str | None = None
    restore_best: bool = True

    def __post_init__(self) -> None:
        check_integer(self.patience, "patience")
        check_number(self.tolerance, "tolerance", 0)

    def check_monitor(self, held_out: Source | None, targets: TargetEncoding) -> None:
        """Raise ValueError if the run will not have the number to watch."""
        known = ["loss"]
        if held_out is not None:
            known += ["validation_loss", f"validation_{'accuracy' if isinstance(targets, ClassTargets) else 'r2'}"]
        if self.monitor is not None and self.monitor not in known:
            raise ValueError(f"early stopping cannot monitor {self.monitor!r}; this run has {', '.join(known)}")


class DivergenceError(ArithmeticError):
    """The loss or the weights became infinite or NaN. `model` has the best weights seen before."""

    def __init__(self, message: str, model: Model) -> None:
        super().__init__(message)
        self.model = model

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.model)  # Exception's own would leave out the model


def train(
    network: Network,
    X: ArrayLike | Table,
    y: ArrayLike,
    *,
    loss: str | Loss | None = None,
    optimizer: str | Optimizer = "adam",
    learning_rate: float | None = None,
    epochs: int = 50,
    batch_size: int | str = 32,
    schedule: str | Schedule = "constant",
    alpha: float = 0.0,
    l1: float = 0.0,
    clip_norm: float | None = None,
    sample_weight: ArrayLike | None = None,
    validation: float | tuple[Any, ...] | None = None,
    early_stopping: bool | EarlyStopping = False,
    shuffle: bool = True,
    backend: str | Backend = "auto",
    threads: int | None = None,
    dtype: Any = "float32",
    seed: int | None = 0,
    callbacks: Iterable[Callback] = (),
    initial_parameters: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    orders: Orders | None = None,
    inputs: InputEncoding | None = None,
    targets: TargetEncoding | None = None,
    input_scale: float = 1.0,
) -> Model:
    """Train `network` on the rows of X (n_rows, *input_shape) to give y, and return the trained Model.

    y: class labels (n_rows,), or numbers (n_rows,) or (n_rows, n_outputs). loss: a name from LOSSES, also as
    "huber:delta=2", or a Loss; by default the output activation's canonical one. learning_rate: by default the
    optimizer's own. batch_size: rows a step, or "full"; the last batch of an epoch has what is left. alpha, l1:
    penalties alpha * sum(W**2) / 2 and l1 * sum(|W|) on weights. clip_norm: the longest gradient allowed.
    sample_weight: (n_rows,), how much each row counts. validation: the share of rows to hold out (seeded; for labels by
    class), or (X, y) or (X, y, weights). early_stopping: True or an EarlyStopping. shuffle: visit the rows in a new
    order every epoch. backend, threads: see get_backend; no number depends on threads. dtype: "float32" or "float64".
    seed: of weights, orders, masks and split; None draws one.
    callbacks: called with an EpochRecord after every epoch; one that returns True ends the run.
    initial_parameters, initial_state: the flat vectors to start from, such as a model's parameters and state. orders:
    called with the epoch's number from 0, returns the order of its rows. inputs, targets: encodings between the user's
    data and the network's numbers, by default none for inputs and, for y, by its shape. input_scale: what inputs are
    multiplied by, such as 1/255 for bytes.

    Ctrl-C ends the run after the current stretch, with a warning, and returns the model as far as it is. Raises
    TypeError or ValueError for parameters and data that do not fit, BackendUnavailableError, and DivergenceError
    when the loss becomes infinite or NaN.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a Network, got {network!r}")
    dtype = check_dtype(dtype)
    seed = secrets.randbits(63) if seed is None else check_seed(seed)
    chosen_loss = default_loss(network) if loss is None else get_loss(loss)
    check_pair(network.output_layer.function, chosen_loss)
    chosen_optimizer = get_optimizer(optimizer)
    rate = chosen_optimizer.learning_rate if learning_rate is None else learning_rate
    check_fits(check_number(rate, "learning_rate", 0, above=True), "learning_rate", dtype)
    input_scale = check_number(input_scale, "input_scale", 0, above=True)
    epochs, shuffle = check_integer(epochs, "epochs"), check_flag(shuffle, "shuffle")
    if early_stopping is True:
        early_stopping = EarlyStopping()
    elif early_stopping is not False and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f"early_stopping must be True, False or an EarlyStopping, got {early_stopping!r}")
    recipe = Recipe(
        chosen_loss,
        chosen_optimizer,
        dtype,
        check_number(alpha, "alpha", 0),
        check_number(l1, "l1", 0),
        None if clip_norm is None else check_number(clip_norm, "clip_norm", 0, above=True),
        seed,
    )
    targets = targets or choose_targets(y, network, chosen_loss)

    def source(X: Any, y: Any, weights: Any) -> Source:
        return make_source(
            X, y, weights, network=network, loss=chosen_loss, dtype=dtype, inputs=inputs, targets=targets,
            scale=input_scale,
        )  # fmt: skip

    training = source(X, y, sample_weight)
    held_out: Source | None = None
    if isinstance(validation, tuple):
        if len(validation) not in (2, 3):
            raise ValueError(f"validation must be (X, y) or (X, y, weights), got a tuple of {len(validation)}")
        held_out = source(*validation, *((None,) if len(validation) == 2 else ()))
    elif validation is not None:
        labels = training.targets if isinstance(targets, ClassTargets) else None
        parts = split_rows(
            training.n_rows, validation, seed, labels=None if labels is None else labels.reshape(-1), which=1
        )
        training, held_out = (_take(training, rows) for rows in parts)
        for source_part, name in ((training, "training"), (held_out, "validation")):
            if source_part.sample_weight is not None and not source_part.sample_weight.any():
                raise ValueError(f"sample_weight is zero for all {name} rows; give validation data of its own")

    if isinstance(early_stopping, EarlyStopping):
        early_stopping.check_monitor(held_out, targets)
    if batch_size == "full":
        batch_size = training.n_rows
    batch = min(check_integer(batch_size, "batch_size (or 'full')"), training.n_rows)
    plan = make_plan(network, planned_rows(batch, training.n_rows))
    parameters = plan.initial_parameters(seed) if initial_parameters is None else initial_parameters
    parameters = check_vector(parameters, plan.parameter_count, dtype, "initial_parameters")
    state = plan.initial_state() if initial_state is None else initial_state
    state = check_vector(state, plan.state_count, dtype, "initial_state")
    check_state(plan, state)
    if orders is None:
        everything = np.arange(training.n_rows)
        orders = ShuffledOrders(seed, training.n_rows) if shuffle else lambda epoch: everything
    else:
        orders = _checked(orders, training.n_rows)
    chosen_backend = get_backend(backend, threads)
    # From here on, so that Ctrl-C cannot be lost inside the compiler
    with interruptible() as interruption:
        program = chosen_backend.compile(plan, recipe)
        for rows in (training, held_out):
            if rows is not None:
                check_place(program, rows)
        program.parameters, program.state = parameters, state
        program.bind(training)
        model = Model(
            network, program.parameters, program.state, chosen_loss, targets, inputs, input_scale, History(), backend,
            threads,
        )  # fmt: skip
        _Run(
            program, training, held_out, model, orders, get_schedule(schedule), rate, epochs, batch,
            early_stopping or None, tuple(callbacks), interruption,
        ).go()  # fmt: skip
    if model.history.stopped == "interrupted":
        warnings.warn("Training interrupted by user.", stacklevel=2)
    return model


def planned_rows(batch_size: int, n_rows: int) -> int:
    """The most rows that train() has in its workspace at once, for steps and for evaluation."""
    return min(max(batch_size, EVALUATION_ROWS), n_rows)


class _Run:
    """The state of one run between stretches."""

    def __init__(
        self,
        program: Program,
        training: Source,
        held_out: Source | None,
        model: Model,
        orders: Orders,
        schedule: Schedule,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        early_stopping: EarlyStopping | None,
        callbacks: tuple[Callback, ...],
        interruption: Interruption,
    ) -> None:
        self.program, self.training, self.held_out, self.model = program, training, held_out, model
        self.orders, self.schedule, self.learning_rate = orders, schedule, learning_rate
        self.epochs, self.early_stopping, self.callbacks = epochs, early_stopping, callbacks
        self.history = model.history
        self.bounds = np.append(np.arange(0, training.n_rows, batch_size), training.n_rows)
        self.steps_per_epoch = len(self.bounds) - 1
        self.span = Span(self.steps_per_epoch, self.steps_per_epoch * epochs)
        self.plateau: Plateau | None = schedule.start() if isinstance(schedule, ReduceOnPlateau) else None
        # Only then may a stretch run on over the end of an epoch
        self.is_watched = bool(held_out or early_stopping or callbacks or self.plateau)
        # A guess until the first stretch was timed: some overhead, and a slow processor
        self.seconds_per_step = 1e-4 + program.plan.flops_per_row() * batch_size / 2e9
        self.interruption = interruption
        self.best_value = math.inf
        self.best_epoch = 0
        self.best = program.parameters, program.state
        self.waited = 0

    def go(self) -> None:
        """Run all epochs, or until something ends the run; then give the model its parameters."""
        epoch = 0
        while epoch < self.epochs and not self.interruption.noted:
            whole = self._epochs_at_once(self.epochs - epoch)
            finished = self._run_epochs(epoch, whole) if whole > 1 else self._run_epoch(epoch)
            epoch += finished
            if finished and self._should_stop():
                break
        if epoch < self.epochs and self.history.stopped == "epochs":
            self.history.stopped = "interrupted"
        learnt = self.program.parameters, self.program.state
        if not _all_finite(learnt):
            self._diverged("the weights became infinite or NaN", self.history.epochs - 1)
        if self.early_stopping and self.early_stopping.restore_best and self.best_epoch:
            learnt = self.best
            self.history.best_epoch = self.best_epoch
        self.model.parameters[...], self.model.state[...] = learnt

    def _epochs_at_once(self, remaining: int) -> int:
        """How many whole epochs fit into one stretch; below 2, an epoch is run for itself, in parts if it is long."""
        if self.is_watched:
            return 1
        by_time = STRETCH_SECONDS / (self.seconds_per_step * self.steps_per_epoch)
        return int(min(by_time, remaining, STRETCH_ROWS // self.training.n_rows))

    def _run_epochs(self, first: int, count: int) -> int:
        """Run `count` short epochs in one stretch."""
        per_epoch = [self.orders(epoch) for epoch in range(first, first + count)]
        n_rows = self.training.n_rows
        starts = (np.arange(count)[:, np.newaxis] * n_rows + self.bounds[:-1]).reshape(-1)
        first_step = first * self.steps_per_epoch
        losses, rates, seconds = self._stretch(np.concatenate(per_epoch), np.append(starts, count * n_rows), first_step)
        losses, rates = losses.reshape(count, -1), rates.reshape(count, -1)
        for index, order in enumerate(per_epoch):
            mean = self._epoch_loss(losses[index], order)
            self.history.append(EpochRecord(first + index + 1, mean, rates[index, -1], seconds / count))
        self._remember_best(self.history.loss[-1])
        return count

    def _run_epoch(self, epoch: int) -> int:
        """Run one epoch in stretches, then do what is due at its end. Returns 0 if it was interrupted, else 1."""
        order = self.orders(epoch)
        losses = np.zeros(self.steps_per_epoch)
        seconds, start = 0.0, 0
        rate = self.learning_rate
        while start < self.steps_per_epoch:
            steps = max(1, int(STRETCH_SECONDS / self.seconds_per_step))
            end = min(start + steps, self.steps_per_epoch)
            bounds = self.bounds[start : end + 1]
            part = order[bounds[0] : bounds[-1]]
            first_step = epoch * self.steps_per_epoch + start
            losses[start:end], rates, took = self._stretch(part, bounds - bounds[0], first_step)
            seconds, rate, start = seconds + took, rates[-1], end
            if self.interruption.noted and start < self.steps_per_epoch:
                return 0
        loss = self._epoch_loss(losses, order)
        metrics = self._validate()
        record = EpochRecord(epoch + 1, loss, rate, seconds, metrics)
        self.history.append(record)
        if self.plateau:
            self.plateau.observe(metrics.get("validation_loss", loss))
        self._remember_best(self._watched_value(record))
        for callback in self.callbacks:  # every one hears of the epoch, also after one that asked to stop
            if callback(record) in (True, np.True_):
                self.history.stopped = "callback"
        return 1

    def _stretch(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], first_step: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Run one stretch. Returns every step's loss and learning rate, and the seconds it took."""
        steps = np.arange(first_step, first_step + len(bounds) - 1)
        factor = self.plateau.factor if self.plateau else 1.0
        rates = self.learning_rate * factor * self.schedule.factors(steps, self.span)
        start = time.perf_counter()
        losses = self.program.run(np.ascontiguousarray(order, np.int64), bounds, rates, first_step)
        seconds = time.perf_counter() - start
        self.seconds_per_step = max(seconds / len(steps), 1e-9)
        wrong = ~np.isfinite(losses)
        if wrong.any():
            step = int(np.argmax(wrong))
            self._diverged(f"the loss became {losses[step]}", (first_step + step) // self.steps_per_epoch)
        return losses, rates, seconds

    def _epoch_loss(self, losses: NDArray[np.float64], order: NDArray[np.int64]) -> float:
        """The steps' losses as one: their average by the batches' weights, or the sum of summed losses."""
        if self.model.loss.reduction == "sum":
            return float(losses.sum())
        weights = self.training.sample_weight
        if weights is None:
            batch_weights = np.diff(self.bounds).astype(np.float64)
        else:
            batch_weights = np.add.reduceat(weights[order].astype(np.float64), self.bounds[:-1])
        return float(np.average(losses, weights=batch_weights))

    def _validate(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        loss, outputs = self.program.evaluate(self.held_out)
        assert self.held_out.targets is not None
        scores = score(outputs, self.held_out.targets, self.model.targets, self.held_out.sample_weight)
        return {f"validation_{name}": value for name, value in {"loss": loss, **scores}.items()}

    def _watched_value(self, record: EpochRecord) -> float:
        """The number that decides which epoch is the best, with its sign turned where more is better."""
        known = {"loss": record.loss, **record.metrics}
        monitor = self.early_stopping.monitor if self.early_stopping else None
        name = monitor or ("validation_loss" if self.held_out else "loss")
        return known[name] if name.endswith("loss") else -known[name]

    def _remember_best(self, value: float) -> None:
        tolerance = self.early_stopping.tolerance if self.early_stopping else 0.0
        self.waited = 0 if value < self.best_value - tolerance else self.waited + 1
        if value < self.best_value:
            learnt = self.program.parameters, self.program.state
            if _all_finite(learnt):  # the update after a finite loss can be the one that diverges
                self.best_value, self.best_epoch, self.best = value, self.history.epochs, learnt

    def _should_stop(self) -> bool:
        if self.early_stopping and self.waited >= self.early_stopping.patience:
            self.history.stopped = "early stopping"
        return self.history.stopped != "epochs"

    def _diverged(self, what: str, epoch: int) -> None:
        self.history.stopped = "diverged"
        self.model.parameters[...], self.model.state[...] = self.best
        kept = f"the weights of epoch {self.best_epoch} are kept" if self.best_epoch else "the initial weights are kept"
        raise DivergenceError(
            f"{what} in epoch {epoch + 1}: try a learning rate below {self.learning_rate:g}, clip_norm=1, or "
            f"standardised inputs; {kept}",
            self.model,
        )


def _checked(orders: Orders, n_rows: int) -> Orders:
    """The user's orders, each of them checked: compiled kernels read whatever row they are told to."""

    def checked(epoch: int) -> NDArray[np.int64]:
        order = np.asarray(orders(epoch))
        if order.shape != (n_rows,) or order.dtype.kind not in "iu":
            raise ValueError(
                f"orders({epoch}) must give {n_rows} row numbers, got {order.dtype} of shape {order.shape}"
            )
        if order.min() < 0 or order.max() >= n_rows:
            raise ValueError(f"orders({epoch}) must give rows in [0, {n_rows}), got {order.min()} to {order.max()}")
        return order.astype(np.int64)

    return checked


def _all_finite(vectors: tuple[NDArray[Any], ...]) -> bool:
    return all(bool(np.isfinite(vector).all()) for vector in vectors)


def _take(source: Source, rows: NDArray[np.int64]) -> Source:
    """Some rows of a source, copied."""
    assert source.targets is not None
    weights = None if source.sample_weight is None else source.sample_weight[rows]
    return Source(take_rows(source.inputs, rows), source.targets[rows], weights, source.scale)
