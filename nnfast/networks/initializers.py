"""The table of weight initializers: drawn on the host in float64, the same for every backend and dtype.

Weights are drawn as a matrix of fan_in rows and a column for each unit or filter. fan_out is how many numbers an input
reaches: the units of a dense layer, but kernel size times filters per group in a convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
Initializer = Callable[[np.random.Generator, int, int, int], Weights]  # (generator, fan_in, columns, fan_out)


def _uniform(limit: Callable[[int, int], float]) -> Initializer:
    """Uniform in [-limit, limit), whose standard deviation is limit / sqrt(3)."""
    return lambda generator, fan_in, columns, fan_out: generator.uniform(
        -limit(fan_in, fan_out), limit(fan_in, fan_out), (fan_in, columns)
    )


def _normal(deviation: Callable[[int, int], float]) -> Initializer:
    return lambda generator, fan_in, columns, fan_out: (
        deviation(fan_in, fan_out) * generator.standard_normal((fan_in, columns))
    )


def _orthogonal(generator: np.random.Generator, fan_in: int, columns: int, fan_out: int) -> Weights:
    """Orthonormal rows or columns, whichever are fewer (Saxe et al. 2014)."""
    tall = generator.standard_normal((max(fan_in, columns), min(fan_in, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the decomposition, and so the draw, unique
    return q if fan_in >= columns else q.T


INITIALIZERS: dict[str, Initializer] = {
    "zeros": lambda generator, fan_in, columns, fan_out: np.zeros((fan_in, columns)),
    "uniform": _uniform(lambda fan_in, fan_out: 0.05),
    # The tutorial's numpy.random.rand.
    "uniform_0_1": lambda generator, fan_in, columns, fan_out: generator.random((fan_in, columns)),
    "normal": _normal(lambda fan_in, fan_out: 0.05),
    # Glorot & Bengio 2010: variance 2 / (fan_in + fan_out).
    "glorot_uniform": _uniform(lambda fan_in, fan_out: (6 / (fan_in + fan_out)) ** 0.5),
    "glorot_normal": _normal(lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5),
    # He et al. 2015: variance 2 / fan_in, for the ReLU family.
    "he_uniform": _uniform(lambda fan_in, fan_out: (6 / fan_in) ** 0.5),
    "he_normal": _normal(lambda fan_in, fan_out: (2 / fan_in) ** 0.5),
    # LeCun et al. 1998: variance 1 / fan_in, what selu needs.
    "lecun_uniform": _uniform(lambda fan_in, fan_out: (3 / fan_in) ** 0.5),
    "lecun_normal": _normal(lambda fan_in, fan_out: (1 / fan_in) ** 0.5),
    "orthogonal": _orthogonal,
}


def check_initializer(name: str) -> str:
    """Return the name, or raise ValueError if there is no such initializer."""
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise ValueError(f"unknown initializer {name!r}; known: {', '.join(INITIALIZERS)}")
    return name
