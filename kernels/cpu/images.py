"""Images in groups: how the CPU engine stores what convolutions, pooling and BatchNorm work on.

A batch is taken in groups of as many images as a vector register has lanes, and a group is stored as
[y][x][channel][lane]: the same number of all its images side by side. So every operation on images is a loop over
whole registers, whatever the number of channels, the kernel, stride, padding, dilation or groups of channels, and
images meet only in sums over the batch. Where the last group is not full, its last image stands in for the missing
ones, so that no number appears which a real image could not give; their gradient is zero, so that they count nowhere.

The kernels are C functions, which the epoch knows by their addresses. What is the same in every call stands in a row of
int64, which each kernel's module makes:

    pass(row, parameters, gradient, workspace, n, first, last)    forward or backward, for groups first..last-1 of a
                                                                  batch of n images

Pointers are to dtype T. Every number that a kernel writes is computed in an order that depends on the operation alone,
so however the groups are divided between calls or threads, the results are the same to the bit.
"""

from __future__ import annotations

from .compilation import helper
from .tiles import make_transpose_tile
from .vectors import lane_count

TILE = 8  # rows and columns of a transposed tile
_transpose_tile = make_transpose_tile(TILE)


@helper
def _transpose(A, a, a_row, out, o, o_row, rows, columns):
    """out[j, i] = A[i, j] for i < rows, j < columns. a, o: offsets of the first elements; a_row, o_row: strides."""
    for i in range(0, rows, TILE):
        height = min(TILE, rows - i)
        for j in range(0, columns, TILE):
            width = min(TILE, columns - j)
            if height == TILE and width == TILE:
                _transpose_tile(A, a + i * a_row + j, a_row, out, o + j * o_row + i, o_row)
            else:
                for k in range(i, i + height):
                    for m in range(j, j + width):
                        out[o + m * o_row + k] = A[a + k * a_row + m]


def interleave(rows, groups, n, size, is_gradient, first, last):
    """Groups first..last-1 from n rows of `size` numbers; missing rows are as the last one, or zeros in a gradient."""
    lanes = lane_count(rows)
    for group in range(first, last):
        start = group * lanes
        count = min(lanes, n - start)
        _transpose(rows, start * size, size, groups, start * size, lanes, count, size)
        if count < lanes:
            for place in range(start * size, (start + lanes) * size, lanes):
                missing = 0.0 if is_gradient else groups[place + count - 1]
                for k in range(place + count, place + lanes):
                    groups[k] = missing


def deinterleave(groups, rows, n, size, first, last):
    """The rows of groups first..last-1, as far as there are n."""
    lanes = lane_count(groups)
    for group in range(first, last):
        start = group * lanes
        _transpose(groups, start * size, lanes, rows, start * size, size, size, min(lanes, n - start))
