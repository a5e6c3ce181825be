"""GridSearchCV around nnfast's MLPClassifier and around scikit-learn's, on digits, by the backends of joblib."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

# 30 candidates, each on 5 folds
LAYERS = [(100,), (64,), (64, 32), (32, 32), (50,), (20,)]
RATES = [0.001, 0.002, 0.005, 0.01, 0.02]
EPOCHS = 60


def search(repeats: int) -> list[str]:
    """The lines of the table."""
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
