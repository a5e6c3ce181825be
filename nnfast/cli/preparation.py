"""From a run's options to what train() takes: the parts of the data, their encodings, and the network."""

from __future__ import annotations

import dataclasses
import inspect
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import Dataset, Inputs, load_dataset
from ..data.encoding import InputEncoding
from ..data.splits import TEST, VALIDATION, split_rows
from ..data.table import Table
from ..data.targets import NumberTargets, TargetEncoding, fit_targets, infer_task
from ..formulas.activations import get_activation
from ..formulas.choices import format_choice, parse_choice
from ..formulas.losses import get_loss
from ..formulas.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from ..formulas.schedules import Schedule, get_schedule
from ..models.validation import default_loss
from ..networks.layers import Dense
from ..networks.named import get_network
from ..networks.network import Network, layer_from_data, multilayer_perceptron
from ..support.checks import check_integer
from ..training.stopping import EarlyStopping


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows: inputs and targets in the user's own units."""

    X: Inputs
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.int64]) -> Part:
        return Part(self.X.take(rows) if isinstance(self.X, Table) else self.X[rows], self.y[rows])

    def split(self, share: float, seed: int, task: str, which: int) -> tuple[Part, Part | None]:
        """The rows kept and, unless `share` is 0, the rows held out: in every class alike for classification."""
        if not share:
            return self, None
        labels = self.y.reshape(-1) if task == "classification" else None
        kept, held_out = split_rows(len(self), share, seed, labels=labels, which=which)
        return self.take(kept), self.take(held_out)


@dataclass(frozen=True, eq=False)
class Divided:
    """A data set in its parts, and what all networks on it share. reason: how the task was inferred."""

    training: Part
    validation: Part | None
    test: Part | None
    brings_test: bool
    task: str
    reason: str | None
    inputs: InputEncoding | None
    input_scale: float
    _targets: dict[bool, TargetEncoding] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        if self.inputs is not None:
            return (self.inputs.n_features,)
        assert not isinstance(self.training.X, Table)  # a table always has an encoding
        return self.training.X.shape[1:]

    def targets(self, standardized: bool) -> TargetEncoding:
        """One encoding for all networks whose outputs have these units."""
        if standardized not in self._targets:
            y = self.training.y
            is_regression = self.task == "regression"
            made = NumberTargets.fit(y, standardize=standardized) if is_regression else fit_targets(y, self.task)
            if self.test is not None:
                made.encode(self.test.y)  # a label that is in no training row is refused before the work, not after it
            self._targets[standardized] = made
        return self._targets[standardized]


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that a run needs. values: the options with nothing left to decide."""

    values: dict[str, Any]
    data: Divided
    network: Network
    optimizer: Optimizer
    schedule: Schedule
    targets: TargetEncoding

    @property
    def batch_size(self) -> int:
        """The rows of a step."""
        n_rows, batch_size = len(self.data.training), self.values["batch_size"]
        return n_rows if batch_size == "full" else min(batch_size, n_rows)

    @property
    def training_options(self) -> dict[str, Any]:
        """What train() and train_many() are asked for, besides the network and the data."""
        values, validation = self.values, self.data.validation
        early_stopping = EarlyStopping(values["patience"], values["tolerance"]) if values["early_stopping"] else False
        as_they_are = (
            "loss", "learning_rate", "epochs", "batch_size", "alpha", "l1", "clip_norm", "shuffle", "dtype", "seed",
        )  # fmt: skip
        return {name: values[name] for name in as_they_are} | {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "validation": None if validation is None else (validation.X, validation.y),
            "early_stopping": early_stopping,
            "inputs": self.data.inputs,
            "targets": self.targets,
            "input_scale": self.data.input_scale,
        }


def test_part(dataset: Dataset) -> Part | None:
    """The test part that a data set brings."""
    if dataset.x_test is None or dataset.y_test is None:
        return None
    return Part(dataset.x_test, dataset.y_test)


def divide(values: Mapping[str, Any]) -> Divided:
    """Load the data, divide it, and encode its columns. values: every option, with a seed that is a number.

    Raises ValueError, TypeError or OSError.
    """
    dataset = load_dataset(values["data"], target=values["target"])
    everything = Part(dataset.x_train, dataset.y_train)
    task, reason, seed = values["task"], None, values["seed"]
    if task is None:
        task, reason = infer_task(everything.y, values["target"])
    test = test_part(dataset)
    rest = everything
    if test is None:
        rest, test = everything.split(values["test"], seed, task, TEST)
    training, validation = rest.split(values["validation"], seed, task, VALIDATION)
    inputs = _fit_inputs(dataset, everything, training, values["standardize"])
    return Divided(training, validation, test, dataset.x_test is not None, task, reason, inputs, dataset.input_scale)


def prepare(options: Mapping[str, Any], data: Divided | None = None) -> Prepared:
    """Decide what is left open, and build the network. Raises ValueError, TypeError or OSError.

    data: divided by the same options of the data; if None, it is loaded and divided.
    """
    values = dict(options)
    if values["seed"] == "random":
        values["seed"] = random_seed()
    check_integer(values["ensemble"], "ensemble")
    optimizer, values["optimizer"] = resolve_optimizer(values["optimizer"])
    schedule, values["schedule"] = resolve_schedule(values["schedule"])
    if values["loss"] is not None:
        loss = get_loss(values["loss"])
        values["loss"] = format_choice(loss.name, dict(loss.constants))
    if values["learning_rate"] is None:
        values["learning_rate"] = optimizer.learning_rate
    if data is None:
        data = divide(values)
    task = values["task"] = data.task
    if values["output_activation"] is None:
        values["output_activation"] = "softmax" if task == "classification" else "identity"
    # Targets of a regression are standardised where the outputs can reach any number
    unbounded = task == "regression" and get_activation(values["output_activation"]).range == "(-inf, inf)"
    targets = data.targets(values["standardize"] and unbounded)
    # One sigmoid output tells two classes apart
    is_single = task == "classification" and targets.n_outputs == 2 and values["output_activation"] == "sigmoid"
    network = _build_network(values, data.input_shape, 1 if is_single else targets.n_outputs)
    if values["loss"] is None:
        values["loss"] = default_loss(network).name
    return Prepared(values, data, network, optimizer, schedule, targets)


def random_seed() -> int:
    """The seed of --seed random."""
    return secrets.randbits(63)


def _build_network(values: dict[str, Any], shape: tuple[int, ...], outputs: int) -> Network:
    """The network that the options describe in one of three ways; the output layer is added to all of them."""
    activation = values["output_activation"]
    if values["network"] is not None:
        return get_network(values["network"])(shape, outputs, activation)
    if values["layers"] is not None:
        layers = [layer_from_data(index, layer) for index, layer in enumerate(values["layers"])]
        return Network(shape, (*layers, Dense(outputs, activation)))
    return multilayer_perceptron(
        shape,
        values["hidden"],
        outputs,
        activation=values["activation"],
        output_activation=activation,
        dropout=values["dropout"],
        bias=values["bias"],
        initializer=values["initializer"],
    )


def resolve_optimizer(text: str) -> tuple[Optimizer, str]:
    """The optimizer of NAME[:OPTION=VALUE,...], and that text with every option's value written out."""
    name, options = parse_choice(text, "optimizer")
    optimizer = get_optimizer(name, **options)
    signature = inspect.signature(OPTIMIZERS[name]).parameters
    return optimizer, format_choice(name, {key: item.default for key, item in signature.items()} | options)


def resolve_schedule(text: str) -> tuple[Schedule, str]:
    """The schedule of NAME[:OPTION=VALUE,...], and that text with every option's value written out."""
    name, options = parse_choice(text, "schedule")
    schedule = get_schedule(name, **options)
    return schedule, format_choice(name, dataclasses.asdict(schedule))


def _fit_inputs(dataset: Dataset, everything: Part, training: Part, standardize: bool) -> InputEncoding | None:
    """The encoding fitted on the rows trained on; of a table, the categories of all rows.

    A rare category may have all its rows held out: it is then known, if untrained, and the run can be measured.
    """
    is_table = isinstance(training.X, Table)
    if not is_table and not (standardize and dataset.standardize):
        return None
    encoding = InputEncoding.fit(training.X, None if is_table else dataset.feature_names)
    if is_table:
        encoding = dataclasses.replace(encoding, categories=InputEncoding.fit(everything.X).categories)
    if not standardize:
        size = len(encoding.mean)
        encoding = dataclasses.replace(encoding, mean=np.zeros(size), scale=np.ones(size))
    return encoding
