"""What the estimators give beyond scikit-learn's, and that they refuse what cannot be."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, get_scorer
from sklearn.utils._param_validation import InvalidParameterError

from nnfast import (
    ACTIVATIONS,
    Activation,
    Dense,
    Dropout,
    EpochRecord,
    Loss,
    MLPClassifier,
    MLPRegressor,
    Network,
    train,
)
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.schedules import StepDecay
from nnfast.training.stopping import EarlyStopping
from tests.test_estimators_same_model import distance, make_data, weights_of
from tests.tolerances import SAME_MODEL, difference

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

HIDDEN = [name for name in ACTIVATIONS if not ACTIVATIONS[name].output_only]


def classifier(**parameters: Any) -> MLPClassifier:
    return MLPClassifier(**{"hidden_layer_sizes": (9, 5), "random_state": 0, "max_iter": 20, **parameters})


def regressor(**parameters: Any) -> MLPRegressor:
    return MLPRegressor(**{"hidden_layer_sizes": (9, 5), "random_state": 0, "max_iter": 20, **parameters})


@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_every_activation_of_the_table_fits(activation: str, solver: str) -> None:
    X, y = make_data("multiclass")
    fitted = classifier(activation=activation, solver=solver, max_iter=60, learning_rate_init=0.02).fit(X, y)
    assert fitted.score(X, y) > 0.6


def test_a_list_of_one_activation_is_that_activation() -> None:
    X, y = make_data("multiclass")
    for name, names in (("logistic", ["sigmoid", "logistic"]), ("tanh", ("tanh", "tanh"))):
        one, two = (classifier(activation=activation).fit(X, y) for activation in (name, names))
        assert distance(one, two) == 0


def test_layers_have_activations_and_dropout_of_their_own() -> None:
    X, y = make_data("regression")
    own = Activation("half", value="z / 2", derivative="0.5")
    fitted = regressor(activation=["silu", own], dropout=[0.0, 0.3]).fit(X, y)
    network = Network(6, [Dense(9, "silu"), Dense(5, own), Dropout(0.3), Dense(1)])
    other = regressor(network=network)
    other.coefs_, other.intercepts_, other.out_activation_ = fitted.coefs_, fitted.intercepts_, "identity"
    other.n_features_in_ = 6
    np.testing.assert_array_equal(fitted.predict(X), other.predict(X))


def test_dropout_trains_another_model_reproducibly_and_predicts_with_all_units() -> None:
    X, y = make_data("multiclass")
    fits = [classifier(dropout=rate).fit(X, y) for rate in (0.0, 0.5, 0.5)]
    assert distance(fits[1], fits[0]) > 0.01
    assert distance(fits[1], fits[2]) == 0
    np.testing.assert_array_equal(fits[1].predict_proba(X), fits[1].predict_proba(X))
    parts = [classifier(dropout=0.5) for _ in range(2)]
    for estimator in parts:
        for _ in range(3):
            estimator.partial_fit(X, y, classes=np.unique(y))
    assert distance(*parts) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_the_table_fits(loss: str) -> None:
    X, y = make_data("regression")
    y = abs(y) / abs(y).max()
    if loss == "cross_entropy":
        y = np.column_stack([y, 1 - y])
    fitted = regressor(loss=loss, learning_rate_init=0.02 if loss != "sum_squared_error" else 0.001).fit(X, y)
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]
    expected = {"poisson": "exp", "binary_cross_entropy": "logistic", "cross_entropy": "softmax"}
    assert fitted.out_activation_ == expected.get(loss, "identity")


def test_a_loss_of_ones_own_fits_a_regressor_and_a_classifier() -> None:
    quartic = Loss("quartic", value="(a - y)**4", derivative="4 * (a - y)**3")
    X, y = make_data("multi-output")
    assert regressor(loss=quartic, max_iter=100, learning_rate_init=0.02).fit(X, y).score(X, y) > 0.1
    X, y = make_data("multiclass")
    for solver in ("adam", "lbfgs"):
        fitted = classifier(loss=quartic, solver=solver, max_iter=60, learning_rate_init=0.02).fit(X, y)
        assert fitted.score(X, y) > 0.6


def test_scikit_learns_squared_error_is_averaged_over_outputs_in_what_it_shows_alone() -> None:
    X, y = make_data("multi-output")
    named = regressor().fit(X, y)
    plain = regressor(loss=LOSSES["squared_error"]).fit(X, y)
    assert distance(named, plain) < SAME_MODEL
    assert named.loss_ < 0.5 * plain.loss_


def test_class_weights_are_sample_weights() -> None:
    X, y = make_data("binary")
    by_class = classifier(class_weight={7: 3.0}).fit(X, y)
    by_row = classifier().fit(X, y, np.where(y == 7, 3.0, 1.0))
    assert distance(by_class, by_row) == 0
    balanced = classifier(class_weight="balanced", solver="lbfgs").fit(X, y)
    counts = np.unique(y, return_counts=True)[1]
    weights = len(y) / (2 * counts[(y == 7).astype(int)])
    assert distance(balanced, classifier(solver="lbfgs").fit(X, y, weights)) == 0
    with pytest.raises(ValueError, match="balanced"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=np.unique(y))


def test_penalties_and_clipping_are_those_of_train() -> None:
    X, y = make_data("regression")
    network = Network(6, [Dense(7, "tanh"), Dense(1)])
    orders = []
    state = np.random.RandomState(4)
    estimator = MLPRegressor(
        network=network, random_state=state, l1=0.02, clip_norm=0.3, alpha=0.1, max_iter=15, batch_size=30,
        schedule="cosine", shuffle=True,
    )  # fmt: skip
    start = np.random.RandomState(4)
    probe = MLPRegressor(network=network, random_state=start, max_iter=1, l1=0.02, batch_size=120, shuffle=False)
    probe.learning_rate_init = 1e-300  # moves nothing: the initial weights
    probe.fit(X, y)
    order = np.arange(len(X))
    for _ in range(15):
        order = order[start.permutation(len(X))]
        orders.append(order)
    estimator.fit(X, y)
    initial = np.concatenate(
        [part.ravel() for W, b in zip(probe.coefs_, probe.intercepts_, strict=True) for part in (W, b)]
    )
    model = train(
        network, X, y, l1=0.02, clip_norm=0.3, alpha=0.1, epochs=15, batch_size=30, schedule="cosine", dtype="float64",
        learning_rate=0.001, initial_parameters=initial, orders=orders.__getitem__, backend="numba",
    )  # fmt: skip
    for ours, theirs in zip(estimator.coefs_, list(model.layer_parameters().values())[::2], strict=True):
        assert difference(ours, theirs) < SAME_MODEL
    np.testing.assert_allclose(estimator.loss_curve_, model.history.loss, rtol=1e-9)


@pytest.mark.parametrize("schedule", ["step", "exponential", "inverse_scaling", "cosine", "plateau"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_schedules_change_the_rate(schedule: str, solver: str) -> None:
    X, y = make_data("regression")
    seen: list[float] = []
    fitted = regressor(
        schedule=schedule, solver=solver, max_iter=40, learning_rate_init=1e-4, tol=0, n_iter_no_change=100,
        callbacks=[lambda record: seen.append(record.learning_rate)],
    ).fit(X, y)  # fmt: skip
    assert len(seen) == fitted.n_iter_
    assert seen[-1] < seen[0] or schedule == "plateau"


def test_callbacks_hear_of_every_epoch_and_can_end_the_fit() -> None:
    X, y = make_data("multiclass")
    records: list[EpochRecord] = []

    def stop_at_three(record: EpochRecord) -> bool:
        records.append(record)
        return record.epoch == 3

    fitted = classifier(callbacks=(stop_at_three,), validation_data=(X, y)).fit(X, y)
    assert fitted.n_iter_ == 3
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [record.loss for record in records] == fitted.loss_curve_
    assert records[-1].metrics["validation_accuracy"] == fitted.score(X, y)


@pytest.mark.parametrize("answer", [True, np.True_, np.bool_(1)])
def test_a_callback_ends_a_fit_by_the_answers_that_end_a_run_of_train(answer: Any) -> None:
    X, y = make_data("regression")
    callbacks = [lambda record: answer if record.epoch == 2 else None]
    assert regressor(callbacks=callbacks).fit(X, y).n_iter_ == 2
    assert train(Network(6, [Dense(1)]), X, y, epochs=9, callbacks=callbacks).history.epochs == 2


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression", "multi-output"])
def test_validation_data_is_judged_after_every_epoch(task: str) -> None:
    X, y = make_data(task)
    make = regressor if task in ("regression", "multi-output") else classifier
    weights = np.random.default_rng(0).random(60)
    fitted = make(validation_data=(X[60:], y[60:], weights)).fit(X[:60], y[:60])
    plain = make().fit(X[:60], y[:60])
    assert distance(fitted, plain) == 0, "looking changes nothing"
    assert len(fitted.validation_loss_curve_) == len(fitted.validation_scores_) == fitted.n_iter_
    assert fitted.validation_scores_[-1] == pytest.approx(fitted.score(X[60:], y[60:], weights), rel=1e-12)
    stopped = make(validation_data=(X[60:], y[60:]), early_stopping=True, max_iter=100).fit(X[:60], y[:60])
    assert stopped.best_validation_score_ == pytest.approx(stopped.score(X[60:], y[60:]), rel=1e-12)


def test_early_stopping_watches_what_it_is_told() -> None:
    X, y = make_data("regression")
    by_loss = regressor(
        early_stopping=True, monitor="loss", max_iter=400, learning_rate_init=0.05, n_iter_no_change=5
    ).fit(X, y)
    best = int(np.argmin(by_loss.validation_loss_curve_))
    assert by_loss.n_iter_ < 400
    assert by_loss.best_validation_score_ == by_loss.validation_scores_[best]
    before = by_loss.n_iter_
    assert by_loss.fit(X, y).n_iter_ == before, "a new fit knows nothing of the best of the last one"
    X, y = make_data("multiclass")
    scorer = get_scorer("f1_macro")
    fits = [
        classifier(early_stopping=True, monitor=monitor, max_iter=60, learning_rate_init=0.02).fit(X, y)
        for monitor in ("f1_macro", scorer)
    ]
    assert distance(*fits) == 0
    values = []

    def remember(estimator: Any, X: Any, y: Any) -> float:
        values.append(f1_score(y, estimator.predict(X), average="macro"))
        return float(values[-1])

    classifier(early_stopping=True, monitor=remember, max_iter=60, learning_rate_init=0.02).fit(X, y)
    assert len(set(values)) > 1, "the scorer sees the weights of its epoch"


def test_early_stopping_on_loss_means_what_it_means_to_train() -> None:
    X, y = make_data("regression")
    watched: list[float] = []
    patience = 4

    def note(record: EpochRecord) -> None:
        watched.append(record.metrics["validation_loss"])

    fitted = regressor(
        early_stopping=True, monitor="loss", max_iter=400, learning_rate_init=0.05, n_iter_no_change=patience,
        callbacks=[note],
    ).fit(X, y)  # fmt: skip
    assert watched == fitted.validation_loss_curve_
    best, waited = np.inf, 0
    for value in watched:
        waited = 0 if value < best - EarlyStopping().tolerance else waited + 1
        best = min(best, value)
    assert waited == patience + 1  # scikit-learn's n_iter_no_change is one epoch more patient


def test_a_network_of_ones_own() -> None:
    X, y = make_data("multiclass")
    network = Network(6, [Dense(8, "gelu", bias=False, initializer="he_normal"), Dropout(0.1), Dense(3, "softmax")])
    fitted = classifier(network=network, max_iter=60, learning_rate_init=0.02).fit(X, y)
    assert [W.shape for W in fitted.coefs_] == [(6, 8), (8, 3)]
    assert not fitted.intercepts_[0].any()
    assert fitted.score(X, y) > 0.6
    assert classifier(network=network, solver="lbfgs").set_params(
        network=Network(6, [Dense(8, "gelu", bias=False), Dense(3, "softmax")])
    ).fit(X, y).score(X, y) > 0.6  # fmt: skip
    with pytest.raises(ValueError, match="X has 6 features, but network takes 5"):
        classifier(network=Network(5, [Dense(3, "softmax")])).fit(X, y)
    with pytest.raises(ValueError, match="y needs 3 outputs, but network gives 2"):
        classifier(network=Network(6, [Dense(2, "softmax")])).fit(X, y)


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float32])
def test_dtype_is_that_of_weights_and_predictions(dtype: Any) -> None:
    X, y = make_data("regression")
    fitted = regressor(dtype=dtype).fit(X, y)
    assert all(array.dtype == dtype for array in weights_of(fitted))
    assert fitted.predict(X).dtype == dtype
    assert difference(fitted.predict(X), regressor().fit(X, y).predict(X)) < 1e-4


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"activation": "rellu"}, "activation"),
        ({"activation": ["relu"]}, "1 entries for 2 hidden layers"),
        ({"activation": "softmax"}, "activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": [0.1]}, "1 entries for 2 hidden layers"),
        ({"loss": "hinge"}, "loss"),
        ({"loss": "poisson", "network": Network(6, [Dense(1)])}, "needs outputs in"),
        ({"l1": -1.0}, "l1"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"dtype": "float16"}, "dtype"),
        ({"schedule": "sometimes"}, "schedule"),
        ({"backend": "abacus"}, "unknown backend"),
        ({"network": "big"}, "network"),
        ({"validation_data": (1,)}, "validation_data"),
        ({"monitor": 3}, "monitor"),
        ({"monitor": "nope"}, "'monitor' parameter of MLPRegressor must be a str among .*'f1_macro'.* Got 'nope'"),
        ({"callbacks": [3]}, "callbacks must be functions that take an EpochRecord, got 3"),
        ({"solver": "lbfgs", "dropout": 0.5}, "dropout=0.5 needs solver='sgd' or 'adam'"),
        ({"solver": "lbfgs", "l1": 0.5}, "l1=0.5 needs solver"),
        ({"solver": "lbfgs", "callbacks": [print]}, "callbacks"),
        ({"activation": "tanh", "loss": Loss("x", "a", "1", domain="[5, 6]")}, "network="),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_is_refused(parameters: dict[str, Any], match: str) -> None:
    X, y = make_data("regression")
    estimator = regressor(**parameters)
    with pytest.raises((InvalidParameterError, ValueError, TypeError), match=match):
        estimator.fit(X, y)
    if next(iter(parameters)) in ("monitor", "callbacks"):
        assert not hasattr(estimator, "coefs_"), "nothing was begun"


def test_held_out_rows_of_another_kind_are_refused() -> None:
    X, y = make_data("multiclass")
    with pytest.raises(ValueError, match="5 features"):
        classifier(validation_data=(X[:, :5], y)).fit(X, y)
    with pytest.raises(ValueError, match="classes that fit's y has not"):
        classifier(validation_data=(X, y + 1)).fit(X, y)
    with pytest.raises(ValueError, match="120 rows of X, but 60 of y"):
        classifier(validation_data=(X, y[:60])).fit(X, y)


def test_targets_outside_a_loss_are_refused() -> None:
    X, y = make_data("regression")
    with pytest.raises(ValueError, match="needs targets in"):
        regressor(loss="binary_cross_entropy").fit(X, y)


def test_rows_that_fit_are_not_copied() -> None:
    X = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    y = X[:, 0] > 0
    estimator = MLPClassifier((4,), max_iter=1, batch_size=200)
    estimator.fit(X[:500], y[:500])  # loads what is loaded once
    for fortran in (False, True):
        rows = np.asfortranarray(X) if fortran else X
        tracemalloc.start()
        estimator.fit(rows, y)
        estimator.predict(rows)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (peak > X.nbytes) == fortran, f"peak {peak} bytes beside rows of {X.nbytes}"


@pytest.mark.parametrize("make", [classifier, regressor])
def test_masked_values_are_refused_and_never_trained_on(make: Any) -> None:
    X, y = make_data("binary")
    weights = np.ones(len(y))
    fitted = make(max_iter=2).fit(X, y)

    def masked(array: Any) -> Any:
        hidden = np.zeros(array.shape, bool)
        hidden[3] = True
        return np.ma.MaskedArray(array, hidden)

    for call, message in (
        (lambda: fitted.fit(masked(X), y), "X holds 6 masked values"),
        (lambda: fitted.fit(X, masked(y)), "y holds 1 masked values"),
        (lambda: fitted.fit(X, y, masked(weights)), "sample_weight holds 1 masked values"),
        (lambda: fitted.partial_fit(masked(X), y), "X holds 6 masked values"),
        (lambda: fitted.partial_fit(X, masked(y)), "y holds 1 masked values"),
        (lambda: fitted.predict(masked(X)), "X holds 6 masked values"),
        (lambda: fitted.score(masked(X), y), "X holds 6 masked values"),
        (lambda: fitted.score(X, masked(y)), "y holds 1 masked values"),
        (lambda: fitted.score(X, y, masked(weights)), "sample_weight holds 1 masked values"),
        (lambda: make(validation_data=(masked(X), y)).fit(X, y), "X holds 6 masked values"),
        (lambda: make(validation_data=(X, masked(y))).fit(X, y), "y of validation_data holds 1 masked values"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert fitted.score(np.ma.MaskedArray(X), np.ma.MaskedArray(y)) == fitted.score(X, y)


def test_a_loss_and_a_schedule_may_have_their_options_in_one_text() -> None:
    X, y = make_data("regression")
    delta = replace(LOSSES["huber"], constants={"delta": 0.1})
    named, own = (
        regressor(loss="huber:delta=0.1", schedule="step:every=3"),
        regressor(loss=delta, schedule=StepDecay(3)),
    )
    assert distance(named.fit(X, y), own.fit(X, y)) == 0
    assert distance(named, regressor(loss="huber", schedule="step:every=3").fit(X, y)) > 0
    assert named.out_activation_ == "identity"
    X, labels = make_data("multiclass")
    assert classifier(loss="huber:delta=0.1").fit(X, labels).out_activation_ == "softmax"
    with pytest.raises(InvalidParameterError, match="The 'loss' parameter of MLPRegressor must be a str among"):
        regressor(loss="hubert:delta=0.1").fit(X, labels)
    with pytest.raises(ValueError, match="loss 'huber' has no option 'dalta'; it has: delta"):
        regressor(loss="huber:dalta=0.1").fit(X, labels)
    with pytest.raises(ValueError, match="schedule 'step' has no option 'each'"):
        regressor(schedule="step:each=3").fit(X, labels)


def test_a_callback_can_score_the_estimator_as_it_is_after_the_epoch() -> None:
    X, y = make_data("binary")
    scores: list[float] = []
    fitted = MLPClassifier(
        (5,), max_iter=4, random_state=0, callbacks=[lambda record: scores.append(record.model.score(X, y))]
    ).fit(X, y)
    for epochs, score in enumerate(scores, start=1):
        assert score == MLPClassifier((5,), max_iter=epochs, random_state=0).fit(X, y).score(X, y)
    assert len(scores) == fitted.n_iter_ == 4
