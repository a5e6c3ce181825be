"""Row operations: softmax, its derivative, and cross-entropy, which formulas of one element cannot say.

z, a, y and delta point to blocks of `rows` rows. Short rows make short loops, so what each element does for itself is
done in one loop over the whole block, which vectorises whatever the rows' length.
"""

from __future__ import annotations

from .compilation import helper
from .elementary import exp, log


@helper
def shifted_exponentials(z, bias, a, shifted, rows, columns):
    """shifted = x - the row's largest x, with x = z + bias; a = exp(shifted).

    Subtracting the maximum changes nothing in exact arithmetic and keeps exp from overflowing.
    """
    for row in range(rows):
        start = row * columns
        top = z[start] + bias[0]
        for j in range(1, columns):
            x = z[start + j] + bias[j]
            top = x if x > top or x != x else top  # a NaN stays to be seen
        for j in range(columns):
            shifted[start + j] = z[start + j] + bias[j] - top
    for i in range(rows * columns):
        a[i] = exp(shifted[i])


@helper
def softmax(z, bias, a, scratch, rows, columns):
    """a = exp(x) / sum exp(x), row by row, with x = z + bias. scratch: room for a block."""
    shifted_exponentials(z, bias, a, scratch, rows, columns)
    for row in range(rows):
        start = row * columns
        total = a[start]
        for j in range(1, columns):
            total += a[start + j]
        for j in range(columns):
            a[start + j] /= total


@helper
def softmax_backward(a, delta, rows, columns):
    """delta = dLoss/da becomes dLoss/dz: da_k/dz_j = a_k ([k = j] - a_j), so dLoss/dz = a (delta - sum(a delta))."""
    for row in range(rows):
        start = row * columns
        inner = a[start] * delta[start]
        for j in range(1, columns):
            inner += a[start + j] * delta[start + j]
        for j in range(columns):
            delta[start + j] = a[start + j] * (delta[start + j] - inner)


@helper
def cross_entropy(z, bias, a, y, weights, delta, losses, scale, rows, columns):
    """Softmax and cross-entropy together: -sum y log a = sum y (log sum exp(x) - x), and dLoss/dz = a - y.

    delta is multiplied by the row's weight and `scale`. losses (rows,), float64: the rows' weighted losses.
    """
    shifted_exponentials(z, bias, a, delta, rows, columns)  # delta has room until it is written
    for row in range(rows):
        start = row * columns
        factor = weights[row] * scale
        total = a[start]
        for j in range(1, columns):
            total += a[start + j]
        log_total = log(total)
        row_loss = total - total
        for j in range(columns):
            row_loss += y[start + j] * (log_total - delta[start + j])
        for j in range(columns):
            share = a[start + j] / total
            a[start + j] = share
            delta[start + j] = factor * (share - y[start + j])
        losses[row] = float(weights[row]) * float(row_loss)
