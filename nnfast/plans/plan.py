"""Lowers a network to where every array lives in the flat vectors. Nobody else computes an offset.

Parameters stand in one vector, layer by layer: weights in C order, then bias; the gradient and every optimizer slot
have the same layout. What is learnt but not trained, the running statistics of BatchNorm, stands in a second one, the
state. What a batch needs on its way through the network stands in a third, the workspace, sized for a largest number of
rows; a smaller batch uses the front of every array. Layers become operations (operations.py): Flatten is none, the
others are one each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..networks.initializers import INITIALIZERS
from ..networks.network import Network
from ..support.random import Purpose, generator
from .operations import (
    BatchNormOperation,
    ConvolutionOperation,
    DenseOperation,
    Operation,
    Room,
    Span,
    lower,
)

ROW_GROUP = 16  # where there are images, arrays hold a multiple of so many rows: an engine may work on whole groups


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
    def begins_dense(self) -> bool:
        """Whether the first operation is a dense one, whose product may be computed from sparse rows as they are."""
        return isinstance(self.operations[0], DenseOperation)

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
        is_image = [op.layer.is_windowed for op in self.operations]
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
    has_images = any(layer.is_windowed for layer in network.layers)
    room = Room(-(-rows // ROW_GROUP) * ROW_GROUP if has_images else rows)
    inputs = room.workspace.take(room.rows, network.input_size)
    targets = room.workspace.take(room.rows, network.output_size)
    sample_weight = room.workspace.take(room.rows)

    operations: list[Operation] = []
    current = inputs
    input_gradient: Span | None = None  # of the next operation: None until a layer with parameters was passed
    last = len(network.layers) - 1
    for index, (layer, before) in enumerate(zip(network.layers, network.shapes, strict=False)):
        op = lower(index, layer, before, current, input_gradient, is_last=index == last, room=room)
        if op is None:
            continue
        operations.append(op)
        current = op.outputs
        if input_gradient is not None or layer.parameter_count(before):
            input_gradient = op.gradient
    return Plan(
        network=network,
        rows=rows,
        operations=tuple(operations),
        parameter_count=room.parameters.size,
        state_count=room.state.size,
        workspace_size=room.workspace.size,
        inputs=inputs,
        targets=targets,
        sample_weight=sample_weight,
        weight_spans=tuple(op.weights for op in operations if isinstance(op, (DenseOperation, ConvolutionOperation))),
    )
