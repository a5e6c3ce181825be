"""Lowers a network to where every array lives in the flat vectors. Nobody else computes an offset.

Parameters stand in one vector, layer by layer: weights in C order, then bias; the gradient and every optimizer slot
have the same layout. What a batch needs on its way through the network stands in a second vector, the workspace,
sized for a largest number of rows; a smaller batch uses the front of every array. Layers become operations: Flatten
is none (C-order rows are flat already), Dense and Dropout are one each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .initializers import INITIALIZERS
from .network import Dense, Dropout, Network
from .random import Purpose, generator

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


@dataclass(frozen=True)
class DenseOperation:
    """z = inputs W + b, outputs = f(z). `gradient` holds dLoss/doutputs, then dLoss/dz, on the way back.

    weights, bias: in the parameter vector; bias is None without one. The others are in the workspace: z is outputs
    itself unless the derivative of f names z. input_gradient is None where nothing before needs it.
    """

    layer_index: int
    layer: Dense
    weights: Span
    bias: Span | None
    inputs: Span
    z: Span
    outputs: Span
    gradient: Span
    input_gradient: Span | None


@dataclass(frozen=True)
class DropoutOperation:
    """outputs = inputs * mask, with mask 0 or 1 / (1 - rate)."""

    layer_index: int
    layer: Dropout
    inputs: Span
    outputs: Span
    mask: Span
    gradient: Span
    input_gradient: Span | None


Operation = DenseOperation | DropoutOperation


@dataclass(frozen=True)
class Plan:
    """A network laid out for batches of up to `rows` rows; make one with make_plan.

    inputs, targets and sample_weight hold the gathered batch; `outputs` is the last operation's.
    """

    network: Network
    rows: int
    operations: tuple[Operation, ...]
    parameter_count: int
    workspace_size: int
    inputs: Span
    targets: Span
    sample_weight: Span
    weight_spans: tuple[Span, ...] = field(repr=False)  # what L1 and L2 act on: weights, not biases

    @property
    def output(self) -> DenseOperation:
        last = self.operations[-1]
        assert isinstance(last, DenseOperation)  # Network sees to it
        return last

    @property
    def dense_operations(self) -> tuple[DenseOperation, ...]:
        return tuple(operation for operation in self.operations if isinstance(operation, DenseOperation))

    def initial_parameters(self, seed: int) -> NDArray[np.float64]:
        """Every layer's weights drawn from its initializer, biases 0. Shape (parameter_count,), float64."""
        parameters = np.zeros(self.parameter_count)
        for operation in self.dense_operations:
            draw = INITIALIZERS[operation.layer.initializer]
            source = generator(seed, Purpose.WEIGHTS, operation.layer_index)
            operation.weights.view(parameters)[...] = draw(source, *operation.weights.shape)
        return parameters

    def flops_per_row(self) -> int:
        """Floating-point operations of the matrix products in one training step, for one row.

        Forward and weight gradient take two operations per weight each; the gradient of the inputs two more,
        where it is needed.
        """
        return sum(op.weights.size * (4 if op.input_gradient is None else 6) for op in self.dense_operations)


def make_plan(network: Network, rows: int) -> Plan:
    """Lay out `network` for batches of up to `rows` rows."""
    workspace = _Allocator()
    parameters = _Allocator(alignment=1)
    sizes = [math.prod(shape) for shape in network.shapes]
    inputs = workspace.take(rows, sizes[0])
    targets = workspace.take(rows, sizes[-1])
    sample_weight = workspace.take(rows)

    operations: list[Operation] = []
    current = inputs
    input_gradient: Span | None = None  # of the next operation: None until a layer with parameters was passed
    for index, layer in enumerate(network.layers):
        before, after = sizes[index], sizes[index + 1]
        if isinstance(layer, Dense):
            weights = parameters.take(before, after)
            bias = parameters.take(after) if layer.bias else None
            outputs = workspace.take(rows, after)
            # The last layer keeps z for its loss, which is computed from it where that is more exact.
            keeps_z = layer.function.derivative_uses_z or index == len(network.layers) - 1
            z = workspace.take(rows, after) if keeps_z else outputs
            gradient = workspace.take(rows, after)
            operations.append(
                DenseOperation(index, layer, weights, bias, current, z, outputs, gradient, input_gradient)
            )
        elif isinstance(layer, Dropout) and layer.rate > 0:
            outputs, mask, gradient = (workspace.take(rows, after) for _ in range(3))
            operations.append(DropoutOperation(index, layer, current, outputs, mask, gradient, input_gradient))
        else:
            continue  # nothing to compute
        current = outputs
        has_parameters_before = isinstance(layer, Dense) or input_gradient is not None
        input_gradient = gradient if has_parameters_before else None
    return Plan(
        network=network,
        rows=rows,
        operations=tuple(operations),
        parameter_count=parameters.size,
        workspace_size=workspace.size,
        inputs=inputs,
        targets=targets,
        sample_weight=sample_weight,
        weight_spans=tuple(op.weights for op in operations if isinstance(op, DenseOperation)),
    )


class _Allocator:
    """Hands out consecutive places in a flat vector."""

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self.size = 0
        self._alignment = alignment

    def take(self, *shape: int) -> Span:
        span = Span(-(-self.size // self._alignment) * self._alignment, shape)
        self.size = span.end
        return span
