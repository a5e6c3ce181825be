"""Layer normalisation of flat rows, each by its own mean and deviation. The formulas: docs/convolutions.md.

Rows do not meet on either way:

    layer_norm_forward(row, parameters, gradient, workspace, n, first, last)
        of the rows first..last-1, mean and 1 / deviation, and z = gamma u + beta with u = (x - mean) / deviation
    layer_norm_backward(row, parameters, gradient, workspace, n, first, last)
        dLoss/dx = (g - mean(g) - u mean(g u)) / deviation with g = gamma delta
    layer_norm_sums(row, gradient, workspace, first, last, start, stop)
        adds the rows first..last-1 to the elements start..stop-1 of dLoss/dgamma = sum delta u and, behind it,
        dLoss/dbeta = sum delta

A register holds neighbouring features, so that a row's sums are those of its lanes, in float64, added up at its end;
the parameters' sums take the rows in their order, one chain for each element.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .calls import at, pointer_to
from .compilation import helper
from .vectors import fma, keep, lane_count, load, load_some, splat, store, store_some, total, widen

# A row: offsets in the workspace and in the parameters (GAMMA, behind which stands BETA), DX -1 where nothing before
# needs it; EPSILON: the address of a float64.
X, Z, DELTA, DX, MEAN, INVERSE_DEVIATION, GAMMA, BETA, FEATURES, EPSILON = range(10)


def layer_norm_row(
    *, x: int, z: int, delta: int, dx: int, mean: int, inverse_deviation: int, gamma: int, beta: int, features: int,
    epsilon: int,
) -> NDArray[np.int64]:  # fmt: skip
    """The row for all kernels."""
    return np.array((x, z, delta, dx, mean, inverse_deviation, gamma, beta, features, epsilon), dtype=np.int64)


@helper
def _load(pointer, offset, count):
    """A whole register from an offset on, or, where fewer than its lanes are left, the first `count` and zeros."""
    if count >= lane_count(pointer):
        return load(pointer, offset)
    return load_some(pointer, offset, count)


@helper
def _store(value, pointer, offset, count):
    if count >= lane_count(pointer):
        store(value, pointer, offset)
    else:
        store_some(value, pointer, offset, count)


def layer_norm_forward(row, parameters, gradient, workspace, n, first, last):
    lanes = lane_count(workspace)
    features, epsilon = row[FEATURES], pointer_to(row[EPSILON], np.float64(0))[0]
    gamma, beta = at(parameters, row[GAMMA]), at(parameters, row[BETA])
    means, factors = at(workspace, row[MEAN]), at(workspace, row[INVERSE_DEVIATION])
    xs, zs = at(workspace, row[X]), at(workspace, row[Z])
    zero = widen(splat(workspace, 0.0))
    for i in range(first, last):
        x, z = at(xs, i * features), at(zs, i * features)
        sums = zero
        for c in range(0, features, lanes):
            sums += widen(_load(x, c, features - c))
        mean = total(sums) / features
        center = splat(workspace, mean)
        squares = zero
        for c in range(0, features, lanes):
            there = features - c
            deviation = _load(x, c, there) - center
            if there < lanes:
                deviation = keep(deviation, there)
            squares = fma(widen(deviation), widen(deviation), squares)
        factor = 1.0 / math.sqrt(total(squares) / features + epsilon)
        means[i] = mean
        factors[i] = factor
        for c in range(0, features, lanes):
            there = features - c
            u = (_load(x, c, there) - center) * splat(workspace, factor)
            _store(fma(_load(gamma, c, there), u, _load(beta, c, there)), z, c, there)


def layer_norm_backward(row, parameters, gradient, workspace, n, first, last):
    lanes = lane_count(workspace)
    features, gamma = row[FEATURES], at(parameters, row[GAMMA])
    means, factors = at(workspace, row[MEAN]), at(workspace, row[INVERSE_DEVIATION])
    xs, deltas, dxs = at(workspace, row[X]), at(workspace, row[DELTA]), at(workspace, row[DX])
    zero = widen(splat(workspace, 0.0))
    for i in range(first, last):
        x, delta, dx = at(xs, i * features), at(deltas, i * features), at(dxs, i * features)
        center, factor = splat(workspace, means[i]), splat(workspace, factors[i])
        of_g = of_gu = zero
        for c in range(0, features, lanes):
            there = features - c
            g = _load(gamma, c, there) * _load(delta, c, there)
            u = (_load(x, c, there) - center) * factor
            of_g += widen(g)
            of_gu += widen(g * u)
        mean_g, mean_gu = splat(workspace, total(of_g) / features), splat(workspace, total(of_gu) / features)
        for c in range(0, features, lanes):
            there = features - c
            g = _load(gamma, c, there) * _load(delta, c, there)
            u = (_load(x, c, there) - center) * factor
            _store((g - mean_g - u * mean_gu) * factor, dx, c, there)


def layer_norm_sums(row, gradient, workspace, first, last, start, stop):
    features = row[FEATURES]
    _add_products(row, gradient, workspace, first, last, start, min(stop, features))
    _add_deltas(row, gradient, workspace, first, last, max(start - features, 0), stop - features)


@helper
def _add_products(row, gradient, workspace, first, last, start, stop):
    lanes = lane_count(workspace)
    features = row[FEATURES]
    for c in range(start, stop, lanes):
        there = min(lanes, stop - c)
        sums = _load(gradient, row[GAMMA] + c, there)
        for i in range(first, last):
            u = _load(workspace, row[X] + i * features + c, there) - splat(workspace, workspace[row[MEAN] + i])
            u = u * splat(workspace, workspace[row[INVERSE_DEVIATION] + i])
            sums = fma(_load(workspace, row[DELTA] + i * features + c, there), u, sums)
        _store(sums, gradient, row[GAMMA] + c, there)


@helper
def _add_deltas(row, gradient, workspace, first, last, start, stop):
    lanes = lane_count(workspace)
    features = row[FEATURES]
    for c in range(start, stop, lanes):
        there = min(lanes, stop - c)
        sums = _load(gradient, row[BETA] + c, there)
        for i in range(first, last):
            sums += _load(workspace, row[DELTA] + i * features + c, there)
        _store(sums, gradient, row[BETA] + c, there)
