"""How operations on images, and BatchNorm, are cut up for their kernels: arithmetic on sizes.

Sums over all pixels of a batch are made in chunks, by blocks of their own, which leave partial sums for another launch
to add up in a fixed order. How many there are depends on nothing but sizes, so that a run repeats bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, assert_never

from ...networks.windows import Window
from ...plans.operations import BatchNormOperation, ConvolutionOperation, PoolingOperation
from ...plans.plan import Plan

ImageOperation: TypeAlias = ConvolutionOperation | PoolingOperation | BatchNormOperation  # what is cut up here

TILE_ROWS = 64  # ROWS of correlation.cu: pixels, or terms, of a block's tile
SIDES = (2, 4)  # SIDE of correlation.cu: a thread sums SIDE x SIDE numbers, so that a tile has 16 or 64 columns
CHANNELS = 8  # of a block of batch_norm.cu
CHUNK_ROWS = 256  # the least for a block of batch_norm.cu, where there are enough
CHUNKS = 64  # at most: every block of the launch that adds them up reads them all
BLOCKS = 256  # about how many a sum is spread over, in all: two for each multiprocessor of an H100


class Chunks(NamedTuple):
    """A sum over `number` chunks of `size` each, but for the last."""

    number: int
    size: int


def side(columns: int) -> int:
    """How many numbers in a row a thread sums for a matrix of this width: wider tiles where they are filled."""
    return SIDES[columns > 2 * tile_columns(SIDES[0])]


def tile_columns(side: int) -> int:
    return 4 * side * side


def column_tiles(columns: int) -> int:
    """Of a group's columns."""
    return -(-columns // tile_columns(side(columns)))


def gradient_tiles(op: ConvolutionOperation) -> int:
    """Tiles of a convolution's weights, the bias among them."""
    height, width, channels, filters = op.weights.shape
    terms = height * width * channels + (op.bias is not None)
    groups = op.window.groups
    return -(-terms // TILE_ROWS) * column_tiles(filters // groups) * groups


def gradient_chunk_limit(op: ConvolutionOperation) -> int:
    return max(BLOCKS // gradient_tiles(op), 1)


def gradient_chunks(op: ConvolutionOperation, rows: int) -> Chunks:
    """The outputs' pixels of a batch, for the gradient of the weights."""
    return _chunks(rows * op.window.output_height * op.window.output_width, TILE_ROWS, gradient_chunk_limit(op))


def statistics_chunk_limit(op: BatchNormOperation) -> int:
    return max(min(CHUNKS, BLOCKS // -(-op.channels // CHANNELS)), 1)


def statistics_chunks(op: BatchNormOperation, rows: int) -> Chunks:
    """The numbers of a channel, for its sums."""
    return _chunks(rows * op.pixels, CHUNK_ROWS, statistics_chunk_limit(op))


def _chunks(count: int, unit: int, limit: int) -> Chunks:
    """At most `limit` chunks of whole units."""
    units = -(-count // unit)
    size = -(-units // limit) * unit
    return Chunks(-(-count // size), size)


def image_operations(plan: Plan) -> Iterator[ImageOperation]:
    """Those that an ImageProgram has beside a WideProgram's."""
    return (op for op in plan.operations if isinstance(op, ImageOperation))


def part_sizes(plan: Plan) -> tuple[int, int]:
    """Room for what the sums leave in parts: numbers of convolutions' gradients, and doubles of BatchNorm's."""
    numbers = doubles = 0
    for op in image_operations(plan):
        match op:
            case ConvolutionOperation():
                size = op.weights.size + (op.bias.size if op.bias else 0)
                numbers = max(numbers, gradient_chunk_limit(op) * size)
            case BatchNormOperation():
                doubles = max(doubles, statistics_chunk_limit(op) * 2 * op.channels)
            case PoolingOperation():
                pass  # nothing is summed over the batch
            case _:
                assert_never(op)
    return numbers, doubles


def words(op: ImageOperation) -> dict[str, list[int]]:
    """What an operation's kernels read of its geometry, by what they compute."""
    match op:
        case ConvolutionOperation():
            return {"outputs": correlation_words(op.window), "inputs": input_gradient_words(op.window)}
        case PoolingOperation():
            return {"pool": pool_words(op.window)}
        case BatchNormOperation():
            return {}
        case _:
            assert_never(op)


def correlation_words(window: Window) -> list[int]:
    """A convolution as correlation.cu has it: the words of its struct Correlation."""
    w = window
    channels, filters = w.channels // w.groups, w.filters // w.groups
    return [
        w.height, w.output_height, w.stride_y, w.dilation_y, -w.pad_top, 1,
        w.width, w.output_width, w.stride_x, w.dilation_x, -w.pad_left, 1,
        w.groups, w.kernel_width, w.kernel_height * w.kernel_width * channels,
        channels, w.channels, filters, w.filters,
        channels * w.filters, w.filters, 1, filters,
    ]  # fmt: skip


def input_gradient_words(window: Window) -> list[int]:
    """The gradient of a convolution's inputs, whose source is delta: the same words."""
    w = window
    channels, filters = w.channels // w.groups, w.filters // w.groups
    return [
        w.output_height, w.height, 1, -w.dilation_y, w.pad_top, w.stride_y,
        w.output_width, w.width, 1, -w.dilation_x, w.pad_left, w.stride_x,
        w.groups, w.kernel_width, w.kernel_height * w.kernel_width * filters,
        filters, w.filters, channels, w.channels,
        channels * w.filters, 1, w.filters, filters,
    ]  # fmt: skip


def pool_words(window: Window) -> list[int]:
    """The words of pooling.cu's struct Window."""
    w = window
    return [
        w.height, w.output_height, w.kernel_height, w.stride_y, w.pad_top,
        w.width, w.output_width, w.kernel_width, w.stride_x, w.pad_left,
        w.channels,
    ]  # fmt: skip
