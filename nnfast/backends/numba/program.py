"""The CPU backend: fills the tables that the compiled epoch of nnfast.kernels.cpu reads, and calls it in threads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import ROW_GROUP, Plan
from ...plans.recipe import Recipe, batch_divisor
from ...support.debugging import is_debugging
from ...support.threads import give_way_address
from ..base import (
    HostProgram,
    Source,
    Vector,
    batch_totals,
    check_inputs,
    check_rows,
    check_source,
    check_stretch,
    weight_of,
)
from . import announcement
from .batch import COPIED_BYTES, Batch, StepValues
from .blocks import block, in_c_order, step_blocks
from .frame import Frame
from .table import Table
from .team import Team

if TYPE_CHECKING:
    from .jit import PredictionFrame

# A step is shared among threads only so far that each has this much to do, some ten microseconds' worth: waiting for
# each other costs about one.
FLOPS_PER_THREAD = 1_000_000
FLOPS_PER_UPDATE = 20  # one parameter's update costs about as much as this many flops of a product

# What a block of rows needs on its way stays in a part of the second-level cache.
BLOCK_BYTES = 2**19
BLOCK_ROWS = 256  # fewer do not repay reading the weights again
IMAGE_ROWS = 64  # the arrays of images are large, their weights few; for the dense layers behind them, not fewer

CACHE_LINE = 64  # bytes


class NumbaProgram(HostProgram):
    """A plan as tables of integers, operations and job (kernels/cpu/tables.py).

    kept: the arrays that the tables know by their addresses. areas: what the engine adds to the plan's workspace.
    threads: how many may share a step. measures: whether fewer of them do where that is faster; see team_size.py.
    """

    def __init__(self, plan: Plan, recipe: Recipe, threads: int = 1, measures: bool = False) -> None:
        super().__init__(plan, recipe)
        from ...kernels.cpu import formulas, gather, panels, sparse, tables

        self._tables = tables
        self._gather_kernel = gather.gather_kernel
        self._sparse_kernel = gather.sparse_kernel
        self._sparse = sparse
        self._formulas = formulas
        self._threads, self._team = threads, Team(threads, measures)
        dtype = recipe.dtype
        announcement.announce(plan, dtype)
        self._parameters = aligned_zeros(self._parameters.shape, dtype)
        self._gradient = aligned_zeros(self._parameters.shape, dtype)
        self._zeros = np.zeros(max(max(op.inputs.shape[1], op.outputs.shape[1]) for op in plan.operations), dtype)
        self._row_losses = np.zeros(plan.rows)
        self._ones = aligned_zeros((plan.rows,), dtype)
        self._ones[:] = 1
        self._packs = aligned_zeros((threads, panels.PACK_SIZE), dtype)
        self._settings = np.zeros(tables.SETTINGS_SIZE)
        self._settings[tables.ALPHA] = recipe.alpha
        self._settings[tables.L1] = recipe.l1
        self._settings[tables.CLIP_NORM] = recipe.clip_norm or 0.0
        self.operations, self._constants, self.job = self._make_tables()
        self._checks: Any = None
        if is_debugging():
            from . import checks

            self._checks = checks
            checks.check_table(
                self.operations, plan, self.areas, parameters=self._parameters, workspace=self._workspace
            )
        self._make_frames()

    @property
    def threads(self) -> float:
        return self._team.threads

    def _make_frames(self) -> None:
        """Two frames, with rooms for what one step of at most plan.rows rows reads and writes.

        _gathered: for steps whose rows are gathered from a source. _batch has that for one step whose rows are all
        there is.
        """
        plan, dtype = self.plan, self.recipe.dtype
        self._described: Source | None = None  # the source that _job tells of
        self._job = self.job.copy()
        self._order, self._bounds, self._totals = np.arange(plan.rows), np.array([0, plan.rows]), np.ones(1)
        self._losses, self._values = np.zeros(1), np.zeros((1, len(self.recipe.optimizer.step_names)), dtype)
        self._outputs = np.zeros((plan.rows, plan.network.output_size), dtype)
        self._gathered = Frame(
            dtype, self._checks is not None, operations=self.operations, job=self._job, settings=self._settings,
            seed=self.recipe.seed, constants=self._constants, zeros=self._zeros, parameters=self._parameters,
            gradient=self._gradient, slots=self._slots, state=self._state, workspace=self._workspace, pack=self._packs,
            row_losses=self._row_losses, penalties=self._penalties, order=self._order, bounds=self._bounds,
            steps=len(self._losses), values=self._values, value_size=self._values.shape[1], totals=self._totals,
            losses=self._losses, outputs=self._outputs, barrier=self._team.barrier,
        )  # fmt: skip
        self._ones_offset = (self._ones.ctypes.data - self._workspace.ctypes.data) // dtype.itemsize
        self._batch = Batch(
            self._gathered, plan, self.recipe, self.job, self.operations, self._workspace, self._ones_offset
        )
        self._flops_per_row = plan.flops_per_row()
        self._values_of_step = StepValues(self.recipe)

    def _make_tables(self) -> tuple[NDArray[np.int64], Vector, NDArray[np.int64]]:
        """The operations table, the formulas' constants, and the parts of the job that never change."""
        tables, plan, recipe = self._tables, self.plan, self.recipe
        from ...kernels.cpu.catalogue import kernel

        table = Table(plan, recipe.dtype)
        operations = table.rows()
        constants = table.constants
        self.kept = table.kept
        self.areas = table.areas
        self._workspace = aligned_zeros((table.workspace_size,), recipe.dtype)
        self._penalties = np.zeros(table.weight_rows)
        job = np.zeros(tables.JOB_SIZE, dtype=np.int64)
        job[tables.OPERATIONS] = len(operations)
        job[tables.PARAMETERS] = plan.parameter_count
        job[tables.PENALTY_ROWS] = table.weight_rows
        output = plan.output.layer.function
        job[tables.LOSS_CONSTANTS] = len(constants)
        constants.extend((*output.constant_values, *recipe.loss.constant_values))
        job[tables.ONE] = len(constants)
        constants.append(1.0)
        job[tables.LOSS] = self._formulas.loss_kernel(output, recipe.loss, recipe.dtype).address
        job[tables.MULTIPLY] = kernel("multiply", recipe.dtype).address
        job[tables.TRANSPOSE] = kernel("transpose", recipe.dtype).address
        if recipe.alpha or recipe.l1:
            job[tables.ADD_PENALTIES] = kernel("add_penalties", recipe.dtype).address
        if recipe.clip_norm:
            job[tables.CLIP] = kernel("clip", recipe.dtype).address
        job[tables.GIVE_WAY] = give_way_address()
        job[tables.SUM_REDUCTION] = recipe.loss.reduction == "sum"
        job[tables.INPUT_SIZE_OF_BATCH] = plan.network.input_size
        job[tables.BATCH_INPUTS] = plan.inputs.offset
        job[tables.BATCH_TARGETS] = plan.targets.offset
        job[tables.BATCH_WEIGHTS] = plan.sample_weight.offset
        job[tables.BLOCK] = block_rows(plan, recipe.dtype)
        return operations, np.array(constants, recipe.dtype), job

    def _read_sparse_rows(self, inputs: Any, operations: NDArray[np.int64], job: NDArray[np.int64]) -> None:
        """Let the first layer, a dense one, read CSR rows itself."""
        tables, row, dtype = self._tables, operations[0], self.recipe.dtype
        kernels = self._sparse.kernels(inputs.data.dtype, inputs.indices.dtype, dtype)
        self._sparse_row = self._sparse.sparse_row(
            inputs,
            extents=self._workspace[self.areas.extents :].ctypes.data,
            z=int(row[tables.Z]),
            delta=int(row[tables.GRADIENT]),
            weights=int(row[tables.WEIGHTS]),
            units=int(row[tables.WEIGHT_COLUMNS]),
        )
        row[tables.KIND] = tables.SPARSE
        row[tables.FORWARD], row[tables.WEIGHT_GRADIENT] = kernels.outputs.address, kernels.add_gradient.address
        row[tables.FORWARD_ROW] = row[tables.WEIGHT_GRADIENT_ROW] = self._sparse_row.ctypes.data
        job[tables.GATHER_INPUTS] = kernels.extents.address
        job[tables.BATCH_INPUTS] = self.areas.extents
        job[tables.INPUT_SIZE_OF_BATCH] = self._sparse.EXTENT_BYTES // dtype.itemsize

    def bind(self, source: Source) -> None:
        check_source(self.plan, source)
        self._source = source
        # Compiles or loads the remaining kernels now, so that no epoch's seconds hold that
        self._load_update()
        self._describe(source if in_c_order(source) else block(source, np.arange(0), self.recipe.dtype))

    def _load_update(self) -> None:
        """Have the optimizer's kernel, without which a program that only predicts can do."""
        if not self.job[self._tables.UPDATE]:
            update = self._formulas.update_kernel(self.recipe.optimizer, self.recipe.dtype)
            for job in (self._job, self._batch.job, self.job):  # the one that is looked at last
                job[self._tables.UPDATE] = update.address

    def _describe(self, source: Source) -> None:
        """Have the job of gathered steps tell of this source."""
        if source is self._described:
            return
        self._described = None
        tables, job, dtype = self._tables, self._job, self.recipe.dtype
        job[:] = self.job
        operations, inputs, targets, self._density = self.operations, source.inputs, source.targets, 1.0
        if source.is_sparse:
            if self.plan.begins_dense and self._sparse.repays(inputs):
                operations, self._density = operations.copy(), self._sparse.density(inputs)
                self._read_sparse_rows(inputs, operations, job)
            else:
                job[tables.GATHER_INPUTS] = self._sparse_kernel(inputs.data.dtype, inputs.indices.dtype, dtype).address
            inputs = np.array([part.ctypes.data for part in (inputs.data, inputs.indices, inputs.indptr)])
            self._parts = inputs  # which the job has by their address
        else:
            job[tables.GATHER_INPUTS] = self._gatherer(inputs)
        self._gathered.set(operations=operations)
        job[tables.SOURCE_INPUTS] = inputs.ctypes.data
        if targets is not None:  # for prediction: what the workspace holds will do, the loss is not looked at
            job[tables.GATHER_TARGETS] = self._gatherer(targets, labels=targets.ndim == 1)
            job[tables.SOURCE_TARGETS] = targets.ctypes.data
        if source.sample_weight is not None:
            job[tables.GATHER_WEIGHTS] = self._gatherer(source.sample_weight)
            job[tables.SOURCE_WEIGHTS] = source.sample_weight.ctypes.data
        else:
            job[tables.BATCH_WEIGHTS] = self._ones_offset
        self._described = source

    def _run_gathered(
        self,
        mode: int,
        source: Source,
        order: NDArray[np.int64],
        bounds: NDArray[np.int64],
        values: Vector,
        totals: NDArray[np.float64],
        first_step: int = 0,
    ) -> tuple[NDArray[np.float64], Vector]:
        """Hand a stretch to the compiled epoch; returns the steps' losses, and the outputs when evaluating."""
        if in_c_order(source):
            return self._run_stretch(mode, source, order, bounds, values, totals, first_step)
        done = []
        for steps in step_blocks(source, bounds):
            within = bounds[steps.start : steps.stop + 1]
            part = block(source, order[within[0] : within[-1]], self.recipe.dtype)
            done.append(
                self._run_stretch(
                    mode, part, np.arange(part.n_rows), within - within[0], values[steps], totals[steps],
                    first_step + steps.start,
                )
            )  # fmt: skip
            del part
            self._described = None  # so that two blocks are not held at once
        losses, outputs = zip(*done, strict=True)
        return np.concatenate(losses), np.concatenate(outputs)

    def _run_stretch(
        self,
        mode: int,
        source: Source,
        order: NDArray[np.int64],
        bounds: NDArray[np.int64],
        values: Vector,
        totals: NDArray[np.float64],
        first_step: int,
    ) -> tuple[NDArray[np.float64], Vector]:
        """One stretch of a source that lies as gathering takes it."""
        tables, dtype = self._tables, self.recipe.dtype
        if self._checks:
            self._checks.check_call(self.plan, dtype, source, order, bounds)
        self._describe(source)
        self._job[tables.MODE] = mode
        self._job[tables.FIRST_STEP] = first_step
        self._settings[tables.SCALE] = source.scale
        steps, frame = len(bounds) - 1, self._gathered
        if steps == 1 and mode == tables.TRAIN:  # copied into the frame's own rooms, sooner than their addresses tell
            first, last = bounds
            self._order[: last - first] = order[first:last]
            self._bounds[1], self._totals[0], self._values[0] = last - first, totals[0], values[0]
            losses, outputs = self._losses, self._outputs
        else:
            losses = np.zeros(steps)
            outputs = np.empty((len(order) if mode == tables.EVALUATE else 0, self.plan.network.output_size), dtype)
            # They are read by their addresses: whole and of these types
            order, bounds = (np.ascontiguousarray(array, np.int64) for array in (order, bounds))
            values, totals = np.ascontiguousarray(values, dtype), np.ascontiguousarray(totals, np.float64)
            frame = frame.replaced(
                order=order, bounds=bounds, steps=steps, values=values, value_size=values.shape[1], totals=totals,
                losses=losses, outputs=outputs,
            )  # fmt: skip
        rows = (bounds[-1] - bounds[0]) / max(1, steps)
        self._team.run(frame, self._repaid_threads(rows, mode, self._density), steps, mode, self._job)
        return losses.copy(), outputs

    def _repaid_threads(self, rows: float, mode: int, density: float = 1.0) -> int:
        """How many threads steps of `rows` rows repay. density: the share of the inputs that the first layer reads."""
        flops_per_row: float = self._flops_per_row
        if density < 1:
            flops_per_row -= (1 - density) * 4 * self.plan.weight_spans[0].size
        update = FLOPS_PER_UPDATE * self.plan.parameter_count if mode == self._tables.TRAIN else 0
        return max(1, int((rows * flops_per_row + update) // FLOPS_PER_THREAD))

    def _gatherer(self, array: NDArray[Any], labels: bool = False) -> int:
        # gather_kernel caches what it returns, so the address stays good
        address: int = self._gather_kernel(array.dtype, self.recipe.dtype, labels).address
        return address

    def _run_batch(self, mode: int, inputs: NDArray[Any]) -> None:
        """Run one step on rows of floats, whose targets and weights are where the batch's job says."""
        self._batch.set_rows(mode, inputs)
        self._run_rows(self._batch.frame, mode, len(inputs))

    def _run_rows(self, frame: Frame, mode: int, rows: int) -> None:
        """Run a frame of one step of `rows` rows."""
        threads = self._repaid_threads(rows, mode) if self._threads > 1 else 1
        if threads > 1:
            self._team.run(frame, threads, 1, mode, self._job)
        else:
            frame.run()  # without a share of the threads: it is over sooner than others could make use of it

    def run(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], rates: NDArray[np.float64], first_step: int
    ) -> NDArray[np.float64]:
        assert self._source is not None, "bind() comes first"
        check_stretch(self.plan, self._source, order, bounds, rates)
        if len(rates) == 1:
            values = self._values_of_step(float(rates[0]), first_step)
        else:
            values = self.recipe.optimizer.step_values(rates, first_step, self.recipe.dtype)
        totals = batch_totals(self._source, order, bounds)
        return self._run_gathered(self._tables.TRAIN, self._source, order, bounds, values, totals, first_step)[0]

    def step(
        self, inputs: NDArray[Any], targets: NDArray[Any], sample_weight: Vector | None, rate: float, number: int
    ) -> float:
        if self._checks:
            self._check_batch(inputs, targets, sample_weight)
        self._load_update()
        batch = self._batch
        if not batch.set_targets(targets, sample_weight):
            return 0.0
        batch.set_step(rate, number)
        self._run_batch(self._tables.TRAIN, inputs)
        return float(batch.losses[0])

    def loss_and_gradient(self, source: Source) -> tuple[float, Vector]:
        check_source(self.plan, source, self.plan.rows)
        tables = self._tables
        if source.is_sparse or source.inputs.dtype.kind != "f":
            order, bounds = np.arange(source.n_rows), np.array([0, source.n_rows])
            totals = batch_totals(source, order, bounds)
            if not totals[0]:
                return 0.0, np.zeros_like(self._gradient)
            values = np.zeros((1, 1), self.recipe.dtype)
            losses, _ = self._run_gathered(tables.GRADIENT_ONLY, source, order, bounds, values, totals)
            self._described = None  # so that the source is not held
            return float(losses[0]), self._gradient.copy()
        assert source.targets is not None
        if self._checks:
            self._check_batch(source.inputs, source.targets, source.sample_weight)
        if not self._batch.set_targets(source.targets, source.sample_weight):
            return 0.0, np.zeros_like(self._gradient)
        self._run_batch(tables.GRADIENT_ONLY, source.inputs)
        return float(self._batch.losses[0]), self._gradient.copy()

    def _input_gradient(self, source: Source) -> Vector:
        assert self.plan.input_gradient is not None  # input_gradient() refuses such a plan
        order, bounds = np.arange(source.n_rows), np.array([0, source.n_rows])
        totals = batch_totals(source, order, bounds)
        self._gradient[...] = 0  # running statistics have no part in dLoss/dx: kernels/cpu/batch_norm.py reads it here
        values = np.zeros((1, 1), self.recipe.dtype)
        self._run_gathered(self._tables.INPUTS_ONLY, source, order, bounds, values, totals)
        self._described = None  # so that the source is not held
        gradient: Vector = self.plan.input_gradient.view(self._workspace, source.n_rows).copy()
        return gradient

    def evaluate(self, source: Source, rows: NDArray[np.int64] | None = None) -> tuple[float, Vector]:
        check_source(self.plan, source)
        check_rows(source, rows)
        order = np.arange(source.n_rows) if rows is None else rows
        bounds = np.append(np.arange(0, len(order), self.plan.rows), len(order))
        steps = len(bounds) - 1
        values = np.zeros((steps, 1), self.recipe.dtype)
        losses, outputs = self._run_gathered(self._tables.EVALUATE, source, order, bounds, values, np.zeros(steps))
        if source is not self._source:
            self._described = None  # so that the source is not held
        divisor = batch_divisor(self.recipe.loss, weight_of(source, rows))
        return float(losses.sum()) / max(divisor, np.finfo(float).tiny), outputs

    def predict(self, source: Source) -> Vector:
        rows, inputs = source.n_rows, source.inputs
        if source.is_sparse or inputs.dtype.kind != "f" or rows > self.plan.rows:
            return self.evaluate(Source(inputs, scale=source.scale))[1]
        check_inputs(self.plan, source)
        return self.predict_batch(inputs)

    def predict_batch(self, inputs: NDArray[Any], out: Vector | None = None) -> Vector:
        if self._checks:
            self._check_batch(inputs, None, None)
        rows, batch, mode = len(inputs), self._batch, self._tables.EVALUATE
        outputs = batch.outputs
        if outputs.itemsize * outputs.shape[1] * rows <= COPIED_BYTES:
            self._run_batch(mode, inputs)
            if out is None:
                return batch.views[1].copy()
            out[...] = batch.views[1]
            return out
        if out is not None and out.flags.c_contiguous and out.flags.aligned and out.dtype == outputs.dtype:
            written = out
        else:
            written = np.empty((rows, outputs.shape[1]), outputs.dtype)
        batch.set_rows(mode, inputs)
        try:
            self._run_rows(batch.frame_into(written), mode, rows)
        finally:
            batch.forget_outputs()
        if out is None or out is written:
            return written
        out[...] = written
        return out

    def predict_each(self, source: Source, parameters: Vector, states: Vector) -> Vector:
        rows, inputs, dtype = source.n_rows, source.inputs, self.recipe.dtype
        if source.is_sparse or inputs.dtype.kind != "f" or rows > self.plan.rows:
            return super().predict_each(source, parameters, states)
        check_inputs(self.plan, source)
        for array, size in ((parameters, self.plan.parameter_count), (states, self.plan.state_count)):
            if array.shape != (len(parameters), size) or array.dtype != dtype:
                raise ValueError(f"each has {size} numbers in {dtype}, got {array.dtype} of shape {array.shape}")
        if self._checks:
            self._check_batch(inputs, None, None)
        outputs = np.empty((len(parameters), rows, self.plan.network.output_size), dtype)
        self._batch.set_rows(self._tables.EVALUATE, inputs)
        frames = self._batch.frame.repeated(
            parameters=np.ascontiguousarray(parameters), state=np.ascontiguousarray(states), outputs=outputs
        )
        self._run_rows(frames, self._tables.EVALUATE, rows)
        return outputs

    def frame(self) -> PredictionFrame:
        from ...kernels.cpu.catalogue import kernel
        from .jit import PredictionFrame, holding

        rows = self.plan.rows
        entry = kernel("run_frames", self.recipe.dtype).address
        call = np.array([entry, 0, 0, rows])  # ENTRY, NUMBERS, FIRST and ROWS of jit.py
        job = self._batch.job.copy()
        job[self._tables.MODE] = self._tables.EVALUATE
        frame = self._batch.frame.replaced(bounds=call[2:], job=job)
        call[1] = frame.address
        call = holding(call, frame, self)
        inputs = self.plan.inputs.view(self._workspace)[:rows]
        return PredictionFrame(inputs, self._batch.outputs, self._parameters, self._state, call)

    def _check_batch(self, inputs: NDArray[Any], targets: NDArray[Any] | None, sample_weight: Vector | None) -> None:
        rows = np.arange(len(inputs))
        source = Source(np.ascontiguousarray(inputs), targets, sample_weight)
        self._checks.check_call(self.plan, self.recipe.dtype, source, rows, np.array([0, len(rows)]))


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Vector:
    """Zeros that begin with a cache line, as the plan counts on: a register's load from two lines takes two."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def block_rows(plan: Plan, dtype: np.dtype[Any]) -> int:
    """How many rows at once go through the network: whole groups, whose arrays fit into BLOCK_BYTES together."""
    if plan.image_operations:
        return IMAGE_ROWS // ROW_GROUP * ROW_GROUP
    row_bytes = plan.workspace_size // plan.rows * dtype.itemsize
    return max(BLOCK_ROWS, BLOCK_BYTES // row_bytes) // ROW_GROUP * ROW_GROUP
