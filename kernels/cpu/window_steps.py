"""Where a window's numbers lie: steps in memory between pixels, rows and weights, and which outputs meet which inputs.

Plain Python, run once for an operation: what it finds goes into the kernels' rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nnfast.networks.windows import Window

from .registers import group_size


class Axis(NamedTuple):
    """One direction of a window. Output o meets input o stride + i dilation - pad through kernel position i."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    pad: int
    dilation: int

    def meets(self, o: int, i: int) -> int | None:
        """The input at which output o meets kernel position i, None outside the image."""
        u = o * self.stride + i * self.dilation - self.pad
        return u if 0 <= u < self.inputs else None


class Steps(NamedTuple):
    """Numbers from one pixel, row, image group to the next, in x and z, and from one kernel position to the next in W.

    channels, filters: of one group of channels.
    """

    lanes: int
    channels: int
    filters: int
    x_pixel: int
    x_row: int
    x_group: int
    z_pixel: int
    z_row: int
    z_group: int
    w_column: int
    w_row: int


def axes(window: Window) -> tuple[Axis, Axis]:
    """The vertical and the horizontal direction."""
    w = window
    return (
        Axis(w.height, w.output_height, w.kernel_height, w.stride_y, w.pad_top, w.dilation_y),
        Axis(w.width, w.output_width, w.kernel_width, w.stride_x, w.pad_left, w.dilation_x),
    )


def steps(window: Window, dtype: np.dtype[Any]) -> Steps:
    lanes = group_size(dtype)
    channels = window.channels // window.groups
    x_pixel, z_pixel = window.channels * lanes, window.filters * lanes
    x_row, z_row = window.width * x_pixel, window.output_width * z_pixel
    w_column = channels * window.filters
    return Steps(
        lanes, channels, window.filters // window.groups,
        x_pixel, x_row, window.height * x_row, z_pixel, z_row, window.output_height * z_row,
        w_column, window.kernel_width * w_column,
    )  # fmt: skip


class Run(NamedTuple):
    """Neighbouring positions that meet the same taps: `length` positions, `taps` taps.

    source, kernel, position: of the first position's first tap, and that position itself.
    """

    length: int
    taps: int
    source: int
    kernel: int
    position: int


def forward_runs(axis: Axis, kernel: range | None = None) -> list[Run]:
    """The outputs and the inputs that they meet, upwards; through some kernel positions only, or all."""
    kernel = range(axis.kernel) if kernel is None else kernel
    pairs = [(o, [(i, axis.meets(o, i)) for i in kernel]) for o in range(axis.outputs)]
    return list(_runs((o, [(i, u) for i, u in taps if u is not None]) for o, taps in pairs))


def backward_runs(axis: Axis) -> list[Run]:
    """The inputs and the outputs that they meet, upwards; the inputs of each remainder by the stride together."""
    met: dict[int, list[tuple[int, int]]] = {u: [] for u in range(axis.inputs)}
    for o in range(axis.outputs):
        for i in range(axis.kernel):
            u = axis.meets(o, i)
            if u is not None:
                met[u].append((i, o))
    return [
        run
        for phase in range(axis.stride)
        for run in _runs((u, met[u]) for u in range(phase, axis.inputs, axis.stride))
    ]


def _runs(positions: Iterable[tuple[int, list[tuple[int, int]]]]) -> Iterator[Run]:
    run = None
    for position, taps in positions:
        kernel, source = taps[0] if taps else (0, 0)
        if run is not None and (run.kernel, run.taps) == (kernel, len(taps)):
            run = run._replace(length=run.length + 1)
            continue
        if run is not None:
            yield run
        run = Run(1, len(taps), source, kernel, position)
    if run is not None:
        yield run
