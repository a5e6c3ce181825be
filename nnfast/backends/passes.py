"""A training step in two calls: forward, and back from a gradient by the outputs that comes from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating]


class Passes(ABC):
    """Forward and backward passes on the parameters, slots and running statistics of a program (Backend.passes).

    They have a workspace of their own, which forward fills and one call of backward or step_from uses up. The caller
    keeps that order, leaves the parameters as they are between the two, and has checked the arrays.
    """

    @abstractmethod
    def forward(self, inputs: NDArray[Any], number: int) -> Vector:
        """The outputs as step number `number` computes them: its dropout masks, and the batch's statistics.

        inputs: at most plan.rows rows of floats, which are copied. The running statistics stay as they are.
        """

    @abstractmethod
    def backward(self, slopes: Vector) -> tuple[Vector, Vector]:
        """The gradients by the parameters and by the inputs, (n_rows, input_size): the chain rule, without penalties.

        slopes: dLoss/doutputs, (n_rows, output_size) in the program's dtype.
        """

    @abstractmethod
    def step_from(
        self, slopes: Vector, rate: float, number: int, *, gives_input_gradient: bool = False
    ) -> Vector | None:
        """The optimizer's step number `number` by backward's gradient, with penalties and clipping.

        The running statistics follow the batch. Returns dLoss/dinputs where that is asked for.
        """

    @abstractmethod
    def follow(self) -> None:
        """Let the running statistics follow the last forward's batch, without a step."""
