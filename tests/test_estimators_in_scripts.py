"""What scripts written for scikit-learn's MLP rely on: each goes on working when only its import changes."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.base
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

from nnfast import MLPRegressor
from nnfast.estimators.messages import warn_as_scikit_learn
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


def does_not_converge(estimator: Any, X: Any, y: Any) -> None:
    estimator.set_params(max_iter=2).fit(X, y)


def has_too_large_batches(estimator: Any, X: Any, y: Any) -> None:
    estimator.set_params(batch_size=1000).partial_fit(X, y)


class InterruptsAtThree(io.StringIO):
    """Standard output that is interrupted when it is told of the third epoch."""

    def write(self, text: str) -> int:
        if text.startswith("Iteration 3"):
            raise KeyboardInterrupt
        return super().write(text)


def is_interrupted(estimator: Any, X: Any, y: Any) -> None:
    with contextlib.redirect_stdout(InterruptsAtThree()):
        estimator.set_params(verbose=True).fit(X, y)
    assert estimator.n_iter_ == 3


def does_not_converge_by_lbfgs(estimator: Any, X: Any, y: Any) -> None:
    estimator.set_params(solver="lbfgs", max_iter=2).fit(X, y)


def has_a_column_as_target(estimator: Any, X: Any, y: Any) -> None:
    estimator.partial_fit(X, y[:, np.newaxis])


WARNED = [
    does_not_converge,
    has_too_large_batches,
    is_interrupted,
    does_not_converge_by_lbfgs,
    has_a_column_as_target,
]


@pytest.mark.parametrize("script", WARNED, ids=lambda script: script.__name__)
def test_warnings_are_scikit_learn_s_and_come_from_its_module(script: Any) -> None:
    X, y = make_data("regression")
    seen = []
    for estimator in both("regression"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            script(estimator, X, y)
        seen.append([(warning.category, str(warning.message), warning.filename) for warning in caught])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module="sklearn")
            script(sklearn.base.clone(estimator), X, y)
    assert seen[0] == seen[1] != []


@pytest.mark.parametrize("module", [r"sklearn\.neural_network", r"sklearn\.neural_network\._multilayer_perceptron$"])
def test_a_filter_for_scikit_learn_s_module_can_make_its_warnings_errors(module: str) -> None:
    X, y = make_data("regression")
    for estimator in both("regression"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", category=ConvergenceWarning, module=module)
            with pytest.raises(ConvergenceWarning, match="Maximum iterations \\(2\\) reached"):
                does_not_converge(estimator, X, y)


@pytest.mark.parametrize(("action", "shown"), [("always", 4), ("default", 1), ("module", 1), ("once", 1)])
def test_a_warning_is_shown_as_often_as_its_filter_says(action: Any, shown: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        for _ in range(4):  # scikit-learn's fit itself forgets what was shown
            warn_as_scikit_learn(f"shown by {action}", ConvergenceWarning)
    assert len(caught) == shown


@pytest.mark.parametrize("options", [{}, {"solver": "sgd"}, {"solver": "lbfgs"}, {"early_stopping": True}], ids=str)
@pytest.mark.parametrize("task", ["multiclass", "regression"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fitted_numbers_have_scikit_learn_s_types(task: str, options: dict[str, Any], dtype: str) -> None:
    X, y = make_data(task)
    ours, theirs = both(task, **options)
    for estimator in (ours, theirs):
        estimator.fit(X.astype(dtype), y)
    names = [name for name in vars(theirs) if name.endswith("_") and not name.startswith("_")]
    assert len(names) >= 9
    for name in names:
        mine, others = getattr(ours, name), getattr(theirs, name)
        assert type(mine) is type(others), name
        if isinstance(mine, list):
            assert {type(item) for item in mine} == {type(item) for item in others}, name
    assert isinstance(ours.loss_.round(3), np.float64)
    if hasattr(ours, "loss_curve_"):
        assert ours.loss_curve_[-1].round(3) == theirs.loss_curve_[-1].round(3)


PRIVATE = {
    "_backprop": {},
    "_compute_loss_grad": {},
    "_forward_pass": {},
    "_update_no_improvement_count": {},
    "_score": {"early_stopping": True},
    "_predict": {"early_stopping": True},
    "_forward_pass_fast": {"early_stopping": True},
    "_fit_stochastic": {},
    "_loss_grad_lbfgs": {"solver": "lbfgs"},
    "_init_coef": {},
    "_initialize": {},
    "_validate_input": {},
}


@pytest.mark.parametrize("task", ["multiclass", "regression"])
@pytest.mark.parametrize("name", PRIVATE)
def test_a_subclass_s_own_private_method_is_called_or_refused(name: str, task: str) -> None:
    """Wherever scikit-learn's fit calls it, so that no override loses its effect without a word."""
    X, y = make_data(task)
    outcomes = []
    for kind in classes_of(task):
        called = []

        def override(self: Any, *arguments: Any, kind: Any = kind, called: Any = called, **options: Any) -> Any:
            called.append(name)
            return getattr(kind, name)(self, *arguments, **options)

        subclass = type("Mine", (kind,), {name: override, "__module__": __name__})
        get_params = kind(hidden_layer_sizes=(5,), max_iter=2, random_state=0, **PRIVATE[name]).get_params()
        estimator = subclass(**get_params)
        try:
            estimator.fit(X, y)
        except TypeError as error:
            called.append(str(error).partition(":")[0])
        outcomes.append(called[:1])
    refusal = f"Mine overrides {name}, which nnfast does not call when it fits"
    assert outcomes[0] in ([name], [refusal])
    assert outcomes[1] == [name]


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_method_set_on_scikit_learn_s_class_is_refused(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make_data("regression")
    monkeypatch.setattr(BaseMultilayerPerceptron, "_backprop", lambda self, *arguments: None)
    with pytest.raises(TypeError, match="MLPRegressor overrides _backprop, which nnfast does not call"):
        MLPRegressor(solver=solver).fit(X, y)


def test_methods_that_a_fit_does_not_use_may_be_overridden() -> None:
    """What only early stopping calls is no matter without it, nor are steps where a subclass has its own loop."""

    class Rounded(MLPRegressor):
        def _predict(self, X: Any, check_input: bool = True) -> Any:
            return super()._predict(X, check_input).round()

    class OwnLoop(MLPRegressor):
        def _backprop(self, *arguments: Any) -> Any:
            return super()._backprop(*arguments)

        def _fit_stochastic(self, *arguments: Any) -> None:
            BaseMultilayerPerceptron._fit_stochastic(self, *arguments)

    X, y = make_data("regression")
    predicted = Rounded(hidden_layer_sizes=(5,), max_iter=2).fit(X, y).predict(X)
    np.testing.assert_array_equal(predicted, predicted.round())
    _, theirs = both("regression", max_iter=5)
    own = OwnLoop(hidden_layer_sizes=(9, 5), random_state=3, max_iter=5).fit(X, y)
    assert_same(own, theirs.fit(X, y), X)
