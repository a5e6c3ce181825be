"""The geometry of windows that move over an image: what convolution and pooling share.

Images are (height, width, channels), channels last; (height, width) stands for one channel. Output pixel (y, x) looks
at the input pixels

    (y * stride_y + i * dilation_y - pad_top, x * stride_x + j * dilation_x - pad_left)

for 0 <= i < kernel_height, 0 <= j < kernel_width; where that is outside the image, a convolution reads 0 and pooling
passes over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = str | Pair


@dataclass(frozen=True)
class Window:
    """Sizes of input, output and kernel, in pixels, and how the kernel moves. The rule is in the module's docstring.

    filters: channels of the output; for pooling, those of the input. groups: the channels and the filters are divided
    into that many parts in order, and the filters of a part see its channels only; for pooling 1. What is padded below
    and to the right follows from the output's size.
    """

    height: int
    width: int
    channels: int
    output_height: int
    output_width: int
    filters: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    pad_top: int
    pad_left: int
    dilation_y: int
    dilation_x: int
    groups: int

    @property
    def output_shape(self) -> Shape:
        return (self.output_height, self.output_width, self.filters)


def image_shape(shape: Shape) -> tuple[int, int, int]:
    """(height, width, channels) of one row. Raises ValueError unless it is an image."""
    if len(shape) == 2:
        return (*shape, 1)
    if len(shape) == 3:
        return shape
    raise ValueError(f"needs an image (height, width) or (height, width, channels), got shape {shape}")


def make_window(
    input_shape: Shape,
    size: Pair,
    stride: Pair,
    padding: Padding,
    *,
    dilation: Pair = (1, 1),
    filters: int | None = None,
    groups: int = 1,
) -> Window:
    """The windows of `size` over an image of `input_shape`; filters None is pooling.

    padding: "valid" is none, "same" gives ceil(size / stride) output pixels (an odd number of padded pixels has the
    larger half below and to the right), and (n, m) pads n above and below, m to the left and right. Raises ValueError
    for no image, windows larger than the padded image, pools that hold no pixel, and groups that do not divide.
    """
    height, width, channels = image_shape(input_shape)
    spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    outputs, before, padded = [], [], []
    for axis, (pixels, span) in enumerate(zip((height, width), spans, strict=True)):
        step = stride[axis]
        if padding == "same":
            output = -(-pixels // step)
            total = max((output - 1) * step + span - pixels, 0)
            first = total // 2
        else:
            first = 0 if padding == "valid" else int(padding[axis])
            total = 2 * first
            output = (pixels + total - span) // step + 1
            if filters is None and first >= span:
                raise ValueError(
                    f"padding {first} would make pools that hold no pixel; with a pool of {text_of(size)} it is at "
                    f"most {span - 1}"
                )
        outputs.append(output)
        before.append(first)
        padded.append(pixels + total)
    if any(span > pixels for span, pixels in zip(spans, padded, strict=True)):
        what = "pool" if filters is None else "kernel"
        dilated = f", dilated to {text_of(spans)}," if spans != list(size) else ""
        raise ValueError(
            f"the {what} of {text_of(size)}{dilated} is larger than the padded image of {text_of(padded)}; use a "
            f"smaller {what} or padding='same'"
        )
    if channels % groups or (filters or 0) % groups:
        raise ValueError(f"groups must divide the input's {channels} channels and the {filters} filters, got {groups}")
    return Window(
        height, width, channels, outputs[0], outputs[1], channels if filters is None else filters, *size, *stride,
        before[0], before[1], *dilation, groups,
    )  # fmt: skip


def text_of(sizes: Any) -> str:
    """ "3x5" """
    return "x".join(map(str, sizes))
