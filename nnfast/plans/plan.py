"""Lowers a network to where every array lives in the flat vectors. No other module computes an offset.

Parameters stand in one vector, layer by layer: weights in C order, then bias; the gradient and every optimizer slot
have the same layout. What is learnt but not trained, the running statistics of BatchNorm, stands in a second one, the
state. What a batch needs on its way through the network stands in a third, the workspace, sized for a largest number of
rows; a smaller batch uses the front of every array. Layers become operations (operations.py): Flatten is none, the
others are one each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..networks.network import Network
from ..support.random import Purpose, generator
from .operations import DenseOperation, Learnt, Operation, Room, Span, lower

# Rows that an engine may take as one: whole groups of images, whole Philox counters. Where there are images, arrays
# hold a multiple of them.
ROW_GROUP = 16
# Rows of a plan that no batch size decides: enough to keep a processor busy, few enough to stay in its caches
ROWS_AT_ONCE = 1024


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

    @property
    def output(self) -> DenseOperation:
        last = self.operations[-1]
        assert isinstance(last, DenseOperation)  # Network sees to it
        return last

    @property
    def input_gradient(self) -> Span | None:
        """Where dLoss/dinputs goes, (rows, input_size); None for a plan that does not give it."""
        return self.operations[0].input_gradient

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
        return _named((op.layer_index, op.parameters) for op in self.operations)

    @property
    def named_state(self) -> dict[str, Span]:
        """Every array in the state by its name in files: "layers.1.running_mean", ..."""
        return _named((op.layer_index, op.state) for op in self.operations)

    @cached_property
    def weight_spans(self) -> tuple[Span, ...]:
        """What L1 and L2 act on: weights, but no bias, gamma and beta."""
        learnt = (learnt for op in self.operations for learnt in op.parameters.values())
        return tuple(array.span for array in learnt if array.is_weight)

    @property
    def image_operations(self) -> int:
        """How many operations, from the first, belong to the image part: up to the last convolution or pooling."""
        is_image = [op.layer.is_windowed for op in self.operations]
        return max((index + 1 for index, found in enumerate(is_image) if found), default=0)

    def initial_parameters(self, seed: int) -> NDArray[np.float64]:
        """Every layer's weights drawn from its initializer, biases and betas 0, gammas 1. Shape (parameter_count,)."""
        parameters = np.empty(self.parameter_count)
        for op in self.operations:
            source = generator(seed, Purpose.WEIGHTS, op.layer_index)
            for learnt in op.parameters.values():
                learnt.span.view(parameters)[...] = learnt.initial(source)
        return parameters

    def initial_state(self) -> NDArray[np.float64]:
        """Running means 0 and running variances 1. Shape (state_count,)."""
        state = np.empty(self.state_count)
        for op in self.operations:
            for learnt in op.state.values():
                learnt.span.view(state)[...] = learnt.start
        return state

    def flops_per_row(self) -> int:
        """Floating-point operations of the products and convolutions in one training step, for one row.

        Forward and weight gradient take two operations per weight each, and for a convolution per output pixel; the
        gradient of the inputs two more, where it is needed.
        """
        flops = 0
        for op in self.operations:
            for learnt in op.parameters.values():
                if learnt.is_weight:
                    pixels = op.outputs.shape[1] // learnt.span.shape[-1]
                    flops += learnt.span.size * pixels * (4 if op.input_gradient is None else 6)
        return flops


def make_plan(network: Network, rows: int, *, gives_input_gradient: bool = False) -> Plan:
    """Lay out `network` for batches of up to `rows` rows.

    gives_input_gradient: whether programs can differentiate by the inputs too; see Program.input_gradient.
    """
    has_images = any(layer.is_windowed for layer in network.layers)
    room = Room(-(-rows // ROW_GROUP) * ROW_GROUP if has_images else rows)
    inputs = room.workspace.take(room.rows, network.input_size)
    targets = room.workspace.take(room.rows, network.output_size)
    sample_weight = room.workspace.take(room.rows)

    operations: list[Operation] = []
    current = inputs
    # Of the next operation; where the inputs' is not asked for, None until a layer with parameters was passed
    input_gradient = room.workspace.take(room.rows, network.input_size) if gives_input_gradient else None
    for index, (before, after) in enumerate(pairwise(network.shapes)):
        op = lower(index, network, before, math.prod(after), current, input_gradient, room)
        if op is None:
            continue
        operations.append(op)
        current = op.outputs
        if input_gradient is not None or op.parameters:
            input_gradient = op.gradient
    plan = Plan(
        network=network,
        rows=rows,
        operations=tuple(operations),
        parameter_count=room.parameters.size,
        state_count=room.state.size,
        workspace_size=room.workspace.size,
        inputs=inputs,
        targets=targets,
        sample_weight=sample_weight,
    )
    # What an operation takes and does not name would be neither initialised nor saved.
    assert sum(array.span.size for op in operations for array in op.parameters.values()) == plan.parameter_count
    assert sum(array.span.size for op in operations for array in op.state.values()) == plan.state_count
    return plan


def _named(layers: Iterable[tuple[int, Mapping[str, Learnt]]]) -> dict[str, Span]:
    return {f"layers.{index}.{role}": array.span for index, arrays in layers for role, array in arrays.items()}
