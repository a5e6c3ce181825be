"""train(): what a user may rely on, whichever backend runs the steps."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from numpy.typing import NDArray

from nnfast.backends import Backend
from nnfast.backends.numpy import NumpyBackend
from nnfast.data import load_dataset
from nnfast.data.splits import split_rows
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam, sgd
from nnfast.formulas.schedules import ReduceOnPlateau, StepDecay
from nnfast.models.history import EpochRecord
from nnfast.models.model import Model
from nnfast.networks.network import Dense, Dropout, Network, multilayer_perceptron
from nnfast.plans.plan import make_plan
from nnfast.training.stopping import DivergenceError, EarlyStopping
from nnfast.training.train import train
from tests.tolerances import ACCURACY_OF_RUNS, difference

REGRESSION = Network(3, [Dense(8, "tanh"), Dense(1)])
CLASSIFIER = Network(3, [Dense(8, "tanh"), Dense(3, "softmax")])


@pytest.fixture
def rows() -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(0)
    X = random.normal(size=(70, 3))
    return X, np.sin(X).sum(axis=1)


@pytest.fixture
def classes(rows: tuple[NDArray[Any], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    X, y = rows
    return X, np.digitize(y, [-0.5, 0.5])


def quick(network: Network, X: Any, y: Any, **options: Any) -> Model:
    return train(network, X, y, **{"epochs": 5, "backend": "numpy", "dtype": "float64", **options})


def test_digits_train_to_the_same_accuracy_on_every_backend(backend: Backend) -> None:
    data = load_dataset("digits")
    kept, held_out = split_rows(len(data.y_train), 0.2, seed=0, labels=data.y_train)
    model = train(
        multilayer_perceptron((8, 8), [32], 10, output_activation="softmax"),
        data.x_train[kept],
        data.y_train[kept],
        input_scale=data.input_scale,
        learning_rate=0.005,
        epochs=12,
        backend=backend,
    )
    accuracy = model.evaluate(data.x_train[held_out], data.y_train[held_out])["accuracy"]
    assert accuracy == pytest.approx(0.9694, abs=ACCURACY_OF_RUNS)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(rows: tuple[Any, Any], backend: Backend) -> None:
    network = Network(3, [Dense(8, "relu"), Dropout(0.2), Dense(1)])
    first, again, other = (quick(network, *rows, backend=backend, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.parameters, again.parameters)
    assert difference(first.parameters, other.parameters) > 0.1


def test_callbacks_and_validation_do_not_change_the_model(rows: tuple[Any, Any]) -> None:
    """Watched runs go epoch by epoch, others in long stretches: the same steps either way."""
    X, y = rows
    watched = quick(REGRESSION, X, y, callbacks=[lambda record: None], validation=(X[:5], y[:5]))
    alone = quick(REGRESSION, X, y)
    np.testing.assert_array_equal(watched.parameters, alone.parameters)
    assert watched.history.loss == alone.history.loss


def test_runs_of_many_stretches_count_their_steps_through(
    rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's corrections, dropout masks and schedules go by the step's number in the run, not in the stretch."""
    network = Network(3, [Dense(8, "tanh"), Dropout(0.3), Dense(1)])
    options: dict[str, Any] = {"epochs": 7, "schedule": "cosine"}
    watched = quick(network, *rows, callbacks=[lambda record: None], **options)
    monkeypatch.setattr("nnfast.training.runner.STRETCH_ROWS", 140)  # two epochs a stretch
    in_stretches = quick(network, *rows, **options)
    np.testing.assert_array_equal(in_stretches.parameters, watched.parameters)
    assert in_stretches.history.learning_rate == watched.history.learning_rate
    assert watched.history.learning_rate[-1] < 1e-3 * 0.01


def test_long_epochs_are_run_in_parts_to_the_same_model(rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quick(REGRESSION, *rows, batch_size=3)
    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)
    in_parts = quick(REGRESSION, *rows, batch_size=3)
    np.testing.assert_array_equal(in_parts.parameters, whole.parameters)
    assert in_parts.history.loss == whole.history.loss


def test_the_last_smaller_batch_is_trained_too(rows: tuple[Any, Any]) -> None:
    X, y = rows
    ragged = quick(REGRESSION, X, y, batch_size=69, epochs=1, shuffle=False, optimizer="sgd")
    # the first step takes 69 rows, the second the last one alone
    first = quick(REGRESSION, X[:69], y[:69], batch_size=69, epochs=1, shuffle=False, optimizer="sgd")
    second = quick(
        REGRESSION, X[69:], y[69:], epochs=1, optimizer="sgd", initial_parameters=first.parameters, shuffle=False
    )
    assert difference(ragged.parameters, second.parameters) < 1e-14


def test_the_epoch_s_loss_is_the_mean_over_rows_by_weight(rows: tuple[Any, Any]) -> None:
    X, y = rows
    weights = np.random.default_rng(1).random(70)
    still = sgd()
    model = quick(
        REGRESSION, X, y, epochs=1, batch_size=32, sample_weight=weights, optimizer=still, learning_rate=1e-300
    )
    assert model.history.loss[0] == pytest.approx(model.evaluate(X, y, weights)["loss"], rel=1e-12)


def test_a_row_s_weight_counts_like_repeating_it(rows: tuple[Any, Any]) -> None:
    X, y = rows
    counts = np.random.default_rng(2).integers(0, 3, 70)
    options = {"batch_size": "full", "shuffle": False, "optimizer": "adam"}
    weighted = quick(REGRESSION, X, y, sample_weight=counts, **options)
    repeated = quick(REGRESSION, np.repeat(X, counts, axis=0), np.repeat(y, counts), **options)
    assert difference(weighted.parameters, repeated.parameters) < 1e-9


def test_orders_and_initial_parameters_may_come_from_the_caller(rows: tuple[Any, Any]) -> None:
    asked = []

    def orders(epoch: int) -> NDArray[np.int64]:
        asked.append(epoch)
        return np.arange(70)[::-1]

    start = np.linspace(-1, 1, REGRESSION.parameter_count)
    model = quick(REGRESSION, *rows, orders=orders, initial_parameters=start)
    X, y = rows
    expected = quick(REGRESSION, X[::-1], y[::-1], shuffle=False, initial_parameters=start)
    assert asked == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(model.parameters, expected.parameters)


def test_orders_outside_the_rows_are_refused(rows: tuple[Any, Any]) -> None:
    for order, message in (
        (np.arange(70) + 1, r"orders\(0\) must give rows in \[0, 70\), got 1 to 70"),
        (np.arange(70) - 1, "got -1 to 68"),
        (np.arange(69), "must give 70 row numbers, got int64 of shape"),
        (np.zeros(70), "got float64"),
    ):
        with pytest.raises(ValueError, match=message):
            quick(REGRESSION, *rows, orders=lambda epoch, order=order: order, backend="numba")


def test_early_stopping_ends_the_run_and_restores_the_best_weights(rows: tuple[Any, Any]) -> None:
    X, y = rows
    seen: list[EpochRecord] = []
    model = quick(
        REGRESSION,
        X,
        y,
        epochs=500,
        learning_rate=0.3,
        validation=0.3,
        early_stopping=EarlyStopping(patience=4),
        callbacks=[seen.append],
    )
    history = model.history
    assert history.stopped == "early stopping"
    assert history.epochs < 500
    losses = history.metrics["validation_loss"]
    assert history.best_epoch == 1 + int(np.argmin(losses))
    assert history.epochs - history.best_epoch >= 4
    _, held_out = split_rows(70, 0.3, seed=0, which=1)
    assert model.evaluate(X[held_out], y[held_out])["loss"] == pytest.approx(min(losses), rel=1e-9)
    assert [record.epoch for record in seen] == list(range(1, history.epochs + 1))
    assert seen[-1].metrics.keys() == {"validation_loss", "validation_r2"}


def test_early_stopping_can_watch_the_accuracy_or_the_training_loss(classes: tuple[Any, Any]) -> None:
    by_accuracy = EarlyStopping(patience=3, monitor="validation_accuracy")
    model = quick(CLASSIFIER, *classes, epochs=300, validation=0.2, early_stopping=by_accuracy)
    scores = model.history.metrics["validation_accuracy"]
    assert model.history.best_epoch == 1 + int(np.argmax(scores))
    by_loss = quick(CLASSIFIER, *classes, epochs=9, early_stopping=EarlyStopping(patience=1, tolerance=10.0))
    assert by_loss.history.epochs == 2
    with pytest.raises(ValueError, match="cannot monitor 'validation_loss'; this run has loss"):
        quick(CLASSIFIER, *classes, early_stopping=EarlyStopping(monitor="validation_loss"))


def test_a_callback_that_returns_true_ends_the_run(rows: tuple[Any, Any]) -> None:
    model = quick(REGRESSION, *rows, epochs=50, callbacks=[lambda record: record.epoch == 3])
    assert model.history.epochs == 3
    assert model.history.stopped == "callback"


def test_schedules_set_the_rate_of_every_step(rows: tuple[Any, Any]) -> None:
    model = quick(REGRESSION, *rows, epochs=6, learning_rate=0.1, schedule=StepDecay(every=2, factor=0.1))
    assert model.history.learning_rate == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    watched = quick(REGRESSION, *rows, epochs=6, learning_rate=0.1, schedule=ReduceOnPlateau(patience=1, tolerance=1e9))
    assert watched.history.learning_rate == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008, 0.00016])


def test_a_diverging_run_stops_with_epoch_and_advice_and_keeps_the_best_weights(
    rows: tuple[Any, Any], backend: Backend
) -> None:
    X, y = rows
    with pytest.raises(DivergenceError, match=r"became \S+ in epoch \d+: try a learning rate below 1e\+06") as caught:
        train(Network(3, [Dense(4), Dense(1)]), X, y, optimizer="sgd", learning_rate=1e6, epochs=99, backend=backend)
    model = caught.value.model
    assert model.history.stopped == "diverged"
    assert "the initial weights are kept" in str(caught.value)
    start = make_plan(model.network, 1).initial_parameters(0).astype(np.float32)
    np.testing.assert_array_equal(model.parameters, start)
    assert np.isfinite(model.parameters).all()
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("callbacks", [[], [lambda record: None]])
def test_weights_that_become_infinite_after_a_finite_loss_are_noticed(
    rows: tuple[Any, Any], backend: Backend, callbacks: list[Any]
) -> None:
    X, y = rows
    with pytest.raises(DivergenceError, match="the weights became infinite or NaN in epoch 1") as caught:
        train(
            REGRESSION, X, 1e6 * y, optimizer="sgd", learning_rate=3e38, epochs=1, batch_size="full", backend=backend,
            callbacks=callbacks,
        )  # fmt: skip
    assert np.isfinite(caught.value.model.parameters).all()


def diverge(backend: str | Backend = "numpy") -> Model:
    X = np.random.default_rng(0).normal(size=(70, 3))
    return train(REGRESSION, X, X[:, 0], optimizer=sgd(), learning_rate=1e6, epochs=30, backend=backend)


def test_losses_optimizers_and_schedules_have_their_options_in_one_text(rows: tuple[Any, Any]) -> None:
    X, y = rows
    texts = {"loss": "huber:delta=0.1", "optimizer": "sgd:momentum=0.5", "schedule": "step:every=2,factor=0.1"}
    objects = {
        "loss": replace(LOSSES["huber"], constants={"delta": 0.1}),
        "optimizer": sgd(momentum=0.5),
        "schedule": StepDecay(2, 0.1),
    }
    by_text, by_object = quick(REGRESSION, X, y, **texts), quick(REGRESSION, X, y, **objects)
    np.testing.assert_array_equal(by_text.parameters, by_object.parameters)
    assert by_text.history.loss == by_object.history.loss
    assert by_text.history.loss != quick(REGRESSION, X, y, **{**texts, "loss": "huber"}).history.loss


def test_a_divergence_and_its_model_can_be_pickled(backend: Backend) -> None:
    with pytest.raises(DivergenceError) as caught:
        diverge(backend)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (DivergenceError, str(caught.value))
    np.testing.assert_array_equal(again.model.parameters, caught.value.model.parameters)
    assert again.model.predict(np.zeros((2, 3))).shape == (2,)


def test_a_divergence_in_another_process_is_raised_in_this_one() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, pytest.raises(DivergenceError) as caught:
        pool.submit(diverge).result()
    assert caught.value.model.history.stopped == "diverged"


def test_validation_counts_the_rows_by_their_weights(rows: tuple[Any, Any]) -> None:
    X, y = rows
    weights = np.random.default_rng(3).random(70)
    model = quick(REGRESSION, X, y, sample_weight=weights, validation=0.3)
    _, held_out = split_rows(70, 0.3, seed=0, which=1)
    expected = model.evaluate(X[held_out], y[held_out], weights[held_out])
    assert model.history.metrics["validation_loss"][-1] == pytest.approx(expected["loss"], rel=1e-12)
    assert model.history.metrics["validation_r2"][-1] == pytest.approx(expected["r2"], rel=1e-12)


def test_a_split_without_weight_is_refused(rows: tuple[Any, Any]) -> None:
    weights = np.zeros(70)
    weights[split_rows(70, 0.1, seed=0, which=1)[0][0]] = 1
    with pytest.raises(ValueError, match="sample_weight is zero for all validation rows"):
        quick(REGRESSION, *rows, sample_weight=weights, validation=0.1)


def test_a_plateau_watches_the_validation_loss(rows: tuple[Any, Any]) -> None:
    X, y = rows
    # Trained towards y and validated against its opposite: the training loss falls, the validation loss does not.
    schedule = ReduceOnPlateau(factor=0.5, patience=1, tolerance=0.0)
    model = quick(REGRESSION, X, y, epochs=9, learning_rate=0.01, schedule=schedule, validation=(X, -y))
    assert model.history.loss[-1] < model.history.loss[0]
    assert model.history.learning_rate[-1] < 0.01 / 8


def test_every_callback_hears_of_the_last_epoch(rows: tuple[Any, Any]) -> None:
    heard: list[int] = []
    callbacks = [lambda record: np.True_, lambda record: heard.append(record.epoch)]
    assert quick(REGRESSION, *rows, callbacks=callbacks).history.stopped == "callback"
    assert heard == [1]


def test_floats_are_scaled_like_bytes(backend: Backend) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3)).astype(np.uint8)
    y = pixels[:, 0] / 255
    options: dict[str, Any] = {"input_scale": 1 / 255, "epochs": 2, "dtype": "float64", "backend": backend}
    from_bytes = train(REGRESSION, pixels, y, **options)
    from_floats = train(REGRESSION, pixels.astype(np.float64), y, **options)
    assert difference(from_floats.parameters, from_bytes.parameters) < 1e-12
    assert difference(from_floats.predict(pixels), from_bytes.predict(pixels)) < 1e-12


def test_ctrl_c_while_kernels_are_compiled_ends_the_run_before_its_first_step(
    rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = NumpyBackend.compile

    def interrupted_compile(self: NumpyBackend, plan: Any, recipe: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return compile_(self, plan, recipe)

    monkeypatch.setattr(NumpyBackend, "compile", interrupted_compile)
    with pytest.warns(UserWarning, match="interrupted"):
        model = quick(REGRESSION, *rows)
    assert (model.history.stopped, model.history.epochs) == ("interrupted", 0)


def test_ctrl_c_ends_the_run_in_order_and_keeps_the_model(rows: tuple[Any, Any]) -> None:
    def interrupt(record: EpochRecord) -> None:
        if record.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model = quick(REGRESSION, *rows, epochs=100, callbacks=[interrupt])
    assert model.history.stopped == "interrupted"
    assert model.history.epochs in (3, 4)
    expected = quick(REGRESSION, *rows, epochs=model.history.epochs)
    np.testing.assert_array_equal(model.parameters, expected.parameters)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_works_in_another_thread(rows: tuple[Any, Any]) -> None:
    models = []
    threads = [threading.Thread(target=lambda: models.append(quick(REGRESSION, *rows, backend="numba"))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(models[0].parameters, models[1].parameters)


def test_penalties_are_part_of_the_loss_and_shrink_the_weights(rows: tuple[Any, Any]) -> None:
    plain, l2, l1 = (quick(REGRESSION, *rows, epochs=60, **options) for options in ({}, {"alpha": 5.0}, {"l1": 2.0}))
    size = abs(plain.layer_parameters()["layers.0.weights"]).sum()
    for penalised in (l2, l1):
        assert abs(penalised.layer_parameters()["layers.0.weights"]).sum() < size
        assert penalised.history.loss[0] > plain.history.loss[0]


def test_clipping_bounds_the_step(rows: tuple[Any, Any]) -> None:
    X, y = rows
    options: dict[str, Any] = {"epochs": 1, "batch_size": "full", "optimizer": sgd(), "learning_rate": 1.0}
    start = np.linspace(-1, 1, REGRESSION.parameter_count)
    clipped = quick(REGRESSION, X, y * 100, clip_norm=0.25, initial_parameters=start, **options)
    assert np.linalg.norm(clipped.parameters - start) == pytest.approx(0.25)
    loose = quick(REGRESSION, X, y * 100, clip_norm=1e9, initial_parameters=start, **options)
    free = quick(REGRESSION, X, y * 100, initial_parameters=start, **options)
    np.testing.assert_array_equal(loose.parameters, free.parameters)


@pytest.mark.parametrize("labels", [["no", "yes", "maybe"], [10, 20, 30], [False, True]])
def test_labels_of_any_kind_come_back(rows: tuple[Any, Any], labels: list[Any]) -> None:
    X, y = rows
    truth = np.array(labels)[np.digitize(y, [-0.5, 0.5]) % len(labels)]
    network = Network(3, [Dense(8, "tanh"), Dense(len(labels), "softmax")])
    predicted = quick(network, X, truth, epochs=200, learning_rate=0.03).predict(X)
    assert predicted.dtype == truth.dtype
    assert (predicted == truth).mean() > 0.9


def test_one_sigmoid_output_tells_two_classes_apart(classes: tuple[Any, Any]) -> None:
    X, y = classes
    truth = np.where(y == 2, "high", "low")
    model = quick(Network(3, [Dense(8, "tanh"), Dense(1, "sigmoid")]), X, truth, epochs=150, learning_rate=0.02)
    assert model.loss.name == "binary_cross_entropy"
    assert (model.predict(X) == truth).mean() > 0.95
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (70, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    with pytest.raises(ValueError, match="y holds 3 classes; with one output binary_cross_entropy tells two apart"):
        quick(Network(3, [Dense(1, "sigmoid")]), X, y)


def test_outputs_that_are_no_probabilities_are_not_called_so(classes: tuple[Any, Any]) -> None:
    X, y = classes
    model = quick(Network(3, [Dense(3)]), X, y, loss="squared_error")
    assert set(model.predict(X)) <= {0, 1, 2}
    with pytest.raises(TypeError, match="outputs of activation 'identity' are no probabilities"):
        model.predict_proba(X)


def test_the_loss_defaults_to_the_output_s_own() -> None:
    X, y = np.ones((4, 3)), np.ones(4)
    for activation, loss in (("identity", "squared_error"), ("exp", "poisson"), ("relu", "squared_error")):
        assert quick(Network(3, [Dense(1, activation)]), X, y, epochs=1).loss.name == loss


def test_targets_may_be_soft(rows: tuple[Any, Any]) -> None:
    X, _ = rows
    soft = np.random.default_rng(0).dirichlet(np.ones(3), size=70)
    model = quick(CLASSIFIER, X, soft, epochs=2)
    assert model.predict(X).shape == (70, 3)
    with pytest.raises(TypeError, match="predict_proba is for classes"):
        model.predict_proba(X)


def test_images_for_a_flat_network_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"X has shape \(6, 3, 1\).*reshape X, or begin with Network\(\(3, 1\), \[Flatten"
    ):
        quick(REGRESSION, np.zeros((6, 3, 1)), np.zeros(6))


X, Y = np.zeros((6, 3)), np.zeros(6)
BAD = np.where(np.arange(18).reshape(6, 3) == 7, np.nan, 0.0)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "NaN in X": ({"X": BAD}, r"X holds nan in row 2, column 1 \(counted from 0\)"),
    "infinity in y": ({"y": np.array([0, 0, np.inf, 0, 0, 0])}, "inf"),
    "a sparse X": (
        {"X": scipy.sparse.csr_array(np.eye(6, 3))},
        r"X is a sparse csr_array: MLPClassifier and MLPRegressor read it as it is; here, pass X.toarray\(\)",
    ),
    "text in X": ({"X": np.full((6, 3), "a")}, "X must hold numbers, got dtype <U1"),
    "a wrong width": ({"X": np.zeros((6, 4))}, r"X has shape \(6, 4\), but the network takes \(n_rows, 3\)"),
    "no rows": ({"X": np.zeros((0, 3)), "y": np.zeros(0)}, "X has no rows"),
    "lengths that differ": ({"y": np.zeros(5)}, "X has 6 rows, but y has 5"),
    "too many targets": ({"y": np.zeros((6, 2))}, "y has 2 values a row, but the network has 1 outputs"),
    "a dtype": ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
    "no epochs": ({"epochs": 0}, "epochs must be a positive integer, got 0"),
    "a batch of none": ({"batch_size": 0}, "batch_size"),
    "a batch by another name": (
        {"batch_size": "all"},
        r"batch_size \(or 'full'\) must be a positive integer, got 'all'",
    ),
    "a rate of zero": ({"learning_rate": 0}, "learning_rate must be a finite number above 0, got 0"),
    "a rate that is text": ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
    "a negative penalty": ({"alpha": -1.0}, "alpha must be a finite number from 0, got -1.0"),
    "a clip of zero": ({"clip_norm": 0.0}, "clip_norm must be a finite number above 0"),
    "a seed": ({"seed": -1}, "seed must be an integer from 0"),
    "a share of one": ({"validation": 1.0}, "1.0"),
    "a loss that does not fit": ({"loss": "cross_entropy"}, "cross_entropy"),
    "an unknown backend": ({"backend": "tpu"}, "unknown backend 'tpu'; known: auto, cuda, numba, numpy, cuda:N"),
    "negative weights": ({"sample_weight": -np.ones(6)}, "sample_weight must not be negative; row 0 has -1"),
    "weights of zero": ({"sample_weight": np.zeros(6)}, "sample_weight is zero everywhere"),
    "too few weights": ({"sample_weight": np.ones(5)}, r"sample_weight must have shape \(6,\), got \(5,\)"),
    "parameters of another network": (
        {"initial_parameters": np.zeros(3)},
        r"initial_parameters must have shape \(41,\)",
    ),
    "complex parameters": (
        {"initial_parameters": np.zeros(41) + 1j},
        "initial_parameters must hold real numbers, got dtype complex128",
    ),
    "parameters that are no numbers": (
        {"initial_parameters": np.full(41, np.nan)},
        r"initial_parameters holds nan in row 0 \(counted from 0\)",
    ),
    "a complex state": ({"initial_state": np.zeros(0) + 1j}, "initial_state must hold real numbers"),
    "a shuffle that is text": ({"shuffle": "x"}, "shuffle must be True or False, got 'x'"),
    "a constant out of its range": (
        {"loss": "huber:delta=-1"},
        "delta of loss 'huber' must be a finite number above 0",
    ),
    "early stopping by number": (
        {"early_stopping": 5},
        "early_stopping must be True, False or an EarlyStopping, got 5",
    ),
    "no network": ({"network": "mlp"}, "network must be a Network, got 'mlp'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_value(what: str) -> None:
    changed, message = REFUSED[what]
    arguments: dict[str, Any] = {"network": REGRESSION, "X": X, "y": Y, "epochs": 1, "backend": "numpy", **changed}
    with pytest.raises((ValueError, TypeError), match=message):
        train(arguments.pop("network"), arguments.pop("X"), arguments.pop("y"), **arguments)


def test_a_float32_matrix_is_not_copied() -> None:
    from nnfast.models.validation import check_inputs

    matrix = np.zeros((6, 3), np.float32)
    assert np.shares_memory(check_inputs(matrix, REGRESSION, np.dtype(np.float32), None), matrix)


def test_a_new_size_rate_or_seed_compiles_nothing() -> None:
    pytest.importorskip("numba")
    from nnfast.kernels.cpu.compilation import compiled_kernels

    def run(width: int, **options: Any) -> None:
        train(
            Network(3, [Dense(width, "relu"), Dense(1)]), X, Y, epochs=1, backend="numba", optimizer=adam(), **options
        )

    run(4)
    run(4, learning_rate=0.1, alpha=0.2)
    compiled = compiled_kernels()
    run(33, batch_size=2, learning_rate=0.5, seed=9, alpha=0.1)
    assert compiled_kernels() == compiled


def test_a_callback_can_use_the_model_as_it_is_after_the_epoch(rows: tuple[Any, Any], backend: Backend) -> None:
    X, _ = rows
    seen: list[tuple[Any, NDArray[Any]]] = []
    model = quick(
        REGRESSION,
        *rows,
        backend=backend,
        callbacks=[lambda record: seen.append((record.model, record.model.predict(X)))],
    )
    assert all(held is model for held, _ in seen)
    for epochs, (_, predicted) in enumerate(seen, start=1):
        expected = quick(REGRESSION, *rows, backend=backend, epochs=epochs)
        assert difference(predicted, expected.predict(X)) < 1e-12


def test_a_divergence_leaves_the_initial_weights_although_callbacks_saw_others(rows: tuple[Any, Any]) -> None:
    X, y = rows
    with pytest.raises(DivergenceError, match="the initial weights are kept") as caught:
        train(
            Network(3, [Dense(4), Dense(1)]), X, y, optimizer="sgd", learning_rate=1e6, epochs=99,
            callbacks=[lambda record: None],
        )  # fmt: skip
    start = make_plan(caught.value.model.network, 1).initial_parameters(0).astype(np.float32)
    np.testing.assert_array_equal(caught.value.model.parameters, start)


@pytest.mark.parametrize(("callbacks", "named"), [(print, "print"), ([3], "3"), (7, "7")])
def test_callbacks_that_are_no_functions_are_refused_at_once(rows: tuple[Any, Any], callbacks: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"callbacks must be .*got .*{named}"):
        quick(REGRESSION, *rows, callbacks=callbacks)


def test_a_wrong_order_of_arguments_does_not_print_a_matrix(rows: tuple[Any, Any]) -> None:
    X, y = rows
    with pytest.raises(TypeError, match=r"^network must be a Network, got ndarray of shape \(70, 3\)$"):
        train(X, y, REGRESSION)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^loss must be a name or a Loss, got ndarray of shape \(70, 3\)$"):
        quick(REGRESSION, X, y, loss=X)
