"""The reference backend: feedforward and backpropagation in NumPy, as one would write them on paper.

Notation: x the inputs of a layer, z = x W + b, a = f(z), and delta = dLoss/dz of each row. The other backends are
held to these results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray

from ...formulas.activations import Activation
from ...formulas.formula import numpy_function
from ...formulas.losses import Loss, canonical_pair, is_softmax_cross_entropy
from ...plans.operations import (
    BatchNormOperation,
    ConvolutionOperation,
    DenseOperation,
    DropoutOperation,
    LayerNormOperation,
    Operation,
    PoolingOperation,
)
from ...plans.recipe import batch_divisor
from ...support.random import dropout_keep
from ..base import HostProgram, Source, Vector, check_rows, check_source, check_stretch
from . import layers

Array = NDArray[Any]


class Passed(NamedTuple):
    """What the way forward leaves of an operation for the way back.

    kept: a dropout's mask; of BatchNorm and LayerNorm, the inverse deviation and the normalised inputs, these None
    where the statistics are the running ones, which do not depend on the inputs; else None.
    """

    inputs: Array
    z: Array
    outputs: Array
    kept: Any


class NumpyProgram(HostProgram):
    """The mathematics of a training step, line by line."""

    def bind(self, source: Source) -> None:
        check_source(self.plan, source)
        self._source = source

    def run(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], rates: NDArray[np.float64], first_step: int
    ) -> NDArray[np.float64]:
        assert self._source is not None, "bind() comes first"
        check_stretch(self.plan, self._source, order, bounds, rates)
        values = self.recipe.optimizer.step_values(rates, first_step, self.recipe.dtype)
        losses = np.zeros(len(rates))
        with np.errstate(all="ignore"):  # a diverging run is found by its loss, on every backend alike
            for k in range(len(rates)):
                batch = self._gather(self._source, order[bounds[k] : bounds[k + 1]])
                if batch[2].sum() == 0:
                    continue
                losses[k], gradient = self._loss_and_gradient(*batch, step=first_step + k)
                self._clip(gradient)
                self.recipe.optimizer.apply(self._parameters, gradient, self._slots, values[k])
        return losses

    def loss_and_gradient(self, source: Source) -> tuple[float, Vector]:
        check_source(self.plan, source, self.plan.rows)
        inputs, targets, weights = self._gather(source, np.arange(source.n_rows))
        if not weights.any():
            return 0.0, np.zeros_like(self._parameters)
        with np.errstate(all="ignore"):
            return self._loss_and_gradient(inputs, targets, weights, step=None)

    def _input_gradient(self, source: Source) -> Vector:
        inputs, targets, weights = self._gather(source, np.arange(source.n_rows))
        divisor = self._divisor(weights)
        with np.errstate(all="ignore"):
            passed = self._forward(inputs, step=None, by_batch=False)
            delta = self._output_delta(passed[-1], targets, weights, divisor)
            return self._backward(passed, delta, None)

    def evaluate(self, source: Source, rows: NDArray[np.int64] | None = None) -> tuple[float, Vector]:
        check_source(self.plan, source)
        check_rows(source, rows)
        measured = np.arange(source.n_rows) if rows is None else rows
        output = self.plan.output.layer.function
        outputs = np.empty((len(measured), self.plan.network.output_size), self.recipe.dtype)
        total_loss = total_weight = 0.0
        with np.errstate(all="ignore"):
            for start in range(0, len(measured), self.plan.rows):
                part = slice(start, start + self.plan.rows)
                inputs, targets, weights = self._gather(source, measured[part])
                _, z, outputs[part], _ = self._forward(inputs, step=None, by_batch=False)[-1]
                losses = loss_of_outputs(output, self.recipe.loss, z, outputs[part], targets)
                total_loss += float(weights @ losses)
                total_weight += float(weights.sum())
        return total_loss / max(batch_divisor(self.recipe.loss, total_weight), np.finfo(float).tiny), outputs

    def predict(self, source: Source) -> Vector:
        check_source(self.plan, source)
        outputs = np.empty((source.n_rows, self.plan.network.output_size), self.recipe.dtype)
        with np.errstate(all="ignore"):
            for start in range(0, source.n_rows, self.plan.rows):
                rows = slice(start, start + self.plan.rows)
                outputs[rows] = self._forward(self._scaled(source, rows), step=None, by_batch=False)[-1].outputs
        return outputs

    def trace(self, source: Source) -> Iterator[tuple[Operation, Passed]]:
        """Every operation and what it makes of one batch, as in training but without dropout."""
        with np.errstate(all="ignore"):
            passed = self._forward(self._scaled(source, slice(None)), step=None, by_batch=True)
        return zip(self.plan.operations, passed, strict=True)

    def _scaled(self, source: Source, rows: Any) -> Array:
        inputs = source.inputs[rows]
        if source.is_sparse and self.plan.begins_dense:
            inputs = inputs.astype(self.recipe.dtype, copy=False)  # a dense layer multiplies sparse rows as they are
        else:
            dense = inputs.toarray() if source.is_sparse else inputs
            inputs = np.ascontiguousarray(dense, self.recipe.dtype)  # a BLAS may round otherwise in another order
        return inputs if source.scale == 1 else inputs * self.recipe.dtype.type(source.scale)

    def _gather(self, source: Source, rows: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Inputs, targets (class labels as one-hot rows) and sample weights of a batch."""
        dtype = self.recipe.dtype
        assert source.targets is not None
        targets = source.targets[rows]
        if targets.ndim == 1:
            targets = (targets[:, np.newaxis] == np.arange(self.plan.network.output_size)).astype(dtype)
        weights = np.ones(len(rows), dtype) if source.sample_weight is None else source.sample_weight[rows]
        return self._scaled(source, rows), targets, weights

    def _forward(self, inputs: Array, *, step: int | None, by_batch: bool) -> list[Passed]:
        """Feedforward.

        step: the step whose dropout masks apply and whose statistics the state follows; None for neither. by_batch:
        whether BatchNorm takes the batch's statistics; else it takes the running ones.
        """
        passed = []
        x = inputs
        for operation in self.plan.operations:
            z, kept = self._compute(operation, x, step, by_batch)
            activation = operation.layer.function
            outputs = activation.function(z) if activation else z
            passed.append(Passed(x, z, outputs, kept))
            x = outputs
        return passed

    def _compute(self, op: Operation, x: Array, step: int | None, by_batch: bool) -> tuple[Array, Any]:
        """An operation's z, and what else the way back needs."""
        match op:
            case DenseOperation():
                return self._biased(op, x @ op.weights.view(self._parameters)), None
            case ConvolutionOperation():
                W = op.weights.view(self._parameters)
                return self._biased(op, layers.convolution(x, W, op.window)), None
            case PoolingOperation():
                pooling = layers.max_pooling if op.kind == "max" else layers.average_pooling
                return pooling(x, op.window), None
            case BatchNormOperation():
                mean, inverse_deviation = self._statistics(op, x, step, by_batch)
                normalised = layers.normalise(x, mean, inverse_deviation)
                z = normalised * op.gamma.view(self._parameters) + op.beta.view(self._parameters)
                return z.reshape(x.shape), (inverse_deviation, normalised if by_batch else None)
            case LayerNormOperation():
                mean, inverse_deviation = layers.row_statistics(x, self.recipe.dtype.type(op.layer.epsilon))
                normalised = (x - mean) * inverse_deviation
                z = normalised * op.gamma.view(self._parameters) + op.beta.view(self._parameters)
                return z, (inverse_deviation, normalised)
            case DropoutOperation():
                mask = self._mask(op, len(x), step)
                return x * mask, mask
            case _:
                assert_never(op)

    def _biased(self, op: DenseOperation | ConvolutionOperation, z: Array) -> Array:
        """z + b, of each pixel."""
        if op.bias:
            z.reshape(-1, op.bias.size)[...] += op.bias.view(self._parameters)
        return z

    def _statistics(self, op: BatchNormOperation, x: Array, step: int | None, by_batch: bool) -> tuple[Array, Array]:
        """Every channel's mean and 1 / deviation; in training, the running statistics follow those of the batch."""
        running_mean, running_variance = op.running_mean.view(self._state), op.running_variance.view(self._state)
        mean, variance = running_mean, running_variance
        if by_batch:
            mean, variance = layers.batch_statistics(x, op.channels)
            if step is not None:
                n = x.size // op.channels
                unbiased = variance * self.recipe.dtype.type(n / max(n - 1, 1))
                momentum = self.recipe.dtype.type(op.layer.momentum)
                running_mean += momentum * (mean - running_mean)
                running_variance += momentum * (unbiased - running_variance)
        return mean, 1 / np.sqrt(variance + self.recipe.dtype.type(op.layer.epsilon))

    def _mask(self, operation: DropoutOperation, rows: int, step: int | None) -> Array:
        """0 where dropout drops, 1 / (1 - rate) elsewhere; all ones in prediction."""
        shape = (rows, operation.outputs.shape[1])
        if step is None:
            return np.ones(shape, self.recipe.dtype)
        rate = operation.layer.rate
        keep = dropout_keep(self.recipe.seed, operation.layer_index, step, shape[0] * shape[1], rate)
        return keep.reshape(shape) * self.recipe.dtype.type(1 / (1 - rate))

    def _loss_and_gradient(self, inputs: Array, targets: Array, weights: Array, step: int | None) -> Any:
        """Feedforward, loss, and backpropagation by the chain rule."""
        divisor = self._divisor(weights)
        passed = self._forward(inputs, step=step, by_batch=True)
        gradient = np.zeros_like(self._parameters)

        output = self.plan.output.layer.function
        _, z, a, _ = passed[-1]
        loss = float(weights @ loss_of_outputs(output, self.recipe.loss, z, a, targets))
        self._backward(passed, self._output_delta(passed[-1], targets, weights, divisor), gradient)

        penalty = self._add_penalties(gradient, divisor)
        return (loss + penalty) / float(divisor), gradient

    def _divisor(self, weights: Array) -> Any:
        return self.recipe.dtype.type(batch_divisor(self.recipe.loss, weights.sum()))

    def _output_delta(self, last: Passed, targets: Array, weights: Array, divisor: Any) -> Array:
        """dLoss/dz of the last layer; every row counts by its weight."""
        delta = delta_of_outputs(self.plan.output.layer.function, self.recipe.loss, last.z, last.outputs, targets)
        return delta * (weights / divisor)[:, np.newaxis]

    def _backward(self, passed: list[Passed], delta: Array, gradient: Array | None) -> Array:
        """Backpropagation from dLoss/dz of the last layer to the inputs, or as far as the plan asks; returns dLoss/dx.

        gradient: receives dLoss/dparameters, unless it is None.
        """
        for operation, (x, z, a, kept) in zip(reversed(self.plan.operations), reversed(passed), strict=True):
            activation = operation.layer.function
            if activation and operation is not self.plan.output:
                delta = activation.backward(z, a, delta)  # dLoss/dz = dLoss/da f'(z)
            if gradient is not None:
                self._parameters_gradient(operation, x, kept, delta, gradient)
            if operation.input_gradient is None:
                break  # nothing before has parameters
            delta = self._inputs_gradient(operation, x, a, kept, delta)
        return delta

    def _parameters_gradient(self, op: Operation, x: Array, kept: Any, delta: Array, gradient: Array) -> None:
        """dLoss/dparameters of an operation, into its places in the gradient; delta is dLoss/dz."""
        match op:
            case DenseOperation():
                op.weights.view(gradient)[...] = x.T @ delta  # dz/dW = x
                self._bias_gradient(op, delta, gradient)
            case ConvolutionOperation():
                layers.convolution_weights_gradient(x, delta, op.window, out=op.weights.view(gradient))
                self._bias_gradient(op, delta, gradient)
            case BatchNormOperation() | LayerNormOperation():
                pixels = delta.reshape(-1, op.gamma.size)
                op.gamma.view(gradient)[...] = (pixels * kept[1]).sum(axis=0, dtype=np.float64)
                op.beta.view(gradient)[...] = pixels.sum(axis=0, dtype=np.float64)  # dz/dbeta = 1
            case PoolingOperation() | DropoutOperation():
                pass  # they have none
            case _:
                assert_never(op)

    def _bias_gradient(self, op: DenseOperation | ConvolutionOperation, delta: Array, gradient: Array) -> None:
        if op.bias:
            op.bias.view(gradient)[...] = delta.reshape(-1, op.bias.size).sum(axis=0, dtype=np.float64)  # dz/db = 1

    def _inputs_gradient(self, op: Operation, x: Array, a: Array, kept: Any, delta: Array) -> Array:
        """dLoss/dx of an operation; delta is dLoss/dz."""
        match op:
            case DenseOperation():
                gradient: Array = delta @ op.weights.view(self._parameters).T
                return gradient
            case ConvolutionOperation():
                return layers.convolution_inputs_gradient(op.weights.view(self._parameters), delta, op.window)
            case PoolingOperation():
                if op.kind == "max":
                    return layers.max_pooling_gradient(x, a, delta, op.window)
                return layers.average_pooling_gradient(delta, op.window)
            case BatchNormOperation():
                (inverse_deviation, normalised), gamma = kept, op.gamma.view(self._parameters)
                pixels = delta.reshape(-1, op.channels)
                if normalised is None:
                    return (pixels * (gamma * inverse_deviation)).reshape(x.shape)
                return layers.normalisation_gradient(normalised, inverse_deviation, gamma, pixels).reshape(x.shape)
            case LayerNormOperation():
                (inverse_deviation, normalised), gamma = kept, op.gamma.view(self._parameters)
                return layers.row_normalisation_gradient(normalised, inverse_deviation, gamma, delta)
            case DropoutOperation():
                return delta * kept  # its mask
            case _:
                assert_never(op)

    def _add_penalties(self, gradient: Array, divisor: Any) -> float:
        """Add the gradients of L2 (alpha W**2 / 2) and L1 (l1 |W|) and return the penalties, not yet divided."""
        alpha, l1 = self.recipe.alpha, self.recipe.l1
        penalty = 0.0
        if alpha or l1:
            scale = self.recipe.dtype.type
            for span in self.plan.weight_spans:
                weights = span.view(self._parameters)
                slope = scale(alpha) * weights + scale(l1) * np.sign(weights)
                span.view(gradient)[...] += slope / divisor
                penalty += alpha / 2 * float((weights * weights).sum()) + l1 * float(abs(weights).sum())
        return penalty

    def _clip(self, gradient: Array) -> None:
        """Scale the whole gradient down to the norm clip_norm if it is longer."""
        if self.recipe.clip_norm is not None:
            norm = np.sqrt(gradient @ gradient)
            if norm > self.recipe.clip_norm:
                gradient *= self.recipe.dtype.type(self.recipe.clip_norm) / norm


def loss_of_outputs(activation: Activation, loss: Loss, z: Array, a: Array, y: Array) -> Array:
    """The loss of every row, summed over its outputs. Shape (rows,)."""
    if is_softmax_cross_entropy(activation, loss):
        # log a = z - log sum exp(z), both moved by the row's maximum so that exp never overflows
        shifted = z - z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        surprise = log_sum - shifted
        if loss.reported_within:
            surprise = surprise.clip(*loss.reported_within)
        return (y * surprise).sum(axis=1)
    if pair := canonical_pair(activation, loss):
        return numpy_function(pair.value, ("z", "a", "y"))(z, a, y).sum(axis=1)
    return loss.function(a, y).sum(axis=1)


def delta_of_outputs(activation: Activation, loss: Loss, z: Array, a: Array, y: Array) -> Array:
    """dLoss/dz of every output. Shape (rows, outputs)."""
    if is_softmax_cross_entropy(activation, loss):
        return a - y
    if pair := canonical_pair(activation, loss):
        return numpy_function(pair.delta, ("z", "a", "y"))(z, a, y)
    return activation.backward(z, a, loss.derivative_function(a, y))
