"""Batch normalisation of interleaved images and of flat rows. The formulas: docs/convolutions.md.

Statistics need the whole batch, so both passes have two phases, between which all threads must meet: sums over the
batch, for channels start..stop-1, then a pass over groups of images, or over rows.

    statistics(row, constants, workspace, state, n, mode, start, stop)
        mean and 1 / deviation of n rows, in the workspace, and in training the running ones in the state.
        constants: momentum, epsilon
    forward(row, parameters, gradient, workspace, n, first, last)
        z = gamma u + beta with u = (x - mean) / deviation
    sums(row, gradient, workspace, n, start, stop)
        dLoss/dgamma = sum delta u and dLoss/dbeta = sum delta
    backward(row, parameters, gradient, workspace, n, first, last)
        dLoss/dx = gamma / deviation (delta - dLoss/dbeta / N - u dLoss/dgamma / N), N = n pixels

Images: a channel's numbers are whole registers, and lanes without an image count nowhere. Flat rows: a register holds
neighbouring features. Sums are taken in float64, in the order of rows and pixels, and the variance from the deviations.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .compilation import helper
from .tables import RUNNING, TRAINING
from .vectors import keep, lane, lane_count, load, load_some, splat, store, store_some, total, widen

# A row: offsets in the workspace, the parameters (GAMMA, BETA) and the state (RUNNING_MEAN, RUNNING_VARIANCE), -1 where
# there is none; PIXELS of one image, 1 for flat rows.
(
    X, Z, DELTA, DX, MEAN, INVERSE_DEVIATION, GAMMA, BETA, RUNNING_MEAN, RUNNING_VARIANCE, PIXELS, CHANNELS,
) = range(12)  # fmt: skip
MOMENTUM, EPSILON = range(2)


def batch_norm_row(
    *, x: int, z: int, delta: int, dx: int, mean: int, inverse_deviation: int, gamma: int, beta: int,
    running_mean: int, running_variance: int, pixels: int, channels: int,
) -> NDArray[np.int64]:  # fmt: skip
    """The row for all kernels. dx: -1 where nothing before needs it."""
    values = (
        x, z, delta, dx, mean, inverse_deviation, gamma, beta, running_mean, running_variance, pixels, channels,
    )  # fmt: skip
    return np.array(values, dtype=np.int64)


@helper
def _set_statistics(row, constants, workspace, state, mode, c, mean, variance, count):
    """A channel's mean and inverse deviation. variance: biased, of `count` numbers."""
    if mode == RUNNING:
        mean, variance = state[row[RUNNING_MEAN] + c], state[row[RUNNING_VARIANCE] + c]
    workspace[row[MEAN] + c] = mean
    workspace[row[INVERSE_DEVIATION] + c] = 1.0 / math.sqrt(variance + constants[EPSILON])
    if mode == TRAINING:
        momentum = constants[MOMENTUM]
        unbiased = variance * (count / max(count - 1.0, 1.0))
        state[row[RUNNING_MEAN] + c] += momentum * (mean - state[row[RUNNING_MEAN] + c])
        state[row[RUNNING_VARIANCE] + c] += momentum * (unbiased - state[row[RUNNING_VARIANCE] + c])


def image_statistics(row, constants, workspace, state, n, mode, start, stop):
    lanes = lane_count(workspace)
    pixel = row[CHANNELS] * lanes
    size = row[PIXELS] * pixel
    count = float(n * row[PIXELS])
    for c in range(start, stop):
        mean = 0.0
        variance = 0.0
        if mode != RUNNING:
            first = row[X] + c * lanes
            sums = widen(splat(workspace, 0.0))
            for group in range((n + lanes - 1) // lanes):
                there = n - group * lanes
                for place in range(first + group * size, first + (group + 1) * size, pixel):
                    sums += widen(keep(load(workspace, place), there))
            mean = total(sums) / count
            center = splat(workspace, mean)
            sums = widen(splat(workspace, 0.0))
            for group in range((n + lanes - 1) // lanes):
                there = n - group * lanes
                for place in range(first + group * size, first + (group + 1) * size, pixel):
                    deviation = widen(keep(load(workspace, place) - center, there))
                    sums += deviation * deviation
            variance = total(sums) / count
        _set_statistics(row, constants, workspace, state, mode, c, mean, variance, count)


def flat_statistics(row, constants, workspace, state, n, mode, start, stop):
    lanes = lane_count(workspace)
    features = row[CHANNELS]
    for block in range(start, stop, lanes):
        there = min(lanes, stop - block)
        first = row[X] + block
        means = widen(splat(workspace, 0.0))
        squares = means
        if mode != RUNNING:
            for place in range(first, first + n * features, features):
                means += widen(load_some(workspace, place, there))
            for k in range(there):
                workspace[row[MEAN] + block + k] = lane(means, k) / n
            center = load_some(workspace, row[MEAN] + block, there)
            for place in range(first, first + n * features, features):
                deviation = widen(load_some(workspace, place, there) - center)
                squares += deviation * deviation
        for k in range(there):
            _set_statistics(
                row, constants, workspace, state, mode, block + k, lane(means, k) / n, lane(squares, k) / n, float(n)
            )


def image_forward(row, parameters, gradient, workspace, n, first, last):
    lanes = lane_count(workspace)
    size = row[PIXELS] * row[CHANNELS] * lanes
    for place in range(first * size, last * size, row[CHANNELS] * lanes):
        for c in range(row[CHANNELS]):
            factor = workspace[row[INVERSE_DEVIATION] + c] * parameters[row[GAMMA] + c]
            u = load(workspace, row[X] + place + c * lanes) - splat(workspace, workspace[row[MEAN] + c])
            z = u * splat(workspace, factor) + splat(workspace, parameters[row[BETA] + c])
            store(z, workspace, row[Z] + place + c * lanes)


def flat_forward(row, parameters, gradient, workspace, n, first, last):
    lanes = lane_count(workspace)
    features = row[CHANNELS]
    for place in range(first * features, last * features, features):
        for c in range(0, features, lanes):
            there = min(lanes, features - c)
            factor = load_some(workspace, row[INVERSE_DEVIATION] + c, there) * load_some(
                parameters, row[GAMMA] + c, there
            )
            u = load_some(workspace, row[X] + place + c, there) - load_some(workspace, row[MEAN] + c, there)
            z = u * factor + load_some(parameters, row[BETA] + c, there)
            store_some(z, workspace, row[Z] + place + c, there)


def image_sums(row, gradient, workspace, n, start, stop):
    lanes = lane_count(workspace)
    pixel = row[CHANNELS] * lanes
    size = row[PIXELS] * pixel
    for c in range(start, stop):
        center = splat(workspace, workspace[row[MEAN] + c])
        slopes = widen(splat(workspace, 0.0))
        products = slopes
        for group in range((n + lanes - 1) // lanes):
            there = n - group * lanes
            for place in range(group * size + c * lanes, (group + 1) * size, pixel):
                delta = widen(keep(load(workspace, row[DELTA] + place), there))
                slopes += delta
                products += delta * widen(load(workspace, row[X] + place) - center)
        gradient[row[BETA] + c] = total(slopes)
        gradient[row[GAMMA] + c] = total(products) * workspace[row[INVERSE_DEVIATION] + c]


def flat_sums(row, gradient, workspace, n, start, stop):
    lanes = lane_count(workspace)
    features = row[CHANNELS]
    for block in range(start, stop, lanes):
        there = min(lanes, stop - block)
        center = load_some(workspace, row[MEAN] + block, there)
        slopes = widen(splat(workspace, 0.0))
        products = slopes
        for place in range(block, block + n * features, features):
            delta = widen(load_some(workspace, row[DELTA] + place, there))
            slopes += delta
            products += delta * widen(load_some(workspace, row[X] + place, there) - center)
        for k in range(there):
            gradient[row[BETA] + block + k] = lane(slopes, k)
            gradient[row[GAMMA] + block + k] = lane(products, k) * workspace[row[INVERSE_DEVIATION] + block + k]


def image_backward(row, parameters, gradient, workspace, n, first, last):
    lanes = lane_count(workspace)
    size = row[PIXELS] * row[CHANNELS] * lanes
    inverse_count = 1.0 / (n * row[PIXELS])
    for group in range(first, last):
        there = n - group * lanes
        for place in range(group * size, (group + 1) * size, row[CHANNELS] * lanes):
            for c in range(row[CHANNELS]):
                inverse_deviation = workspace[row[INVERSE_DEVIATION] + c]
                u = load(workspace, row[X] + place + c * lanes) - splat(workspace, workspace[row[MEAN] + c])
                mean_of_products = gradient[row[GAMMA] + c] * inverse_deviation * inverse_count
                rest = u * splat(workspace, mean_of_products) + splat(
                    workspace, gradient[row[BETA] + c] * inverse_count
                )
                dx = load(workspace, row[DELTA] + place + c * lanes) - rest
                dx = dx * splat(workspace, inverse_deviation * parameters[row[GAMMA] + c])
                store(keep(dx, there), workspace, row[DX] + place + c * lanes)


def flat_backward(row, parameters, gradient, workspace, n, first, last):
    lanes = lane_count(workspace)
    features = row[CHANNELS]
    inverse_count = splat(workspace, 1.0 / n)
    for place in range(first * features, last * features, features):
        for c in range(0, features, lanes):
            there = min(lanes, features - c)
            inverse_deviation = load_some(workspace, row[INVERSE_DEVIATION] + c, there)
            u = load_some(workspace, row[X] + place + c, there) - load_some(workspace, row[MEAN] + c, there)
            rest = u * inverse_deviation * load_some(gradient, row[GAMMA] + c, there)
            rest = (rest + load_some(gradient, row[BETA] + c, there)) * inverse_count
            dx = load_some(workspace, row[DELTA] + place + c, there) - rest
            dx = dx * inverse_deviation * load_some(parameters, row[GAMMA] + c, there)
            store_some(dx, workspace, row[DX] + place + c, there)
