"""The reference backend's convolutions, pooling and normalisations: forward, and the chain rule backward.

The derivations, index by index, are in docs/convolutions.md. Rows come and go as flat matrices (rows, numbers in one
row); images in them are (height, width, channels) in C order. `taps` names the pixels that one kernel position sees
from all outputs at once: forward reads them, backward adds to the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...networks.windows import Window

Array = NDArray[Any]
Slices = tuple[slice, slice, slice]


def taps(window: Window) -> Iterator[tuple[int, int, Slices]]:
    """For every kernel position (i, j), row by row: the slices of the padded images that the outputs see through it.

    Output (y, x) sees pixel (y stride_y + i dilation_y, x stride_x + j dilation_x), counted from the padded corner.
    """
    for i in range(window.kernel_height):
        for j in range(window.kernel_width):
            top, left = i * window.dilation_y, j * window.dilation_x
            bottom = top + (window.output_height - 1) * window.stride_y + 1
            right = left + (window.output_width - 1) * window.stride_x + 1
            yield i, j, (slice(None), slice(top, bottom, window.stride_y), slice(left, right, window.stride_x))


def pad(rows: Array, window: Window, value: float = 0.0) -> Array:
    """The images with `value` around them, (rows, padded height, padded width, channels)."""
    padded = np.full(_padded_shape(len(rows), window), value, rows.dtype)
    unpad(padded, window)[...] = rows.reshape(-1, window.height, window.width, window.channels)
    return padded


def unpad(padded: Array, window: Window) -> Array:
    """A view of the images inside padded ones."""
    bottom, right = window.pad_top + window.height, window.pad_left + window.width
    return padded[:, window.pad_top : bottom, window.pad_left : right]


def _padded_shape(rows: int, window: Window) -> tuple[int, int, int, int]:
    # A last window may reach beyond the image, or the image beyond the last window.
    seen_y = (window.output_height - 1) * window.stride_y + (window.kernel_height - 1) * window.dilation_y + 1
    seen_x = (window.output_width - 1) * window.stride_x + (window.kernel_width - 1) * window.dilation_x + 1
    height = max(window.pad_top + window.height, seen_y)
    return rows, height, max(window.pad_left + window.width, seen_x), window.channels


def _by_group(pixels: Array, groups: int) -> Array:
    """(..., channels) as (groups, pixels, channels / groups)."""
    return pixels.reshape(-1, groups, pixels.shape[-1] // groups).swapaxes(0, 1)


def _weights_by_group(weights: Array, groups: int) -> Array:
    """(kernel height, kernel width, channels / groups, filters) as (h, w, groups, channels / groups, filters / groups).

    A view. The filters of a group stand together.
    """
    *kernel, filters = weights.shape
    return weights.reshape(*kernel, groups, filters // groups).swapaxes(2, 3)


def convolution(x: Array, W: Array, window: Window) -> Array:
    """z[y, x, f] = sum over i, j, c of input[y s + i d - p, x s + j d - p, c] W[i, j, c, f], c in the group of f."""
    padded, W = pad(x, window), _weights_by_group(W, window.groups)
    pixels = len(x) * window.output_height * window.output_width
    z = np.zeros((window.groups, pixels, window.filters // window.groups), x.dtype)
    for i, j, tap in taps(window):
        z += _by_group(padded[tap], window.groups) @ W[i, j]
    return z.swapaxes(0, 1).reshape(len(x), -1)


def convolution_weights_gradient(x: Array, delta: Array, window: Window, out: Array) -> None:
    """dLoss/dW[i, j, c, f] = sum over rows, y, x of input[y s + i d - p, x s + j d - p, c] delta[y, x, f]."""
    padded, out = pad(x, window), _weights_by_group(out, window.groups)
    delta = _by_group(delta.reshape(-1, window.filters), window.groups)
    for i, j, tap in taps(window):
        out[i, j] = _by_group(padded[tap], window.groups).swapaxes(1, 2) @ delta


def convolution_inputs_gradient(W: Array, delta: Array, window: Window) -> Array:
    """Every delta[y, x, f] W[i, j, c, f] is added to the pixel that the product was made from."""
    W = _weights_by_group(W, window.groups).swapaxes(-1, -2)
    gradient = np.zeros(_padded_shape(len(delta), window), delta.dtype)
    by_group = _by_group(delta.reshape(-1, window.filters), window.groups)
    for i, j, tap in taps(window):
        part = gradient[tap]
        part += (by_group @ W[i, j]).swapaxes(0, 1).reshape(part.shape)
    return unpad(gradient, window).reshape(len(delta), -1)


def max_pooling(x: Array, window: Window) -> Array:
    """The largest pixel of every window and channel."""
    padded = pad(x, window, -np.inf)
    largest = np.full((len(x), *window.output_shape), -np.inf, x.dtype)
    for _, _, tap in taps(window):
        np.maximum(largest, padded[tap], out=largest)
    return largest.reshape(len(x), -1)


def max_pooling_gradient(x: Array, largest: Array, delta: Array, window: Window) -> Array:
    """delta goes to the window's largest pixel, to the first of several, and to no other."""
    padded = pad(x, window, -np.inf)
    largest, delta = (array.reshape(len(x), *window.output_shape) for array in (largest, delta))
    gradient = np.zeros_like(padded)
    found = np.zeros(largest.shape, bool)
    for _, _, tap in taps(window):
        is_it = (padded[tap] == largest) & ~found
        gradient[tap] += delta * is_it
        found |= is_it
    return unpad(gradient, window).reshape(len(x), -1)


def average_pooling(x: Array, window: Window) -> Array:
    """The mean of every window and channel, over pixels inside the image."""
    padded = pad(x, window)
    total = np.zeros((len(x), *window.output_shape), x.dtype)
    for _, _, tap in taps(window):
        total += padded[tap]
    return (total / _pixels_inside(window)).astype(x.dtype).reshape(len(x), -1)


def average_pooling_gradient(delta: Array, window: Window) -> Array:
    """Every pixel of a window has an equal share in its delta."""
    share = (delta.reshape(-1, *window.output_shape) / _pixels_inside(window)).astype(delta.dtype)
    gradient = np.zeros(_padded_shape(len(delta), window), delta.dtype)
    for _, _, tap in taps(window):
        gradient[tap] += share
    return unpad(gradient, window).reshape(len(delta), -1)


def _pixels_inside(window: Window) -> Array:
    """How many of each window's pixels lie inside the image, (output height, output width, 1)."""
    inside = pad(np.ones((1, window.height * window.width * window.channels)), window)[..., :1]
    return np.sum([inside[0][tap[1:]] for _, _, tap in taps(window)], axis=0)


def batch_statistics(x: Array, channels: int) -> tuple[Array, Array]:
    """Mean and biased variance of every channel over rows and pixels; summed in float64."""
    pixels = x.reshape(-1, channels)
    mean = pixels.mean(axis=0, dtype=np.float64)
    variance = ((pixels - mean) ** 2).mean(axis=0, dtype=np.float64)
    return mean.astype(x.dtype), variance.astype(x.dtype)


def normalise(x: Array, mean: Array, inverse_deviation: Array) -> Array:
    """(x - mean) / deviation, channel by channel, (rows * pixels, channels)."""
    return (x.reshape(-1, len(mean)) - mean) * inverse_deviation


def normalisation_gradient(normalised: Array, inverse_deviation: Array, gamma: Array, delta: Array) -> Array:
    """dLoss/dx where mean and deviation are the batch's own, and so depend on x too; all (rows * pixels, channels).

    With u the normalised numbers and g = gamma delta = dLoss/du: dLoss/dx = (g - mean(g) - u mean(g u)) / deviation.
    """
    g = gamma * delta
    mean_g = g.mean(axis=0, dtype=np.float64).astype(g.dtype)
    mean_gu = (g * normalised).mean(axis=0, dtype=np.float64).astype(g.dtype)
    return (g - mean_g - normalised * mean_gu) * inverse_deviation


def row_statistics(x: Array, epsilon: Any) -> tuple[Array, Array]:
    """Mean and 1 / deviation of every row, (rows, 1); summed in float64."""
    mean = x.mean(axis=1, keepdims=True, dtype=np.float64)
    variance = ((x - mean) ** 2).mean(axis=1, keepdims=True, dtype=np.float64)
    return mean.astype(x.dtype), 1 / np.sqrt(variance.astype(x.dtype) + epsilon)


def row_normalisation_gradient(normalised: Array, inverse_deviation: Array, gamma: Array, delta: Array) -> Array:
    """dLoss/dx where mean and deviation are the row's own, and so depend on x too; all (rows, units).

    As normalisation_gradient, with the means taken along the row: g keeps its gamma there, which differs in it.
    """
    g = gamma * delta
    mean_g = g.mean(axis=1, keepdims=True, dtype=np.float64).astype(g.dtype)
    mean_gu = (g * normalised).mean(axis=1, keepdims=True, dtype=np.float64).astype(g.dtype)
    return (g - mean_g - normalised * mean_gu) * inverse_deviation
