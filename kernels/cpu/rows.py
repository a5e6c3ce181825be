"""Row operations: softmax, its derivative, and cross-entropy, which formulas of one element cannot say.

z, a, y and delta point to blocks of rows; `start` is the place of a row's first element.
"""

from __future__ import annotations

from .compilation import helper
from .elementary import exp, log


@helper
def softmax_row(z, bias, a, start, columns):
    """a = exp(x) / sum exp(x) with x = z + bias. Returns the row's max x and log sum exp(x - max).

    Subtracting the maximum changes nothing in exact arithmetic and keeps exp from overflowing.
    """
    top = z[start] + bias[0]
    for j in range(1, columns):
        x = z[start + j] + bias[j]
        top = x if x > top or x != x else top  # a NaN stays to be seen
    total = top - top
    for j in range(columns):
        exponential = exp(z[start + j] + bias[j] - top)
        a[start + j] = exponential
        total += exponential
    for j in range(columns):
        a[start + j] /= total
    return top, log(total)


@helper
def softmax_backward_row(a, delta, start, columns):
    """delta = dLoss/da becomes dLoss/dz: da_k/dz_j = a_k ([k = j] - a_j), so dLoss/dz = a (delta - sum(a delta))."""
    inner = a[start] * delta[start]
    for j in range(1, columns):
        inner += a[start + j] * delta[start + j]
    for j in range(columns):
        delta[start + j] = a[start + j] * (delta[start + j] - inner)


@helper
def cross_entropy_row(z, bias, a, y, delta, weight, scale, start, columns):
    """Softmax and cross-entropy of a row together: -sum y log a = sum y (log sum exp(x) - x), dLoss/dz = a - y.

    delta is multiplied by weight * scale. Returns the row's loss, not weighted.
    """
    top, log_sum = softmax_row(z, bias, a, start, columns)
    loss = log_sum - log_sum
    for j in range(columns):
        x = z[start + j] + bias[j] - top
        loss += y[start + j] * (log_sum - x)
        delta[start + j] = weight * scale * (a[start + j] - y[start + j])
    return loss
