"""What is done to the whole gradient where it is asked for: penalties and clipping."""

from __future__ import annotations

import math

from .barrier import wait
from .calls import as_element, at
from .compilation import helper
from .shares import bias_share, share
from .tables import ALPHA, BIAS, COLUMNS, L1, PENALTIES, WEIGHT_COLUMNS, WEIGHT_ROWS, WEIGHTS


def add_penalties(operations, count, settings, parameters, gradient, penalties, divisor, thread, threads):
    """Add the gradients of alpha W**2 / 2 and l1 |W|, divided; and each row's penalties, not divided.

    Of `count` operations, for a thread's share of each one's weights. penalties: (all weights' rows,) float64.
    """
    alpha, l1 = as_element(parameters, settings[ALPHA] / divisor), as_element(parameters, settings[L1] / divisor)
    for index in range(count):
        op = at(operations, index * COLUMNS)
        if op[WEIGHTS] < 0:
            continue
        columns = op[WEIGHT_COLUMNS]
        start, stop = share(op[WEIGHT_ROWS], thread, threads)
        offset = op[WEIGHTS] + start * columns
        penalize(at(parameters, offset), at(gradient, offset), (stop - start) * columns, alpha, l1)
        for row in range(start, stop):
            squares, absolutes = norms(at(parameters, op[WEIGHTS] + row * columns), columns)
            penalties[op[PENALTIES] + row] = 0.5 * settings[ALPHA] * squares + settings[L1] * absolutes


@helper
def penalize(W, gradient, size, alpha, l1):
    """gradient += alpha W + l1 sign(W)."""
    zero = alpha - alpha
    for i in range(size):
        w = W[i]
        sign = l1 if w > zero else (-l1 if w < zero else zero)
        gradient[i] += alpha * w + sign


@helper
def norms(row, size):
    """Sum of squares and sum of absolute values, float64, in four partial sums that do not wait for each other."""
    s0, s1, s2, s3, a0, a1, a2, a3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = size // 4 * 4
    for i in range(0, whole, 4):
        w0, w1, w2, w3 = float(row[i]), float(row[i + 1]), float(row[i + 2]), float(row[i + 3])
        s0, s1, s2, s3 = s0 + w0 * w0, s1 + w1 * w1, s2 + w2 * w2, s3 + w3 * w3
        a0, a1, a2, a3 = a0 + abs(w0), a1 + abs(w1), a2 + abs(w2), a3 + abs(w3)
    for i in range(whole, size):
        s0 += float(row[i]) * float(row[i])
        a0 += abs(float(row[i]))
    return s0 + s1 + s2 + s3, a0 + a1 + a2 + a3


def clip(operations, count, gradient, size, clip_norm, barrier, give_way, thread, threads):
    """Scale the gradient, of `size` numbers, down to the norm clip_norm if it is longer: a thread's share of it."""
    wait(barrier, threads, give_way)
    squares, _ = norms(gradient, size)
    norm = math.sqrt(squares)
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
