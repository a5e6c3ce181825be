"""Lowers a network to where every array lives in the flat vectors. Nobody else computes an offset.

Parameters stand in one vector, layer by layer: weights in C order, then bias; the gradient and every optimizer slot
have the same layout. What is learnt but not trained, the running statistics of BatchNorm, stands in a second one, the
state. What a batch needs on its way through the network stands in a third, the workspace, sized for a largest number of
rows; a smaller batch uses the front of every array. Layers become operations: Flatten is none (C-order rows are flat
already), the others are one each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..networks.initializers import INITIALIZERS
from ..networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Dropout, GlobalAveragePool2D, MaxPool2D
from ..networks.network import Network
from ..networks.windows import Window
from ..support.random import Purpose, generator

ALIGNMENT = 16  # elements: a workspace array starts on a 64-byte boundary in float32 and float64 alike
ROW_GROUP = 16  # where there are images, arrays hold a multiple of so many rows: an engine may work on whole groups


@dataclass(frozen=True)
class Span:
    """An array's place in a flat vector: `size` elements from `offset`, seen in `shape`."""

    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.offset + self.size

    def view(self, vector: Any, rows: int | None = None) -> Any:
        """The array, or its first `rows` rows, as a view of the vector."""
        shape = self.shape if rows is None else (rows, *self.shape[1:])
        return vector[self.offset : self.offset + math.prod(shape)].reshape(shape)


@dataclass(frozen=True)
class Operation:
    """What every operation has. All spans are in the workspace, of shape (rows, numbers in one row).

    `gradient` holds dLoss/doutputs, then dLoss/dz, on the way back; input_gradient, where dLoss/dinputs goes, is the
    gradient of the operation before, and None where nothing before needs it.
    """

    layer_index: int
    layer: Any
    inputs: Span
    outputs: Span
    gradient: Span
    input_gradient: Span | None


@dataclass(frozen=True)
class DenseOperation(Operation):
    """z = inputs W + b, outputs = f(z).

    weights, bias: in the parameter vector; bias is None without one. z, in the workspace, is outputs itself unless the
    derivative of f names z.
    """

    layer: Dense
    weights: Span
    bias: Span | None
    z: Span


@dataclass(frozen=True)
class ConvolutionOperation(Operation):
    """z = inputs * W + b, outputs = f(z), over images of window's sizes.

    weights (kernel_height, kernel_width, channels / groups, filters), bias (filters,): in the parameter vector; bias
    is None without one. z is outputs itself unless the derivative of f names z.
    """

    layer: Conv2D
    weights: Span
    bias: Span | None
    z: Span
    window: Window


@dataclass(frozen=True)
class PoolingOperation(Operation):
    """outputs = the maximum or the average of each window, without what lies outside the image."""

    layer: MaxPool2D | AveragePool2D | GlobalAveragePool2D
    kind: Literal["max", "average"]
    window: Window


@dataclass(frozen=True)
class BatchNormOperation(Operation):
    """z = gamma (inputs - mean) / sqrt(variance + epsilon) + beta, outputs = f(z).

    A row has `pixels` times `channels` numbers, the channel varying fastest. gamma, beta (channels,): in the parameter
    vector. running_mean, running_variance (channels,): in the state. mean, inverse_deviation (channels,): in the
    workspace, those that the last pass forward used. z is outputs itself unless the derivative of f names z.
    """

    layer: BatchNorm
    gamma: Span
    beta: Span
    running_mean: Span
    running_variance: Span
    mean: Span
    inverse_deviation: Span
    z: Span
    pixels: int
    channels: int


@dataclass(frozen=True)
class DropoutOperation(Operation):
    """outputs = inputs * mask, with mask 0 or 1 / (1 - rate)."""

    layer: Dropout
    mask: Span


@dataclass(frozen=True)
class Plan:
    """A network laid out for batches of up to `rows` rows; make one with make_plan.

    inputs, targets and sample_weight hold the gathered batch; `outputs` is the last operation's.
    """

    network: Network
    rows: int
    operations: tuple[Operation, ...]
    parameter_count: int
    state_count: int
    workspace_size: int
    inputs: Span
    targets: Span
    sample_weight: Span
    weight_spans: tuple[Span, ...] = field(repr=False)  # what L1 and L2 act on: weights, but no bias, gamma and beta

    @property
    def output(self) -> DenseOperation:
        last = self.operations[-1]
        assert isinstance(last, DenseOperation)  # Network sees to it
        return last

    @property
    def dense_operations(self) -> tuple[DenseOperation, ...]:
        return tuple(operation for operation in self.operations if isinstance(operation, DenseOperation))

    @property
    def named_parameters(self) -> dict[str, Span]:
        """Every array in the parameter vector by its name in files: "layers.0.weights", "layers.0.bias", ..."""
        return self._named("weights", "bias", "gamma", "beta")

    @property
    def named_state(self) -> dict[str, Span]:
        """Every array in the state by its name in files: "layers.1.running_mean", ..."""
        return self._named("running_mean", "running_variance")

    def _named(self, *roles: str) -> dict[str, Span]:
        places = ((op.layer_index, role, getattr(op, role, None)) for op in self.operations for role in roles)
        return {f"layers.{index}.{role}": span for index, role, span in places if span is not None}

    @property
    def image_operations(self) -> int:
        """How many operations, from the first, belong to the image part: up to the last convolution or pooling."""
        is_image = [isinstance(op, (ConvolutionOperation, PoolingOperation)) for op in self.operations]
        return max((index + 1 for index, found in enumerate(is_image) if found), default=0)

    def initial_parameters(self, seed: int) -> NDArray[np.float64]:
        """Every layer's weights drawn from its initializer, biases and betas 0, gammas 1. Shape (parameter_count,)."""
        parameters = np.zeros(self.parameter_count)
        for operation in self.operations:
            if isinstance(operation, (DenseOperation, ConvolutionOperation)):
                weights = operation.weights.view(parameters)
                *kernel, inputs, columns = weights.shape
                fan_in, fan_out = math.prod(kernel) * inputs, math.prod(kernel) * columns
                if isinstance(operation, ConvolutionOperation):
                    fan_out //= operation.window.groups
                source = generator(seed, Purpose.WEIGHTS, operation.layer_index)
                draw = INITIALIZERS[operation.layer.initializer]
                weights[...] = draw(source, fan_in, columns, fan_out).reshape(weights.shape)
            elif isinstance(operation, BatchNormOperation):
                operation.gamma.view(parameters)[...] = 1
        return parameters

    def initial_state(self) -> NDArray[np.float64]:
        """Running means 0 and running variances 1. Shape (state_count,)."""
        state = np.zeros(self.state_count)
        for operation in self.operations:
            if isinstance(operation, BatchNormOperation):
                operation.running_variance.view(state)[...] = 1
        return state

    def flops_per_row(self) -> int:
        """Floating-point operations of the products and convolutions in one training step, for one row.

        Forward and weight gradient take two operations per weight each, and for a convolution per output pixel; the
        gradient of the inputs two more, where it is needed.
        """
        flops = 0
        for op in self.operations:
            if isinstance(op, (DenseOperation, ConvolutionOperation)):
                pixels = op.outputs.shape[1] // op.weights.shape[-1]
                flops += op.weights.size * pixels * (4 if op.input_gradient is None else 6)
        return flops


def make_plan(network: Network, rows: int) -> Plan:
    """Lay out `network` for batches of up to `rows` rows."""
    has_images = any(isinstance(layer, (Conv2D, *_POOLS)) for layer in network.layers)
    capacity = -(-rows // ROW_GROUP) * ROW_GROUP if has_images else rows
    workspace = _Allocator()
    parameters = _Allocator(alignment=1)
    state = _Allocator(alignment=1)
    sizes = [math.prod(shape) for shape in network.shapes]
    inputs = workspace.take(capacity, sizes[0])
    targets = workspace.take(capacity, sizes[-1])
    sample_weight = workspace.take(capacity)

    operations: list[Operation] = []
    current = inputs
    input_gradient: Span | None = None  # of the next operation: None until a layer with parameters was passed
    for index, (layer, before, size) in enumerate(zip(network.layers, network.shapes, sizes[1:], strict=False)):
        if not isinstance(layer, (Dense, Conv2D, *_POOLS, BatchNorm)) and not (
            isinstance(layer, Dropout) and layer.rate > 0
        ):
            continue  # nothing to compute
        outputs = workspace.take(capacity, size)
        # The last layer keeps z for its loss, which is computed from it where that is more exact.
        is_last = index == len(network.layers) - 1
        keeps_z = is_last or (layer.function is not None and layer.function.derivative_uses_z)
        z = workspace.take(capacity, size) if keeps_z else outputs
        gradient = workspace.take(capacity, size)
        common: dict[str, Any] = {
            "layer_index": index,
            "layer": layer,
            "inputs": current,
            "outputs": outputs,
            "gradient": gradient,
            "input_gradient": input_gradient,
        }
        if isinstance(layer, Dense):
            weights = parameters.take(before[0], size)
            bias = parameters.take(size) if layer.bias else None
            operations.append(DenseOperation(**common, weights=weights, bias=bias, z=z))
        elif isinstance(layer, Conv2D):
            weights = parameters.take(*layer.weights_shape(before))
            bias = parameters.take(layer.filters) if layer.bias else None
            window = layer.window(before)
            operations.append(ConvolutionOperation(**common, weights=weights, bias=bias, z=z, window=window))
        elif isinstance(layer, _POOLS):
            kind: Literal["max", "average"] = "max" if isinstance(layer, MaxPool2D) else "average"
            operations.append(PoolingOperation(**common, kind=kind, window=layer.window(before)))
        elif isinstance(layer, BatchNorm):
            channels = layer.channels(before)
            operations.append(
                BatchNormOperation(
                    **common,
                    gamma=parameters.take(channels),
                    beta=parameters.take(channels),
                    running_mean=state.take(channels),
                    running_variance=state.take(channels),
                    mean=workspace.take(channels),
                    inverse_deviation=workspace.take(channels),
                    z=z,
                    pixels=size // channels,
                    channels=channels,
                )
            )
        else:
            operations.append(DropoutOperation(**common, mask=workspace.take(capacity, size)))
        current = outputs
        has_parameters_before = isinstance(layer, (Dense, Conv2D, BatchNorm)) or input_gradient is not None
        input_gradient = gradient if has_parameters_before else None
    return Plan(
        network=network,
        rows=rows,
        operations=tuple(operations),
        parameter_count=parameters.size,
        state_count=state.size,
        workspace_size=workspace.size,
        inputs=inputs,
        targets=targets,
        sample_weight=sample_weight,
        weight_spans=tuple(op.weights for op in operations if isinstance(op, (DenseOperation, ConvolutionOperation))),
    )


_POOLS = (MaxPool2D, AveragePool2D, GlobalAveragePool2D)


class _Allocator:
    """Hands out consecutive places in a flat vector."""

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self.size = 0
        self._alignment = alignment

    def take(self, *shape: int) -> Span:
        span = Span(-(-self.size // self._alignment) * self._alignment, shape)
        self.size = span.end
        return span
