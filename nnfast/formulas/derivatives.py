"""Checks a hand-derived derivative against finite differences of the value it belongs to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .formula import FormulaError

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]

RELATIVE_TOLERANCE = 1e-5  # of the derivative; finite differences in float64 are good to about 1e-9 here
ABSOLUTE_TOLERANCE = 1e-6  # of the function's own scale around the point


def check_derivative(value: Function, derivative: Function, points: NDArray[np.float64], what: str, name: str) -> None:
    """Raise FormulaError, with the point, where `derivative` is not the derivative of `value`.

    At a kink any slope between the left and the right one passes (the tables of nnfast state the left one).
    value, derivative: functions of a float64 array of points, elementwise. what, name: for the message, as in
    "activation 'mine'" and "z".
    """
    with np.errstate(all="ignore"):
        stated = np.broadcast_to(derivative(points), points.shape)
        values = value(points)
        left, right = one_sided_slopes(value, points)
    for kind, numbers in (("value", values), ("derivative", stated)):
        broken = ~np.isfinite(np.broadcast_to(numbers, points.shape))
        if broken.any():
            raise FormulaError(f"{what}: the {kind} is not finite at {name} = {points[broken][0]:.6g}")
    lowest, highest = np.minimum(left, right), np.maximum(left, right)
    slack = RELATIVE_TOLERANCE * np.maximum(abs(left), abs(right)) + ABSOLUTE_TOLERANCE * np.maximum(1, abs(values))
    wrong = ~((stated >= lowest - slack) & (stated <= highest + slack))  # also true where a slope is NaN
    if wrong.any():
        worst = int(np.argmax(wrong))
        raise FormulaError(
            f"{what}: at {name} = {points[worst]:.6g} the derivative is given as {stated[worst]:.9g}, "
            f"but the value's slope there is {left[worst]:.9g}"
        )


def one_sided_slopes(value: Function, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes of `value` just left and just right of each point: one-sided differences of second order."""
    step = 2.0**-17 * np.maximum(1.0, abs(points))  # about the cube root of float64's precision
    here = value(points)
    left = (3 * here - 4 * value(points - step) + value(points - 2 * step)) / (2 * step)
    right = (-3 * here + 4 * value(points + step) - value(points + 2 * step)) / (2 * step)
    return left, right
