"""Which path a network takes, and how the narrow one fits it into the shared memory of a block.

Everything here is arithmetic on sizes: nothing was measured on a GPU yet, so the constants are estimates for an H100
(132 multiprocessors, 228 KiB of shared memory each), and they stand in one place to be corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, assert_never

import numpy as np

from ...plans.operations import DenseOperation, DropoutOperation
from ...plans.plan import Plan

NarrowOperation: TypeAlias = DenseOperation | DropoutOperation  # what the narrow path computes

NARROW_UNITS = 256  # the widest layer of a narrow network: beyond it cuBLAS fills the device
NARROW_ROWS = 4096  # the largest narrow batch: beyond it the overhead of launches no longer counts
MAX_ROWS = {4: 8, 8: 4}  # rows of a block by the bytes of a number: each thread sums this many in registers
MAX_THREADS = 512  # of a block: 128 registers are left for each
INPUTS_A_THREAD = 8  # about how many of a unit's inputs a thread sums, all in flight at once
MAX_SLICES = 16  # the most slices that a unit's inputs are cut into; their sums are then added up
WEIGHT_BYTES = 16 << 20  # that all blocks together should read at most in a step: 3 us for the cache
TILE = 16  # the weights' gradients are computed in tiles of TILE x TILE

OTHER_SHARED_BYTES = 1 << 10  # of a block, besides a layout's places

PATHS = ("auto", "narrow", "wide")


class Limits(NamedTuple):
    """What the layout asks of a device: how many multiprocessors, and the shared memory that a block may have."""

    multiprocessors: int
    shared_bytes: int


class Slices(NamedTuple):
    """How a block computes a dense layer: each of its units' sums in this many slices."""

    inputs: int
    outputs: int
    slices: int


@dataclass(frozen=True)
class Layout:
    """A block's work: `rows` rows of the batch at a time, with `threads` threads.

    places: where in shared memory, in groups of `rows` numbers, the arrays of an operation begin, by the operation's
    index in the plan (-1: the network's inputs) and name. scratch: sums of slices on the way forward, two deltas on
    the way back. size: groups in all.
    """

    rows: int
    threads: int
    slices: dict[int, Slices]
    places: dict[tuple[int, str], int]
    scratch: int
    width: int  # of the widest delta
    size: int

    def shared_bytes(self, dtype: np.dtype[Any]) -> int:
        return self.size * self.rows * dtype.itemsize

    def blocks(self, n: int) -> int:
        return -(-n // self.rows)


def lay_out(plan: Plan, dtype: np.dtype[Any], batch: int, limits: Limits) -> Layout | None:
    """The layout for batches of `batch` rows, or None where not even one row fits.

    As few rows a block as give no multiprocessor two blocks; but every block reads all weights, so that of large
    networks it takes more rows.
    """
    dense = plan.dense_operations
    widest = max(op.outputs.shape[1] for op in dense)
    wanted = max(op.outputs.shape[1] * _slices(op.inputs.shape[1]) for op in dense)
    threads = -(-max(widest, min(wanted, MAX_THREADS)) // 32) * 32
    slices: dict[int, Slices] = {}
    places: dict[tuple[int, str], int] = {}
    size = 0

    def take(index: int, name: str, width: int) -> None:
        nonlocal size
        places[index, name] = size
        size += width

    take(-1, "outputs", plan.inputs.shape[1])
    for index, op in enumerate(narrow_operations(plan)):
        width = op.outputs.shape[1]
        take(index, "outputs", width)
        match op:
            case DropoutOperation():
                take(index, "mask", width)
            case DenseOperation():
                inputs = op.inputs.shape[1]
                slices[index] = Slices(inputs, width, min(threads // width, _slices(inputs)))
                if op.z != op.outputs:
                    take(index, "z", width)
            case _:
                assert_never(op)
    scratch, width = size, max(op.outputs.shape[1] for op in plan.operations)
    size += max(2 * width, max(part.slices * part.outputs for part in slices.values()))
    available = limits.shared_bytes - OTHER_SHARED_BYTES
    rows = 1
    weight_bytes = plan.parameter_count * dtype.itemsize
    while rows < MAX_ROWS[dtype.itemsize] and (
        -(-batch // rows) > limits.multiprocessors or -(-batch // rows) * weight_bytes > WEIGHT_BYTES
    ):
        rows *= 2
    while rows > 1 and size * rows * dtype.itemsize > available:
        rows //= 2
    if size * rows * dtype.itemsize > available:
        return None
    return Layout(rows, threads, slices, places, scratch, width, size)


def _slices(inputs: int) -> int:
    return min(-(-inputs // INPUTS_A_THREAD), MAX_SLICES)


def tiles(op: DenseOperation) -> tuple[int, int]:
    """How many tiles a layer's weight matrix has down and across; the bias is its last row."""
    inputs, outputs = op.weights.shape
    return -(-(inputs + (op.bias is not None)) // TILE), -(-outputs // TILE)


def narrow_operations(plan: Plan) -> list[NarrowOperation]:
    """All operations of a plan that the narrow path takes."""
    operations = [op for op in plan.operations if isinstance(op, NarrowOperation)]
    assert len(operations) == len(plan.operations)  # why_not_narrow names the others
    return operations


def choose_path(plan: Plan, dtype: np.dtype[Any], limits: Limits) -> tuple[str, str]:
    """The path that "auto" stands for, "narrow" or "wide", and why."""
    if reason := why_not_narrow(plan, dtype, limits):
        return "wide", reason
    if plan.rows > NARROW_ROWS:
        return "wide", f"batches have {plan.rows} rows, more than {NARROW_ROWS}"
    return "narrow", f"no layer has more than {NARROW_UNITS} units"


def why_not_narrow(plan: Plan, dtype: np.dtype[Any], limits: Limits) -> str | None:
    """What keeps a network from the narrow path altogether, or None."""
    for op in plan.operations:
        if not isinstance(op, NarrowOperation):
            return f"layer {op.layer_index} ({op.layer.kind}) is for the wide path"
        if op.outputs.shape[1] > NARROW_UNITS:
            return f"layer {op.layer_index} has {op.outputs.shape[1]} units, more than {NARROW_UNITS}"
    if lay_out(plan, dtype, 1, limits) is None:
        return f"a row's numbers do not fit into the {limits.shared_bytes:,} bytes of shared memory"
    return None
