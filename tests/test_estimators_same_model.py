"""The promise of the estimators: with the same seed, data and parameters they fit scikit-learn's very model."""

from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import neural_network
from sklearn.base import clone

from nnfast import MLPClassifier, MLPRegressor
from nnfast.backends import Backend
from nnfast.estimators.base import FEW_ROWS
from nnfast.estimators.lbfgs import Objective
from tests.tolerances import (
    SAME_MODEL,
    SAME_MODEL_LBFGS,
    SAME_MODEL_LBFGS_ORDER,
    SAME_MODEL_NOISE,
    SAME_MODEL_ONE_EPOCH,
    difference,
)

ROWS, BATCH = 120, 50  # three steps an epoch, the last of them shorter
TASKS = ("binary", "multiclass", "multilabel", "regression", "multi-output")
TO_THE_END = {"sgd": {"learning_rate_init": 0.05}, "adam": {"learning_rate_init": 0.01}}


def make_data(task: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    X = random.normal(size=(ROWS, 6))
    hidden = np.tanh(X @ random.normal(size=(6, 3))) + 0.3 * random.normal(size=(ROWS, 3))
    y = {
        "binary": np.where(hidden[:, 0] > 0, 3, 7),
        "multiclass": hidden.argmax(axis=1) * 10,
        "multilabel": (hidden > 0).astype(int),
        "regression": hidden[:, 0] * 3 + 1,
        "multi-output": hidden,
    }[task]
    return X, y


def classes_of(task: str) -> tuple[Any, Any]:
    if task in ("binary", "multiclass", "multilabel"):
        return MLPClassifier, neural_network.MLPClassifier
    return MLPRegressor, neural_network.MLPRegressor


def fit_both(task: str, X: Any, y: Any, sample_weight: Any = None, **parameters: Any) -> tuple[Any, Any]:
    """Both libraries' estimators, fitted alike. Their warnings that the fit did not converge are not the matter."""
    parameters = {"random_state": 3, "batch_size": BATCH, "hidden_layer_sizes": (9, 5), **parameters}
    fitted = []
    for kind in classes_of(task):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted.append(kind(**parameters).fit(X, y, sample_weight))
    return fitted[0], fitted[1]


def weights_of(estimator: Any) -> list[np.ndarray]:
    return [*estimator.coefs_, *estimator.intercepts_]


def distance(ours: Any, theirs: Any) -> float:
    return max(difference(a, b) for a, b in zip(weights_of(ours), weights_of(theirs), strict=True))


def assert_same(ours: Any, theirs: Any, X: Any, tolerance: float = SAME_MODEL) -> None:
    """The same weights, attributes and predictions."""
    assert distance(ours, theirs) < tolerance
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=tolerance)
    for name in ("loss_curve_", "validation_scores_", "best_validation_score_", "best_loss_"):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        expected = getattr(theirs, name, None)
        if expected is None:
            assert getattr(ours, name, None) is None, name
        else:
            np.testing.assert_allclose(getattr(ours, name), expected, rtol=100 * tolerance, atol=tolerance)
    for a, b in zip(weights_of(ours), weights_of(theirs), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
    if hasattr(theirs, "classes_"):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=100 * tolerance)
    else:
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6, atol=100 * tolerance)
    assert ours.predict(X).dtype == theirs.predict(X).dtype


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("sizes", [(), (12,), (9, 5)], ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_a_whole_fit_gives_the_same_model(solver: str, activation: str, sizes: tuple[int, ...], task: str) -> None:
    X, y = make_data(task)
    ours, theirs = fit_both(
        task, X, y, solver=solver, activation=activation, hidden_layer_sizes=sizes, **TO_THE_END[solver]
    )
    assert_same(ours, theirs, X)


@pytest.mark.parametrize("iterations", SAME_MODEL_LBFGS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("task", TASKS)
def test_lbfgs_gives_the_same_model(iterations: int, activation: str, task: str) -> None:
    X, y = make_data(task)
    parameters = {"solver": "lbfgs", "activation": activation, "max_iter": iterations, "alpha": 0.01}
    ours, theirs = fit_both(task, X, y, **parameters)
    tolerance = SAME_MODEL_LBFGS[iterations]
    if distance(ours, theirs) >= tolerance:  # then scikit-learn is as far from itself when it sums in another order
        orders = [np.random.default_rng(seed).permutation(ROWS) for seed in range(8)]
        itself = [distance(fit_both(task, X[order], y[order], **parameters)[1], theirs) for order in orders]
        tolerance = max(tolerance, SAME_MODEL_LBFGS_ORDER * max(itself))
    assert_same(ours, theirs, X, tolerance)


def test_lbfgs_to_its_end_reaches_as_low_a_loss_where_scikit_learn_leaves_itself() -> None:
    X, y = make_data("multiclass")
    parameters = {"solver": "lbfgs", "max_iter": 300, "activation": "logistic", "alpha": 0.01}
    ours, theirs = fit_both("multiclass", X, y, **parameters)
    _, noisy = fit_both("multiclass", one_ulp_of_noise(X, 0), y, **parameters)
    assert distance(noisy, theirs) > 1e-3, "if this fails, the promise can be made stronger"
    assert ours.loss_ <= max(theirs.loss_, noisy.loss_) * 1.05


def one_ulp_of_noise(X: np.ndarray, seed: int) -> np.ndarray:
    """X with every element moved by at most one unit in its last place."""
    return np.nextafter(X, np.random.default_rng(seed).choice([-np.inf, np.inf], X.shape).astype(X.dtype))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.2, "tol": 1e-3, "n_iter_no_change": 3},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.3, "max_iter": 40},
        {"solver": "sgd", "momentum": 0.5, "nesterovs_momentum": False, "max_iter": 40},
        {"solver": "sgd", "momentum": 0, "max_iter": 40},
        {"shuffle": False, "max_iter": 40},
        {"alpha": 1.0, "max_iter": 40},
        {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 5, "learning_rate_init": 0.01},
        {"early_stopping": True, "solver": "sgd", "learning_rate": "adaptive", "tol": 0.01, "n_iter_no_change": 2},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-4, "max_iter": 40},
        {"tol": 0.01, "n_iter_no_change": 2, "learning_rate_init": 0.05},
        {"batch_size": "auto", "max_iter": 30},
        {"batch_size": 1, "max_iter": 2},
    ],
    ids=lambda parameters: " ".join(f"{name}={value}" for name, value in parameters.items()),
)
def test_every_parameter_means_the_same(parameters: dict[str, Any], task: str) -> None:
    X, y = make_data(task)
    assert_same(*fit_both(task, X, y, **parameters), X)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weights_count_the_same(task: str, solver: str, early_stopping: bool) -> None:
    X, y = make_data(task)
    weights = np.random.default_rng(1).integers(0, 4, ROWS).astype(float)
    weights[:3] = 0.5
    ours, theirs = fit_both(task, X, y, weights, solver=solver, max_iter=30, early_stopping=early_stopping)
    assert_same(ours, theirs, X)


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("task", ["multiclass", "multi-output"])
@pytest.mark.parametrize("least", [0.8, 1.6])  # the second leaves 11%, which the first layer reads itself
def test_sparse_rows_give_the_same_model(layout: Any, solver: str, task: str, least: float) -> None:
    X, y = make_data(task)
    X[abs(X) < least] = 0
    ours, theirs = fit_both(task, layout(X), y, solver=solver, max_iter=30)
    assert_same(ours, theirs, layout(X))
    dense, _ = fit_both(task, X, y, solver=solver, max_iter=30)
    assert distance(ours, dense) < SAME_MODEL


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_of_certain_mistakes_is_clipped_the_same(task: str, backend: str, dtype: str) -> None:
    """Where outputs are 0 and 1 to rounding, the loss that is shown decides when a fit stops."""
    X, y = make_data(task)
    X = (1e6 * X).astype(dtype)
    fitted = []
    for kind, options in zip(classes_of(task), ({"backend": backend}, {}), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted.append(kind((9,), random_state=3, max_iter=40, tol=1e-3, n_iter_no_change=5, **options).fit(X, y))
    ours, theirs = fitted
    shares = theirs.predict_proba(X)
    assert np.minimum(shares, 1 - shares).max() < np.finfo(dtype).eps
    np.testing.assert_allclose(ours.loss_curve_[0], theirs.loss_curve_[0], rtol=SAME_MODEL_ONE_EPOCH)
    if dtype == "float64":
        assert ours.n_iter_ == theirs.n_iter_ < 40
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=SAME_MODEL)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_classes_may_be_text(task: str) -> None:
    X, y = make_data(task)
    text = np.array([f"class {label}" for label in y])
    ours, theirs = fit_both(task, X, text, max_iter=30)
    assert_same(ours, theirs, X)
    # scikit-learn before 1.8 cannot stop early with these, so that numbers stand for them
    by_number, _ = fit_both(task, X, y, max_iter=30, early_stopping=True)
    by_text = clone(by_number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_text.fit(X, text)
    assert by_text.validation_scores_ == by_number.validation_scores_


def test_sparse_rows_are_held_out_the_same() -> None:
    X, y = make_data("binary")
    assert_same(*fit_both("binary", sp.csr_matrix(X), y, early_stopping=True, max_iter=30), X)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_warm_start_goes_on_the_same(solver: str, early_stopping: bool) -> None:
    X, y = make_data("multiclass")
    pair = fit_both("multiclass", X, y, solver=solver, warm_start=True, max_iter=10, early_stopping=early_stopping)
    for _ in range(2):
        for estimator in pair:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                estimator.fit(X, y)
    assert_same(*pair, X)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("random_state", [5, "an instance"])
def test_partial_fit_goes_on_the_same(task: str, solver: str, random_state: Any) -> None:
    X, y = make_data(task)
    classes = {"binary": np.unique(y), "multiclass": np.unique(y), "multilabel": np.arange(3)}
    options = {"classes": classes[task]} if task in classes else {}
    pair = []
    for kind in classes_of(task):
        state = np.random.RandomState(5) if random_state == "an instance" else random_state
        estimator = kind(hidden_layer_sizes=(8,), solver=solver, random_state=state, batch_size=16)
        for part in np.array_split(np.arange(ROWS), 4) * 3:
            estimator.partial_fit(X[part], y[part], **options)
        pair.append(estimator)
    assert_same(*pair, X)


def test_a_random_state_instance_is_left_where_scikit_learn_leaves_it() -> None:
    X, y = make_data("multiclass")
    states = [np.random.RandomState(0), np.random.RandomState(0)]
    fitted = []
    for kind, state in zip(classes_of("multiclass"), states, strict=True):
        estimator = kind((8,), random_state=state, tol=0.01, n_iter_no_change=3, learning_rate_init=0.02)
        fitted.append([estimator.fit(X, y).coefs_[0], estimator.fit(X, y).coefs_[0]])
    assert states[0].randint(2**31) == states[1].randint(2**31)
    assert difference(fitted[0][0], fitted[0][1]) > 0.1, "the second fit goes on with the stream"
    assert difference(fitted[0][1], fitted[1][1]) < SAME_MODEL


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("task", ["regression", "multi-output"])
def test_poisson_rates_are_fitted_the_same(solver: str, task: str) -> None:
    X, y = make_data(task)
    ours, theirs = fit_both(task, X, np.exp(y / 2), loss="poisson", solver=solver, max_iter=30)
    assert ours.out_activation_ == "exp"
    assert_same(ours, theirs, X)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", TASKS)
def test_one_float32_epoch_gives_the_same_model(solver: str, task: str) -> None:
    X, y = make_data(task)
    X = X.astype(np.float32)
    ours, theirs = fit_both(task, X, y, solver=solver, max_iter=1)
    assert ours.coefs_[0].dtype == np.float32
    assert distance(ours, theirs) < SAME_MODEL_ONE_EPOCH
    assert ours.predict(X).dtype == theirs.predict(X).dtype


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_float32_fit_is_no_further_from_scikit_learn_than_it_is_from_itself(task: str) -> None:
    X, y = make_data(task)
    X = X.astype(np.float32)
    y = y.astype(np.float32) if task == "regression" else y
    parameters = {"max_iter": 60, "learning_rate_init": 0.01, "activation": "tanh"}
    ours, theirs = fit_both(task, X, y, **parameters)
    noise = []
    for seed in range(4):
        _, noisy = fit_both(task, one_ulp_of_noise(X, seed), y, **parameters)
        noise.append(distance(noisy, theirs))
    assert distance(ours, theirs) <= SAME_MODEL_NOISE * max(noise)


def test_float64_fits_of_scikit_learn_under_noise_are_as_close_as_the_tolerance_supposes() -> None:
    X, y = make_data("multiclass")
    _, theirs = fit_both("multiclass", X, y, learning_rate_init=0.01)
    _, noisy = fit_both("multiclass", one_ulp_of_noise(X, 0), y, learning_rate_init=0.01)
    assert distance(noisy, theirs) < SAME_MODEL / 10


@pytest.mark.parametrize("task", TASKS)
def test_lbfgs_computes_in_float64_for_float32_rows(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # scikit-learn's solver works in float64 there, but SciPy hands it points rounded to float32
    X, y = make_data(task)
    X = X.astype(np.float32)
    parameters = {"solver": "lbfgs", "max_iter": 30, "activation": "tanh"}
    points = []
    evaluate = Objective.__call__
    monkeypatch.setattr(Objective, "__call__", lambda self, x: (points.append(x.copy()), evaluate(self, x))[1])
    ours, theirs = fit_both(task, X, y, **parameters)
    assert any((point != point.astype(np.float32)).any() for point in points)
    assert ours.coefs_[0].dtype == theirs.coefs_[0].dtype == np.float64
    noise = [distance(fit_both(task, one_ulp_of_noise(X, seed), y, **parameters)[1], theirs) for seed in range(3)]
    assert distance(ours, theirs) <= SAME_MODEL_NOISE * max(noise)
    assert ours.predict(X).dtype == theirs.predict(X).dtype


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_every_backend_fits_the_same_model(backend: Backend, solver: str) -> None:
    X, y = make_data("multiclass")
    ours, theirs = fit_both("multiclass", X, y, solver=solver, max_iter=20)
    other = clone(ours).set_params(backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.fit(X, y)
    assert_same(other, theirs, X)


def test_long_epochs_are_cut_into_stretches_without_changing_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make_data("multiclass")
    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 1e-9)  # one step each
    ours, theirs = fit_both("multiclass", X, y, max_iter=30)
    assert_same(ours, theirs, X)


@pytest.mark.parametrize("task", TASKS)
def test_a_few_rows_are_predicted_like_many(task: str) -> None:
    """A few go through scikit-learn's own forward pass, more through a program."""
    X, y = make_data(task)
    ours, theirs = fit_both(task, X, y, max_iter=5)
    many = np.tile(X, (5, 1))
    assert len(X) <= FEW_ROWS < len(many)
    method = "predict_proba" if hasattr(ours, "predict_proba") else "predict"
    few = getattr(ours, method)(X)
    assert difference(few, getattr(theirs, method)(X)) < SAME_MODEL
    assert difference(getattr(ours, method)(many), np.tile(few.T, 5).T) < SAME_MODEL


@pytest.mark.parametrize(
    "parameters",
    [{"dtype": "float64"}, {"activation": "gelu"}, {"activation": ["tanh", "relu"]}, {"backend": "numpy"}],
)
def test_what_scikit_learn_has_not_is_predicted_for_few_rows_and_many_alike(parameters: dict[str, Any]) -> None:
    X, y = make_data("multiclass")
    fitted, _ = fit_both("multiclass", X, y, max_iter=5)
    fitted.set_params(**parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(X.astype("float32"), y)
    one = fitted.predict_proba(X.astype("float32")[:1])
    assert one.dtype == fitted.coefs_[0].dtype
    assert difference(one, fitted.predict_proba(np.tile(X.astype("float32"), (5, 1)))[:1]) < SAME_MODEL_ONE_EPOCH


@pytest.mark.parametrize("task", ["multiclass", "regression"])
@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"solver": "sgd", "alpha": 1}])
def test_bytes_give_the_model_of_their_numbers(task: str, options: dict[str, Any]) -> None:
    X, y = make_data(task)
    X = np.clip(3 * X + 4, 0, 8).astype(np.uint8)
    ours, theirs = fit_both(task, X, y, max_iter=20, **options)
    assert ours.coefs_[0].dtype == np.float64
    assert_same(ours, theirs, X)


def test_bytes_are_not_held_as_numbers() -> None:
    random = np.random.default_rng(0)
    X, y = random.integers(0, 256, (5000, 784)).astype(np.uint8), np.arange(5000) % 2
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MLPClassifier((2,), max_iter=1).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * X.nbytes  # float64 alone takes eight times as much


@pytest.mark.parametrize("layout", ["bytes swapped", "sparse values apart", "sparse indices apart"])
def test_rows_mean_the_same_however_they_lie_in_memory(layout: str) -> None:
    """Programs read arrays by their addresses; scikit-learn and SciPy accept any layout."""
    X, y = make_data("multiclass")
    X[abs(X) < 1.6] = 0
    fitted, _ = fit_both("multiclass", X, y, max_iter=3)
    many = np.tile(X, (5, 1))
    rows = sp.csr_matrix(many)
    if layout == "bytes swapped":
        rows = many.astype(many.dtype.newbyteorder())
    elif layout == "sparse values apart":
        rows = (rows * (1 + 1j)).real
        assert not rows.data.flags.c_contiguous
    else:
        rows.indices = np.repeat(rows.indices, 2)[::2]
    assert difference(fitted.predict_proba(rows), fitted.predict_proba(many)) < SAME_MODEL
