"""The path for narrow networks: a training step in two launches of kernels written for the network, replayed as graphs.

A step's launches take nothing that depends on the step, so many of them are captured as one CUDA graph. Any number of
steps is a sum of powers of two: there is one graph for each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.cuda.layout import lay_out, tiles
from ...plans.plan import Plan
from ...plans.recipe import Recipe
from ..base import Source
from .memory import DeviceRows, single_steps
from .program import CudaProgram

if TYPE_CHECKING:
    from . import CudaBackend

WEIGHT_THREADS = 256  # of a block of narrow_weights.cu: one a weight of its tile
UPDATE_THREADS = 256
UPDATE_BLOCKS = 256
GRAPH_STEPS = 64  # in the longest graph

Launch = Callable[[], Any]


class NarrowProgram(CudaProgram):
    """A network whose activations fit into the shared memory of a block; see kernels/cuda/narrow.cu."""

    def __init__(self, plan: Plan, recipe: Recipe, backend: CudaBackend) -> None:
        super().__init__(plan, recipe, backend)
        from ...kernels.cuda.narrow import weights_source

        xp = self._xp
        layout = lay_out(plan, recipe.dtype, plan.rows, backend.limits)
        assert layout is not None  # or this path would not have been chosen
        self._layout, self._shared_bytes = layout, layout.shared_bytes(recipe.dtype)
        self._rows_texts: dict[tuple[Any, bool], str] = {}
        self._weights_text = weights_source(plan, recipe)
        self._tiles = sum(down * across for down, across in map(tiles, plan.dense_operations))
        self._losses = xp.zeros(plan.rows, np.float64)  # at least a row a block
        self._squares = xp.zeros(self._tiles, np.float64)
        self._largest = 0  # batch so far, which the grids are made for
        self._warm = False  # whether a step has run, before which nothing is captured
        self._graphs: dict[int, Any] = {}

    def _forget(self) -> None:
        self._graphs.clear()

    def _prepare(self, rows: DeviceRows) -> None:
        self._step(rows)
        self._warm = False  # for rows of another type there are other kernels

    def _train(self, rows: DeviceRows, sizes: NDArray[np.int64]) -> None:
        if (largest := int(sizes.max())) > self._largest:
            self._largest = largest
            self._forget()
        steps = len(sizes)
        if not self._warm:  # modules are loaded when a kernel first runs, which a capture must not hold
            for launch in self._step(rows):
                launch()
            steps, self._warm = steps - 1, True
        while steps:
            size = min(1 << steps.bit_length() - 1, GRAPH_STEPS)
            if size not in self._graphs:
                self._graphs[size] = self._capture(self._step(rows), size)
            self._graphs[size].launch()
            steps -= size

    def _capture(self, launches: list[Launch], steps: int) -> Any:
        stream = self._xp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                for _ in range(steps):
                    for launch in launches:
                        launch()
            finally:
                graph = stream.end_capture()
        return graph

    def _step(self, rows: DeviceRows) -> list[Launch]:
        """A training step of at most self._largest rows."""
        recipe, stretch = self.recipe, self._stretch
        blocks = self._layout.blocks(self._largest)
        first = self._rows(rows, self._largest, stretch.words, stretch.values, stretch.width, drops=True)
        count = np.int64(self.plan.parameter_count)
        arguments: tuple[Any, ...]
        if recipe.clip_norm is None:
            arguments = (
                self._parameters, self._workspace, self._slots, stretch.words, stretch.values,
                np.float64(recipe.alpha), np.float64(recipe.l1), self._losses, np.int32(blocks), stretch.losses,
            )  # fmt: skip
            learn = self._backend.kernel(self._weights_text, "learn")
            return [first, partial(learn, (self._tiles,), (WEIGHT_THREADS,), arguments)]
        arguments = (
            self._parameters, self._gradient, self._slots, count, stretch.words, stretch.values,
            np.float64(recipe.clip_norm), self._losses, np.int32(blocks), self._losses, np.int32(0), self._squares,
            np.int32(self._tiles), stretch.losses,
        )  # fmt: skip
        second = self._gradient_of(stretch.words, stretch.values, stretch.width)
        grid = (min(-(-self.plan.parameter_count // UPDATE_THREADS), UPDATE_BLOCKS),)
        return [first, second, partial(self._update_kernel(), grid, (UPDATE_THREADS,), arguments)]

    def _update_kernel(self) -> Any:
        from ...kernels.cuda.sources import update_source

        return self._backend.kernel(update_source(self.recipe.optimizer, self.recipe.dtype), "update")

    def _differentiate(self, rows: DeviceRows, n: int, divisor: Any) -> list[Any]:
        words = self._xp.asarray(single_steps(n, n)[0])
        self._rows(rows, n, words, divisor, 1, drops=False)()
        self._gradient_of(words, divisor, 1)()
        return [self._losses[: self._layout.blocks(n)]]

    def _differentiate_inputs(self, rows: DeviceRows, n: int, divisor: Any) -> Any:
        """From the delta of the first dense layer; dropouts before it drop nothing here."""
        words = self._xp.asarray(single_steps(n, n)[0])
        self._rows(rows, n, words, divisor, 1, drops=False)()
        first, target = self.plan.dense_operations[0], self.plan.input_gradient
        assert target is not None  # input_gradient() refuses such a plan
        gradient = target.view(self._workspace, n)
        self._backend.matmul(
            first.gradient.view(self._workspace, n), first.weights.view(self._parameters).T, out=gradient
        )
        return gradient

    def _evaluate(self, source: Source, rows: NDArray[np.int64] | None) -> tuple[Any, Any]:
        xp, n = self._xp, source.n_rows if rows is None else len(rows)
        there = self._upload(source)
        blocks = self._layout.blocks(n)
        outputs = xp.empty((n, self.plan.network.output_size), self.recipe.dtype)
        losses = xp.empty(blocks, np.float64)
        words = xp.asarray(single_steps(n, n, rows)[0])
        arguments = (*self._source_arguments(there), self._parameters, self._constants, words, outputs, losses)
        self._rows_kernel(there, "evaluate")(
            (blocks,), (self._layout.threads,), arguments, shared_mem=self._shared_bytes
        )
        return outputs, losses

    def _rows_kernel(self, rows: DeviceRows, name: str) -> Any:
        from ...kernels.cuda.narrow import rows_source

        source = rows.inputs[0].dtype, rows.is_sparse
        if source not in self._rows_texts:
            self._rows_texts[source] = rows_source(self.plan, self.recipe, self._layout, *source)
        kernel = self._backend.kernel(self._rows_texts[source], name)
        kernel.max_dynamic_shared_size_bytes = self._shared_bytes  # above 48 KiB it must be asked for
        return kernel

    def _source_arguments(self, rows: DeviceRows) -> tuple[Any, ...]:
        """What kernels take of the source: inputs, then targets and weights."""
        indices = rows.inputs[1:] or (rows.labels, rows.labels)  # dense rows have none: any will do
        return (
            rows.inputs[0], *indices, self.recipe.dtype.type(rows.scale), rows.labels, rows.numbers,
            np.int32(rows.target_kind), rows.sample_weight, np.int32(rows.is_weighted),
        )  # fmt: skip

    def _rows(self, rows: DeviceRows, n: int, words: Any, values: Any, width: int, drops: bool) -> Launch:
        """The first launch of a step of at most n rows: losses, and every layer's inputs and deltas."""
        arguments = (
            *self._source_arguments(rows), self._parameters, self._constants, self._workspace, words, values,
            np.int32(width), np.uint64(self.recipe.seed), np.int32(drops), np.float64(self.recipe.alpha),
            np.float64(self.recipe.l1), self._losses,
        )  # fmt: skip
        kernel = self._rows_kernel(rows, "rows")
        return partial(
            kernel, (self._layout.blocks(n),), (self._layout.threads,), arguments, shared_mem=self._shared_bytes
        )

    def _gradient_of(self, words: Any, values: Any, width: int) -> Launch:
        """The second launch where the gradient itself is asked for, penalties included."""
        arguments = (
            self._parameters, self._workspace, self._gradient, words, values, np.int32(width),
            np.float64(self.recipe.alpha), np.float64(self.recipe.l1), self._squares,
        )  # fmt: skip
        return partial(
            self._backend.kernel(self._weights_text, "gradient"), (self._tiles,), (WEIGHT_THREADS,), arguments
        )
