"""train(): what users hand in becomes a program, its rows and the rules of a run; the Runner does the rest."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Backend, Source, check_place, get_backend
from ..data.encoding import InputEncoding
from ..data.splits import split_rows
from ..data.table import Table
from ..data.targets import ClassTargets, TargetEncoding
from ..formulas.losses import Loss, check_pair, get_loss
from ..formulas.optimizers import Optimizer, get_optimizer
from ..formulas.schedules import Schedule, get_schedule
from ..models.model import Model
from ..models.validation import check_state, check_vector, choose_targets, default_loss, make_source
from ..networks.network import Network
from ..plans.plan import make_plan
from ..plans.recipe import Recipe
from ..support.arrays import take_rows
from ..support.checks import check_callbacks, check_dtype, check_fits, check_flag, check_integer, check_number, shown
from ..support.interruption import interruptible
from ..support.random import ShuffledOrders, check_seed
from .rules import Orders, TrainingRules
from .runner import Callback, Runner
from .state import State
from .stopping import EarlyStopping

EVALUATION_ROWS = 256  # the least that a program is laid out for: evaluation in smaller blocks would be slow


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
    callbacks: functions, called with an EpochRecord after every epoch; one that returns True ends the run.
    initial_parameters, initial_state: the flat vectors to start from, such as a model's parameters and state. orders:
    called with the epoch's number from 0, returns the order of its rows. inputs, targets: encodings between the user's
    data and the network's numbers, by default none for inputs and, for y, by its shape. input_scale: what inputs are
    multiplied by, such as 1/255 for bytes.

    Ctrl-C ends the run after the current stretch, with a warning, and returns the model as far as it is. Raises
    TypeError or ValueError for parameters and data that do not fit, BackendUnavailableError, and DivergenceError
    when the loss becomes infinite or NaN.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a Network, got {shown(network)}")
    callbacks = check_callbacks(callbacks)
    dtype = check_dtype(dtype)
    seed = secrets.randbits(63) if seed is None else check_seed(seed)
    chosen_loss = default_loss(network) if loss is None else get_loss(loss)
    check_pair(network.output_layer.function, chosen_loss)
    chosen_optimizer = get_optimizer(optimizer)
    rate = chosen_optimizer.learning_rate if learning_rate is None else learning_rate
    check_fits(check_number(rate, "learning_rate", 0, above=True), "learning_rate", dtype)
    input_scale = check_number(input_scale, "input_scale", 0, above=True)
    check_fits(input_scale, "input_scale", dtype)
    epochs, shuffle = check_integer(epochs, "epochs"), check_flag(shuffle, "shuffle")
    if early_stopping is True:
        early_stopping = EarlyStopping()
    elif early_stopping is not False and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f"early_stopping must be True, False or an EarlyStopping, got {shown(early_stopping)}")
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
        early_stopping.check_monitor(held_out is not None, targets)
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
        program.bind(training)
        model = Model(
            network, parameters.copy(), state.copy(), chosen_loss, targets, inputs, input_scale,
            backend=backend, threads=threads,
        )  # fmt: skip
        rules = TrainingRules(program, model, training, held_out, orders, rate, early_stopping or None)
        runner = Runner(
            program, rules, State(model.parameters, program.slots, model.state),
            n_rows=training.n_rows, batch_size=batch, epochs=epochs, schedule=get_schedule(schedule),
            callbacks=callbacks, history=model.history, interruption=interruption,
        )  # fmt: skip
        runner.run()
        rules.finish(runner.progress)
    if model.history.stopped == "interrupted":
        warnings.warn("Training interrupted by user.", stacklevel=2)
    return model


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


def _take(source: Source, rows: NDArray[np.int64]) -> Source:
    """Some rows of a source, copied."""
    assert source.targets is not None
    weights = None if source.sample_weight is None else source.sample_weight[rows]
    return Source(take_rows(source.inputs, rows), source.targets[rows], weights, source.scale)
