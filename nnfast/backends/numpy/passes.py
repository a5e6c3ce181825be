"""Forward and backward passes of the reference backend."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import make_plan
from ...plans.recipe import batch_divisor
from ..base import Vector
from ..passes import Passes
from .program import NumpyProgram, Passed


class NumpyPasses(NumpyProgram, Passes):
    """A program with the other's parameters and slots; its own running statistics have followed the last forward."""

    def __init__(self, whole: NumpyProgram) -> None:
        super().__init__(make_plan(whole.plan.network, whole.plan.rows, gives_input_gradient=True), whole.recipe)
        self._whole = whole
        self._parameters, self._slots, _ = whole.live
        self._passed: list[Passed] = []

    def forward(self, inputs: NDArray[Any], number: int) -> Vector:
        self.state = self._whole.live.statistics
        with np.errstate(all="ignore"):
            self._passed = self._forward(inputs.copy(), step=number, by_batch=True)
        outputs: Vector = self._passed[-1].outputs.copy()
        return outputs

    def backward(self, slopes: Vector) -> tuple[Vector, Vector]:
        gradient, last = np.zeros_like(self._parameters), self._passed[-1]
        with np.errstate(all="ignore"):
            delta = self.plan.output.layer.function.backward(last.z, last.outputs, slopes)
            return gradient, self._backward(self._passed, delta, gradient)

    def step_from(
        self, slopes: Vector, rate: float, number: int, *, gives_input_gradient: bool = False
    ) -> Vector | None:
        gradient, input_gradient = self.backward(slopes)
        values = self.recipe.optimizer.step_values(np.array([rate]), number, self.recipe.dtype)
        with np.errstate(all="ignore"):
            self._add_penalties(gradient, self.recipe.dtype.type(batch_divisor(self.recipe.loss, len(slopes))))
            self._clip(gradient)
            self.recipe.optimizer.apply(self._parameters, gradient, self._slots, values[0])
        self.follow()
        return input_gradient if gives_input_gradient else None

    def follow(self) -> None:
        self._whole.state = self._state
