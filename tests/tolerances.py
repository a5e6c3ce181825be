"""Every tolerance of the tests, and why it is what it is.

Agreement of arrays is measured as max|a - b| / max|b|: elementwise relative errors say little of sums whose terms
cancel (merely reordering rows moves single elements of a float32 gradient by 2%).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# One training step on two backends: the same operations in another order.
ONE_STEP = {"float64": 1e-12, "float32": 1e-5}

# A whole 1500-iteration run of the tutorial's network in float64. Over 500 seeds two orders of summation differed by
# 1.4e-11 at most.
TUTORIAL_RUN = 1e-9

# Ten steps of an optimizer: g / (sqrt(v) + epsilon) turns rounding in a vanishing gradient into a visible one.
TEN_STEPS = {"float64": 1e-10, "float32": 1e-3}

# A derivative against central differences of a float64 loss, step 1e-6.
FINITE_DIFFERENCES = 1e-7

# A formula in float32 or float64 against a more precise computation, element by element, relative.
FORMULA = {"float32": 2e-6, "float64": 1e-14}

# Accuracy of two full float32 training runs of one network on two backends, in absolute terms.
ACCURACY_OF_RUNS = 0.01

# Against other implementations that do the same arithmetic in another order, in float64.
PEER = 1e-10

# The CPU kernels' own exp, log, tanh, ... against long double, in units in the last place.
UNITS_IN_THE_LAST_PLACE = {"float32": 2, "float64": 4}

# A fit of the estimators against scikit-learn's own, per array of weights: float64, sgd and adam to their end, where
# scikit-learn under one ulp of noise in its inputs stays within 1e-12 of itself; L-BFGS after as many iterations.
SAME_MODEL = 1e-9
SAME_MODEL_LBFGS = {30: 1e-9, 60: 1e-6}

# Where L-BFGS amplifies rounding beyond that: how many times as far from scikit-learn as scikit-learn, the farthest of
# eight fits, is from itself with its rows in another order. Over six data sets the factor was 7 at most.
SAME_MODEL_LBFGS_ORDER = 15.0

# The same in float32, after one epoch.
SAME_MODEL_ONE_EPOCH = 1e-5

# A whole float32 fit: how many times as far from scikit-learn as scikit-learn, the farthest of a few runs, is from
# itself under one ulp of noise. Both are draws from one distribution; its spread is about a factor of two.
SAME_MODEL_NOISE = 3.0


def difference(a: ArrayLike, b: ArrayLike) -> float:
    """max|a - b| / max|b|, and 0 where both are zero."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    largest = float(abs(b).max(initial=0.0))
    return float(abs(a - b).max(initial=0.0)) / (largest or 1.0)
