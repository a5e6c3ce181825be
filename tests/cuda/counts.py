"""What an epoch of the benchmarks asks of a GPU: counted on the array twin, and, by formula, the time that this takes.

The backend's own code runs a whole epoch; its kernels are asked for and launched but do nothing here. Run as a module,
it prints the table of docs/cuda.md:

    python -m tests.cuda.counts
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from nnfast.backends.cuda import CudaBackend
from nnfast.backends.cuda.geometry import gradient_chunks
from nnfast.backends.cuda.images import IDENTITY
from nnfast.backends.cuda.narrow import NarrowProgram
from nnfast.benchmarking.workloads import Workload, get_workload
from nnfast.kernels.cuda.layout import Limits, lay_out, tiles
from nnfast.plans.operations import ConvolutionOperation, DenseOperation, Operation, PoolingOperation
from nnfast.plans.plan import Plan
from nnfast.plans.recipe import Recipe
from tests.cuda.raw import RawModule
from tests.cuda.streams import Counters
from tests.cuda.twin import Twin, make_twin

WORKLOADS = ("xor", "digits", "tab64", "mnist128", "mnist512", "lenet5")

# An H100 (SXM): bytes a second from its memory, float32 operations a second without tensor cores, and what is reckoned
# for each node of a graph or launch that is queued behind another.
BANDWIDTH = 3.35e12
FLOPS = 67e12
NODE_SECONDS = 2e-6
H100 = Limits(multiprocessors=132, shared_bytes=227 << 10)


@dataclass(frozen=True)
class Epoch:
    """Counts of one epoch, in one stretch, after another one."""

    path: str
    steps: int
    counters: Counters

    @property
    def launches_per_step(self) -> float:
        """Kernels and CuPy's operations, cuBLAS products among them, whether launched singly or by a graph."""
        counters = self.counters
        return (counters.kernel_launches + counters.array_operations + counters.graph_nodes) / self.steps


def count_epoch(workload: Workload, path: str = "auto") -> Epoch:
    """Run an epoch on the twin, with kernels that do nothing."""
    xp = make_twin()
    recipe = workload.recipe()
    with _idle_kernels(xp):
        program = CudaBackend(path=path, xp=xp).compile(workload.plan(), recipe)
        program.bind(workload.source())
        order, bounds = workload.stretch(workload.steps_per_epoch)
        for _ in range(2):
            xp.counters.reset()
            program.run(order, bounds, np.full(len(bounds) - 1, 0.001), 0)
    return Epoch("narrow" if isinstance(program, NarrowProgram) else "wide", workload.steps_per_epoch, xp.counters)


@contextmanager
def _idle_kernels(xp: Twin) -> Iterator[None]:
    """Launches are issued and counted as ever, but nothing is compiled or computed."""

    def get_function(module: RawModule, name: str) -> Any:
        def launch(grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
            xp._streams.issue(name, "kernel_launches", lambda *_: None, args, [False] * len(args))

        return launch

    def matmul(a: Any, b: Any, out: Any) -> None:
        xp._streams.issue("matmul", "array_operations", lambda *_: None, (a, b, out), [False] * 3)

    with patch.object(RawModule, "get_function", get_function), patch.object(xp, "matmul", matmul):
        yield


@dataclass(frozen=True)
class Work:
    """One step by formula: operations of the matrix products, and bytes that kernels read and write."""

    flops: float
    bytes: float

    def seconds(self, launches: float) -> float:
        """Predicted: launches one behind the other, and the slower of arithmetic and memory."""
        return launches * NODE_SECONDS + max(self.flops / FLOPS, self.bytes / BANDWIDTH)


def work_of_step(plan: Plan, recipe: Recipe, rows: int, path: str, limits: Limits = H100) -> Work:
    """The work of a step of `rows` rows, on labels, laid out for a device of these limits.

    Every kernel reads its arrays once and writes them once, but for the narrow path's two, whose blocks share theirs:
    each block of rows reads the weights, each tile of weights its layer's inputs and deltas. No cache is reckoned with,
    but that a convolution finds a pixel there which it meets again through another tap.
    """
    # The update reads and writes parameters and slots, and reads the gradient, which the narrow path leaves out
    numbers = (2 + 2 * len(recipe.optimizer.slots) + (path == "wide")) * plan.parameter_count
    for op in plan.operations:
        if not isinstance(op, DenseOperation):
            numbers += _image_numbers(op, rows)
            continue
        inputs, outputs = op.weights.shape
        weights, x, a = inputs * outputs, rows * inputs, rows * outputs
        if path == "narrow":
            layout = lay_out(plan, recipe.dtype, rows, limits)
            assert layout is not None
            down, across = tiles(op)
            numbers += layout.blocks(rows) * weights * (1 if op.input_gradient is None else 2)
            numbers += (1 + across) * x + (1 + down) * a  # left by the first launch, read by the second
            continue
        numbers += x + weights + a  # z = x W
        kept = op.z != op.outputs
        if op is plan.output:
            numbers += 3 * a + 2 * a  # z, a and delta of the loss; delta, for the bias
        else:
            numbers += (2 + kept) * a + (3 + kept) * a  # value and derivative
        numbers += x + a + weights  # x^T delta
        if op.input_gradient:
            numbers += a + weights + x  # delta W^T
    gathered = rows * plan.inputs.shape[1]
    numbers += gathered if path == "narrow" else 2 * gathered
    return Work(float(plan.flops_per_row()) * rows, numbers * recipe.dtype.itemsize)


def _image_numbers(op: Operation, rows: int) -> int:
    """What the launches of a convolution or a pool read and write, forward and back."""
    x, a = rows * op.inputs.shape[1], rows * op.outputs.shape[1]
    if isinstance(op, ConvolutionOperation):
        weights, kept = op.weights.size + (op.bias.size if op.bias else 0), op.z != op.outputs
        chunks = gradient_chunks(op, rows).number
        numbers = x + weights + (1 + kept) * a
        if op.layer.function != IDENTITY:
            numbers += (3 + kept) * a  # derivative
        numbers += x + a + weights + (2 * chunks * weights if chunks > 1 else 0)
        return numbers + (a + weights + x if op.input_gradient else 0)
    if isinstance(op, PoolingOperation):
        looked_at = x + a if op.kind == "max" else 0
        return x + a + (looked_at + a + x if op.input_gradient else 0)
    raise NotImplementedError(f"no benchmark has a layer of kind {op.layer.kind}")


def markdown() -> str:
    """The table of docs/cuda.md."""
    lines = [
        "| workload | network | batch | path | launches a step | graphs an epoch | transfers an epoch "
        "| waits an epoch | MFLOP a step | KB a step | predicted us a step | predicted samples/s |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in WORKLOADS:
        workload = get_workload(name)
        epoch = count_epoch(workload)
        work = work_of_step(workload.plan(), workload.recipe(), workload.batch_size, epoch.path)
        seconds = work.seconds(epoch.launches_per_step)
        counters = epoch.counters
        cells = [
            name, workload.sizes, workload.batch_size, epoch.path, f"{epoch.launches_per_step:g}",
            counters.graph_launches, f"{counters.host_to_device} + {counters.device_to_host}",
            counters.synchronizations, f"{work.flops / 1e6:,.3g}", f"{work.bytes / 1e3:,.1f}", f"{seconds * 1e6:.1f}",
            f"{workload.batch_size / seconds / 1e6:.3g} million",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
