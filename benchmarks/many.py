"""Many networks at once: a table for each way to ask for them. Results are compared before any is timed.

    python -m benchmarks.many                      prints all tables
    python -m benchmarks.many --only search        one of them
    python -m benchmarks.many --repeats 1          once, quickly

Everything in a table is timed in turn (A B C A B C), on the wall, on all cores; the medians count. What competes for
the cores falsifies them, so the load before and after stands below each table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

# 30 candidates, each on 5 folds
LAYERS = [(100,), (64,), (64, 32), (32, 32), (50,), (20,)]
RATES = [0.001, 0.002, 0.005, 0.01, 0.02]
EPOCHS = 60


def search(repeats: int) -> list[str]:
    """GridSearchCV around nnfast's MLPClassifier and around scikit-learn's, on digits, by the backends of joblib."""
    import numpy as np
    from joblib import parallel_config
    from joblib.externals.loky import get_reusable_executor
    from sklearn import neural_network
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV

    import nnfast
    from nnfast.support.threads import thread_count

    X, y = load_digits(return_X_y=True)
    X = X / 16
    cores = thread_count()

    def fitted(kind: Any, context: Any) -> Any:
        grid = {"hidden_layer_sizes": LAYERS, "learning_rate_init": RATES}
        with context:
            return GridSearchCV(kind(max_iter=EPOCHS, random_state=0), grid, cv=5).fit(X, y)

    ours, theirs = nnfast.MLPClassifier, neural_network.MLPClassifier
    ways: dict[str, Callable[[], Any]] = {
        "nnfast, together": lambda: fitted(ours, nnfast.together()),
        "nnfast, loky": lambda: fitted(ours, parallel_config("loky", n_jobs=cores)),
        "nnfast, in sequence": lambda: fitted(ours, parallel_config("sequential")),
        "scikit-learn, loky": lambda: fitted(theirs, parallel_config("loky", n_jobs=cores)),
        "scikit-learn, threading": lambda: fitted(theirs, parallel_config("threading", n_jobs=cores)),
        "scikit-learn, in sequence": lambda: fitted(theirs, parallel_config("sequential")),
    }
    seconds: dict[str, list[float]] = {}
    scores: dict[str, Any] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            rounds = ("started", "warm") if name.endswith("loky") else ("",)
            for one in rounds:  # the first search of a script starts joblib's processes; a second one finds them
                start = time.perf_counter()
                found = way()
                seconds.setdefault(f"{name} {one}".rstrip(), []).append(time.perf_counter() - start)
                scores[name] = found.cv_results_["mean_test_score"]
            if name.endswith("loky"):
                get_reusable_executor().shutdown(wait=True)
    for name, found in scores.items():
        reference = scores["nnfast, in sequence" if name.startswith("nnfast") else "scikit-learn, in sequence"]
        if not np.array_equal(found, reference):
            raise SystemExit(f"{name}: other scores than in sequence")
    apart = float(np.abs(scores["nnfast, together"] - scores["scikit-learn, in sequence"]).max())
    if apart > 0.01:
        raise SystemExit(f"scikit-learn's candidates score otherwise than nnfast's, by up to {apart:.4f}")
    taken = {name: statistics.median(one) for name, one in seconds.items()}
    candidates = len(LAYERS) * len(RATES)
    return [
        f"GridSearchCV on digits, {candidates} candidates x 5 folds and a refit, {EPOCHS} epochs, float64, batches of "
        f"200; equal scores in every row of a library, and up to {apart:.4f} apart between the two.",
        "",
        "| search | seconds | times as long as together |",
        "|---|--:|--:|",
        *(f"| {name} | {one:.2f} | {one / taken['nnfast, together']:.2f} |" for name, one in taken.items()),
    ]


TABLES = {"search": search}


def main() -> None:
    from nnfast.benchmarking.bench import environment

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="these tables alone")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # that so few epochs do not converge
    os.environ["PYTHONWARNINGS"] = "ignore"  # in joblib's processes
    facts = environment()
    packages = ("nnfast", "scikit-learn", "joblib", "numpy", "numba")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"{facts['cpu']}, {facts['cores']} cores; {versions}. Median of {arguments.repeats}, in turn.", flush=True)
    for name in arguments.only:
        before = os.getloadavg()[0]
        lines = TABLES[name](arguments.repeats)
        print("", *lines, "", f"Load before {before:.1f}, after {os.getloadavg()[0]:.1f}.", sep="\n", flush=True)


if __name__ == "__main__":
    main()
