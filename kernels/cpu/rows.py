"""Row operations: softmax, its derivative, and cross-entropy, which formulas of one element cannot say.

z, a, y and delta point to blocks of `rows` rows. Short rows make short loops, so what is done element by element is
done in one loop over the whole block, which vectorises whatever the rows' length.
"""

from __future__ import annotations

from .calls import as_element, at
from .compilation import helper
from .elementary import exp, log
from .vectors import lane_count, load, load_some, rest_of, store, store_some


def _make_elementwise(function):
    """target = function(source), for `size` elements; the two may be one array. As the loops of formulas.py."""

    @helper
    def elementwise(source, target, size):
        lanes, room = lane_count(source), rest_of(source)
        done = 0
        while done < size:
            count = size - done
            n, x, out = count // lanes * lanes, at(source, done), at(target, done)
            if count < lanes:
                n, x, out = lanes, room, room
                store(load_some(source, done, count), room, 0)
            for i in range(n):
                out[i] = function(x[i])
            if count < lanes:
                store_some(load(room, 0), target, done, count)
                n = count
            done += n

    return elementwise


_exponentials = _make_elementwise(exp)
_logarithms = _make_elementwise(log)


@helper
def shifted_exponentials(z, a, shifted, rows, columns):
    """shifted = z - the row's largest z; a = exp(shifted).

    Subtracting the maximum changes nothing in exact arithmetic and keeps exp from overflowing.
    """
    for row in range(rows):
        start = row * columns
        top = z[start]
        for j in range(1, columns):
            x = z[start + j]
            top = x if x > top or x != x else top  # a NaN stays to be seen
        for j in range(columns):
            shifted[start + j] = z[start + j] - top
    _exponentials(shifted, a, rows * columns)


@helper
def softmax(z, a, scratch, rows, columns):
    """a = exp(z) / sum exp(z), row by row. scratch: room for a block."""
    shifted_exponentials(z, a, scratch, rows, columns)
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
def cross_entropy(z, a, y, weights, delta, losses, scale, rows, columns, least, most):
    """Softmax and cross-entropy together: -sum y log a = sum y (log sum exp(z) - z), and dLoss/dz = a - y.

    delta is multiplied by the row's weight and `scale`. losses (rows,), float64: the rows' weighted losses, with -log a
    raised to `least` or lowered to `most`.
    """
    shifted_exponentials(z, a, delta, rows, columns)  # delta has room until it is written
    for row in range(rows):
        start = row * columns
        total = a[start]
        for j in range(1, columns):
            total += a[start + j]
        losses[row] = total
        z[row] = total
    _logarithms(z, z, rows)  # of all rows at once; z itself is not needed any more
    for row in range(rows):
        start = row * columns
        factor = weights[row] * scale
        log_total = z[row]
        total = as_element(z, losses[row])
        row_loss = total - total
        for j in range(columns):
            surprise = log_total - delta[start + j]
            surprise = least if surprise < least else most if surprise > most else surprise  # a NaN stays
            row_loss += y[start + j] * surprise
        for j in range(columns):
            share = a[start + j] / total
            a[start + j] = share
            delta[start + j] = factor * (share - y[start + j])
        losses[row] = float(weights[row]) * float(row_loss)
