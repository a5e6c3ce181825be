"""train(): a network and data become a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from numpy.typing import ArrayLike

from ..backends import Backend, get_backend
from ..data.encoding import InputEncoding
from ..data.table import Table
from ..data.targets import TargetEncoding
from ..formulas.losses import Loss
from ..formulas.optimizers import Optimizer
from ..formulas.schedules import Schedule
from ..models.model import Model
from ..networks.network import Network
from ..support.interruption import interruptible
from .job import Data, Settings, make_job
from .rules import Orders
from .runner import Callback
from .stopping import EarlyStopping


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
    settings = Settings(
        loss, optimizer, learning_rate, epochs, batch_size, schedule, alpha, l1, clip_norm, sample_weight, validation,
        early_stopping, shuffle, dtype, seed, callbacks, initial_parameters, initial_state, orders, inputs, targets,
        input_scale,
    )  # fmt: skip
    job = make_job(network, Data(X, y), settings)
    chosen_backend = get_backend(backend, threads)
    # From here on, so that Ctrl-C cannot be lost inside the compiler
    with interruptible() as interruption:
        model = job.run(chosen_backend.compile, interruption, backend=backend, threads=threads)
    if model.history.stopped == "interrupted":
        warnings.warn("Training interrupted by user.", stacklevel=2)
    return model
