"""Forward and backward passes of the CPU engine: modes of the compiled epoch, in a workspace of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ...formulas.losses import given_slopes
from ...plans.plan import make_plan
from ..base import Vector
from ..passes import Passes
from .program import NumbaProgram


class NumbaPasses(NumbaProgram, Passes):
    """A program with the other's parameters and slots; its own running statistics have followed the last forward.

    Its loss takes the gradient by the outputs as targets.
    """

    def __init__(self, whole: NumbaProgram, threads: int, measures: bool) -> None:
        self._whole = whole
        plan = make_plan(whole.plan.network, whole.plan.rows, gives_input_gradient=True)
        super().__init__(plan, replace(whole.recipe, loss=given_slopes()), threads, measures)

    def _make_frames(self) -> None:
        """Also a frame that does not go back to the inputs."""
        self._parameters, self._slots, _ = self._whole.live
        super()._make_frames()
        tables, operations = self._tables, self.operations.copy()
        self._batch.job[tables.SUM_REDUCTION] = self._whole.recipe.loss.reduction == "sum"  # of which penalties ask
        learns = (operations[:, tables.WEIGHTS] >= 0) | (operations[:, tables.BIAS] >= 0)
        ending = operations[: learns.argmax() + 1]  # nothing before it learns
        ending[:, [tables.INPUT_GRADIENT, tables.WEIGHTS_TRANSPOSED]] = -1
        self._to_parameters = self._batch.frame.replaced(operations=operations)

    def forward(self, inputs: NDArray[Any], number: int) -> Vector:
        batch, mode = self._batch, self._tables.FORWARD_ONLY
        if self.plan.state_count:
            self.state = self._whole.live.statistics
        batch.set_rows(mode, inputs, copies=True)
        batch.set_total(len(inputs))
        batch.job[self._tables.FIRST_STEP] = number  # which decides the masks
        self._run_rows(self._to_parameters, mode, len(inputs))
        outputs: Vector = batch.outputs[: len(inputs)].copy()
        return outputs

    def backward(self, slopes: Vector) -> tuple[Vector, Vector]:
        self._batch.set_targets(slopes, None)
        self._batch.job[self._tables.MODE] = self._tables.BACKWARD_ONLY
        self._run_rows(self._batch.frame, self._tables.BACKWARD_ONLY, len(slopes))
        return self._gradient.copy(), self._input_gradient_of(len(slopes))

    def step_from(
        self, slopes: Vector, rate: float, number: int, *, gives_input_gradient: bool = False
    ) -> Vector | None:
        self._load_update()
        batch, mode = self._batch, self._tables.STEP_FROM
        batch.set_targets(slopes, None)
        batch.set_step(rate, number)
        batch.job[self._tables.MODE] = mode
        self._run_rows(batch.frame if gives_input_gradient else self._to_parameters, mode, len(slopes))
        self.follow()
        return self._input_gradient_of(len(slopes)) if gives_input_gradient else None

    def follow(self) -> None:
        if self.plan.state_count:
            self._whole.state = self._state

    def _input_gradient_of(self, rows: int) -> Vector:
        assert self.plan.input_gradient is not None  # __init__ asks for it
        gradient: Vector = self.plan.input_gradient.view(self._workspace, rows).copy()
        return gradient
