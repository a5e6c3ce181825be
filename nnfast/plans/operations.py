"""The operations that layers become: the arithmetic of a layer, and where its arrays lie in the flat vectors.

The kinds are a closed set, the union `Operation`. Code that tells them apart is a `match` that ends in `assert_never`,
so that mypy finds what lacks a new kind, or a table that a test holds to the union. `lower` makes a layer's operation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, assert_never

import numpy as np

from ..networks.initializers import INITIALIZERS
from ..networks.layers import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    LayerNorm,
    MaxPool2D,
)
from ..networks.network import Network
from ..networks.windows import Shape, Window

ALIGNMENT = 16  # elements: a workspace array starts on a 64-byte boundary in float32 and float64 alike


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


class Draw(NamedTuple):
    """Numbers of an initializer, for weights that each belong to a sum over fan_in inputs, which reach fan_out sums."""

    initializer: str
    fan_in: int
    fan_out: int


@dataclass(frozen=True)
class Learnt:
    """An array that training changes, and that a model therefore keeps: in the parameter vector, or in the state.

    start: what it starts from, one number or a draw. is_weight: whether it is multiplied with inputs, once for every
    pixel of its outputs; L1 and L2 act on such arrays alone.
    """

    span: Span
    start: float | Draw
    is_weight: bool = False

    def initial(self, source: np.random.Generator) -> Any:
        """What it starts from, to be assigned to the array."""
        if not isinstance(self.start, Draw):
            return self.start
        initializer, fan_in, fan_out = self.start
        shape = self.span.shape
        return INITIALIZERS[initializer](source, fan_in, shape[-1], fan_out).reshape(shape)


@dataclass(frozen=True)
class BaseOperation:
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

    @property
    def parameters(self) -> dict[str, Learnt]:
        """What it learns by its gradient, by role, in the order of the parameter vector."""
        return {}

    @property
    def state(self) -> dict[str, Learnt]:
        """What it learns without a gradient, by role, in the order of the state."""
        return {}


@dataclass(frozen=True)
class DenseOperation(BaseOperation):
    """z = inputs W + b, outputs = f(z).

    weights, bias: in the parameter vector; bias is None without one. z, in the workspace, is outputs itself unless the
    derivative of f names z.
    """

    layer: Dense
    weights: Span
    bias: Span | None
    z: Span

    @cached_property
    def parameters(self) -> dict[str, Learnt]:
        return _weights_and_bias(self)


@dataclass(frozen=True)
class ConvolutionOperation(BaseOperation):
    """z = inputs * W + b, outputs = f(z), over images of window's sizes.

    weights (kernel_height, kernel_width, channels / groups, filters), bias (filters,): in the parameter vector; bias
    is None without one. z is outputs itself unless the derivative of f names z.
    """

    layer: Conv2D
    weights: Span
    bias: Span | None
    z: Span
    window: Window

    @cached_property
    def parameters(self) -> dict[str, Learnt]:
        return _weights_and_bias(self, self.window.groups)


@dataclass(frozen=True)
class PoolingOperation(BaseOperation):
    """outputs = the maximum or the average of each window, without what lies outside the image."""

    layer: MaxPool2D | AveragePool2D | GlobalAveragePool2D
    kind: Literal["max", "average"]
    window: Window


@dataclass(frozen=True)
class BatchNormOperation(BaseOperation):
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

    @cached_property
    def parameters(self) -> dict[str, Learnt]:
        return {"gamma": Learnt(self.gamma, 1.0), "beta": Learnt(self.beta, 0.0)}

    @cached_property
    def state(self) -> dict[str, Learnt]:
        return {
            "running_mean": Learnt(self.running_mean, 0.0),
            "running_variance": Learnt(self.running_variance, 1.0),
        }


@dataclass(frozen=True)
class LayerNormOperation(BaseOperation):
    """z = gamma (inputs - mean) / sqrt(variance + epsilon) + beta, outputs = f(z), with a row's mean and variance.

    gamma, beta (units,): in the parameter vector. mean, inverse_deviation (rows,): in the workspace. z is outputs
    itself unless the derivative of f names z.
    """

    layer: LayerNorm
    gamma: Span
    beta: Span
    mean: Span
    inverse_deviation: Span
    z: Span

    @cached_property
    def parameters(self) -> dict[str, Learnt]:
        return {"gamma": Learnt(self.gamma, 1.0), "beta": Learnt(self.beta, 0.0)}


@dataclass(frozen=True)
class DropoutOperation(BaseOperation):
    """outputs = inputs * mask, with mask 0 or 1 / (1 - rate)."""

    layer: Dropout
    mask: Span


Operation: TypeAlias = (
    DenseOperation
    | ConvolutionOperation
    | PoolingOperation
    | BatchNormOperation
    | LayerNormOperation
    | DropoutOperation
)


def _weights_and_bias(op: DenseOperation | ConvolutionOperation, groups: int = 1) -> dict[str, Learnt]:
    *kernel, inputs, columns = op.weights.shape
    taps = math.prod(kernel)
    draw = Draw(op.layer.initializer, taps * inputs, taps * columns // groups)
    weights = {"weights": Learnt(op.weights, draw, is_weight=True)}
    return weights | {"bias": Learnt(op.bias, 0.0)} if op.bias else weights


class Allocator:
    """Hands out consecutive places in a flat vector."""

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self.size = 0
        self._alignment = alignment

    def take(self, *shape: int) -> Span:
        span = Span(-(-self.size // self._alignment) * self._alignment, shape)
        self.size = span.end
        return span


class Room:
    """The vectors in which a network is laid out, for batches of up to `rows` rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.parameters, self.state = Allocator(alignment=1), Allocator(alignment=1)
        self.workspace = Allocator()


def lower(
    index: int, network: Network, before: Shape, size: int, inputs: Span, input_gradient: Span | None, room: Room
) -> Operation | None:
    """The operation of layer `index`, on rows of shape `before`, with `size` outputs; None if it computes nothing."""
    layer, is_last = network.layers[index], index == len(network.layers) - 1
    activation = layer.function
    parameters, state, workspace = room.parameters, room.state, room.workspace
    # The last layer keeps z for its loss, which is computed from it where that is more exact.
    keeps_z = is_last or (activation is not None and activation.derivative_uses_z)

    def common() -> dict[str, Any]:
        """What every operation has, and z in those with an activation."""
        outputs = workspace.take(room.rows, size)
        z = workspace.take(room.rows, size) if keeps_z else outputs
        return {
            "layer_index": index,
            "layer": layer,
            "inputs": inputs,
            "outputs": outputs,
            **({"z": z} if activation else {}),
            "gradient": workspace.take(room.rows, size),
            "input_gradient": input_gradient,
        }

    match layer:
        case Flatten():
            return None  # rows in C order are flat already
        case Dropout(rate=0):
            return None
        case Dropout():
            return DropoutOperation(**common(), mask=workspace.take(room.rows, size))
        case Dense():
            return DenseOperation(
                **common(),
                weights=parameters.take(before[0], size),
                bias=parameters.take(size) if layer.bias else None,
            )
        case Conv2D():
            return ConvolutionOperation(
                **common(),
                weights=parameters.take(*layer.weights_shape(before)),
                bias=parameters.take(layer.filters) if layer.bias else None,
                window=layer.window(before),
            )
        case MaxPool2D():
            return PoolingOperation(**common(), kind="max", window=layer.window(before))
        case AveragePool2D() | GlobalAveragePool2D():
            return PoolingOperation(**common(), kind="average", window=layer.window(before))
        case BatchNorm():
            channels = layer.channels(before)
            return BatchNormOperation(
                **common(),
                gamma=parameters.take(channels),
                beta=parameters.take(channels),
                running_mean=state.take(channels),
                running_variance=state.take(channels),
                mean=workspace.take(channels),
                inverse_deviation=workspace.take(channels),
                pixels=size // channels,
                channels=channels,
            )
        case LayerNorm():
            return LayerNormOperation(
                **common(),
                gamma=parameters.take(size),
                beta=parameters.take(size),
                mean=workspace.take(room.rows),
                inverse_deviation=workspace.take(room.rows),
            )
        case _:
            assert_never(layer)
