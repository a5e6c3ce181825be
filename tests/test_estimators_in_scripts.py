"""What scripts written for scikit-learn's MLP rely on: each goes on working when only its import changes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tests.test_estimators_same_model import assert_same, classes_of, make_data

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ROWS = 120


def both(task: str, **parameters: Any) -> list[Any]:
    """nnfast's estimator and scikit-learn's, unfitted, with the same parameters."""
    parameters = {"hidden_layer_sizes": (9, 5), "random_state": 3, "max_iter": 20, **parameters}
    return [kind(**parameters) for kind in classes_of(task)]


@pytest.mark.parametrize(
    ("solver", "of", "values"),
    [
        ("adam", "parameters", {"learning_rate_init": 0.1}),
        ("adam", "optimizer", {"learning_rate_init": 0.1}),
        ("adam", "optimizer", {"learning_rate": 0.1}),
        ("adam", "optimizer", {"beta_1": 0.5, "epsilon": 1e-3}),
        ("adam", "optimizer", {"t": 0}),
        ("adam", "parameters", {"beta_1": 0.5}),
        ("adam", "parameters", {"solver": "sgd"}),
        ("adam", "parameters", {"solver": "sgd", "learning_rate_init": 0.3, "learning_rate": "invscaling"}),
        ("adam", "parameters", {"alpha": 1.0, "batch_size": 7, "shuffle": False}),
        ("sgd", "parameters", {"learning_rate_init": 0.1}),
        ("sgd", "optimizer", {"learning_rate_init": 0.1}),
        ("sgd", "optimizer", {"learning_rate": 0.1}),
        ("sgd", "optimizer", {"lr_schedule": "invscaling", "learning_rate_init": 0.2}),
        ("sgd", "optimizer", {"momentum": 0.5, "nesterov": False}),
        ("sgd", "parameters", {"momentum": 0.5, "learning_rate": "invscaling"}),
        ("sgd", "parameters", {"solver": "adam", "learning_rate_init": 0.3}),
    ],
    ids=str,
)
def test_what_is_changed_between_calls_of_partial_fit_has_scikit_learn_s_effect(
    solver: str, of: str, values: dict[str, Any]
) -> None:
    """Only the optimizer of the first call counts, with what a script sets on it; other parameters count at once."""
    X, y = make_data("regression")
    ours, theirs = both("regression", solver=solver, batch_size=16)
    parts = np.array_split(np.arange(ROWS), 4) * 2
    for number, part in enumerate(parts):
        for estimator in (ours, theirs):
            if number == 3:
                if of == "parameters":
                    estimator.set_params(**values)
                else:
                    vars(estimator._optimizer).update(values)
            estimator.partial_fit(X[part], y[part])
        assert_same(ours, theirs, X)
        assert ours._optimizer.learning_rate == pytest.approx(theirs._optimizer.learning_rate, rel=1e-12)
    for estimator in (ours, theirs):  # fit begins anew, with the parameters as they are now
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.fit(X, y)
    assert_same(ours, theirs, X)
