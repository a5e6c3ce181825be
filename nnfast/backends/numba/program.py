"""The CPU backend: fills the tables that the compiled epoch of nnfast.kernels.cpu reads, and calls it in threads."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import ROW_GROUP, Plan
from ...plans.recipe import Recipe, batch_divisor
from ...support.debugging import is_debugging
from ...support.threads import fair_share, give_way_address, run_in_threads
from ..base import HostProgram, Source, Vector, batch_totals, check_source, check_stretch
from . import announcement
from .table import Table

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
    """

    def __init__(self, plan: Plan, recipe: Recipe, threads: int = 1) -> None:
        super().__init__(plan, recipe)
        from ...kernels.cpu import formulas, gather, panels, sparse, tables

        self._tables = tables
        self._gather_kernel = gather.gather_kernel
        self._sparse_kernel = gather.sparse_kernel
        self._sparse = sparse
        self._formulas = formulas
        self._threads = threads
        dtype = recipe.dtype
        announcement.announce(plan, dtype)
        self._parameters = aligned_zeros(self._parameters.shape, dtype)
        self._gradient = aligned_zeros(self._parameters.shape, dtype)
        self._zeros = np.zeros(max(max(op.inputs.shape[1], op.outputs.shape[1]) for op in plan.operations), dtype)
        self._row_losses = np.zeros(plan.rows)
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
        self._run_steps = entry_point("run_steps", dtype, self._checks is not None)

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
        # No steps: compiles or loads all kernels now, so that no epoch's seconds hold that
        self.run(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0), 0)

    def _run(
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
        job = self.job.copy()
        output_size = self.plan.network.output_size
        targets = source.targets
        if targets is None:  # for prediction: any targets do, the loss is not looked at
            targets = np.zeros(source.n_rows, np.int64)
        operations, inputs, density = self.operations, source.inputs, 1.0
        if source.is_sparse:
            if self.plan.begins_dense and self._sparse.repays(inputs):
                operations, density = operations.copy(), self._sparse.density(inputs)
                self._read_sparse_rows(inputs, operations, job)
            else:
                job[tables.GATHER_INPUTS] = self._sparse_kernel(inputs.data.dtype, inputs.indices.dtype, dtype).address
            inputs = np.array([part.ctypes.data for part in (inputs.data, inputs.indices, inputs.indptr)])
        else:
            job[tables.GATHER_INPUTS] = self._gatherer(inputs)
        job[tables.GATHER_TARGETS] = self._gatherer(targets, labels=targets.ndim == 1)
        job[tables.SOURCE_INPUTS] = inputs.ctypes.data
        job[tables.SOURCE_TARGETS] = targets.ctypes.data
        if source.sample_weight is not None:
            job[tables.GATHER_WEIGHTS] = self._gatherer(source.sample_weight)
            job[tables.SOURCE_WEIGHTS] = source.sample_weight.ctypes.data
        else:
            weights = self.plan.sample_weight
            self._workspace[weights.offset : weights.end] = 1
        job[tables.MODE] = mode
        job[tables.FIRST_STEP] = first_step
        self._settings[tables.SCALE] = source.scale
        losses = np.zeros(len(bounds) - 1)
        outputs = np.empty((source.n_rows if mode == tables.EVALUATE else 0, output_size), dtype)
        barrier = np.zeros(tables.BARRIER_SIZE, np.int64)
        # They are read by their addresses: whole, of these types, and held until all threads are done
        order, bounds = (np.ascontiguousarray(array, np.int64) for array in (order, bounds))
        values, totals = np.ascontiguousarray(values, dtype), np.ascontiguousarray(totals, np.float64)

        def run_steps(thread: int, threads: int) -> None:
            self._run_steps(
                operations, job, self._settings, self.recipe.seed, self._constants, self._zeros, self._parameters,
                self._gradient, self._slots, self._state, self._workspace, self._packs[thread], self._row_losses,
                self._penalties, order, bounds, len(losses), values, values.shape[1], totals, losses, outputs, barrier,
                thread, threads,
            )  # fmt: skip

        def run_or_break(thread: int, threads: int) -> None:
            try:
                run_steps(thread, threads)
            except BaseException:
                barrier[tables.BROKEN] = 1  # the others would wait for this thread
                raise

        with fair_share(self._threads) as threads:
            run_in_threads(run_or_break, min(threads, self._repaid_threads(bounds, mode, density)))
        return losses, outputs

    def _repaid_threads(self, bounds: NDArray[np.int64], mode: int, density: float) -> int:
        """How many threads steps of this size repay. density: the share of the inputs that the first layer reads."""
        rows = (bounds[-1] - bounds[0]) / max(1, len(bounds) - 1)
        flops_per_row = self.plan.flops_per_row() - (1 - density) * 4 * self.plan.weight_spans[0].size
        update = FLOPS_PER_UPDATE * self.plan.parameter_count if mode == self._tables.TRAIN else 0
        return max(1, int((rows * flops_per_row + update) // FLOPS_PER_THREAD))

    def _gatherer(self, array: NDArray[Any], labels: bool = False) -> int:
        # gather_kernel caches what it returns, so the address stays good
        address: int = self._gather_kernel(array.dtype, self.recipe.dtype, labels).address
        return address

    def run(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], rates: NDArray[np.float64], first_step: int
    ) -> NDArray[np.float64]:
        assert self._source is not None, "bind() comes first"
        check_stretch(self.plan, self._source, order, bounds, rates)
        if not self.job[self._tables.UPDATE]:  # a program that only predicts needs none
            update = self._formulas.update_kernel(self.recipe.optimizer, self.recipe.dtype)
            self.job[self._tables.UPDATE] = update.address
        values = self.recipe.optimizer.step_values(rates, first_step, self.recipe.dtype)
        totals = batch_totals(self._source, order, bounds)
        return self._run(self._tables.TRAIN, self._source, order, bounds, values, totals, first_step)[0]

    def loss_and_gradient(self, source: Source) -> tuple[float, Vector]:
        check_source(self.plan, source, self.plan.rows)
        order, bounds = np.arange(source.n_rows), np.array([0, source.n_rows])
        totals = batch_totals(source, order, bounds)
        if not totals[0]:
            return 0.0, np.zeros_like(self._gradient)
        losses, _ = self._run(self._tables.GRADIENT_ONLY, source, order, bounds, self._no_values(1), totals)
        return float(losses[0]), self._gradient.copy()

    def _input_gradient(self, source: Source) -> Vector:
        assert self.plan.input_gradient is not None  # input_gradient() refuses such a plan
        order, bounds = np.arange(source.n_rows), np.array([0, source.n_rows])
        totals = batch_totals(source, order, bounds)
        self._gradient[...] = 0  # running statistics have no part in dLoss/dx: kernels/cpu/batch_norm.py reads it here
        self._run(self._tables.INPUTS_ONLY, source, order, bounds, self._no_values(1), totals)
        gradient: Vector = self.plan.input_gradient.view(self._workspace, source.n_rows).copy()
        return gradient

    def evaluate(self, source: Source) -> tuple[float, Vector]:
        check_source(self.plan, source)
        bounds = np.append(np.arange(0, source.n_rows, self.plan.rows), source.n_rows)
        steps = len(bounds) - 1
        losses, outputs = self._run(
            self._tables.EVALUATE, source, np.arange(source.n_rows), bounds, self._no_values(steps), np.zeros(steps)
        )
        weight = source.n_rows if source.sample_weight is None else float(source.sample_weight.sum(dtype=np.float64))
        return float(losses.sum()) / max(batch_divisor(self.recipe.loss, weight), np.finfo(float).tiny), outputs

    def predict(self, source: Source) -> Vector:
        return self.evaluate(Source(source.inputs, scale=source.scale))[1]

    def _no_values(self, steps: int) -> Vector:
        return np.zeros((steps, 1), self.recipe.dtype)


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


@cache
def entry_point(name: str, dtype: np.dtype[Any], checked: bool = False) -> Callable[..., None]:
    """A kernel as a Python callable of the numbers and arrays in its signature, which it checks if asked to."""
    from ...kernels.cpu.catalogue import kernel
    from ...kernels.cpu.signatures import check_call

    compiled = kernel(name, dtype)
    types: dict[str, Any] = {"int64": ctypes.c_int64, "uint64": ctypes.c_uint64, "float64": ctypes.c_double}
    kinds = (types[p.dtype] if p.shape is None else ctypes.c_void_p for p in compiled.signature)
    function = ctypes.CFUNCTYPE(None, *kinds)(compiled.address)

    def call(*arguments: Any) -> None:
        function(*[value.ctypes.data if isinstance(value, np.ndarray) else value for value in arguments])

    def checked_call(*arguments: Any) -> None:
        check_call(name, compiled.signature, dtype, arguments)
        call(*arguments)

    return checked_call if checked else call
