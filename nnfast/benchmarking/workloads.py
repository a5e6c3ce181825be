"""The table of benchmark workloads: what `nnfast bench` and benchmarks/ both measure.

Sizes are those of tasks people have (a tutorial's network, scikit-learn's digits, tabular data, MNIST with dense layers
and with LeNet-5, the network of SimpleChains.jl's announcement); the numbers in them, but for the tutorial's, are
random, from a fixed seed, so that nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Source
from ..data import load_dataset
from ..formulas.losses import get_loss
from ..formulas.optimizers import get_optimizer
from ..networks.named import get_network
from ..networks.network import Network, multilayer_perceptron
from ..plans.plan import Plan, make_plan
from ..plans.recipe import Recipe
from ..support.random import ShuffledOrders

DTYPE = np.dtype(np.float32)  # that the numbers are drawn in, whatever the training's
SEED = 0  # of data, weights and orders

Arrays = tuple[NDArray[Any], NDArray[Any]]


def _classes(source: np.random.Generator, rows: int, inputs: int, outputs: int) -> Arrays:
    """Inputs uniform in [0, 1), as scaled pixels are, and a class for every row, all about equally often."""
    return source.random((rows, inputs), dtype=DTYPE), source.permutation(np.arange(rows) % outputs)


def _numbers(source: np.random.Generator, rows: int, inputs: int, outputs: int) -> Arrays:
    """Inputs and targets standard normal, as standardised columns are."""
    return (
        source.standard_normal((rows, inputs), dtype=DTYPE),
        source.standard_normal((rows, outputs), dtype=DTYPE),
    )


def _exclusive_or(source: np.random.Generator, rows: int, inputs: int, outputs: int) -> Arrays:
    """The tutorial's rows, which are always the same."""
    xor = load_dataset("xor")
    assert isinstance(xor.x_train, np.ndarray)  # as the embedded sets' are
    return xor.x_train.astype(DTYPE), xor.y_train.astype(DTYPE)


DATA: dict[str, Callable[[np.random.Generator, int, int, int], Arrays]] = {
    "classes": _classes,
    "numbers": _numbers,
    "xor": _exclusive_or,
}


@dataclass(frozen=True)
class Workload:
    """One network, its data and how it is trained.

    hidden: units of the hidden layers. batch_size: rows a step; the last step of an epoch has what is left.
    epochs: in one measurement. data: a name from DATA. named: a name from NETWORKS in place of hidden layers. image:
    the shape of its images, `inputs` numbers in all. dtype: of the training.
    """

    name: str
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    rows: int
    batch_size: int
    epochs: int
    activation: str = "relu"
    output_activation: str = "softmax"
    loss: str = "cross_entropy"
    optimizer: str = "adam"
    data: str = "classes"
    named: str | None = None
    image: tuple[int, ...] = ()
    dtype: str = DTYPE.name

    @property
    def sizes(self) -> str:
        """The layers' sizes, such as 64-100-10; of a named network, its name and the image's."""
        if self.named:
            return f"{self.named} {'x'.join(map(str, self.image))}"
        return "-".join(map(str, (self.inputs, *self.hidden, self.outputs)))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    @property
    def steps(self) -> int:
        """Training steps in one measurement."""
        return self.steps_per_epoch * self.epochs

    def network(self) -> Network:
        if self.named:
            return get_network(self.named)(self.image, self.outputs, self.output_activation)
        return multilayer_perceptron(
            self.inputs,
            self.hidden,
            self.outputs,
            activation=self.activation,
            output_activation=self.output_activation,
        )

    def plan(self) -> Plan:
        return make_plan(self.network(), self.batch_size)

    def recipe(self) -> Recipe:
        return Recipe(get_loss(self.loss), get_optimizer(self.optimizer), np.dtype(self.dtype), seed=SEED)

    def arrays(self) -> Arrays:
        """Inputs (rows, inputs) in `dtype`; targets (rows,) int64 classes or (rows, outputs) in `dtype`."""
        inputs, targets = DATA[self.data](np.random.default_rng(SEED), self.rows, self.inputs, self.outputs)
        if targets.ndim > 1:
            targets = targets.astype(self.dtype, copy=False)
        return inputs.astype(self.dtype, copy=False), targets

    def source(self) -> Source:
        return Source(*self.arrays())

    def initial_parameters(self) -> NDArray[Any]:
        """The flat vector that every backend starts from, in `dtype`."""
        return self.plan().initial_parameters(SEED).astype(self.dtype)

    def stretch(self, steps: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Order and bounds for Program.run: the measurement's epochs, or its first `steps` steps."""
        steps = self.steps if steps is None else min(steps, self.steps)
        epochs = math.ceil(steps / self.steps_per_epoch)
        orders = ShuffledOrders(SEED, self.rows)
        order = np.concatenate([orders(epoch) for epoch in range(epochs)])
        starts = np.arange(0, self.rows, self.batch_size)
        bounds = np.append((np.arange(epochs)[:, np.newaxis] * self.rows + starts).reshape(-1), order.size)
        return order[: bounds[steps]], bounds[: steps + 1]

    def flops_per_row(self) -> int:
        """Floating-point operations of the products and convolutions in one training step, for one row."""
        return self.plan().flops_per_row()

    def flops_per_epoch(self) -> int:
        return self.flops_per_row() * self.rows


_ROWS = (
    Workload(
        "xor", inputs=3, hidden=(4,), outputs=1, rows=4, batch_size=4, epochs=1500, activation="sigmoid",
        output_activation="sigmoid", loss="sum_squared_error", data="xor",
    ),
    Workload("digits", inputs=64, hidden=(100,), outputs=10, rows=1797, batch_size=200, epochs=50),
    Workload("tab64", inputs=28, hidden=(64, 64), outputs=2, rows=100_000, batch_size=256, epochs=1),
    Workload("mnist128", inputs=784, hidden=(128,), outputs=10, rows=20_000, batch_size=64, epochs=1),
    Workload("mnist512", inputs=784, hidden=(512, 512), outputs=10, rows=20_000, batch_size=256, epochs=1),
    Workload(
        "lenet5", inputs=784, hidden=(), outputs=10, rows=5_000, batch_size=64, epochs=1, named="lenet5",
        image=(28, 28),
    ),
    Workload(
        "simplechains", inputs=4, hidden=(32, 16), outputs=4, rows=10_000, batch_size=10_000, epochs=50,
        activation="tanh", output_activation="identity", loss="squared_error", data="numbers",
    ),
)  # fmt: skip

WORKLOADS: dict[str, Workload] = {row.name: row for row in _ROWS}


def get_workload(name: str) -> Workload:
    """The workload of that name. Raises ValueError for an unknown one."""
    if name not in WORKLOADS:
        raise ValueError(f"unknown workload {name!r}; known: {', '.join(WORKLOADS)}")
    return WORKLOADS[name]
