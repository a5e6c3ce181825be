"""What a single call costs: predictions of few rows, training steps, and a loop that acts and learns.

    export OPENBLAS_NUM_THREADS=1
    python -m benchmarks.calls                      prints three tables, in microseconds of CPU time
    python -m benchmarks.calls --calls 50           a short run
    python -m benchmarks.calls --only nnfast,numpy  these columns alone

One thread. All columns have the same weights and rows in float32, and each is verified against NumPy's float64 before
it is timed: outputs; loss and weights after three steps; what a loop chose and lost in its first iterations. Then they
are timed in turn, call by call; a cell has the median and, after a slash, the 99th percentile. Where many calls are
timed as one, inside compiled code, it has the median alone. A library that is not installed or cannot do it has a dash,
and a line with the reason.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Layers = list[tuple[Array, Array]]  # weights and bias of each
Sizes = tuple[int, ...]  # of a network of ReLU layers, and softmax at the end

RATE = 1e-3  # Adam's


class Library(Protocol):
    """A network in some library, made of its sizes; it has the weights of first_layers. Some only predict."""

    def outputs(self, x: Array) -> Array:
        """The probabilities of the classes, with the present weights."""

    def step(self, x: Array, y: Array) -> float:
        """One step of Adam; returns the loss before it."""

    def parameters(self) -> Array:
        """All weights and biases as one vector, in nnfast's order."""


def first_layers(sizes: Sizes) -> Layers:
    random = np.random.default_rng(0)
    return [
        ((random.normal(size=pair) / np.sqrt(pair[0])).astype("f4"), random.normal(size=pair[1]).astype("f4") / 10)
        for pair in pairwise(sizes)
    ]


def flat(layers: Any) -> Array:
    return np.concatenate([np.asarray(part).reshape(-1) for layer in layers for part in layer])


def corrected_rate(step: int) -> float:
    """Adam's rate with the corrections of both averages, at this step from 1."""
    return float(RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step))
