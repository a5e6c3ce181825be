"""Networks with a name of their own, for Python and `nnfast train --network`, and how each is trained well.

To add one, add a function, a row of NETWORKS and one of TRAINING_SETTINGS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..formulas.activations import Activation
from .layers import Conv2D, Dense, Flatten, MaxPool2D
from .network import Network
from .windows import Shape


def lenet5(
    input_shape: Shape = (28, 28), outputs: int = 10, output_activation: str | Activation = "softmax"
) -> Network:
    """LeNet-5 (LeCun et al. 1998) as it is built today: ReLU, max pooling, and no padding.

    Two convolutions of 5 x 5 with 6 and 16 filters, each before a pool of 2, then dense layers of 120, 84 and
    `outputs` units. Images must have at least 16 x 16 pixels. TRAINING_SETTINGS["lenet5"] trains it well.
    """
    layers = (
        Conv2D(6, 5, activation="relu"),
        MaxPool2D(2),
        Conv2D(16, 5, activation="relu"),
        MaxPool2D(2),
        Flatten(),
        Dense(120, "relu"),
        Dense(84, "relu"),
        Dense(outputs, output_activation),
    )
    return Network(input_shape, layers)


NETWORKS: dict[str, Callable[..., Network]] = {"lenet5": lenet5}  # of input shape, outputs and output activation

# Keyword arguments of train(): train(lenet5(), X, y, epochs=5, **TRAINING_SETTINGS["lenet5"]). `nnfast train --network`
# begins with them. How many epochs are enough depends on the data.
TRAINING_SETTINGS: dict[str, dict[str, Any]] = {
    "lenet5": {"learning_rate": 0.002, "schedule": "cosine", "batch_size": 64},
}


def get_network(name: str) -> Callable[..., Network]:
    """The function that makes the network of that name. Raises ValueError for an unknown one."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name]
