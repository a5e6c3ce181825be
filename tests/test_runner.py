"""A run's whole state can be saved, restored and carried elsewhere, and what a run gives never depends on stretches."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnfast import BatchNorm, Dense, DivergenceError, Dropout, EarlyStopping, Network, Schedule, get_schedule, train
from nnfast.models.model import Model
from nnfast.training import job as job_module
from nnfast.training.runner import Runner
from nnfast.training.state import State

NETWORK = Network(3, [Dense(6), BatchNorm(activation="tanh"), Dropout(0.3), Dense(2, "softmax")])
ROWS, BATCH = 50, 8  # seven steps an epoch, the last of two rows


@pytest.fixture(scope="module")
def rows() -> tuple[NDArray[Any], NDArray[Any]]:
    X = np.random.default_rng(0).normal(size=(ROWS, 3))
    return X, (X[:, 0] * X[:, 1] > 0).astype(np.int64)


def fit(rows: tuple[Any, Any], backend: str, **options: Any) -> Model:
    settings = {"epochs": 5, "batch_size": BATCH, "dtype": "float64", "backend": backend} | options
    return train(NETWORK, *rows, **settings)


def carried(state: State) -> State:
    """The state after a journey as arrays and JSON."""
    arrays, description = state.to_state()
    return State.from_state({name: array.copy() for name, array in arrays.items()}, json.loads(json.dumps(description)))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine": {"schedule": "cosine", "optimizer": "sgd", "learning_rate": 0.1},
    "plateau": {"schedule": get_schedule("plateau", patience=1, tolerance=1.0)},
    "early stopping": {"validation": 0.3, "early_stopping": EarlyStopping(patience=2), "epochs": 9},
    "clipped": {"clip_norm": 0.1, "alpha": 0.01, "shuffle": False},
}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("stretches", [1, 3, 7, 10])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_restored_at_any_step_ends_as_if_it_had_never_stopped(
    rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, name: str, stretches: int, backend: str
) -> None:
    whole = fit(rows, backend, **OPTIONS[name])
    saved: list[State] = []
    histories = []

    class Stopped(Runner):
        def run(self) -> None:
            for _ in range(stretches):
                self.advance()
            saved.append(self.state)
            histories.append(self.history)

    class Restored(Runner):
        def run(self) -> None:
            vars(self.history).update(vars(histories[0]))
            self.restore(carried(saved[0]))
            super().run()

    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)  # a stretch is one step
    monkeypatch.setattr(job_module, "Runner", Stopped)
    fit(rows, backend, **OPTIONS[name])
    assert saved[0].progress.step == stretches
    monkeypatch.setattr(job_module, "Runner", Restored)
    restored = fit(rows, backend, **OPTIONS[name])
    np.testing.assert_array_equal(restored.parameters, whole.parameters)
    np.testing.assert_array_equal(restored.state, whole.state)
    for what in ("loss", "learning_rate", "metrics", "stopped", "best_epoch"):
        assert getattr(restored.history, what) == getattr(whole.history, what), what


def test_a_state_is_a_copy(rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[State, State]] = []

    class Watched(Runner):
        def run(self) -> None:
            self.advance()
            first = self.state
            kept.append((first, carried(first)))
            super().run()

    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(job_module, "Runner", Watched)
    fit(rows, "numpy")
    (before, copy) = kept[0]
    for array, same in zip(before.to_state()[0].values(), copy.to_state()[0].values(), strict=True):
        np.testing.assert_array_equal(array, same)


def test_a_run_may_change_threads_between_stretches(rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(rows, "numba")

    class Wandering(Runner):
        def run(self) -> None:
            while not self.is_over:
                thread = threading.Thread(target=self.advance)
                thread.start()
                thread.join()

    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(job_module, "Runner", Wandering)
    np.testing.assert_array_equal(fit(rows, "numba").parameters, whole.parameters)


@pytest.mark.parametrize("rate", [0.2, 0.5, 3.0, 1e4])
def test_the_weights_kept_at_a_divergence_do_not_depend_on_stretches(
    rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    X, y = rows
    network = Network(3, [Dense(4), Dense(1)])

    def kept() -> tuple[str, NDArray[Any]]:
        with pytest.raises(DivergenceError) as caught:
            train(network, 5 * X, y.astype(float), optimizer="sgd", learning_rate=rate, epochs=4000, backend="numpy")
        return str(caught.value), caught.value.model.parameters

    message, parameters = kept()
    for seconds in (0.0, 1e-3, 10.0):
        monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", seconds)
        again, same = kept()
        assert again == message
        np.testing.assert_array_equal(same, parameters)
    assert abs(parameters).sum() < 1e3  # and they are not those of an epoch on the way to infinity


def test_a_callback_and_validation_change_nothing_that_is_kept(rows: tuple[Any, Any]) -> None:
    X, y = rows
    network = Network(3, [Dense(4), Dense(1)])
    kept = []
    for options in ({}, {"callbacks": [lambda record: None]}, {"validation": (X, y.astype(float))}):
        with pytest.raises(DivergenceError) as caught:
            train(network, 5 * X, y.astype(float), optimizer="sgd", learning_rate=0.5, epochs=4000, **options)
        kept.append(caught.value.model.parameters.tobytes())
    assert len(set(kept)) == 1


class SuddenlyTooHigh(Schedule):
    """A rate that is good for 40 epochs, and then far too high."""

    def factors(self, steps: NDArray[np.int64], span: Any) -> NDArray[np.float64]:
        return np.where(steps < 40 * span.steps_per_epoch, 1.0, 1e9)


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_a_run_that_diverges_late_keeps_what_it_had_learnt(
    rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", seconds)
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.05, "backend": "numpy"}
    network, (X, y) = Network(3, [Dense(6, "tanh"), Dense(1)]), rows
    with pytest.raises(DivergenceError, match=r"in epoch 4\d.*the weights of epoch 32 are kept") as caught:
        train(network, X, y.astype(float), epochs=90, schedule=SuddenlyTooHigh(), **options)
    model = caught.value.model
    expected = train(network, X, y.astype(float), epochs=32, **options)
    np.testing.assert_array_equal(model.parameters, expected.parameters)


def test_a_run_that_goes_back_forgets_what_came_later(rows: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(rows, "numpy")

    class GoingBack(Runner):
        def run(self) -> None:
            self.advance()
            early = self.state
            super().run()
            self.restore(early)
            assert (self.history.epochs, self.is_over) == (early.progress.epoch, False)
            super().run()

    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(job_module, "Runner", GoingBack)
    again = fit(rows, "numpy")
    np.testing.assert_array_equal(again.parameters, whole.parameters)
    assert again.history.loss == whole.history.loss
