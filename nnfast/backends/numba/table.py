"""Turns a plan's operations into the table of integers that the compiled epoch reads (kernels/cpu/tables.py)."""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from ...formulas.activations import ACTIVATIONS, Activation
from ...plans.operations import (
    ALIGNMENT,
    BatchNormOperation,
    ConvolutionOperation,
    DenseOperation,
    DropoutOperation,
    LayerNormOperation,
    Operation,
    PoolingOperation,
    Span,
)
from ...plans.plan import Plan
from ...support.random import dropout_threshold

Row = NDArray[np.int64]


class Areas:
    """What the CPU engine adds behind a plan's workspace, by offsets into it; size: of both.

    extents: for what kernels/cpu/sparse.py keeps of a batch. images, images_gradient: the inputs in groups, and their
    gradient; flat, flat_gradient: the outputs of the image part as rows, and their gradient; -1 where there is none.
    transposed, narrow: by a dense
    operation's layer index, the transposed weights that make dLoss/dx, and the room for the transpose of a narrow
    matrix's gradient. spans: all of them, by their names in a listing.
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        from ...kernels.cpu import panels, sparse

        self.size = plan.workspace_size
        self.images = self.images_gradient = self.flat = self.flat_gradient = -1
        self.spans: dict[str, Span] = {}
        self.extents = self._take("extents", plan.rows * sparse.EXTENT_BYTES // dtype.itemsize)
        self.transposed: dict[int, int] = {}
        self.narrow: dict[int, int] = {}
        if plan.image_operations:
            self.images = self._take("images", plan.inputs.size)
            if plan.input_gradient:
                self.images_gradient = self._take("images_gradient", plan.inputs.size)
            first_flat = plan.operations[plan.image_operations]  # there is one: the output is dense
            self.flat = self._take("flat", first_flat.inputs.size)
            if first_flat.input_gradient:
                self.flat_gradient = self._take("flat_gradient", first_flat.inputs.size)
        for op in plan.dense_operations:
            inputs, outputs = op.weights.shape
            if op.input_gradient and min(inputs, outputs) > 1:  # a single row or column is its own transpose
                self.transposed[op.layer_index] = self._take(f"layers.{op.layer_index}.transposed", op.weights.size)
            if panels.is_narrow(inputs, outputs, dtype):
                self.narrow[op.layer_index] = self._take(f"layers.{op.layer_index}.narrow", op.weights.size)

    def _take(self, name: str, size: int) -> int:
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + size
        self.spans[name] = Span(offset, (size,))
        return offset


class Table:
    """The rows for a plan, and what they refer to.

    constants: of the formulas and others. kept: arrays that the rows know by their addresses, to be held as long as the
    rows are used. workspace_size: what the rows' offsets point into. weight_rows: of all layers together.
    areas: where what the engine adds lies.
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        from ...kernels.cpu import tables

        self._tables = tables
        self._plan = plan
        self._dtype = dtype
        self.constants: list[float] = []
        self.kept: list[Any] = []
        self.areas = Areas(plan, dtype)
        self.workspace_size = self.areas.size
        self.weight_rows = 0

    def rows(self) -> Row:
        """The table, (operations, COLUMNS)."""
        plan, tables, areas = self._plan, self._tables, self.areas
        images = plan.image_operations
        rows = []
        if images:
            from ...kernels.cpu.registers import group_size

            group = group_size(self._dtype)
            conversion = self._conversion(tables.INTERLEAVE, plan.inputs.shape[1], plan.inputs.offset, areas.images)
            if plan.input_gradient:
                conversion[tables.INPUT_GRADIENT] = plan.input_gradient.offset
                conversion[tables.GRADIENT] = areas.images_gradient
            rows.append(conversion)
            first = plan.operations[0]
        for index, op in enumerate(plan.operations):
            row = self._row(op, group if index < images else 1)
            if images and op.inputs == plan.inputs and op is first:
                row[tables.INPUTS] = areas.images
                row[tables.INPUT_GRADIENT] = areas.images_gradient
            if images and index == images:  # the first operation on flat rows
                conversion = self._conversion(tables.DEINTERLEAVE, op.inputs.shape[1], op.inputs.offset, areas.flat)
                row[tables.INPUTS] = areas.flat
                if op.input_gradient:
                    conversion[tables.INPUT_GRADIENT] = op.input_gradient.offset
                    conversion[tables.GRADIENT] = row[tables.INPUT_GRADIENT] = areas.flat_gradient
                rows.append(conversion)
            rows.append(row)
            self._fill(row, op, is_image=index < images)
        table = np.stack(rows)
        weights = table[:, tables.WEIGHT_ROWS] * table[:, tables.WEIGHT_COLUMNS] * (table[:, tables.WEIGHTS] >= 0)
        updated = weights + table[:, tables.BIAS_SIZE] * (table[:, tables.BIAS] >= 0)
        assert updated.sum() == plan.parameter_count  # threads share the parameters row by row of the table
        return table

    def _kernel(self, name: str) -> int:
        """The address of a kernel."""
        from ...kernels.cpu.catalogue import kernel

        return kernel(name, self._dtype).address

    def _row_address(self, row: Row) -> int:
        self.kept.append(row)
        return row.ctypes.data

    def _conversion(self, kind: int, size: int, inputs: int, outputs: int) -> Row:
        from ...kernels.cpu.registers import group_size

        tables = self._tables
        row = np.full(tables.COLUMNS, -1, dtype=np.int64)
        row[tables.KIND] = kind
        row[tables.INPUT_SIZE] = row[tables.OUTPUT_SIZE] = size
        row[tables.INPUTS], row[tables.OUTPUTS], row[tables.Z] = inputs, outputs, outputs
        row[tables.GRADIENT] = outputs  # not read where there is no input gradient
        row[tables.GROUP] = group_size(self._dtype)
        row[tables.FORWARD], row[tables.BACKWARD] = self._kernel("interleave"), self._kernel("deinterleave")
        if kind == tables.DEINTERLEAVE:
            row[tables.FORWARD], row[tables.BACKWARD] = row[tables.BACKWARD], row[tables.FORWARD]
        return row

    def _row(self, op: Operation, group: int) -> Row:
        """What all operations have."""
        tables = self._tables
        row = np.full(tables.COLUMNS, -1, dtype=np.int64)
        row[tables.INPUT_SIZE], row[tables.OUTPUT_SIZE] = op.inputs.shape[1], op.outputs.shape[1]
        row[tables.INPUTS], row[tables.OUTPUTS] = op.inputs.offset, op.outputs.offset
        row[tables.Z] = op.outputs.offset
        row[tables.GRADIENT] = op.gradient.offset
        row[tables.INPUT_GRADIENT] = op.input_gradient.offset if op.input_gradient else -1
        row[tables.GROUP] = group
        return row

    def _fill(self, row: Row, op: Operation, *, is_image: bool) -> None:
        """What an operation has of its own."""
        row[self._tables.CONSTANTS] = len(self.constants)
        match op:
            case DenseOperation():
                self._dense(row, op)
            case DropoutOperation():
                self._dropout(row, op)
            case ConvolutionOperation():
                self._convolution(row, op)
            case PoolingOperation():
                self._pooling(row, op)
            case BatchNormOperation():
                self._batch_norm(row, op, is_image=is_image)
            case LayerNormOperation():
                self._layer_norm(row, op)
            case _:
                assert_never(op)

    def _activation(self, row: Row, activation: Activation | None) -> None:
        """Activation and derivative of a hidden layer, which the identity does without."""
        from ...kernels.cpu import formulas

        tables = self._tables
        if activation is None or (activation == ACTIVATIONS["identity"] and row[tables.KIND] != tables.DENSE):
            return
        self.constants.extend(activation.constant_values)
        row[tables.VALUE] = formulas.value_kernel(activation, self._dtype).address
        row[tables.DERIVATIVE] = formulas.derivative_kernel(activation, self._dtype).address

    def _weights(self, row: Row, op: DenseOperation | ConvolutionOperation) -> None:
        tables = self._tables
        columns = op.weights.shape[-1]
        row[tables.WEIGHTS] = op.weights.offset
        row[tables.WEIGHT_ROWS], row[tables.WEIGHT_COLUMNS] = op.weights.size // columns, columns
        if op.bias:
            row[tables.BIAS], row[tables.BIAS_SIZE] = op.bias.offset, op.bias.size
        row[tables.PENALTIES] = self.weight_rows
        row[tables.Z] = op.z.offset
        self.weight_rows += op.weights.size // columns

    def _dense(self, row: Row, op: DenseOperation) -> None:
        tables = self._tables
        row[tables.KIND] = tables.DENSE
        self._weights(row, op)
        row[tables.WEIGHTS_TRANSPOSED] = self.areas.transposed.get(op.layer_index, -1)
        row[tables.NARROW] = self.areas.narrow.get(op.layer_index, -1)
        if op is not self._plan.output:  # the last layer's belong to the loss
            self._activation(row, op.layer.function)

    def _dropout(self, row: Row, op: DropoutOperation) -> None:
        tables = self._tables
        row[tables.KIND] = tables.DROPOUT
        row[tables.MASK] = op.mask.offset
        row[tables.THRESHOLD] = dropout_threshold(op.layer.rate)
        row[tables.LAYER] = op.layer_index
        self.constants.append(1 / (1 - op.layer.rate))
        row[tables.FORWARD] = self._kernel("dropout" if row[tables.GROUP] == 1 else "dropout_in_groups")
        row[tables.BACKWARD] = self._kernel("dropout_backward")

    def _convolution(self, row: Row, op: ConvolutionOperation) -> None:
        from ...kernels.cpu import convolution, convolution_gradient

        tables, dtype = self._tables, self._dtype
        row[tables.KIND] = tables.PASS
        self._weights(row, op)
        inputs, weights, bias = int(row[tables.INPUTS]), op.weights.offset, op.bias.offset if op.bias else -1
        row[tables.FORWARD] = self._kernel("correlate")
        row[tables.FORWARD_ROW] = self._row_address(
            convolution.forward_row(op.window, dtype, x=inputs, z=op.z.offset, weights=weights, bias=bias)
        )
        if op.input_gradient:
            dx = int(row[tables.INPUT_GRADIENT])
            row[tables.BACKWARD] = row[tables.FORWARD]
            row[tables.BACKWARD_ROW] = self._row_address(
                convolution.backward_row(op.window, dtype, delta=op.gradient.offset, dx=dx, weights=weights)
            )
        row[tables.WEIGHT_GRADIENT] = self._kernel("add_gradient")
        row[tables.WEIGHT_GRADIENT_ROW] = self._row_address(
            convolution_gradient.gradient_row(
                op.window, dtype, x=inputs, delta=op.gradient.offset, weights=weights, bias=bias
            )
        )
        self._activation(row, op.layer.function)

    def _pooling(self, row: Row, op: PoolingOperation) -> None:
        from ...kernels.cpu import pooling

        tables = self._tables
        row[tables.KIND] = tables.PASS
        row[tables.FORWARD] = self._kernel(f"{op.kind}_forward")
        row[tables.BACKWARD] = self._kernel(f"{op.kind}_backward")
        row[tables.FORWARD_ROW] = row[tables.BACKWARD_ROW] = self._row_address(
            pooling.pooling_row(
                op.window,
                self._dtype,
                inputs=int(row[tables.INPUTS]),
                outputs=op.outputs.offset,
                gradient=op.gradient.offset,
                input_gradient=int(row[tables.INPUT_GRADIENT]),
            )
        )

    def _batch_norm(self, row: Row, op: BatchNormOperation, *, is_image: bool) -> None:
        from ...kernels.cpu import batch_norm

        tables = self._tables
        layout = "image" if is_image else "flat"
        row[tables.KIND] = tables.BATCH_NORM
        row[tables.CHANNELS] = op.channels
        row[tables.PIXELS] = 1 if is_image else op.pixels
        row[tables.Z] = op.z.offset
        assert op.beta.offset == op.gamma.end  # they are updated as one
        row[tables.BIAS], row[tables.BIAS_SIZE] = op.gamma.offset, op.gamma.size + op.beta.size
        row[tables.FORWARD] = self._kernel(f"{layout}_forward")
        row[tables.BACKWARD] = self._kernel(f"{layout}_backward")
        row[tables.STATISTICS] = self._kernel(f"{layout}_statistics")
        row[tables.SUMS] = self._kernel(f"{layout}_sums")
        row[tables.FORWARD_ROW] = self._row_address(
            batch_norm.batch_norm_row(
                x=int(row[tables.INPUTS]),
                z=op.z.offset,
                delta=op.gradient.offset,
                dx=int(row[tables.INPUT_GRADIENT]),
                mean=op.mean.offset,
                inverse_deviation=op.inverse_deviation.offset,
                gamma=op.gamma.offset,
                beta=op.beta.offset,
                running_mean=op.running_mean.offset,
                running_variance=op.running_variance.offset,
                pixels=op.pixels,
                channels=op.channels,
            )
        )
        row[tables.STATISTICS_CONSTANTS] = len(self.constants)
        self.constants.extend((op.layer.momentum, op.layer.epsilon))
        row[tables.CONSTANTS] = len(self.constants)
        self._activation(row, op.layer.function)

    def _layer_norm(self, row: Row, op: LayerNormOperation) -> None:
        from ...kernels.cpu import layer_norm

        tables = self._tables
        epsilon = np.array([op.layer.epsilon])
        self.kept.append(epsilon)
        row[tables.KIND] = tables.PASS
        row[tables.Z] = op.z.offset
        assert op.beta.offset == op.gamma.end  # they are updated as one
        row[tables.BIAS], row[tables.BIAS_SIZE] = op.gamma.offset, op.gamma.size + op.beta.size
        row[tables.FORWARD] = self._kernel("layer_norm_forward")
        row[tables.BACKWARD] = self._kernel("layer_norm_backward")
        row[tables.WEIGHT_GRADIENT] = self._kernel("layer_norm_sums")
        row[tables.FORWARD_ROW] = row[tables.BACKWARD_ROW] = row[tables.WEIGHT_GRADIENT_ROW] = self._row_address(
            layer_norm.layer_norm_row(
                x=int(row[tables.INPUTS]),
                z=op.z.offset,
                delta=op.gradient.offset,
                dx=int(row[tables.INPUT_GRADIENT]),
                mean=op.mean.offset,
                inverse_deviation=op.inverse_deviation.offset,
                gamma=op.gamma.offset,
                beta=op.beta.offset,
                features=op.gamma.size,
                epsilon=epsilon.ctypes.data,
            )
        )
        self._activation(row, op.layer.function)
