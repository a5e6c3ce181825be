"""The gradients of a convolution's weights and biases. The formulas: docs/convolutions.md.

dLoss/dW[i, j, c, f] is the sum, over outputs, of the pixels that they meet at (i, j) times their delta: for a few rows
of W and a few filters at once, in registers with one lane an image, whose lanes are added up at the end of every group
of images. Each group is added to what the groups before it gave, so the sum is the same to the bit however the groups
(in their order) and the rows of W are divided between calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.networks.windows import Window

from .image_tiles import make_gradient_tile
from .registers import VECTOR_BYTES
from .vectors import lane_count
from .window_steps import axes, forward_runs, steps

# A row: offsets in the workspace and in the gradient (BIAS is -1 without one), with the steps to the next group of
# images and the next group of channels; counts: PARTS of channels, FILTERS in one, numbers in a row of W; steps in x:
# from one row of W to the next, and, where each filter has vectors of its own (depthwise), from one filter to the next;
# steps between the outputs, in x and delta; their number; how many vertical and horizontal runs follow, of RUN_SIZE
# numbers each.
(
    X, X_GROUP, X_PART, DELTA, DELTA_GROUP, DELTA_PART, W, W_PART, BIAS, PARTS, FILTERS, W_ROW, X_TAP, X_FILTER,
    X_DOWN, X_RIGHT, DELTA_DOWN, DELTA_RIGHT, OUTPUTS_DOWN, OUTPUTS_RIGHT, VERTICAL, HORIZONTAL, RUNS,
) = range(23)  # fmt: skip
# A run: LENGTH outputs that meet ROWS rows of W, counted from ROW_FIRST on, beginning with X_FIRST and DELTA_FIRST.
LENGTH, ROW_FIRST, ROWS, X_FIRST, DELTA_FIRST, RUN_SIZE = range(6)

TAPS, DEPTHWISE_TAPS = 6, 3
MOST_FILTERS = 4 if VECTOR_BYTES == 64 else 2  # there are 32 registers, or 16
_tile = make_gradient_tile(
    [(t, f, 0) for f in (4, 2, 1) if f <= MOST_FILTERS for t in range(TAPS + 1)]
    + [(t, 4, 1) for t in range(DEPTHWISE_TAPS + 1)]
)


def gradient_row(
    window: Window, dtype: np.dtype[Any], *, x: int, delta: int, weights: int, bias: int = -1
) -> NDArray[np.int64]:
    """The row. x, delta: offsets of the inputs and dLoss/dz in the workspace; weights, bias: in the gradient."""
    s = steps(window, dtype)
    vertical, horizontal = axes(window)
    # Rows of W that are equally far apart in x are taken together: those of a whole kernel row, if possible
    together, tap = window.kernel_width, s.lanes
    if s.channels == 1:
        tap = window.dilation_x * s.x_pixel
    elif window.dilation_x != 1 or window.groups != 1 or (s.channels >= TAPS and len(forward_runs(horizontal)) > 1):
        together = 1
    down = [
        (run.length, run.kernel * rows, rows, run.source * s.x_row, run.position * s.z_row)
        for rows in [window.kernel_width * s.channels]
        for i in range(window.kernel_height)
        for run in forward_runs(vertical, range(i, i + 1))
        if run.taps
    ]
    right = [
        (run.length, run.kernel * s.channels, run.taps * s.channels, run.source * s.x_pixel, run.position * s.z_pixel)
        for j in range(0, window.kernel_width, together)
        for run in forward_runs(horizontal, range(j, j + together))
        if run.taps
    ]
    values = {
        X: x, X_GROUP: s.x_group, X_PART: s.channels * s.lanes, DELTA: delta, DELTA_GROUP: s.z_group,
        DELTA_PART: s.filters * s.lanes, W: weights, W_PART: s.filters, BIAS: bias, PARTS: window.groups,
        FILTERS: s.filters, W_ROW: window.filters, X_TAP: tap, X_FILTER: 0,
        X_DOWN: window.stride_y * s.x_row, X_RIGHT: window.stride_x * s.x_pixel, DELTA_DOWN: s.z_row,
        DELTA_RIGHT: s.z_pixel, OUTPUTS_DOWN: window.output_height, OUTPUTS_RIGHT: window.output_width,
        VERTICAL: len(down), HORIZONTAL: len(right),
    }  # fmt: skip
    if s.channels == s.filters == 1:  # depthwise: the groups of channels are the filters of a single one
        values |= {PARTS: 1, FILTERS: window.filters, X_FILTER: s.lanes}
    numbers = [number for run in (*down, *right) for number in run]
    return np.array([*(values[column] for column in range(RUNS)), *numbers], dtype=np.int64)


def add_gradient(row, gradient, workspace, first, last, start, stop):
    """Adds the groups first..last-1 to the rows start..stop-1 of dLoss/dW, and with start 0 to dLoss/db."""
    lanes = lane_count(workspace)
    x_steps = (row[X_DOWN], row[X_RIGHT])
    delta_steps = (row[DELTA_DOWN], row[DELTA_RIGHT])
    across = RUNS + row[VERTICAL] * RUN_SIZE
    end = across + row[HORIZONTAL] * RUN_SIZE
    for group in range(first, last):
        for part in range(row[PARTS]):
            f = 0
            while f < row[FILTERS]:
                left = row[FILTERS] - f
                filters = min(MOST_FILTERS, 4 if left >= 4 else 2 if left >= 2 else 1)
                is_depthwise = row[X_FILTER] > 0 and left >= 4
                if row[X_FILTER] > 0:
                    filters = 4 if is_depthwise else 1
                most_taps = DEPTHWISE_TAPS if is_depthwise else TAPS
                x_part = row[X] + group * row[X_GROUP] + part * row[X_PART] + f * row[X_FILTER]
                delta_part = row[DELTA] + group * row[DELTA_GROUP] + part * row[DELTA_PART] + f * lanes
                column = part * row[W_PART] + f
                if start == 0 and row[BIAS] >= 0:
                    counts = (row[OUTPUTS_DOWN], row[OUTPUTS_RIGHT])
                    _tile(0, filters, is_depthwise, workspace, x_part, 0, workspace, delta_part, gradient,
                          row[BIAS] + column, 0, counts, (0, 0), delta_steps)  # fmt: skip
                for v in range(RUNS, across, RUN_SIZE):
                    for h in range(across, end, RUN_SIZE):
                        run = row[v + ROW_FIRST] + row[h + ROW_FIRST]
                        place = max(start, run)
                        count = min(stop, run + row[h + ROWS]) - place
                        x = x_part + row[v + X_FIRST] + row[h + X_FIRST] + (place - run) * row[X_TAP]
                        delta = delta_part + row[v + DELTA_FIRST] + row[h + DELTA_FIRST]
                        pieces = (count + most_taps - 1) // most_taps
                        while pieces > 0:
                            taps = (count + pieces - 1) // pieces
                            _tile(taps, filters, is_depthwise, workspace, x, row[X_TAP], workspace, delta, gradient,
                                  row[W] + place * row[W_ROW] + column, row[W_ROW],
                                  (row[v + LENGTH], row[h + LENGTH]), x_steps, delta_steps)  # fmt: skip
                            x += taps * row[X_TAP]
                            place += taps
                            count -= taps
                            pieces -= 1
                f += filters
