"""What small calls of nnfast's estimators cost beside scikit-learn's: a table of docs/estimators_benchmark.md.

    export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
    python -m benchmarks.estimator_calls                prints it, in microseconds of CPU time
    python -m benchmarks.estimator_calls --calls 10     a short run

Digits, and for L-BFGS also exclusive or and sparse rows, with the estimators' default parameters. Both libraries make
the same calls on the same data with the same seed; their weights are compared before anything is timed.
Then they are timed in turn, call by call, in one thread. The cells are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from sklearn import neural_network
from sklearn.datasets import load_digits

import nnfast

Make = Callable[[Any], Callable[[], Any]]  # of a library: a function that makes one call, and returns the estimator

ROWS = (1, 8, 32, 256)
CLASSES = np.arange(10)
SAME, SAME_IN_FLOAT64 = 1e-3, 1e-6  # of weights: float32 and L-BFGS amplify rounding
CALLS = 200


def partial_fit(X: Any, y: Any) -> Make:
    def make(library: Any) -> Callable[[], Any]:
        estimator = library.MLPClassifier(random_state=0).partial_fit(X, y, classes=CLASSES)
        return lambda: estimator.partial_fit(X, y)

    return make


def fit(X: Any, y: Any, **parameters: Any) -> Make:
    """Of a new estimator."""
    return lambda library: lambda: library.MLPClassifier(random_state=0, **parameters).fit(X, y)


def warm_fit(X: Any, y: Any, **parameters: Any) -> Make:
    def make(library: Any) -> Callable[[], Any]:
        estimator = library.MLPClassifier(random_state=0, warm_start=True, **parameters).fit(X, y)
        return lambda: estimator.fit(X, y)

    return make


def predict(X: Any, many: Any, y: Any) -> Make:
    """Of the same weights in both."""

    def make(library: Any) -> Callable[[], Any]:
        theirs = neural_network.MLPClassifier(random_state=0, max_iter=3).fit(many, y)
        estimator = theirs if library is neural_network else library.MLPClassifier.from_sklearn(theirs)
        return lambda: (estimator.predict(X), estimator)[1]

    return make


def cases() -> dict[str, Make]:
    digits, y = load_digits(return_X_y=True)
    made: dict[str, Make] = {}
    for dtype in ("float32", "float64"):
        X = (digits / 16).astype(dtype)
        made |= {f"partial_fit, {rows}, {dtype}": partial_fit(X[:rows], y[:rows]) for rows in ROWS}
        made |= {f"fit(max_iter=1), {rows}, {dtype}": fit(X[:rows], y[:rows], max_iter=1) for rows in (5, 20, 100)}
        made |= {f"predict, {rows}, {dtype}": predict(X[:rows], X, y) for rows in (1, 16, 256, 300)}
    xor = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    sparse = scipy.sparse.random(20, 500, 0.02, format="csr", random_state=0), np.arange(20) % 2
    made["lbfgs, xor, 4"] = fit(*xor, solver="lbfgs", hidden_layer_sizes=(4,))
    made["lbfgs, 5"] = fit(X[:5], y[:5], solver="lbfgs")
    made["lbfgs, warm, 5"] = warm_fit(X[:5], y[:5], solver="lbfgs")
    made["lbfgs, sparse, 20"] = fit(*sparse, solver="lbfgs", max_iter=20)
    return made


def check(name: str, ours: Any, theirs: Any) -> None:
    """Exit unless two estimators have the same weights, after equally many iterations."""
    same = SAME_IN_FLOAT64 if "float64" in name else SAME
    pairs = zip((*ours.coefs_, *ours.intercepts_), (*theirs.coefs_, *theirs.intercepts_), strict=True)
    apart = max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)
    if ours.n_iter_ != theirs.n_iter_ or not apart < same:
        raise SystemExit(f"{name}: different models: weights are {apart:.2g} apart, {ours.n_iter_}, {theirs.n_iter_}")


def medians(make: Make, name: str, calls: int) -> tuple[float, float]:
    """Seconds of CPU time of a call, by scikit-learn and by nnfast."""
    theirs, ours = make(neural_network), make(nnfast)
    for _ in range(3):
        check(name, ours(), theirs())
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(calls):
        for call, seconds in zip((theirs, ours), taken, strict=True):
            start = time.thread_time()
            call()
            seconds.append(time.thread_time() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def table(calls: int = CALLS) -> str:
    """The Markdown of the table."""
    lines = [
        f"Small calls, one thread: microseconds of CPU time, medians of {calls} calls in turn. Every fit is of a new "
        "estimator, unless it is warm.",
        "",
        "| call, rows | scikit-learn | nnfast | times faster |\n|---|--:|--:|--:|",
    ]
    for name, make in cases().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one epoch does not converge
            theirs, ours = medians(make, name, calls)
        lines.append(f"| {name} | {1e6 * theirs:.0f} | {1e6 * ours:.0f} | {theirs / ours:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=CALLS)
    print(table(parser.parse_args().calls))
