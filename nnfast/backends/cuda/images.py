"""The wide path's operations on images, and BatchNorm: launches of the project's own kernels, no cuBLAS.

A convolution is one launch forward, and one for each gradient; that of its weights is summed in chunks (geometry.py),
which another launch adds up. Sizes and steps of windows are words on the device, so that another geometry compiles
nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...formulas.activations import ACTIVATIONS, Activation
from ...plans.operations import BatchNormOperation, ConvolutionOperation, Operation, PoolingOperation
from ...plans.plan import Plan
from ...plans.recipe import Recipe
from ..base import Vector
from . import geometry
from .wide import Batch, Launch, Passes, WideProgram, grid_blocks, matrix_grid, shape_arguments

if TYPE_CHECKING:
    from . import CudaBackend

IDENTITY = ACTIVATIONS["identity"]
TILE_THREADS = 256  # of correlation.cu
NORM_THREADS = (geometry.CHANNELS, 32)


class ImageProgram(WideProgram):
    """A wide program whose network has images or BatchNorm; the running statistics are on the device too."""

    def __init__(self, plan: Plan, recipe: Recipe, backend: CudaBackend) -> None:
        super().__init__(plan, recipe, backend)
        xp = self._xp
        self._running = xp.asarray(plan.initial_state().astype(recipe.dtype))
        numbers, doubles = geometry.part_sizes(plan)
        self._parts, self._sums = xp.empty(numbers, recipe.dtype), xp.empty(doubles, np.float64)
        self._words: dict[tuple[int, str], Any] = {}
        for op in geometry.image_operations(plan):
            for name, values in geometry.words(op).items():
                self._words[op.layer_index, name] = xp.asarray(np.array(values, np.int32))

    @property
    def state(self) -> Vector:
        vector: Vector = self._running.get()
        return vector

    @state.setter
    def state(self, vector: Vector) -> None:
        self._send(self._running, vector)

    def _convolution_forward(self, op: ConvolutionOperation, batch: Batch) -> list[Launch]:
        """a = f(x * W + b)."""
        x, z, outputs = (self._view(span, batch.n) for span in (op.inputs, op.z, op.outputs))
        W = op.weights.view(self._parameters).reshape(-1)
        arrays = (x, W, *self._bias(op), z, outputs, self._constants_of(op))
        return [self._correlate(op, batch.n, "outputs", op.layer.function, arrays)]

    def _convolution_backward(self, op: ConvolutionOperation, batch: Batch) -> list[Launch]:
        """delta = dLoss/da f'(z), then the gradients: one sum for weights and bias, one correlation for inputs."""
        z, outputs, delta = (self._view(span, batch.n) for span in (op.z, op.outputs, op.gradient))
        launches: list[Launch] = []
        if op.layer.function != IDENTITY:
            constants, no_bias = self._constants_of(op), np.int32(0)
            arguments = (z, outputs, delta, constants, self._gradient, no_bias, *shape_arguments(z))
            kernel = self._kernel("activation", op.layer.function, name="derivative")
            launches.append(partial(kernel, (grid_blocks(z.shape[1], 8),), (8, 64), arguments))
        launches += self._weights_gradient(op, batch.n)
        if op.input_gradient:
            before, W = self._view(op.input_gradient, batch.n), op.weights.view(self._parameters).reshape(-1)
            arrays = (delta, W, W, np.int32(0), before, before, self._constants)
            launches.append(self._correlate(op, batch.n, "inputs", IDENTITY, arrays))
        return launches

    def _correlate(
        self, op: ConvolutionOperation, n: int, target: str, function: Activation, arrays: tuple[Any, ...]
    ) -> Launch:
        """The launch of `convolve` that computes the "outputs", or the gradient of the "inputs", of n rows."""
        w = op.window
        if target == "outputs":
            columns, pixels = w.filters // w.groups, n * w.output_height * w.output_width
        else:
            columns, pixels = w.channels // w.groups, n * w.height * w.width
        grid = grid_blocks(pixels, geometry.TILE_ROWS), grid_blocks(geometry.column_tiles(columns) * w.groups, 1)
        kernel = self._kernel("convolution", function, geometry.side(columns), name="convolve")
        return partial(kernel, grid, (TILE_THREADS,), (*arrays, self._words[op.layer_index, target], np.int32(n)))

    def _weights_gradient(self, op: ConvolutionOperation, n: int) -> list[Launch]:
        """dLoss/dW and dLoss/db from delta: parts of them where there are several chunks, then their sum."""
        x, delta = self._view(op.inputs, n), self._view(op.gradient, n)
        size = op.weights.size + (op.bias.size if op.bias else 0)
        gradient = self._gradient[op.weights.offset : op.weights.offset + size]  # the bias stands behind its weights
        chunks = geometry.gradient_chunks(op, n)
        target = gradient if chunks.number == 1 else self._parts
        words, has_bias = self._words[op.layer_index, "outputs"], np.int32(op.bias is not None)
        side = geometry.side(op.window.filters // op.window.groups)
        kernel = self._kernel("convolution_gradient", side)
        grid = grid_blocks(geometry.gradient_tiles(op), 1), chunks.number
        arguments = (x, delta, target, words, np.int32(n), has_bias, np.int64(chunks.size))
        launches: list[Launch] = [partial(kernel, grid, (TILE_THREADS,), arguments)]
        if chunks.number > 1:
            add = self._kernel("convolution_gradient", side, name="add_chunks")
            sums = (self._parts, np.int32(chunks.number), gradient, np.int64(size))
            launches.append(partial(add, (grid_blocks(size, 32),), (32, 8), sums))
        return launches

    def _pooling_forward(self, op: PoolingOperation, batch: Batch) -> list[Launch]:
        x, outputs = (self._view(span, batch.n) for span in (op.inputs, op.outputs))
        kernel = self._kernel("pooling", name=f"{op.kind}_pool")
        return [partial(kernel, matrix_grid(outputs), (32, 8), (x, outputs, *self._pool_arguments(op, batch)))]

    def _pooling_backward(self, op: PoolingOperation, batch: Batch) -> list[Launch]:
        if not op.input_gradient:
            return []
        spans = (op.inputs, op.outputs, op.gradient, op.input_gradient)
        x, outputs, delta, before = (self._view(span, batch.n) for span in spans)
        looked_at = (x, outputs) if op.kind == "max" else ()
        kernel = self._kernel("pooling", name=f"{op.kind}_pool_gradient")
        arguments = (*looked_at, delta, before, *self._pool_arguments(op, batch))
        return [partial(kernel, matrix_grid(before), (32, 8), arguments)]

    def _pool_arguments(self, op: Operation, batch: Batch) -> tuple[Any, ...]:
        return self._words[op.layer_index, "pool"], np.int32(batch.n)

    def _norm_forward(self, op: BatchNormOperation, batch: Batch) -> list[Launch]:
        """The statistics in chunks, where they are the batch's, then a = f(gamma (x - m) / deviation + beta)."""
        x, z, outputs = (self._view(span, batch.n) for span in (op.inputs, op.z, op.outputs))
        number = self.recipe.dtype.type
        chunks, sizes = self._norm_sizes(op, batch)
        arguments = (
            x, self._sums, np.int32(chunks.number if batch.by_batch else 0), op.gamma.view(self._parameters),
            op.beta.view(self._parameters), op.running_mean.view(self._running),
            op.running_variance.view(self._running), np.int32(batch.training), number(op.layer.momentum),
            number(op.layer.epsilon), op.mean.view(self._workspace), op.inverse_deviation.view(self._workspace), z,
            outputs, self._constants_of(op), *sizes,
        )  # fmt: skip
        launches = [self._norm_launch(op, "normalise", self._norm_grid(op, batch), arguments)]
        if batch.by_batch:
            launches.insert(0, self._norm_launch(op, "statistics", chunks.number, (x, self._sums, *sizes)))
        return launches

    def _norm_backward(self, op: BatchNormOperation, batch: Batch) -> list[Launch]:
        """delta = dLoss/da f'(z) and its sums in chunks, then the gradients of gamma and beta, and of the inputs.

        Running statistics do not depend on the inputs: the sums of no chunk, 0, take their part out of dLoss/dx.
        """
        spans = (op.inputs, op.z, op.outputs, op.gradient)
        x, z, outputs, delta = (self._view(span, batch.n) for span in spans)
        before = self._view(op.input_gradient or op.gradient, batch.n)
        kept = op.mean.view(self._workspace), op.inverse_deviation.view(self._workspace)
        chunks, (channels, count, size) = self._norm_sizes(op, batch)
        first = (x, *kept, z, outputs, delta, self._constants_of(op), self._sums, channels, count, size)
        second = (
            x, *kept, op.gamma.view(self._parameters), delta, self._sums, np.int32(chunks.number * batch.by_batch),
            op.gamma.view(self._gradient), op.beta.view(self._gradient), before,
            np.int32(op.input_gradient is not None), channels, count,
        )  # fmt: skip
        return [
            self._norm_launch(op, "normalised_sums", chunks.number, first),
            self._norm_launch(op, "normalised_gradient", self._norm_grid(op, batch), second),
        ]

    def _norm_sizes(self, op: BatchNormOperation, batch: Batch) -> tuple[geometry.Chunks, tuple[Any, ...]]:
        """The chunks, and what kernels take of them: channels, numbers of each in the batch and in a chunk."""
        chunks = geometry.statistics_chunks(op, batch.n)
        return chunks, (np.int32(op.channels), np.int64(batch.n * op.pixels), np.int64(chunks.size))

    def _norm_grid(self, op: BatchNormOperation, batch: Batch) -> int:
        """Blocks that share the rows of a launch which has a number of each to write."""
        return grid_blocks(batch.n * op.pixels, geometry.CHUNK_ROWS)

    def _norm_launch(self, op: BatchNormOperation, name: str, blocks: int, arguments: tuple[Any, ...]) -> Launch:
        kernel = self._kernel("batch_norm", op.layer.function, name=name)
        return partial(kernel, (grid_blocks(op.channels, geometry.CHANNELS), blocks), NORM_THREADS, arguments)

    passes: ClassVar[Passes] = {
        **WideProgram.passes,
        ConvolutionOperation: (_convolution_forward, _convolution_backward),
        PoolingOperation: (_pooling_forward, _pooling_backward),
        BatchNormOperation: (_norm_forward, _norm_backward),
    }
