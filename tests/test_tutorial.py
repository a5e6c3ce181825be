"""The classic from-scratch tutorial: its twenty lines of NumPy, and the same numbers from every backend."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nnfast.backends import Backend, get_backend
from nnfast.data import load_dataset
from nnfast.networks.network import Dense, Network
from nnfast.plans.plan import make_plan
from nnfast.training.train import train
from tests.tolerances import TUTORIAL_RUN, difference

ITERATIONS = 1500
NETWORK = Network(
    3,
    [
        Dense(4, "sigmoid", bias=False, initializer="uniform_0_1"),
        Dense(1, "sigmoid", bias=False, initializer="uniform_0_1"),
    ],
)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1 + np.exp(-x))


def sigmoid_derivative(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * (1.0 - x)


class NeuralNetwork:
    """The tutorial's class, line for line, but for the weights it starts from."""

    def __init__(self, x, y, weights1, weights2):  # type: ignore[no-untyped-def]
        self.input = x
        self.weights1 = weights1
        self.weights2 = weights2
        self.y = y
        self.output = np.zeros(y.shape)

    def feedforward(self) -> None:
        self.layer1 = sigmoid(np.dot(self.input, self.weights1))
        self.output = sigmoid(np.dot(self.layer1, self.weights2))

    def backprop(self) -> None:
        # application of the chain rule to find derivative of the loss function with respect to weights2 and weights1
        d_weights2 = np.dot(self.layer1.T, (2 * (self.y - self.output) * sigmoid_derivative(self.output)))
        d_weights1 = np.dot(
            self.input.T,
            (
                np.dot(2 * (self.y - self.output) * sigmoid_derivative(self.output), self.weights2.T)
                * sigmoid_derivative(self.layer1)
            ),
        )
        # update the weights with the derivative (slope) of the loss function
        self.weights1 += d_weights1
        self.weights2 += d_weights2


def test_the_network_trains_to_the_tutorial_s_own_numbers(backend: Backend) -> None:
    assert_the_tutorial_s_numbers(backend, seed=0)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_so_it_does_from_other_weights(name: str, seed: int) -> None:
    assert_the_tutorial_s_numbers(get_backend(name), seed)


def assert_the_tutorial_s_numbers(backend: Backend, seed: int) -> None:
    data = load_dataset("xor")
    plan = make_plan(NETWORK, 4)
    start = plan.initial_parameters(seed)
    weights = [op.weights.view(start.copy()) for op in plan.dense_operations]
    tutorial = NeuralNetwork(data.x_train, data.y_train, *weights)
    losses = []
    for _ in range(ITERATIONS):
        tutorial.feedforward()
        losses.append(np.sum((data.y_train - tutorial.output) ** 2))
        tutorial.backprop()

    model = train(
        NETWORK,
        data.x_train,
        data.y_train,
        loss="sum_squared_error",
        optimizer="sgd",
        learning_rate=1,
        epochs=ITERATIONS,
        batch_size="full",
        shuffle=False,
        dtype="float64",
        seed=seed,
        backend=backend,
    )

    ours = model.layer_parameters()
    assert difference(ours["layers.0.weights"], tutorial.weights1) < TUTORIAL_RUN
    assert difference(ours["layers.1.weights"], tutorial.weights2) < TUTORIAL_RUN
    assert difference(model.history.loss, losses) < TUTORIAL_RUN
    assert (np.diff(model.history.loss) < 0).all(), "the loss falls at every iteration"
    tutorial.feedforward()
    assert difference(model.predict(data.x_train), tutorial.output) < TUTORIAL_RUN
    np.testing.assert_array_equal(np.round(model.predict(data.x_train)), data.y_train)
