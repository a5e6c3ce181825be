"""The path for networks of any width: matrix products by cuBLAS, and one kernel for each piece between them.

What a launch works on does not depend on the step: kernels find their batch by the step counter on the device. So a
batch's launches are prepared once for each number of rows, and a step only issues them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...formulas.activations import ACTIVATIONS, Activation
from ...plans.operations import (
    ConvolutionOperation,
    DenseOperation,
    DropoutOperation,
    LayerNormOperation,
    Operation,
    Span,
)
from ...plans.plan import Plan
from ...plans.recipe import Recipe
from ...support.random import Purpose, dropout_threshold
from ..base import Source
from .memory import DeviceRows, single_steps
from .program import CudaProgram

if TYPE_CHECKING:
    from . import CudaBackend

THREADS = 256  # of a block that is one-dimensional
MAX_BLOCKS = 4096  # in one direction of a grid; kernels stride over what is left
SUMMING_BLOCKS = 256  # the most blocks that leave a partial sum each, which every block of the next kernel reads
PREPARED_SIZES = 4  # numbers of rows whose launches are kept

Launch = Callable[[], Any]
# What computes an operation's outputs, and what its gradients: methods that give a batch's launches.
Passes = dict[type, tuple[Callable[..., list[Launch]], Callable[..., list[Launch]]]]


class Batch(NamedTuple):
    """Where a batch comes from, and what is to be done with it."""

    rows: DeviceRows
    n: int
    stretch: Any  # the words of common.cu
    values: Any  # numbers of the steps, `width` each, the divisor first
    width: int
    training: bool  # dropout drops, and the running statistics follow
    by_batch: bool = True  # BatchNorm takes the batch's statistics; else the running ones


class WideProgram(CudaProgram):
    """Products by cuBLAS. To add a kind of operation, write its forward and backward and name them in `passes`."""

    def __init__(self, plan: Plan, recipe: Recipe, backend: CudaBackend) -> None:
        super().__init__(plan, recipe, backend)
        xp = self._xp
        self._losses, self._penalties, self._squares = (xp.zeros(SUMMING_BLOCKS, np.float64) for _ in range(3))
        is_weight = np.zeros(plan.parameter_count, np.uint8)
        for span in plan.weight_spans:
            span.view(is_weight)[...] = 1
        self._is_weight = xp.asarray(is_weight)
        self._prepared: dict[int, list[Launch]] = {}

    def _forget(self) -> None:
        self._prepared.clear()

    def _prepare(self, rows: DeviceRows) -> None:
        self._step(rows, self.plan.rows)

    def _train(self, rows: DeviceRows, sizes: NDArray[np.int64]) -> None:
        for n in sizes.tolist():
            if n not in self._prepared:
                if len(self._prepared) == PREPARED_SIZES:
                    self._prepared.clear()
                self._prepared[n] = self._step(rows, n)
            for launch in self._prepared[n]:
                launch()

    def _step(self, rows: DeviceRows, n: int) -> list[Launch]:
        """A training step of n rows."""
        stretch = self._stretch
        batch = Batch(rows, n, stretch.words, stretch.values, stretch.width, training=True)
        return [*self._gradient_of(batch), self._update(batch)]

    def _differentiate(self, rows: DeviceRows, n: int, divisor: Any) -> list[Any]:
        words = self._xp.asarray(single_steps(n, n)[0])
        batch = Batch(rows, n, words, divisor, 1, training=False)
        for launch in self._gradient_of(batch):
            launch()
        losses = self._losses[: self._loss_blocks(n)]
        return [losses, self._penalties[: self._norm_blocks]] if self._norm_blocks else [losses]

    def _differentiate_inputs(self, rows: DeviceRows, n: int, divisor: Any) -> Any:
        words = self._xp.asarray(single_steps(n, n)[0])
        batch = Batch(rows, n, words, divisor, 1, training=False, by_batch=False)
        for launch in self._gradient_of(batch):
            launch()
        assert self.plan.input_gradient is not None  # input_gradient() refuses such a plan
        return self._view(self.plan.input_gradient, n)

    def _evaluate(self, source: Source, rows: NDArray[np.int64] | None) -> tuple[Any, Any]:
        xp, size, total = self._xp, self.plan.rows, source.n_rows if rows is None else len(rows)
        there = self._upload(source)
        outputs = xp.empty((total, self.plan.network.output_size), self.recipe.dtype)
        words = xp.asarray(single_steps(total, size, rows))
        losses = xp.zeros((len(words), SUMMING_BLOCKS), np.float64)
        one = xp.asarray(np.ones(1))
        for index in range(len(words)):
            first = index * size
            n = min(size, total - first)
            batch = Batch(there, n, words[index], one, 1, training=False, by_batch=False)
            for launch in (*self._forward(batch), self._loss(batch, outputs[first : first + n], losses[index])):
                launch()
        return outputs, losses

    def _gradient_of(self, batch: Batch) -> list[Launch]:
        op = self.plan.output
        forward = [*self._forward(batch), self._loss(batch, self._view(op.outputs, batch.n), self._losses)]
        return [*forward, *self._backward(batch), *self._penalize(batch)]

    def _backward(self, batch: Batch) -> list[Launch]:
        """Every layer's gradients, from the last layer's delta."""
        passes = (self.passes[type(op)][1](self, op, batch) for op in reversed(self.plan.operations))
        return [launch for launches in passes for launch in launches]

    def _forward(self, batch: Batch) -> list[Launch]:
        """Every layer's outputs; of the last layer only the product, whose bias and activation belong to its loss."""
        passes = (self.passes[type(operation)][0](self, operation, batch) for operation in self.plan.operations)
        return [self._gather(batch), *(launch for launches in passes for launch in launches)]

    def _kernel(self, kind: str, *arguments: Any, name: str | None = None) -> Any:
        from ...kernels.cuda import sources

        source = getattr(sources, f"{kind}_source")(*arguments, self.recipe.dtype)
        return self._backend.kernel(source, name or kind)

    def _view(self, span: Span, n: int) -> Any:
        return span.view(self._workspace, n)

    def _bias(self, op: DenseOperation | ConvolutionOperation) -> tuple[Any, Any]:
        """The bias as kernels take it: an array, of any content where there is none, and whether there is one."""
        return (op.bias or op.weights).view(self._parameters).reshape(-1), np.int32(op.bias is not None)

    def _constants_of(self, op: Operation) -> Any:
        return self._constants[self._constant_offsets[op.layer_index] :]

    def _gather(self, batch: Batch) -> Launch:
        inputs, rows = self._view(self.plan.inputs, batch.n), batch.rows
        columns = np.int32(inputs.shape[1])
        source_type = rows.inputs[0].dtype
        if rows.is_sparse:
            kernel = self._kernel("gather", source_type, name="gather_csr")
            grid = (grid_blocks(batch.n, 8),)
            return partial(kernel, grid, (32, 8), (*rows.inputs, batch.stretch, columns, inputs))
        kernel, scale = self._kernel("gather", source_type), self.recipe.dtype.type(rows.scale)
        return partial(kernel, matrix_grid(inputs), (32, 8), (*rows.inputs, batch.stretch, columns, scale, inputs))

    def _dense_forward(self, op: DenseOperation, batch: Batch) -> list[Launch]:
        """z = x W, then, but for the last layer, a = f(z + b)."""
        x, z, outputs = (self._view(span, batch.n) for span in (op.inputs, op.z, op.outputs))
        product = partial(self._backend.matmul, x, op.weights.view(self._parameters), out=z)
        if op is self.plan.output:
            return [product]
        arguments = (z, *self._bias(op), outputs, self._constants_of(op), *shape_arguments(z))
        kernel = self._kernel("activation", op.layer.function, name="value")
        return [product, partial(kernel, matrix_grid(z), (32, 8), arguments)]

    def _dense_backward(self, op: DenseOperation, batch: Batch) -> list[Launch]:
        """delta = dLoss/da f'(z), but for the last layer, whose loss gave delta; then the three gradients."""
        x, z, outputs, delta = (self._view(span, batch.n) for span in (op.inputs, op.z, op.outputs, op.gradient))
        launches: list[Launch] = []
        if op is not self.plan.output or op.bias:
            slope: Activation = ACTIVATIONS["identity"] if op is self.plan.output else op.layer.function
            bias_gradient = (op.bias or op.weights).view(self._gradient).reshape(-1)
            arguments = (
                z, outputs, delta, self._constants_of(op), bias_gradient, np.int32(op.bias is not None),
                *shape_arguments(z),
            )  # fmt: skip
            kernel = self._kernel("activation", slope, name="derivative")
            launches.append(partial(kernel, (grid_blocks(z.shape[1], 8),), (8, 64), arguments))
        launches.append(partial(self._backend.matmul, x.T, delta, out=op.weights.view(self._gradient)))
        if op.input_gradient:
            W = op.weights.view(self._parameters)
            launches.append(partial(self._backend.matmul, delta, W.T, out=self._view(op.input_gradient, batch.n)))
        return launches

    def _dropout_forward(self, op: DropoutOperation, batch: Batch) -> list[Launch]:
        x, outputs, mask = (self._view(span, batch.n) for span in (op.inputs, op.outputs, op.mask))
        if not batch.training:
            return [partial(self._xp.copyto, outputs, x), partial(mask.fill, 1)]
        arguments = (
            x, outputs, mask, np.uint64(self.recipe.seed), np.uint32(Purpose.DROPOUT << 24 | op.layer_index),
            np.uint64(dropout_threshold(op.layer.rate)), self.recipe.dtype.type(1 / (1 - op.layer.rate)),
            np.int32(x.shape[1]), batch.stretch,
        )  # fmt: skip
        return [partial(self._kernel("dropout"), (grid_blocks(x.size, 4 * THREADS),), (THREADS,), arguments)]

    def _dropout_backward(self, op: DropoutOperation, batch: Batch) -> list[Launch]:
        if not op.input_gradient:
            return []
        delta, mask, before = (self._view(span, batch.n) for span in (op.gradient, op.mask, op.input_gradient))
        return [partial(self._xp.multiply, delta, mask, out=before)]

    def _layer_norm_forward(self, op: LayerNormOperation, batch: Batch) -> list[Launch]:
        """a = f(gamma (x - m) r + beta), with a row's m and r."""
        x, z, outputs, mean, r = (
            self._view(span, batch.n) for span in (op.inputs, op.z, op.outputs, op.mean, op.inverse_deviation)
        )
        arguments = (
            x, op.gamma.view(self._parameters), op.beta.view(self._parameters),
            self.recipe.dtype.type(op.layer.epsilon), mean, r, z, outputs, self._constants_of(op), *shape_arguments(x),
        )  # fmt: skip
        kernel = self._kernel("layer_norm", op.layer.function)
        return [partial(kernel, (grid_blocks(batch.n, 8),), (32, 8), arguments)]

    def _layer_norm_backward(self, op: LayerNormOperation, batch: Batch) -> list[Launch]:
        """delta = dLoss/da f'(z) and the gradients of gamma and beta; then that of the inputs."""
        x, z, outputs, delta, mean, r = (
            self._view(span, batch.n)
            for span in (op.inputs, op.z, op.outputs, op.gradient, op.mean, op.inverse_deviation)
        )
        kernel = partial(self._kernel, "layer_norm", op.layer.function)
        sums = (
            x, mean, r, z, outputs, delta, self._constants_of(op), op.gamma.view(self._gradient),
            op.beta.view(self._gradient), *shape_arguments(x),
        )  # fmt: skip
        launches: list[Launch] = [partial(kernel(name="layer_norm_sums"), (grid_blocks(x.shape[1], 8),), (8, 64), sums)]
        if op.input_gradient:
            before = self._view(op.input_gradient, batch.n)
            arguments = (x, mean, r, op.gamma.view(self._parameters), delta, before, *shape_arguments(x))
            gradient = kernel(name="layer_norm_gradient")
            launches.append(partial(gradient, (grid_blocks(batch.n, 8),), (32, 8), arguments))
        return launches

    def _loss_blocks(self, n: int) -> int:
        return min(-(-n // 8), SUMMING_BLOCKS, MAX_BLOCKS)

    def _loss(self, batch: Batch, outputs: Any, losses: Any) -> Launch:
        """Outputs, the weighted losses of each block's rows, and dLoss/dz."""
        op, rows = self.plan.output, batch.rows
        z, delta = self._view(op.z, batch.n), self._view(op.gradient, batch.n)
        arguments = (
            z, *self._bias(op), outputs, delta, self._constants_of(op), rows.labels, rows.numbers,
            np.int32(rows.target_kind), rows.sample_weight, np.int32(rows.is_weighted), np.int32(z.shape[1]),
            batch.stretch, batch.values, np.int32(batch.width), losses,
        )  # fmt: skip
        kernel = self._kernel("loss", op.layer.function, self.recipe.loss)
        return partial(kernel, (self._loss_blocks(batch.n),), (THREADS,), arguments)

    @property
    def _norm_blocks(self) -> int:
        """Blocks that look at the whole gradient before its update; 0 where nothing asks for that."""
        recipe = self.recipe
        if not (recipe.alpha or recipe.l1 or recipe.clip_norm):
            return 0
        return min(grid_blocks(self.plan.parameter_count, THREADS), SUMMING_BLOCKS)

    def _penalize(self, batch: Batch) -> list[Launch]:
        if not self._norm_blocks:
            return []
        arguments = (
            self._parameters, self._gradient, self._is_weight, np.float64(self.recipe.alpha),
            np.float64(self.recipe.l1), batch.stretch, batch.values, np.int32(batch.width), self._penalties,
            self._squares, np.int64(self.plan.parameter_count),
        )  # fmt: skip
        kernel = self._kernel("update", self.recipe.optimizer, name="penalize")
        return [partial(kernel, (self._norm_blocks,), (THREADS,), arguments)]

    def _update(self, batch: Batch) -> Launch:
        size = self.plan.parameter_count
        arguments = (
            self._parameters, self._gradient, self._slots, np.int64(size), batch.stretch, batch.values,
            np.float64(self.recipe.clip_norm or 0.0), self._losses, np.int32(self._loss_blocks(batch.n)),
            self._penalties, np.int32(self._norm_blocks), self._squares, np.int32(self._norm_blocks),
            self._stretch.losses,
        )  # fmt: skip
        kernel = self._kernel("update", self.recipe.optimizer)
        return partial(kernel, (grid_blocks(size, THREADS),), (THREADS,), arguments)

    passes: ClassVar[Passes] = {
        DenseOperation: (_dense_forward, _dense_backward),
        DropoutOperation: (_dropout_forward, _dropout_backward),
        LayerNormOperation: (_layer_norm_forward, _layer_norm_backward),
    }


def grid_blocks(elements: int, per_block: int) -> int:
    return min(-(-elements // per_block), MAX_BLOCKS)


def matrix_grid(array: Any) -> tuple[int, int]:
    """The grid over a matrix for blocks of 32 columns x 8 rows: rows, then columns."""
    return grid_blocks(array.shape[0], 8), grid_blocks(array.shape[1], 32)


def shape_arguments(array: Any) -> tuple[np.int32, np.int32]:
    return np.int32(array.shape[0]), np.int32(array.shape[1])
