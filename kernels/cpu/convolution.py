"""Convolutions of interleaved images: z = x * W + b, and dLoss/dx from dLoss/dz. The formulas: docs/convolutions.md.

Each pixel of z is a sum, over the kernel positions that meet a pixel of x and over channels, of vectors times weights.
So is each pixel of dLoss/dx: in every direction, input u meets output o through kernel position i where

    u = o s + i d - p

and for one u these (o, i) are an arithmetic progression, as for one o the (u, i) are: o moves by d / gcd(s, d), i by
s / gcd(s, d) the other way. So one kernel computes both, and what differs stands in its row. Which taps there
are is found once (window_steps.py); where a window sticks out of the image, there are fewer. So padding is neither
stored nor multiplied, and strides, dilation and groups of channels are steps in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.networks.windows import Window

from .image_tiles import make_correlation_tile
from .vectors import lane_count
from .window_steps import Run, axes, backward_runs, forward_runs, steps

# A row: offsets in the workspace and the parameters (BIAS is -1 without one), with the steps to the next group of
# images and the next group of channels; counts; the steps to the next filter, in W and, where it has vectors of its own
# (depthwise), in x; the steps of the three loops over taps and channels, in x and W; the steps between positions, in x
# and out; how many vertical and horizontal runs follow, of RUN_SIZE numbers each.
(
    X, X_GROUP, X_PART, OUT, OUT_GROUP, OUT_PART, W, W_PART, BIAS, PARTS, CHANNELS, FILTERS, W_FILTER, X_FILTER,
    IS_MERGED, X_ROW, X_COLUMN, X_CHANNEL, W_ROW, W_COLUMN, W_CHANNEL, X_DOWN, X_RIGHT, OUT_DOWN, OUT_RIGHT,
    VERTICAL, HORIZONTAL, RUNS,
) = range(28)  # fmt: skip
LENGTH, TAPS, X_FIRST, W_FIRST, OUT_FIRST, RUN_SIZE = range(6)

# How many positions go with (filters, is_depthwise): 12 sums are enough to hide the latency of the multiply-adds, and
# with the operands they fit into 16 registers. Measured: see kernels/README.md.
POSITIONS = {(6, 0): 2, (4, 0): 2, (2, 0): 4, (1, 0): 8, (8, 1): 1}
_tile = make_correlation_tile(POSITIONS)


def forward_row(
    window: Window, dtype: np.dtype[Any], *, x: int, z: int, weights: int, bias: int = -1
) -> NDArray[np.int64]:
    """The row for z. x, z: offsets in the workspace; weights, bias: in the parameters, bias -1 without one."""
    s = steps(window, dtype)
    vertical, horizontal = axes(window)
    values = {
        X: x, X_GROUP: s.x_group, X_PART: s.channels * s.lanes, OUT: z, OUT_GROUP: s.z_group,
        OUT_PART: s.filters * s.lanes, W: weights, W_PART: s.filters, BIAS: bias,
        PARTS: window.groups, CHANNELS: s.channels, FILTERS: s.filters, W_FILTER: 1,
        X_ROW: window.dilation_y * s.x_row, X_COLUMN: window.dilation_x * s.x_pixel, X_CHANNEL: s.lanes,
        W_ROW: s.w_row, W_COLUMN: s.w_column, W_CHANNEL: window.filters,
        X_DOWN: window.stride_y * s.x_row, X_RIGHT: window.stride_x * s.x_pixel, OUT_DOWN: s.z_row,
        OUT_RIGHT: s.z_pixel,
    }  # fmt: skip
    return _row(
        values,
        _in_memory(forward_runs(vertical), s.x_row, s.w_row, s.z_row),
        _in_memory(forward_runs(horizontal), s.x_pixel, s.w_column, s.z_pixel),
    )


def backward_row(window: Window, dtype: np.dtype[Any], *, delta: int, dx: int, weights: int) -> NDArray[np.int64]:
    """The row for dLoss/dx. delta, dx: offsets of dLoss/dz and of the result in the workspace."""
    s = steps(window, dtype)
    vertical, horizontal = axes(window)
    gcd_y, gcd_x = (math.gcd(axis.stride, axis.dilation) for axis in (vertical, horizontal))
    values = {
        X: delta, X_GROUP: s.z_group, X_PART: s.filters * s.lanes, OUT: dx, OUT_GROUP: s.x_group,
        OUT_PART: s.channels * s.lanes, W: weights, W_PART: s.filters, BIAS: -1,
        PARTS: window.groups, CHANNELS: s.filters, FILTERS: s.channels, W_FILTER: window.filters,
        X_ROW: window.dilation_y // gcd_y * s.z_row, X_COLUMN: window.dilation_x // gcd_x * s.z_pixel,
        X_CHANNEL: s.lanes, W_ROW: -(window.stride_y // gcd_y) * s.w_row,
        W_COLUMN: -(window.stride_x // gcd_x) * s.w_column, W_CHANNEL: 1,
        X_DOWN: s.z_row, X_RIGHT: s.z_pixel, OUT_DOWN: window.stride_y * s.x_row,
        OUT_RIGHT: window.stride_x * s.x_pixel,
    }  # fmt: skip
    return _row(
        values,
        _in_memory(backward_runs(vertical), s.z_row, s.w_row, s.x_row),
        _in_memory(backward_runs(horizontal), s.z_pixel, s.w_column, s.x_pixel),
    )


def _in_memory(runs: Sequence[Run], x: int, w: int, out: int) -> list[int]:
    """LENGTH, TAPS, X_FIRST, W_FIRST, OUT_FIRST of every run."""
    return [n for run in runs for n in (run.length, run.taps, run.source * x, run.kernel * w, run.position * out)]


def _row(values: dict[int, int], vertical: list[int], horizontal: list[int]) -> NDArray[np.int64]:
    values[X_FILTER] = 0
    if values[CHANNELS] == values[FILTERS] == 1:  # depthwise: the groups of channels are the filters of a single one
        values |= {FILTERS: values[PARTS], PARTS: 1, X_FILTER: values[X_PART], W_FILTER: 1}
    # Two loops are one where there is one channel, and where the next tap begins at the last one's end
    if values[CHANNELS] == 1:
        values |= {X_CHANNEL: values[X_COLUMN], W_CHANNEL: values[W_COLUMN], IS_MERGED: 1}
    else:
        columns, channels = ((values[X_COLUMN], values[W_COLUMN]), (values[X_CHANNEL], values[W_CHANNEL]))
        values[IS_MERGED] = columns == tuple(values[CHANNELS] * step for step in channels)
    values |= {VERTICAL: len(vertical) // RUN_SIZE, HORIZONTAL: len(horizontal) // RUN_SIZE}
    return np.array([*(values[column] for column in range(RUNS)), *vertical, *horizontal], dtype=np.int64)


def correlate(row, parameters, gradient, workspace, n, first, last):
    """z, or dLoss/dx, of the groups first..last-1: by a row of forward_row or of backward_row."""
    lanes = lane_count(workspace)
    x_steps = (row[X_ROW], row[X_COLUMN], row[X_CHANNEL])
    w_steps = (row[W_ROW], row[W_COLUMN], row[W_CHANNEL])
    across = RUNS + row[VERTICAL] * RUN_SIZE
    end = across + row[HORIZONTAL] * RUN_SIZE
    for group in range(first, last):
        for part in range(row[PARTS]):
            x_part = row[X] + group * row[X_GROUP] + part * row[X_PART]
            out_part = row[OUT] + group * row[OUT_GROUP] + part * row[OUT_PART]
            for v in range(RUNS, across, RUN_SIZE):
                f = 0
                while f < row[FILTERS]:
                    left = row[FILTERS] - f
                    filters = 6 if left == 6 or left >= 10 else 4 if left >= 4 else 2 if left >= 2 else 1
                    is_depthwise = row[X_FILTER] > 0 and left >= 8
                    if row[X_FILTER] > 0:
                        filters = 8 if is_depthwise else 1
                    bias = -1 if row[BIAS] < 0 else row[BIAS] + part * row[W_PART] + f
                    for h in range(across, end, RUN_SIZE):
                        counts = (row[v + TAPS], row[h + TAPS], row[CHANNELS])
                        if row[IS_MERGED]:
                            counts = (row[v + TAPS], 1, row[h + TAPS] * row[CHANNELS])
                        repeats, length, x_gap, out_gap = row[v + LENGTH], row[h + LENGTH], row[X_RIGHT], row[OUT_RIGHT]
                        if length == 1:  # a column at the border: a run downwards
                            repeats, length, x_gap, out_gap = 1, row[v + LENGTH], row[X_DOWN], row[OUT_DOWN]
                        x = x_part + f * row[X_FILTER] + row[v + X_FIRST] + row[h + X_FIRST]
                        w = row[W] + part * row[W_PART] + row[v + W_FIRST] + row[h + W_FIRST] + f * row[W_FILTER]
                        out = out_part + row[v + OUT_FIRST] + row[h + OUT_FIRST] + f * lanes
                        for k in range(repeats):
                            _tile(
                                filters, is_depthwise, length, workspace, x + k * row[X_DOWN], x_gap, parameters, w,
                                row[W_FILTER], bias, workspace, out + k * row[OUT_DOWN], out_gap, counts, x_steps,
                                w_steps,
                            )  # fmt: skip
                    f += filters
