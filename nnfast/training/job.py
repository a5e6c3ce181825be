"""One training, checked and ready to run: what train() makes of its arguments, and train_many() of each network's."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Program, Source, check_place
from ..data.encoding import InputEncoding
from ..data.splits import VALIDATION, split_rows
from ..data.table import Table
from ..data.targets import ClassTargets, TargetEncoding
from ..formulas.losses import Loss, check_pair, get_loss
from ..formulas.optimizers import Optimizer, get_optimizer
from ..formulas.schedules import Schedule, get_schedule
from ..models.model import Model
from ..models.validation import (
    check_sample_weight,
    check_state,
    check_vector,
    choose_targets,
    default_loss,
    encode_targets,
    scaled_inputs,
)
from ..networks.layers import Dropout
from ..networks.network import Network
from ..plans.plan import Plan, make_plan
from ..plans.recipe import Recipe
from ..support.checks import check_callbacks, check_dtype, check_fits, check_flag, check_integer, check_number, shown
from ..support.interruption import Interruption
from ..support.random import ShuffledOrders, check_seed
from .rules import Orders, Part, TrainingRules
from .runner import Callback, Runner
from .state import State
from .stopping import EarlyStopping

# Made once for many equal networks. A user's own Optimizer is not made here
_plan, _named_optimizer = lru_cache(64)(make_plan), lru_cache(64)(get_optimizer)

EVALUATION_ROWS = 256  # the least that a program is laid out for: evaluation in smaller blocks would be slow


@dataclass(frozen=True, eq=False)
class Settings:
    """What a user may choose of one training, as it was given: the options of train(), where they are described."""

    loss: str | Loss | None = None
    optimizer: str | Optimizer = "adam"
    learning_rate: float | None = None
    epochs: int = 50
    batch_size: int | str = 32
    schedule: str | Schedule = "constant"
    alpha: float = 0.0
    l1: float = 0.0
    clip_norm: float | None = None
    sample_weight: ArrayLike | None = None
    validation: float | tuple[Any, ...] | None = None
    early_stopping: bool | EarlyStopping = False
    shuffle: bool = True
    dtype: Any = "float32"
    seed: int | None = 0
    callbacks: Iterable[Callback] = ()
    initial_parameters: ArrayLike | None = None
    initial_state: ArrayLike | None = None
    orders: Orders | None = None
    inputs: InputEncoding | None = None
    targets: TargetEncoding | None = None
    input_scale: float = 1.0


class Data:
    """What a user handed in, turned into a backend's rows once for all networks that read it in one way."""

    def __init__(self, X: ArrayLike | Table, y: ArrayLike) -> None:
        self._X, self._y = X, y
        self._inputs: dict[tuple[Any, ...], tuple[NDArray[Any], float]] = {}
        self._targets: dict[tuple[Any, ...], TargetEncoding] = {}
        self._sources: dict[tuple[Any, ...], Source] = {}
        self._others: dict[int, Data] = {}
        self._named: list[Any] = []  # what the keys name by its identity, which nothing else may get

    def targets(self, network: Network, loss: Loss) -> TargetEncoding:
        """How to read y, where the user does not say."""
        key = network.output_size, loss
        if key not in self._targets:
            self._targets[key] = choose_targets(self._y, network, loss)
        return self._targets[key]

    def source(
        self,
        network: Network,
        loss: Loss,
        dtype: np.dtype[Any],
        inputs: InputEncoding | None,
        targets: TargetEncoding,
        scale: float,
        sample_weight: ArrayLike | None,
    ) -> Source:
        """The rows as this network reads them."""
        key = network.input_shape, dtype, id(inputs), scale
        if key not in self._inputs:
            self._inputs[key] = scaled_inputs(self._X, network, dtype, inputs, scale)
        whole = *key, network.output_size, loss, id(targets), id(sample_weight)
        if whole not in self._sources:
            rows, scale = self._inputs[key]
            encoded = encode_targets(self._y, network, loss, dtype, targets, len(rows))
            self._sources[whole] = Source(rows, encoded, check_sample_weight(sample_weight, len(rows), dtype), scale)
            self._named += inputs, targets, sample_weight
        return self._sources[whole]

    def beside(self, validation: tuple[Any, ...]) -> Data:
        """The rows to validate with of (X, y) or (X, y, weights)."""
        if len(validation) not in (2, 3):
            raise ValueError(f"validation must be (X, y) or (X, y, weights), got a tuple of {len(validation)}")
        if id(validation) not in self._others:
            self._others[id(validation)] = Data(*validation[:2])
            self._named.append(validation)
        return self._others[id(validation)]


@dataclass(frozen=True, eq=False)
class Job:
    """A training whose parameters and data were checked.

    parts: gives the rows learnt from, n_rows of them, and those measured after every epoch; drawn when they are needed,
    for thousands of jobs may wait. orders: of the training rows by their places among them. parameters: to begin with,
    if they are not drawn by the seed.
    """

    network: Network
    recipe: Recipe
    plan: Plan
    parts: Callable[[], tuple[Part, Part | None]]
    n_rows: int
    epochs: int
    batch_size: int
    rate: float
    schedule: Schedule
    early_stopping: EarlyStopping | None
    callbacks: tuple[Callback, ...]
    orders: Orders
    parameters: NDArray[Any] | None
    state: NDArray[Any]
    inputs: InputEncoding | None
    targets: TargetEncoding
    input_scale: float
    seed: int

    @property
    def flops(self) -> float:
        """About how many it takes, to tell long ones from short ones."""
        return float(self.plan.flops_per_row()) * self.n_rows * self.epochs

    def run(
        self, compile_program: Callable[[Plan, Recipe], Program], interruption: Interruption, **predicts: Any
    ) -> Model:
        """Train, and return the model. Raises DivergenceError.

        compile_program: Backend.compile, or what gives a program that another job has left. predicts: on what the Model
        will predict, its `backend` and `threads`.
        """
        program, (training, held_out) = compile_program(self.plan, self.recipe), self.parts()
        for part in (training, held_out):
            if part is not None:
                check_place(program, part.source)
        program.bind(training.source)
        drawn = self.plan.initial_parameters(self.seed) if self.parameters is None else self.parameters
        model = Model(
            self.network, drawn.astype(self.recipe.dtype), self.state.copy(), self.recipe.loss, self.targets,
            self.inputs, self.input_scale, **predicts,
        )  # fmt: skip
        rules = TrainingRules(program, model, training, held_out, self.orders, self.rate, self.early_stopping)
        slots = np.zeros((len(self.recipe.optimizer.slots), self.plan.parameter_count), self.recipe.dtype)
        runner = Runner(
            program, rules, State(model.parameters, slots, model.state),
            n_rows=self.n_rows, batch_size=self.batch_size, epochs=self.epochs, schedule=self.schedule,
            callbacks=self.callbacks, history=model.history, interruption=interruption,
        )  # fmt: skip
        runner.run()
        rules.finish(runner.progress)
        return model


def make_job(
    network: Network,
    data: Data,
    settings: Settings,
    training_rows: NDArray[np.int64] | None = None,
    held_out_rows: NDArray[np.int64] | None = None,
) -> Job:
    """Check what the user chose.

    training_rows, held_out_rows: the rows of a fold, instead of settings.validation. Raises as train() does.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a Network, got {shown(network)}")
    callbacks = check_callbacks(settings.callbacks)
    dtype = check_dtype(settings.dtype)
    seed = secrets.randbits(63) if settings.seed is None else check_seed(settings.seed)
    loss = default_loss(network) if settings.loss is None else get_loss(settings.loss)
    check_pair(network.output_layer.function, loss)
    chosen = settings.optimizer
    optimizer = _named_optimizer(chosen) if isinstance(chosen, str) else get_optimizer(chosen)
    rate = optimizer.learning_rate if settings.learning_rate is None else settings.learning_rate
    check_fits(check_number(rate, "learning_rate", 0, above=True), "learning_rate", dtype)
    input_scale = check_number(settings.input_scale, "input_scale", 0, above=True)
    check_fits(input_scale, "input_scale", dtype)
    epochs, shuffle = check_integer(settings.epochs, "epochs"), check_flag(settings.shuffle, "shuffle")
    early_stopping = settings.early_stopping
    if early_stopping is True:
        early_stopping = EarlyStopping()
    elif early_stopping is not False and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f"early_stopping must be True, False or an EarlyStopping, got {shown(early_stopping)}")
    recipe = Recipe(
        loss,
        optimizer,
        dtype,
        check_number(settings.alpha, "alpha", 0),
        check_number(settings.l1, "l1", 0),
        None if settings.clip_norm is None else check_number(settings.clip_norm, "clip_norm", 0, above=True),
        # Without masks, the programs of all seeds are one
        seed if any(isinstance(layer, Dropout) for layer in network.layers) else 0,
    )
    targets = settings.targets or data.targets(network, loss)
    read = network, loss, dtype, settings.inputs, targets, input_scale
    source = data.source(*read, settings.sample_weight)
    given: Part | None = None
    if held_out_rows is not None and len(held_out_rows):
        given = Part(source, held_out_rows)
    elif isinstance(settings.validation, tuple):
        weights = settings.validation[2] if len(settings.validation) == 3 else None
        given = Part(data.beside(settings.validation).source(*read, weights))

    def parts() -> tuple[Part, Part | None]:
        if settings.validation is None or isinstance(settings.validation, tuple):
            return Part(source, training_rows), given
        labels = class_labels(source, targets)
        kept, held = split_rows(source.n_rows, settings.validation, seed, labels=labels, which=VALIDATION)
        return Part(source, kept), Part(source, held)

    training, held_out = parts()
    if training.rows is not None:
        for part, name in ((training, "training"), (held_out, "validation")):
            if part is not None and not part.has_weight:
                raise ValueError(f"sample_weight is zero for all {name} rows; give validation data of its own")

    if early_stopping:
        early_stopping.check_monitor(held_out is not None, targets)
    n_rows = training.n_rows
    batch_size = n_rows if settings.batch_size == "full" else settings.batch_size
    batch = min(check_integer(batch_size, "batch_size (or 'full')"), n_rows)
    plan = _plan(network, planned_rows(batch, n_rows))
    parameters = None
    if settings.initial_parameters is not None:
        parameters = check_vector(settings.initial_parameters, plan.parameter_count, dtype, "initial_parameters")
    state = plan.initial_state() if settings.initial_state is None else settings.initial_state
    state = check_vector(state, plan.state_count, dtype, "initial_state")
    check_state(plan, state)
    if settings.orders is None:
        # In order, it is made anew each epoch: thousands of jobs may wait
        orders: Orders = ShuffledOrders(seed, n_rows) if shuffle else lambda epoch: np.arange(n_rows)
    else:
        orders = _checked(settings.orders, n_rows)
    return Job(
        network, recipe, plan, parts, n_rows, epochs, batch, rate, get_schedule(settings.schedule),
        early_stopping or None, callbacks, orders, parameters, state, settings.inputs, targets, input_scale,
        seed,
    )  # fmt: skip


def class_labels(source: Source, targets: TargetEncoding) -> NDArray[Any] | None:
    """The class of every row, (n_rows,), if the targets are classes."""
    return source.targets.reshape(-1) if isinstance(targets, ClassTargets) and source.targets is not None else None


def planned_rows(batch_size: int, n_rows: int) -> int:
    """The most rows that train() has in its workspace at once, for steps and for evaluation."""
    return min(max(batch_size, EVALUATION_ROWS), n_rows)


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
