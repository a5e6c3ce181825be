"""One batch whose rows are all there is: where they lie for the compiled epoch, without a source and an order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import Plan
from ...plans.recipe import Recipe
from ..base import Vector
from .frame import Frame, address_of

COPIED_BYTES = 2**13  # copying so much takes no longer than asking for an array's address
VALUES_AHEAD = 256  # steps whose values are computed at once where steps come one by one


class Batch:
    """The frame of a single step, whose own job and operations say where its rows are.

    Whatever a call changes here, the next call sets again before it reads it. So a call may end anywhere, as by Ctrl-C,
    and leaves nothing that a later call could take for its own.

    losses: (1,) float64. outputs: (plan.rows, output_size), where `frame` writes them. views: of the last call's rows,
    their place among the workspace's inputs and that of their outputs.
    """

    def __init__(
        self, frame: Frame, plan: Plan, recipe: Recipe, job: NDArray[np.int64], operations: NDArray[np.int64],
        workspace: Vector, ones_offset: int,
    ) -> None:  # fmt: skip
        from ...kernels.cpu import tables
        from ...kernels.cpu.gather import gather_kernel

        self._tables, self._dtype, self._inputs_offset = tables, recipe.dtype, plan.inputs.offset
        self._weights_offset, self._offset = plan.sample_weight.offset, plan.inputs.offset
        self.job, self._operations = job.copy(), operations.copy()
        self._bounds, self._totals, self.losses = np.array([0, plan.rows]), np.ones(1), np.zeros(1)
        self._values_of_step = StepValues(recipe)
        self._values = np.zeros((1, len(recipe.optimizer.step_names)), recipe.dtype)
        self.outputs = np.zeros((plan.rows, plan.network.output_size), recipe.dtype)
        self.frame = frame.replaced(
            order=np.arange(plan.rows), job=self.job, operations=self._operations, bounds=self._bounds,
            totals=self._totals, losses=self.losses, values=self._values, outputs=self.outputs,
        )  # fmt: skip
        self._direct = self.frame.replaced()
        self._inputs, self._targets = plan.inputs.view(workspace), plan.targets.view(workspace)
        self._weights = plan.sample_weight.view(workspace)
        self.views = self._inputs[:0], self.outputs[:0]
        self._labels = np.zeros(plan.rows, np.int64)
        self.job[tables.SOURCE_TARGETS] = self._labels.ctypes.data
        self._one_hot = gather_kernel(self._labels.dtype, recipe.dtype, True).address  # which caches it
        self._workspace_address = workspace.ctypes.data
        self._ones_offset = self.job[tables.BATCH_WEIGHTS] = ones_offset
        self._reads_in_place = operations[0, tables.KIND] == tables.DENSE  # no other may read beside the workspace

    def set_rows(self, mode: int, inputs: NDArray[Any], *, copies: bool = False) -> None:
        """Make rows of floats those of the next call, which reads large ones where they are, unless it copies."""
        tables, rows, offset = self._tables, len(inputs), self._inputs_offset
        if rows != len(self.views[0]):  # calls of as many rows as the last are the rule
            self.views = self._inputs[:rows], self.outputs[:rows]
        if (
            self._reads_in_place
            and not copies
            and inputs.nbytes > COPIED_BYTES
            and inputs.dtype == self._dtype
            and inputs.flags.c_contiguous
            and inputs.flags.aligned
        ):
            offset = (address_of(inputs) - self._workspace_address) // inputs.itemsize
        else:
            self.views[0][...] = inputs
        if offset != self._offset:
            self._offset = -1  # where nothing is: an interrupted call has the next one write the table again
            self._operations[0, tables.INPUTS] = offset
            self._offset = offset
        self.job[tables.MODE] = mode
        self._bounds[1] = rows

    def set_total(self, weight: float) -> None:
        """Make this the sum of the sample weights."""
        self._totals[0] = weight

    def set_targets(self, targets: NDArray[Any], sample_weight: Vector | None) -> float:
        """Copy targets and weights to where the job has them; returns the sum of the weights."""
        tables, job, rows = self._tables, self.job, len(targets)
        if targets.ndim == 1:
            self._labels[:rows] = targets
            job[tables.GATHER_TARGETS] = self._one_hot
        else:
            self._targets[:rows] = targets
            job[tables.GATHER_TARGETS] = 0
        if sample_weight is None:
            job[tables.BATCH_WEIGHTS] = self._ones_offset
            total = float(rows)
        else:
            self._weights[:rows] = sample_weight
            job[tables.BATCH_WEIGHTS] = self._weights_offset
            total = float(np.add.reduceat(sample_weight, [0], dtype=np.float64)[0])  # as batch_totals adds
        self._totals[0] = total
        return total

    def set_step(self, rate: float, number: int) -> None:
        """Make the next call the run's step `number`."""
        self._values[0] = self._values_of_step(rate, number)[0]
        self.job[self._tables.FIRST_STEP] = number

    def frame_into(self, outputs: Vector) -> Frame:
        """A frame that writes the outputs into this array, in C order and of the program's dtype."""
        self._direct.set(outputs=outputs)
        return self._direct

    def forget_outputs(self) -> None:
        """Hold the array of frame_into no longer."""
        self._direct.set(outputs=self.outputs)


class StepValues:
    """A step's row of Optimizer.step_values, (1, n_names); where the rate stays, from a table of many steps."""

    def __init__(self, recipe: Recipe) -> None:
        self._optimizer, self._dtype = recipe.optimizer, recipe.dtype
        self._table: tuple[float, int, Vector] = math.nan, 0, np.zeros((0, 0), recipe.dtype)

    def __call__(self, rate: float, number: int) -> Vector:
        rate_there, start, values = self._table
        index = number - start
        if rate != rate_there or not 0 <= index < len(values):
            count = VALUES_AHEAD if rate == rate_there else 1
            values = self._optimizer.step_values(np.full(count, rate), number, self._dtype)
            self._table, index = (rate, number, values), 0
        return values[index : index + 1]
