"""The CPU backend: fills the tables that the compiled epoch of nnfast.kernels.cpu reads, and calls it in threads."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import ROW_GROUP, Plan
from ...plans.recipe import Recipe, batch_divisor
from ...support.debugging import is_debugging
from ...support.threads import fair_share, give_way_address, run_in_threads
from ..base import HostProgram, Source, Vector, batch_totals, check_inputs, check_source, check_stretch
from . import announcement
from .frame import Frame
from .table import Table
from .team import TeamSize

# A step is shared among threads only so far that each has this much to do, some ten microseconds' worth: waiting for
# each other costs about one.
FLOPS_PER_THREAD = 1_000_000
FLOPS_PER_UPDATE = 20  # one parameter's update costs about as much as this many flops of a product

# What a block of rows needs on its way stays in a part of the second-level cache.
BLOCK_BYTES = 2**19
BLOCK_ROWS = 256  # fewer do not repay reading the weights again
IMAGE_ROWS = 64  # the arrays of images are large, their weights few; for the dense layers behind them, not fewer

CACHE_LINE = 64  # bytes

COPIED_BYTES = 2**13  # copying so much takes no longer than asking for an array's address
VALUES_AHEAD = 256  # steps whose values are computed at once where steps come one by one


class NumbaProgram(HostProgram):
    """A plan as tables of integers, operations and job (kernels/cpu/tables.py).

    kept: the arrays that the tables know by their addresses. areas: what the engine adds to the plan's workspace.
    threads: how many may share a step. measures: whether fewer of them do where that is faster; see team.py.
    """

    threads: float = 1.0

    def __init__(self, plan: Plan, recipe: Recipe, threads: int = 1, measures: bool = False) -> None:
        super().__init__(plan, recipe)
        from ...kernels.cpu import formulas, gather, panels, sparse, tables

        self._tables = tables
        self._gather_kernel = gather.gather_kernel
        self._sparse_kernel = gather.sparse_kernel
        self._sparse = sparse
        self._formulas = formulas
        self._threads, self._measures = threads, measures
        self._sizes: dict[tuple[int, ...], TeamSize] = {}
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

    def _make_frames(self) -> None:
        """Two frames, with rooms for what one step of at most plan.rows rows reads and writes.

        _gathered: for steps whose rows are gathered from a source. _batch: for one step whose rows are all there is;
        its own job and operations say where they are.
        """
        plan, tables, dtype = self.plan, self._tables, self.recipe.dtype
        self._described: Source | None = None  # the source that _job tells of
        self._job, self._batch_job, self._batch_operations = self.job.copy(), self.job.copy(), self.operations.copy()
        self._order, self._bounds, self._totals = np.arange(plan.rows), np.array([0, plan.rows]), np.ones(1)
        self._losses, self._values = np.zeros(1), np.zeros((1, len(self.recipe.optimizer.step_names)), dtype)
        self._outputs = np.zeros((plan.rows, plan.network.output_size), dtype)
        self._barrier = np.zeros(tables.BARRIER_SIZE, np.int64)
        self._gathered = Frame(
            dtype, self._checks is not None, operations=self.operations, job=self._job, settings=self._settings,
            seed=self.recipe.seed, constants=self._constants, zeros=self._zeros, parameters=self._parameters,
            gradient=self._gradient, slots=self._slots, state=self._state, workspace=self._workspace, pack=self._packs,
            row_losses=self._row_losses, penalties=self._penalties, order=self._order, bounds=self._bounds,
            steps=len(self._losses), values=self._values, value_size=self._values.shape[1], totals=self._totals,
            losses=self._losses, outputs=self._outputs, barrier=self._barrier,
        )  # fmt: skip
        self._labels = np.zeros(plan.rows, np.int64)
        in_order = np.arange(plan.rows)
        self._batch = self._gathered.replaced(order=in_order, job=self._batch_job, operations=self._batch_operations)
        self._batch_inputs, self._batch_targets = plan.inputs.view(self._workspace), plan.targets.view(self._workspace)
        self._batch_weights = plan.sample_weight.view(self._workspace)
        self._batch_job[tables.SOURCE_TARGETS] = self._labels.ctypes.data
        self._one_hot = self._gatherer(self._labels, labels=True)
        self._workspace_address = self._workspace.ctypes.data
        self._ones_offset = (self._ones.ctypes.data - self._workspace_address) // dtype.itemsize
        self._reads_in_place = self.operations[0, tables.KIND] == tables.DENSE  # no other may read beside the workspace
        self._batch_offset = plan.inputs.offset
        self._flops_per_row = plan.flops_per_row()
        self._table_of_values, self._table_rate, self._table_start = self._values, math.nan, 0

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
        self._describe(source)

    def _load_update(self) -> None:
        """Have the optimizer's kernel, without which a program that only predicts can do."""
        if not self.job[self._tables.UPDATE]:
            update = self._formulas.update_kernel(self.recipe.optimizer, self.recipe.dtype)
            for job in (self.job, self._job, self._batch_job):
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
        """Hand one stretch to the compiled epoch; returns the steps' losses, and the outputs when evaluating."""
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
            outputs = np.empty((source.n_rows if mode == tables.EVALUATE else 0, self.plan.network.output_size), dtype)
            # They are read by their addresses: whole and of these types
            order, bounds = (np.ascontiguousarray(array, np.int64) for array in (order, bounds))
            values, totals = np.ascontiguousarray(values, dtype), np.ascontiguousarray(totals, np.float64)
            frame = frame.replaced(
                order=order, bounds=bounds, steps=steps, values=values, value_size=values.shape[1], totals=totals,
                losses=losses, outputs=outputs,
            )  # fmt: skip
        rows = (bounds[-1] - bounds[0]) / max(1, steps)
        self._run(frame, self._repaid_threads(rows, mode, self._density), steps, mode)
        return losses.copy(), outputs

    def _run(self, frame: Frame, repaid: int, steps: int, mode: int) -> None:
        """Run a frame in a fair share of the threads, of which its steps repay so many."""
        with fair_share(self._threads) as share:
            most = min(share, repaid)
            if most > 1 and self._measures:
                self._run_measured(frame, most, repaid, steps, mode)
            else:
                self._run_in(frame, most)
                self.threads = float(most)

    def _run_measured(self, frame: Frame, most: int, work: int, steps: int, mode: int) -> None:
        """Run a frame in the number of threads that is the fastest now. work: of one step, in any unit."""
        tables, job = self._tables, self._batch_job if frame is self._batch else self._job
        kind = mode, steps == 1, work.bit_length()  # a call of one step spends much of its time starting threads
        size = self._sizes.setdefault(kind, TeamSize())
        done = threaded = 0
        try:
            while done < steps:
                threads, seconds = size.next(most)
                end, start = steps, time.perf_counter()
                if threads == 1:
                    end = min(steps, done + max(1, int(size.work_in(seconds) / work)))
                job[tables.BEGIN], frame.numbers[tables.AT_STEPS] = done, end
                self._run_in(frame, threads, seconds)
                ran = (int(self._barrier[tables.STOPPED]) or end) - done
                size.note(ran * work, time.perf_counter() - start)
                done, threaded = done + ran, threaded + ran * threads
        finally:
            job[tables.BEGIN], frame.numbers[tables.AT_STEPS] = 0, steps
        self.threads = threaded / steps

    def _run_in(self, frame: Frame, threads: int, seconds: float | None = None) -> None:
        """Run a frame in a team, which ends early, at a step's boundary, after so many seconds."""
        barrier, tables = self._barrier, self._tables
        barrier[:] = 0

        def run_or_break(thread: int, threads: int) -> None:
            try:
                frame.run(thread, threads)
            except BaseException:
                barrier[tables.BROKEN] = 1  # the others would wait for this thread
                raise

        if seconds is None:
            run_in_threads(run_or_break, threads)
        else:
            run_in_threads(run_or_break, threads, seconds, lambda: barrier.__setitem__(tables.STOP, 1))

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
        tables, rows, offset = self._tables, len(inputs), self.plan.inputs.offset
        if (
            self._reads_in_place
            and inputs.nbytes > COPIED_BYTES
            and inputs.dtype == self.recipe.dtype
            and inputs.flags.c_contiguous
            and inputs.flags.aligned
        ):
            offset = (inputs.ctypes.data - self._workspace_address) // inputs.itemsize
        else:
            self._batch_inputs[:rows] = inputs
        if offset != self._batch_offset:
            self._batch_operations[0, tables.INPUTS] = self._batch_offset = offset
        self._batch_job[tables.MODE] = mode
        self._bounds[1] = rows
        threads = self._repaid_threads(rows, mode) if self._threads > 1 else 1
        if threads > 1:
            self._run(self._batch, threads, 1, mode)
        else:
            self._batch.run()  # without a share of the threads: it is over sooner than others could make use of it

    def _set_batch_targets(self, targets: NDArray[Any], sample_weight: Vector | None) -> float:
        """Copy a batch's targets and weights to where the batch's job has them; returns the sum of the weights."""
        tables, job, rows = self._tables, self._batch_job, len(targets)
        if targets.ndim == 1:
            self._labels[:rows] = targets
            job[tables.GATHER_TARGETS] = self._one_hot
        else:
            self._batch_targets[:rows] = targets
            job[tables.GATHER_TARGETS] = 0
        if sample_weight is None:
            job[tables.BATCH_WEIGHTS] = self._ones_offset
            total = float(rows)
        else:
            self._batch_weights[:rows] = sample_weight
            job[tables.BATCH_WEIGHTS] = self.plan.sample_weight.offset
            total = float(np.add.reduceat(sample_weight, [0], dtype=np.float64)[0])  # as batch_totals adds
        self._totals[0] = total
        return total

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
        tables = self._tables
        if self._checks:
            self._check_batch(inputs, targets, sample_weight)
        self._load_update()
        if not self._set_batch_targets(targets, sample_weight):
            return 0.0
        self._values[0] = self._values_of_step(rate, number)[0]
        self._batch_job[tables.FIRST_STEP] = number
        self._run_batch(tables.TRAIN, inputs)
        return float(self._losses[0])

    def _values_of_step(self, rate: float, number: int) -> Vector:
        """A step's row of Optimizer.step_values; where the rate stays, from a table of many steps."""
        index = number - self._table_start
        if rate != self._table_rate or not 0 <= index < len(self._table_of_values):
            count = VALUES_AHEAD if rate == self._table_rate else 1
            self._table_of_values = self.recipe.optimizer.step_values(np.full(count, rate), number, self.recipe.dtype)
            self._table_rate, self._table_start, index = rate, number, 0
        return self._table_of_values[index : index + 1]

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
        if not self._set_batch_targets(source.targets, source.sample_weight):
            return 0.0, np.zeros_like(self._gradient)
        self._run_batch(tables.GRADIENT_ONLY, source.inputs)
        return float(self._losses[0]), self._gradient.copy()

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

    def evaluate(self, source: Source) -> tuple[float, Vector]:
        check_source(self.plan, source)
        bounds = np.append(np.arange(0, source.n_rows, self.plan.rows), source.n_rows)
        steps = len(bounds) - 1
        values = np.zeros((steps, 1), self.recipe.dtype)
        losses, outputs = self._run_gathered(
            self._tables.EVALUATE, source, np.arange(source.n_rows), bounds, values, np.zeros(steps)
        )
        if source is not self._source:
            self._described = None  # so that the source is not held
        weight = source.n_rows if source.sample_weight is None else float(source.sample_weight.sum(dtype=np.float64))
        return float(losses.sum()) / max(batch_divisor(self.recipe.loss, weight), np.finfo(float).tiny), outputs

    def predict(self, source: Source) -> Vector:
        rows, inputs = source.n_rows, source.inputs
        if source.is_sparse or inputs.dtype.kind != "f" or rows > self.plan.rows:
            return self.evaluate(Source(inputs, scale=source.scale))[1]
        check_inputs(self.plan, source)
        return self.predict_batch(inputs)

    def predict_batch(self, inputs: NDArray[Any], out: Vector | None = None) -> Vector:
        if self._checks:
            self._check_batch(inputs, None, None)
        rows, outputs, batch = len(inputs), self._outputs, self._batch
        if outputs.itemsize * outputs.shape[1] * rows <= COPIED_BYTES:
            self._run_batch(self._tables.EVALUATE, inputs)
            if out is None:
                return outputs[:rows].copy()
            out[...] = outputs[:rows]
            return out
        if out is not None and out.flags.c_contiguous and out.flags.aligned and out.dtype == outputs.dtype:
            written = out
        else:
            written = np.empty((rows, outputs.shape[1]), outputs.dtype)
        batch.set(outputs=written)
        try:
            self._run_batch(self._tables.EVALUATE, inputs)
        finally:
            batch.set(outputs=outputs)
        if out is None or out is written:
            return written
        out[...] = written
        return out

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
