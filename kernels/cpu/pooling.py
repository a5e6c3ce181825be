"""Max and average pooling of interleaved images, forward and backward. The formulas: docs/convolutions.md.

What a window has outside the image is cut off.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnfast.networks.windows import Window

from .compilation import helper
from .image_tiles import make_pooling_gradient_tile, make_pooling_tile
from .vectors import lane_count, splat, store
from .window_steps import axes, steps

# A row: offsets in the workspace, GRADIENT and INPUT_GRADIENT of dLoss/doutputs and dLoss/dinputs, -1 where there are
# none; what backward does to the pixels' gradients: IS_CLEARED, set all to 0 first, as some are in no window, or
# IS_ADDED, several windows share them; steps; the numbers of windows down and across, which follow, COUNT pixels
# each from FIRST on.
(
    INPUTS, OUTPUTS, GRADIENT, INPUT_GRADIENT, IS_CLEARED, IS_ADDED, CHANNELS, PIXEL, PIXEL_ROW, GROUP, OUTPUT_GROUP,
    DOWN, ACROSS, CUTS,
) = range(14)  # fmt: skip
FIRST, COUNT, CUT_SIZE = range(3)

WIDTHS = (4, 2, 1)


def pooling_row(
    window: Window, dtype: np.dtype[Any], *, inputs: int, outputs: int, gradient: int = -1, input_gradient: int = -1
) -> NDArray[np.int64]:
    """The row for both passes. All are offsets in the workspace; forward does without the gradients'."""
    s = steps(window, dtype)
    values = {
        INPUTS: inputs, OUTPUTS: outputs, GRADIENT: gradient, INPUT_GRADIENT: input_gradient,
        IS_CLEARED: 0, IS_ADDED: 0, CHANNELS: window.channels, PIXEL: s.x_pixel, PIXEL_ROW: s.x_row, GROUP: s.x_group,
        OUTPUT_GROUP: s.z_group, DOWN: window.output_height, ACROSS: window.output_width,
    }  # fmt: skip
    cuts = []
    for axis, step in zip(axes(window), (s.x_row, s.x_pixel), strict=True):
        uses = [0] * axis.inputs
        for o in range(axis.outputs):
            pixels = [u for i in range(axis.kernel) if (u := axis.meets(o, i)) is not None]
            cuts += [pixels[0] * step, len(pixels)]
            for pixel in pixels:
                uses[pixel] += 1
        values[IS_ADDED] |= max(uses) > 1
        values[IS_CLEARED] |= max(uses) > 1 or min(uses) == 0
    return np.array([*(values[column] for column in range(CUTS)), *cuts], dtype=np.int64)


def _make_forward(kind: Literal["max", "average"]) -> Any:
    tile = make_pooling_tile(kind, WIDTHS)

    @helper
    def forward(row, workspace, first, last):
        lanes = lane_count(workspace)
        across = CUTS + row[DOWN] * CUT_SIZE
        for group in range(first, last):
            out = row[OUTPUTS] + group * row[OUTPUT_GROUP]
            for v in range(CUTS, across, CUT_SIZE):
                for h in range(across, across + row[ACROSS] * CUT_SIZE, CUT_SIZE):
                    x = row[INPUTS] + group * row[GROUP] + row[v + FIRST] + row[h + FIRST]
                    counts = (row[v + COUNT], row[h + COUNT])
                    factor = 1.0 / (counts[0] * counts[1])
                    left = row[CHANNELS]
                    while left > 0:
                        channels = 4 if left >= 4 else 2 if left >= 2 else 1
                        tile(channels, workspace, x, out, counts, (row[PIXEL_ROW], row[PIXEL]), factor)
                        x += channels * lanes
                        out += channels * lanes
                        left -= channels

    return forward


def _make_backward(kind: Literal["max", "average"]) -> Any:
    tile = make_pooling_gradient_tile(kind, WIDTHS)

    @helper
    def backward(row, workspace, first, last):
        lanes = lane_count(workspace)
        zero = splat(workspace, 0.0)
        across = CUTS + row[DOWN] * CUT_SIZE
        for group in range(first, last):
            start = group * row[GROUP]
            if row[IS_CLEARED]:
                for place in range(start, start + row[GROUP], lanes):
                    store(zero, workspace, row[INPUT_GRADIENT] + place)
            out = group * row[OUTPUT_GROUP]
            for v in range(CUTS, across, CUT_SIZE):
                for h in range(across, across + row[ACROSS] * CUT_SIZE, CUT_SIZE):
                    x = start + row[v + FIRST] + row[h + FIRST]
                    counts = (row[v + COUNT], row[h + COUNT])
                    factor = 1.0 / (counts[0] * counts[1])
                    left = row[CHANNELS]
                    while left > 0:
                        channels = 4 if left >= 4 else 2 if left >= 2 else 1
                        tile(
                            channels, row[IS_ADDED], workspace, row[INPUTS] + x, row[OUTPUTS] + out,
                            row[GRADIENT] + out, row[INPUT_GRADIENT] + x, counts, (row[PIXEL_ROW], row[PIXEL]), factor,
                        )  # fmt: skip
                        x += channels * lanes
                        out += channels * lanes
                        left -= channels

    return backward


_max_forward, _average_forward = _make_forward("max"), _make_forward("average")
_max_backward, _average_backward = _make_backward("max"), _make_backward("average")


def max_forward(row, parameters, gradient, workspace, n, first, last):
    """The largest pixel of each window."""
    _max_forward(row, workspace, first, last)


def max_backward(row, parameters, gradient, workspace, n, first, last):
    """Each output's gradient to the first of its window's pixels that equals it."""
    _max_backward(row, workspace, first, last)


def average_forward(row, parameters, gradient, workspace, n, first, last):
    """The mean of each window."""
    _average_forward(row, workspace, first, last)


def average_backward(row, parameters, gradient, workspace, n, first, last):
    """An equal share of each output's gradient to every pixel of its window."""
    _average_backward(row, workspace, first, last)
