"""Acting and learning in turn: a pole on a cart, pushed by a network that learns from a teacher as it goes.

In each iteration the network chooses a push by the outputs of one row, the cart moves, a teacher says which push would
have been right, and the network makes one step on the last 32 rows (Ross et al. 2011). Cart and teacher are the same
lines of Python for every library.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import Array

SIZES = (4, 64, 64, 2)
REMEMBERED = 32


class CartPole:
    """Barto et al. 1983, with Euler's steps of 0.02 s. After a fall it stands up again, a little aslant."""

    def __init__(self) -> None:
        self.falls, self.state = 0, (0.0, 0.0, 0.05, 0.0)

    def wanted(self) -> int:
        """The teacher's push: 1 to the right, 0 to the left."""
        place, speed, angle, turning = self.state
        return int(angle + 0.5 * turning + 0.05 * place + 0.1 * speed > 0)

    def move(self, push: int) -> None:
        place, speed, angle, turning = self.state
        force = 10.0 if push else -10.0
        sine, cosine = math.sin(angle), math.cos(angle)
        drive = (force + 0.05 * turning * turning * sine) / 1.1
        bend = (9.8 * sine - cosine * drive) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
        along = drive - 0.05 * bend * cosine / 1.1
        self.state = place + 0.02 * speed, speed + 0.02 * along, angle + 0.02 * turning, turning + 0.02 * bend
        if abs(self.state[0]) > 2.4 or abs(self.state[2]) > 0.21:
            self.falls += 1
            self.state = (0.0, 0.0, 0.05 * (-1) ** self.falls, 0.0)


class Loop:
    """Called for one iteration; returns the push and the loss."""

    def __init__(self, library: Any) -> None:
        self.outputs, self.step = library.outputs, library.step
        self.cart, self.row = CartPole(), 0
        self.x, self.y = np.zeros((REMEMBERED, SIZES[0]), "f4"), np.zeros(REMEMBERED, np.int64)

    def __call__(self) -> tuple[int, float]:
        row, cart = self.row, self.cart
        self.x[row] = cart.state
        self.y[row] = cart.wanted()
        push = int(self.outputs(self.x[row : row + 1]).argmax())
        cart.move(push)
        self.row = (row + 1) % REMEMBERED
        return push, self.step(self.x, self.y)


class Nothing:
    """No network: the loop around it alone."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.pushes = np.zeros((1, sizes[-1]))

    def outputs(self, x: Array) -> Array:
        return self.pushes

    def step(self, x: Array, y: Array) -> float:
        return 0.0
