"""From a run's options to what train() takes: the parts of the data, their encodings, and the network."""

from __future__ import annotations

import dataclasses
import inspect
import secrets
from dataclasses import dataclass
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
class Prepared:
    """All that a run needs. values: the options with nothing left to decide; reason: how the task was inferred."""

    values: dict[str, Any]
    training: Part
    validation: Part | None
    test: Part | None
    brings_test: bool
    reason: str | None
    network: Network
    optimizer: Optimizer
    schedule: Schedule
    inputs: InputEncoding | None
    targets: TargetEncoding
    input_scale: float

    @property
    def batch_size(self) -> int:
        """The rows of a step."""
        n_rows, batch_size = len(self.training), self.values["batch_size"]
        return n_rows if batch_size == "full" else min(batch_size, n_rows)


def test_part(dataset: Dataset) -> Part | None:
    """The test part that a data set brings."""
    if dataset.x_test is None or dataset.y_test is None:
        return None
    return Part(dataset.x_test, dataset.y_test)


def prepare(options: dict[str, Any]) -> Prepared:
    """Load the data, divide and encode it, and build the network. Raises ValueError, TypeError or OSError."""
    values = dict(options)
    if values["seed"] == "random":
        values["seed"] = secrets.randbits(63)
    optimizer, values["optimizer"] = resolve_optimizer(values["optimizer"])
    schedule, values["schedule"] = resolve_schedule(values["schedule"])
    if values["loss"] is not None:
        loss = get_loss(values["loss"])
        values["loss"] = format_choice(loss.name, dict(loss.constants))
    if values["learning_rate"] is None:
        values["learning_rate"] = optimizer.learning_rate
    dataset = load_dataset(values["data"], target=values["target"])
    everything = Part(dataset.x_train, dataset.y_train)
    reason = None
    if values["task"] is None:
        values["task"], reason = infer_task(everything.y, values["target"])
    task, seed = values["task"], values["seed"]
    if values["output_activation"] is None:
        values["output_activation"] = "softmax" if task == "classification" else "identity"

    test = test_part(dataset)
    rest = everything
    if test is None:
        rest, test = everything.split(values["test"], seed, task, TEST)
    training, validation = rest.split(values["validation"], seed, task, VALIDATION)
    inputs = _fit_inputs(dataset, everything, training, values["standardize"])
    targets = _fit_targets(training.y, values)
    if test is not None:
        targets.encode(test.y)  # a label that is in no training row is refused before the work, not after it

    if inputs is not None:
        shape: tuple[int, ...] = (inputs.n_features,)
    else:
        assert not isinstance(training.X, Table)  # a table always has an encoding
        shape = training.X.shape[1:]
    # One sigmoid output tells two classes apart
    is_single = task == "classification" and targets.n_outputs == 2 and values["output_activation"] == "sigmoid"
    network = _build_network(values, shape, 1 if is_single else targets.n_outputs)
    if values["loss"] is None:
        values["loss"] = default_loss(network).name
    return Prepared(
        values, training, validation, test, dataset.x_test is not None, reason, network, optimizer, schedule,
        inputs, targets, dataset.input_scale,
    )  # fmt: skip


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


def _fit_targets(y: NDArray[Any], values: dict[str, Any]) -> TargetEncoding:
    """Targets of a regression are standardised where the outputs can reach any number."""
    if values["task"] != "regression":
        return fit_targets(y, values["task"])
    unbounded = get_activation(values["output_activation"]).range == "(-inf, inf)"
    return NumberTargets.fit(y, standardize=values["standardize"] and unbounded)
