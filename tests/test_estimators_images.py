"""The estimators with networks of images: shapes of X, running statistics, and what scikit-learn has no place for."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from nnfast import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, MLPClassifier, MLPRegressor, Network
from tests.test_images import labelled

NETWORK = Network(
    (8, 6),
    [Conv2D(4, 3, bias=False), BatchNorm(activation="relu"), MaxPool2D(2), Flatten(), Dense(1, "sigmoid")],
)


def classifier(**options: Any) -> MLPClassifier:
    settings: dict[str, Any] = {"network": NETWORK, "backend": "numpy", "random_state": 0, "max_iter": 8, "tol": 0.0}
    return MLPClassifier(**settings | {"learning_rate_init": 0.02, "batch_size": 20} | options)


@pytest.fixture
def images() -> Any:
    pixels, labels = labelled((8, 6), 80)
    return pixels / 255.0, labels


pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # so few epochs do not converge


def test_images_of_any_accepted_shape_give_the_same_classifier(images: Any) -> None:
    X, y = images
    fitted = classifier().fit(X, y)
    assert fitted.score(X, y) == 1
    assert fitted.n_features_in_ == 48
    assert [W.shape for W in fitted.coefs_] == [(3, 3, 1, 4), (4,), (24, 1)]
    assert [b.shape for b in fitted.intercepts_] == [(4,), (4,), (1,)]
    assert fitted.n_layers_ == 4
    for shape in ((80, 8, 6, 1), (80, 48)):
        other = classifier().fit(X.reshape(shape), y)
        np.testing.assert_array_equal(other.predict_proba(X.reshape(shape)), fitted.predict_proba(X))
    in_lists = fitted.predict_proba(X[:3].tolist())
    np.testing.assert_allclose(in_lists, fitted.predict_proba(X[:3]), rtol=1e-12)


def test_running_statistics_go_with_the_estimator(images: Any) -> None:
    X, y = images
    fitted = classifier().fit(X, y)
    alone = np.vstack([fitted.predict_proba(X[row : row + 1]) for row in range(10)])
    np.testing.assert_allclose(alone, fitted.predict_proba(X[:10]), rtol=1e-9)  # by statistics, not by the batch
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
    again = clone(fitted).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_partial_fit_goes_on_with_its_statistics(images: Any) -> None:
    X, y = images
    whole = classifier(shuffle=False, solver="sgd", max_iter=3).fit(X, y)
    parts = classifier(shuffle=False, solver="sgd")
    for _ in range(3):
        parts.partial_fit(X, y, classes=[0, 1])
        parts.predict(X)
    np.testing.assert_allclose(parts.predict_proba(X), whole.predict_proba(X), rtol=1e-9)


def test_early_stopping_gives_the_best_epoch_s_statistics(images: Any) -> None:
    X, y = images
    noisy = np.where(np.random.default_rng(0).random(80) < 0.3, 1 - y, y)
    options: dict[str, Any] = {"validation_data": (X, noisy), "learning_rate_init": 0.1}
    stopped = classifier(early_stopping=True, n_iter_no_change=4, max_iter=30, **options).fit(X, noisy)
    best = int(np.argmax(stopped.validation_scores_)) + 1
    assert stopped.score(X, noisy) == max(stopped.validation_scores_)
    until_best = classifier(max_iter=best, **options).fit(X, noisy)
    np.testing.assert_array_equal(stopped.predict_proba(X), until_best.predict_proba(X))


def test_scorers_and_cross_validation_take_images(images: Any) -> None:
    X, y = images
    assert cross_val_score(classifier(), X, y, cv=3).min() > 0.9
    watched = classifier(early_stopping=True, monitor="roc_auc", validation_fraction=0.2).fit(X, y)
    assert watched.score(X, y) > 0.9


def test_regressors_take_images_too(images: Any) -> None:
    X, _ = images
    network = Network((8, 6), [Conv2D(3, 3, activation="tanh"), Flatten(), Dense(2)])
    y = np.stack([X[:, :4].mean(axis=(1, 2)), X[:, 4:].mean(axis=(1, 2))], axis=1)
    fitted = MLPRegressor(network=network, backend="numpy", random_state=0, max_iter=60, learning_rate_init=0.02)
    assert fitted.fit(X, y).score(X, y) > 0.8


def test_what_does_not_fit_is_refused(images: Any) -> None:
    X, y = images
    with pytest.raises(ValueError, match=r"X has shape \(80, 6, 8\), but the network takes \(n_rows, 8, 6\)"):
        classifier().fit(X.transpose(0, 2, 1), y)
    fitted = classifier().fit(X, y)
    with pytest.raises(ValueError, match=r"X has shape \(80, 8, 5\), but the network takes \(n_rows, 8, 6\)"):
        fitted.predict(X[:, :, :5])
    with pytest.raises(ValueError, match="Found array with dim 3"):
        classifier(network=None).fit(X, y)
    with pytest.raises(ValueError, match="other layers than Dense and Dropout needs solver='sgd' or 'adam'"):
        classifier(solver="lbfgs").fit(X, y)
    with pytest.raises(ValueError, match="scikit-learn has dense layers only"):
        fitted.to_sklearn()
