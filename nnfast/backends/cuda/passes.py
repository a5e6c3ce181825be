"""Forward and backward passes of the CUDA backend: launches of the wide path, which keeps every layer's numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...formulas.losses import given_slopes
from ...plans.plan import make_plan
from ...plans.recipe import batch_divisor
from ..base import Source, Vector
from ..passes import Passes
from .images import ImageProgram
from .memory import HEADER, NUMBERS, single_steps, upload
from .program import CudaProgram
from .wide import Batch, Launch, WideProgram

if TYPE_CHECKING:
    from . import CudaBackend


class WidePasses(WideProgram, Passes):
    """A wide program with the other's parameters and slots; its own running statistics have followed the last forward.

    Its loss takes the gradient by the outputs as targets.
    """

    def __init__(self, whole: CudaProgram, backend: CudaBackend) -> None:
        plan = make_plan(whole.plan.network, whole.plan.rows, gives_input_gradient=True)
        super().__init__(plan, replace(whole.recipe, loss=given_slopes()), backend)
        self._whole = whole
        self._parameters, self._slots = whole.on_device

    def forward(self, inputs: NDArray[Any], number: int) -> Vector:
        xp, n = self._xp, len(inputs)
        self._copy_state(self._whole, self)
        words = single_steps(n, n)[0]
        words[HEADER + 2] = number
        with self._device():
            rows = upload(xp, Source(inputs), self.recipe.dtype, self._backend.device)
            self._batch = Batch(rows, n, xp.asarray(words), xp.asarray(np.ones(1)), 1, training=True)
            outputs = self._view(self.plan.output.outputs, n)
            _issue([*self._forward(self._batch), self._loss(self._batch, outputs, self._losses)])
            there: Vector = outputs.get()
        return there

    def backward(self, slopes: Vector) -> tuple[Vector, Vector]:
        with self._device():
            _issue(self._way_back(self._batch, slopes))
            return self._gradient.get(), self._input_gradient_of(len(slopes))

    def step_from(
        self, slopes: Vector, rate: float, number: int, *, gives_input_gradient: bool = False
    ) -> Vector | None:
        n, stretch = len(slopes), self._stretch
        divisor = batch_divisor(self._whole.recipe.loss, n)
        values = np.append(divisor, self.recipe.optimizer.step_values(np.array([rate]), number))
        with self._device():
            stretch.upload(np.zeros(0, np.int64), np.array([[0, n]]), np.array([number]), values[np.newaxis])
            # The slopes are divided already, the penalties by the stretch's divisor
            batch = self._batch._replace(stretch=stretch.words, values=stretch.values, width=stretch.width)
            _issue([*self._way_back(self._batch, slopes), *self._penalize(batch)])
            self._update(batch)()
            input_gradient = self._input_gradient_of(n) if gives_input_gradient else None
        self.follow()
        return input_gradient

    def follow(self) -> None:
        self._copy_state(self, self._whole)

    def _way_back(self, batch: Batch, slopes: Vector) -> list[Launch]:
        """From the layers' numbers that the forward pass left; the bias of the last layer is not yet in its z."""
        given = replace(batch.rows, numbers=self._xp.asarray(slopes), target_kind=NUMBERS)
        batch = batch._replace(rows=given)
        return [self._loss(batch, self._view(self.plan.output.outputs, batch.n), self._losses), *self._backward(batch)]

    def _input_gradient_of(self, rows: int) -> Vector:
        assert self.plan.input_gradient is not None  # __init__ asks for it
        gradient: Vector = self._view(self.plan.input_gradient, rows).get()
        return gradient

    def _copy_state(self, source: CudaProgram, target: CudaProgram) -> None:
        if self.plan.state_count:
            target.state = source.state


class ImagePasses(WidePasses, ImageProgram):
    """For networks with images or BatchNorm."""


def _issue(launches: Iterable[Launch]) -> None:
    for launch in launches:
        launch()
