"""What every peer is handed and what it has to do: a workload's training, from its first weights to its last step."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnfast.benchmarking.workloads import DATA, DTYPE, SEED, Arrays, Workload
from nnfast.networks.network import Layer, Shape
from nnfast.plans.recipe import Recipe


class CannotError(Exception):
    """The library has no way to do this workload's work; the message says what it lacks."""


class TwoClasses(Workload):
    """A workload of two classes with one logistic output for both: the same model with fewer weights."""

    @classmethod
    def of(cls, workload: Workload) -> TwoClasses:
        options = {field.name: getattr(workload, field.name) for field in dataclasses.fields(workload)}
        options |= {"outputs": 1, "output_activation": "sigmoid", "loss": "binary_cross_entropy"}
        return cls(**options)

    def arrays(self) -> Arrays:
        """Targets are (rows, 1) float32: 1 for the second class."""
        inputs, classes = DATA[self.data](np.random.default_rng(SEED), self.rows, self.inputs, 2)
        return inputs, classes[:, np.newaxis].astype(DTYPE)


@dataclass(frozen=True)
class Sample(Workload):
    """Some steps over chosen rows of a workload, as one epoch: some libraries train whole epochs only."""

    whole: Workload = field(kw_only=True)
    chosen: tuple[int, ...] = field(kw_only=True)  # in the order in which the steps take them

    def arrays(self) -> Arrays:
        rows = np.empty(self.rows, np.int64)
        rows[self.stretch()[0]] = self.chosen
        inputs, targets = self.whole.arrays()
        return inputs[rows], targets[rows]


class Place(NamedTuple):
    """A layer, the shape of one row of its input, and its parameters, weights first, as nnfast holds them."""

    layer: Layer
    input_shape: Shape
    parameters: tuple[NDArray[Any], ...]


class Adam(NamedTuple):
    """Adam's constants, and every step's learning rate with both bias corrections folded in; (steps,) float64."""

    learning_rate: float
    beta_1: float
    beta_2: float
    epsilon: float
    rates: NDArray[np.float64]


class Peer(ABC):
    """One library set to one workload. Everything but train() is outside the time that is taken.

    inputs, targets: the rows, as Workload.arrays() gives them. order, bounds: as Workload.stretch() gives them: the
    peer takes the same rows in the same batches as every other. device: where it trains, one of DEVICES.
    """

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        self.workload = workload
        self.threads = threads
        self.device = device
        self.plan = workload.plan()
        self.inputs, self.targets = workload.arrays()
        self.order, self.bounds = workload.stretch()

    @classmethod
    def adapt(cls, workload: Workload) -> Workload:
        """The workload itself or, where the library lacks something, one of equal work. Raises CannotError."""
        return workload

    @classmethod
    def recipe(cls, workload: Workload) -> Recipe:
        """What the library minimises and how, as nnfast says it: its results are held to those of this recipe."""
        return workload.recipe()

    @abstractmethod
    def reset(self) -> None:
        """Back to the initial weights and an optimizer that has seen nothing."""

    @abstractmethod
    def train(self) -> None:
        """All steps of the stretch. Returns when they are done, and with their losses at hand."""

    def stream_seconds(self) -> float | None:
        """What the last train() took by events on the device's stream, or None where there are none."""
        return None

    @abstractmethod
    def losses(self) -> NDArray[Any]:
        """What the last train() gave as the loss of every step or, where the library does that, of every epoch."""

    @abstractmethod
    def parameters(self) -> NDArray[Any]:
        """The flat parameter vector in nnfast's layout."""

    @property
    def full_batch(self) -> bool:
        """Whether a step takes all rows. Their order says nothing then, and they may be taken as they lie."""
        return self.workload.batch_size >= self.workload.rows

    def places(self) -> Iterator[Place]:
        """The network's layers with their initial weights: what a library's own network is built from."""
        vector = self.workload.initial_parameters()
        spans = self.plan.named_parameters
        network = self.plan.network
        for index, (layer, shape) in enumerate(zip(network.layers, network.shapes, strict=False)):
            names = (f"layers.{index}.{role}" for role in ("weights", "bias"))
            yield Place(layer, shape, tuple(spans[name].view(vector) for name in names if name in spans))

    def adam(self) -> Adam:
        """The workload's optimizer. Raises CannotError where it is another than Adam."""
        optimizer = self.workload.recipe().optimizer
        if optimizer.name != "adam":
            raise CannotError(f"this peer is written for adam, not for {optimizer.name}")
        values = optimizer.step_values(np.full(self.workload.steps, optimizer.learning_rate), 0)
        rates = values[:, optimizer.step_names.index("rate")]
        return Adam(optimizer.learning_rate, **dict(optimizer.constants), rates=rates)


def sample(workload: Workload, recipe: Recipe) -> Workload:
    """The workload's first steps over rows far from kinks, the last step as short as the last of its epochs.

    There rounding decides nothing, so that all libraries come to the same parameters (see nnfast.benchmarking.bench).
    recipe: what the library minimises and how.
    """
    from nnfast.benchmarking.bench import Reference

    reference = Reference(workload, recipe=recipe)
    if workload.batch_size >= workload.rows and reference.margin == math.inf:  # no kinks, and nothing to choose
        return cut(workload, len(reference.bounds) - 1)
    options = {field.name: getattr(workload, field.name) for field in dataclasses.fields(Workload)}
    options |= {"rows": len(reference.order), "epochs": 1}
    return Sample(**options, whole=workload, chosen=tuple(reference.order.tolist()))


def cut(workload: Workload, steps: int = 5) -> Workload:
    """The workload cut to `steps` steps, the last of them as short as the last of its epochs, in one epoch."""
    if workload.batch_size >= workload.rows:
        return dataclasses.replace(workload, epochs=min(steps, workload.epochs))
    last = workload.rows % workload.batch_size or workload.batch_size
    rows = min(workload.rows, (steps - 1) * workload.batch_size + last)
    return dataclasses.replace(workload, rows=rows, epochs=1)


def epoch_losses(workload: Workload, losses: NDArray[Any]) -> NDArray[np.float64]:
    """The mean loss of every epoch from the losses of its steps, each counting as its rows; (epochs,)."""
    losses = np.asarray(losses, np.float64)
    if len(losses) == workload.epochs:
        return losses
    rows = np.diff(workload.stretch()[1]).reshape(workload.epochs, -1)
    return (losses.reshape(rows.shape) * rows).sum(axis=1) / rows.sum(axis=1)
