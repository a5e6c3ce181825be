"""What is done to the whole gradient where it is asked for: penalties and clipping."""

from __future__ import annotations

import math

from .barrier import wait
from .calls import as_element, at
from .compilation import helper
from .shares import bias_share, share
from .tables import ALPHA, BIAS, COLUMNS, L1, PENALTIES, WEIGHT_COLUMNS, WEIGHT_ROWS, WEIGHTS
from .vectors import fma, lane_count, load, splat, store, total, widen


def add_penalties(operations, count, settings, parameters, gradient, penalties, divisor, thread, threads):
    """Add the gradients of alpha W**2 / 2 and l1 |W|, divided; and each row's penalties, not divided.

    Of `count` operations, for a thread's share of each one's weights. penalties: (all weights' rows,) float64. A row's
    depends on the row alone, so nothing does on how rows are shared.
    """
    alpha, l1 = settings[ALPHA], settings[L1]
    decay, shrinkage = as_element(parameters, alpha / divisor), as_element(parameters, l1 / divisor)
    for index in range(count):
        op = at(operations, index * COLUMNS)
        if op[WEIGHTS] < 0:
            continue
        columns = op[WEIGHT_COLUMNS]
        start, stop = share(op[WEIGHT_ROWS], thread, threads)
        for row in range(start, stop):
            offset = op[WEIGHTS] + row * columns
            W, slope = at(parameters, offset), at(gradient, offset)
            squares, absolutes = penalize(W, slope, columns, decay, shrinkage)
            penalties[op[PENALTIES] + row] = 0.5 * alpha * squares + l1 * absolutes


@helper
def penalize(W, gradient, size, decay, shrinkage):
    """gradient += decay W + shrinkage sign(W); the sums of W**2 and, where there is shrinkage, |W|, both float64.

    An L1 penalty, which is rare, is added number by number.
    """
    zero = decay - decay
    lanes = lane_count(W)
    whole = size // lanes * lanes if shrinkage == zero else 0
    wide_squares = widen(splat(W, zero))
    for i in range(0, whole, lanes):
        w = load(W, i)
        store(fma(splat(W, decay), w, load(gradient, i)), gradient, i)
        wide = widen(w)
        wide_squares = fma(wide, wide, wide_squares)
    squares = total(wide_squares) if whole > 0 else 0.0
    absolutes = 0.0
    for i in range(whole, size):
        w = W[i]
        gradient[i] += decay * w + (shrinkage if w > zero else -shrinkage if w < zero else zero)
        squares += float(w) * float(w)
        absolutes += abs(float(w))
    return squares, absolutes


@helper
def sum_of_squares(values, size):
    """float64, in four partial sums that do not wait for each other."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    whole = size // 4 * 4
    for i in range(0, whole, 4):
        w0, w1, w2, w3 = float(values[i]), float(values[i + 1]), float(values[i + 2]), float(values[i + 3])
        s0, s1, s2, s3 = s0 + w0 * w0, s1 + w1 * w1, s2 + w2 * w2, s3 + w3 * w3
    for i in range(whole, size):
        s0 += float(values[i]) * float(values[i])
    return s0 + s1 + s2 + s3


def clip(operations, count, gradient, size, clip_norm, barrier, give_way, thread, threads):
    """Scale the gradient, of `size` numbers, down to the norm clip_norm if it is longer: a thread's share of it."""
    wait(barrier, threads, give_way)
    norm = math.sqrt(sum_of_squares(gradient, size))
    factor = as_element(gradient, clip_norm / norm if norm > clip_norm else 1.0)
    wait(barrier, threads, give_way)
    for index in range(count):
        op = at(operations, index * COLUMNS)
        if op[WEIGHTS] >= 0:
            start, stop = share(op[WEIGHT_ROWS], thread, threads)
            columns = op[WEIGHT_COLUMNS]
            scale(at(gradient, op[WEIGHTS] + start * columns), (stop - start) * columns, factor)
        if op[BIAS] >= 0:
            start, stop = bias_share(op, thread, threads)
            scale(at(gradient, op[BIAS] + start), stop - start, factor)


@helper
def scale(values, size, factor):
    for i in range(size):
        values[i] *= factor
