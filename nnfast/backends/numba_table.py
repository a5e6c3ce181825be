"""Turns a plan's operations into the table of integers that the compiled epoch reads (kernels/cpu/epoch.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..activations import Activation
from ..plan import (
    ALIGNMENT,
    BatchNormOperation,
    ConvolutionOperation,
    DenseOperation,
    DropoutOperation,
    Operation,
    Plan,
    PoolingOperation,
)
from ..random import dropout_threshold

Row = NDArray[np.int64]


class Areas:
    """What the CPU engine adds behind a plan's workspace, by offsets into it; size: of both.

    images: the inputs in groups; flat, flat_gradient: the outputs of the image part as rows, and their gradient; -1
    where there is none. transposed, narrow: by a dense operation's layer index, the transposed weights that make
    dLoss/dx, and the room for the transpose of a narrow matrix's gradient.
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        from ..kernels.cpu import products

        self.size = plan.workspace_size
        self.images = self.flat = self.flat_gradient = -1
        self.transposed: dict[int, int] = {}
        self.narrow: dict[int, int] = {}
        if plan.image_operations:
            self.images = self._take(plan.inputs.size)
            first_flat = plan.operations[plan.image_operations]  # there is one: the output is dense
            self.flat = self._take(first_flat.inputs.size)
            if first_flat.input_gradient:
                self.flat_gradient = self._take(first_flat.inputs.size)
        for op in plan.dense_operations:
            if op.input_gradient:
                self.transposed[op.layer_index] = self._take(op.weights.size)
            inputs, outputs = op.weights.shape
            if products.is_narrow(inputs, outputs, dtype):
                self.narrow[op.layer_index] = self._take(op.weights.size)

    def _take(self, size: int) -> int:
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + size
        return offset


class Table:
    """The rows for a plan, and what they refer to.

    constants: of the formulas and others. kept: kernels and arrays that the rows know by their addresses, to be held as
    long as the rows are used. workspace_size: what the rows' offsets point into. weight_rows: of all layers together.
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        from ..kernels.cpu import epoch

        self._epoch = epoch
        self._plan = plan
        self._dtype = dtype
        self.constants: list[float] = []
        self.kept: list[Any] = []
        self._areas = Areas(plan, dtype)
        self.workspace_size = self._areas.size
        self.weight_rows = 0

    def rows(self) -> Row:
        """The table, (operations, COLUMNS)."""
        plan, epoch, areas = self._plan, self._epoch, self._areas
        images = plan.image_operations
        rows = []
        if images:
            from ..kernels.cpu import images as conversions

            group = conversions.group_size(self._dtype)
            rows.append(self._conversion(epoch.INTERLEAVE, plan.inputs.shape[1], plan.inputs.offset, areas.images))
            first = plan.operations[0]
        for index, op in enumerate(plan.operations):
            row = self._row(op, group if index < images else 1)
            if images and op.inputs == plan.inputs and op is first:
                row[epoch.INPUTS] = areas.images
            if images and index == images:  # the first operation on flat rows
                conversion = self._conversion(epoch.DEINTERLEAVE, op.inputs.shape[1], op.inputs.offset, areas.flat)
                row[epoch.INPUTS] = areas.flat
                if op.input_gradient:
                    conversion[epoch.INPUT_GRADIENT] = op.input_gradient.offset
                    conversion[epoch.GRADIENT] = row[epoch.INPUT_GRADIENT] = areas.flat_gradient
                rows.append(conversion)
            rows.append(row)
            self._fill(row, op, is_image=index < images)
        return np.stack(rows)

    def _address(self, compiled: Any) -> int:
        self.kept.append(compiled)
        address: int = compiled.address
        return address

    def _row_address(self, row: Row) -> int:
        self.kept.append(row)
        return row.ctypes.data

    def _conversion(self, kind: int, size: int, inputs: int, outputs: int) -> Row:
        from ..kernels.cpu import images

        epoch = self._epoch
        row = np.full(epoch.COLUMNS, -1, dtype=np.int64)
        row[epoch.KIND] = kind
        row[epoch.INPUT_SIZE] = row[epoch.OUTPUT_SIZE] = size
        row[epoch.INPUTS], row[epoch.OUTPUTS], row[epoch.Z] = inputs, outputs, outputs
        row[epoch.GRADIENT] = outputs  # read by nobody where there is no input gradient
        row[epoch.GROUP] = images.group_size(self._dtype)
        interleave = self._address(images.interleave_kernel(self._dtype))
        row[epoch.FORWARD] = row[epoch.BACKWARD] = interleave
        if kind == epoch.DEINTERLEAVE:
            row[epoch.FORWARD] = self._address(images.deinterleave_kernel(self._dtype))
        return row

    def _row(self, op: Operation, group: int) -> Row:
        """What all operations have."""
        epoch = self._epoch
        row = np.full(epoch.COLUMNS, -1, dtype=np.int64)
        row[epoch.INPUT_SIZE], row[epoch.OUTPUT_SIZE] = op.inputs.shape[1], op.outputs.shape[1]
        row[epoch.INPUTS], row[epoch.OUTPUTS] = op.inputs.offset, op.outputs.offset
        row[epoch.Z] = op.outputs.offset
        row[epoch.GRADIENT] = op.gradient.offset
        row[epoch.INPUT_GRADIENT] = op.input_gradient.offset if op.input_gradient else -1
        row[epoch.GROUP] = group
        return row

    def _fill(self, row: Row, op: Operation, *, is_image: bool) -> None:
        """What an operation has of its own."""
        epoch = self._epoch
        row[epoch.CONSTANTS] = len(self.constants)
        if isinstance(op, DenseOperation):
            self._dense(row, op)
        elif isinstance(op, DropoutOperation):
            row[epoch.KIND] = epoch.DROPOUT
            row[epoch.MASK] = op.mask.offset
            row[epoch.THRESHOLD] = dropout_threshold(op.layer.rate)
            row[epoch.LAYER] = op.layer_index
            self.constants.append(1 / (1 - op.layer.rate))
        elif isinstance(op, ConvolutionOperation):
            self._convolution(row, op)
        elif isinstance(op, PoolingOperation):
            self._pooling(row, op)
        else:
            assert isinstance(op, BatchNormOperation)
            self._batch_norm(row, op, is_image=is_image)

    def _activation(self, row: Row, activation: Activation | None) -> None:
        """Activation and derivative of a hidden layer, which the identity does without."""
        from ..kernels.cpu import formulas

        epoch = self._epoch
        if activation is None or (activation.name == "identity" and row[epoch.KIND] != epoch.DENSE):
            return
        self.constants.extend(activation.constant_values)
        row[epoch.VALUE] = self._address(formulas.value_kernel(activation, self._dtype))
        row[epoch.DERIVATIVE] = self._address(formulas.derivative_kernel(activation, self._dtype))

    def _weights(self, row: Row, op: DenseOperation | ConvolutionOperation) -> None:
        epoch = self._epoch
        columns = op.weights.shape[-1]
        row[epoch.WEIGHTS] = op.weights.offset
        row[epoch.WEIGHT_ROWS], row[epoch.WEIGHT_COLUMNS] = op.weights.size // columns, columns
        if op.bias:
            row[epoch.BIAS], row[epoch.BIAS_SIZE] = op.bias.offset, op.bias.size
        row[epoch.PENALTIES] = self.weight_rows
        row[epoch.Z] = op.z.offset
        self.weight_rows += op.weights.size // columns

    def _dense(self, row: Row, op: DenseOperation) -> None:
        epoch = self._epoch
        row[epoch.KIND] = epoch.DENSE
        self._weights(row, op)
        row[epoch.WEIGHTS_TRANSPOSED] = self._areas.transposed.get(op.layer_index, -1)
        row[epoch.NARROW] = self._areas.narrow.get(op.layer_index, -1)
        if op is not self._plan.output:  # the last layer's belong to the loss
            self._activation(row, op.layer.function)

    def _convolution(self, row: Row, op: ConvolutionOperation) -> None:
        from ..kernels.cpu import convolution, convolution_gradient

        epoch, dtype = self._epoch, self._dtype
        row[epoch.KIND] = epoch.WINDOW
        self._weights(row, op)
        inputs, weights, bias = int(row[epoch.INPUTS]), op.weights.offset, op.bias.offset if op.bias else -1
        row[epoch.FORWARD] = self._address(convolution.correlation_kernel(dtype))
        row[epoch.FORWARD_ROW] = self._row_address(
            convolution.forward_row(op.window, dtype, x=inputs, z=op.z.offset, weights=weights, bias=bias)
        )
        if op.input_gradient:
            row[epoch.BACKWARD] = row[epoch.FORWARD]
            row[epoch.BACKWARD_ROW] = self._row_address(
                convolution.backward_row(
                    op.window, dtype, delta=op.gradient.offset, dx=op.input_gradient.offset, weights=weights
                )
            )
        row[epoch.WEIGHT_GRADIENT] = self._address(convolution_gradient.gradient_kernel(dtype))
        row[epoch.WEIGHT_GRADIENT_ROW] = self._row_address(
            convolution_gradient.gradient_row(
                op.window, dtype, x=inputs, delta=op.gradient.offset, weights=weights, bias=bias
            )
        )
        self._activation(row, op.layer.function)

    def _pooling(self, row: Row, op: PoolingOperation) -> None:
        from ..kernels.cpu import pooling

        epoch = self._epoch
        row[epoch.KIND] = epoch.WINDOW
        row[epoch.FORWARD] = self._address(pooling.forward_kernel(op.kind, self._dtype))
        row[epoch.BACKWARD] = self._address(pooling.backward_kernel(op.kind, self._dtype))
        row[epoch.FORWARD_ROW] = row[epoch.BACKWARD_ROW] = self._row_address(
            pooling.pooling_row(
                op.window,
                self._dtype,
                inputs=int(row[epoch.INPUTS]),
                outputs=op.outputs.offset,
                gradient=op.gradient.offset,
                input_gradient=int(row[epoch.INPUT_GRADIENT]),
            )
        )

    def _batch_norm(self, row: Row, op: BatchNormOperation, *, is_image: bool) -> None:
        from ..kernels.cpu import batch_norm

        epoch, dtype = self._epoch, self._dtype
        layout: batch_norm.Layout = "images" if is_image else "flat"
        row[epoch.KIND] = epoch.BATCH_NORM
        row[epoch.CHANNELS] = op.channels
        row[epoch.PIXELS] = 1 if is_image else op.pixels
        row[epoch.Z] = op.z.offset
        assert op.beta.offset == op.gamma.end  # they are updated as one
        row[epoch.BIAS], row[epoch.BIAS_SIZE] = op.gamma.offset, op.gamma.size + op.beta.size
        row[epoch.FORWARD] = self._address(batch_norm.forward_kernel(layout, dtype))
        row[epoch.BACKWARD] = self._address(batch_norm.backward_kernel(layout, dtype))
        row[epoch.STATISTICS] = self._address(batch_norm.statistics_kernel(layout, dtype))
        row[epoch.SUMS] = self._address(batch_norm.sums_kernel(layout, dtype))
        row[epoch.FORWARD_ROW] = self._row_address(
            batch_norm.batch_norm_row(
                x=int(row[epoch.INPUTS]),
                z=op.z.offset,
                delta=op.gradient.offset,
                dx=int(row[epoch.INPUT_GRADIENT]),
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
        row[epoch.MOMENTUM] = len(self.constants)
        self.constants.extend((op.layer.momentum, op.layer.epsilon))
        row[epoch.CONSTANTS] = len(self.constants)
        self._activation(row, op.layer.function)
