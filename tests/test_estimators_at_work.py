"""What happens while an estimator is at work: Ctrl-C, warnings, what it prints, threads, weights set by hand."""

from __future__ import annotations

import signal
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from nnfast import EpochRecord, MLPClassifier, MLPRegressor
from nnfast.training.runner import Runner
from tests.test_estimators_same_model import assert_same, distance, fit_both, make_data

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**parameters: Any) -> MLPClassifier:
    return MLPClassifier(**{"hidden_layer_sizes": (9, 5), "random_state": 0, "max_iter": 20, **parameters})


@pytest.mark.parametrize("delay", [0.1, 0.13, 0.17, 0.2, 0.21, 0.3])
def test_ctrl_c_keeps_the_model_as_far_as_it_is(delay: float) -> None:
    X, y = make_data("multiclass")
    classifier().fit(X, y)  # loads what is loaded once
    timer = threading.Timer(delay, signal.raise_signal, (signal.SIGINT,))
    estimator = classifier(max_iter=10**7, tol=0, n_iter_no_change=10**7)
    timer.start()
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        estimator.fit(X, y)
    timer.join()
    assert 1 <= estimator.n_iter_ < 10**7
    assert estimator.n_iter_ == len(estimator.loss_curve_)
    assert estimator.t_ == estimator.n_iter_ * len(X)
    assert estimator._optimizer.t == estimator.n_iter_  # one step an epoch, and none forgotten
    assert estimator.score(X, y) > 0.3


def test_an_interrupt_from_a_callback_keeps_the_model() -> None:
    def interrupt(record: EpochRecord) -> None:
        if record.epoch == 4:
            raise KeyboardInterrupt

    X, y = make_data("multiclass")
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        fitted = classifier(callbacks=[interrupt]).fit(X, y)
    assert distance(fitted, classifier(max_iter=4).fit(X, y)) == 0


def test_a_fit_that_did_not_converge_says_so() -> None:
    X, y = make_data("multiclass")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning, match="Maximum iterations \\(2\\) reached"):
            classifier(max_iter=2).fit(X, y)


def test_verbose_prints_scikit_learns_lines(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = make_data("multiclass")
    fit_both("multiclass", X, y, verbose=True, early_stopping=True, max_iter=60, tol=0.1, n_iter_no_change=2)
    lines = capsys.readouterr().out.splitlines()
    half = len(lines) // 2
    assert lines[:half] == lines[half:]
    assert lines[0].startswith("Iteration 1, loss = ")
    assert "Stopping." in lines[half - 1]


def test_verbose_prints_the_same_lines_where_standard_error_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `python train.py > log.txt`: the log gets every line, and the terminal is not written to."""
    X, y = make_data("multiclass")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fit_both("multiclass", X, y, verbose=True, max_iter=3)
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[:3] == lines[3:]
    assert [line.partition(",")[0] for line in lines[:3]] == ["Iteration 1", "Iteration 2", "Iteration 3"]
    assert shown.err == ""


def test_many_threads_may_predict_with_one_model() -> None:
    X, y = make_data("multiclass")
    fitted = classifier().fit(X, y)
    expected = fitted.predict_proba(X)
    wrong: list[int] = []

    def predict() -> None:
        wrong.extend(k for k in range(50) if not np.array_equal(fitted.predict_proba(X), expected))

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_partial_fit_uses_weights_that_were_set_by_hand() -> None:
    X, y = make_data("regression")
    pair = fit_both("regression", X, y, max_iter=3)
    for estimator in pair:
        estimator.coefs_ = [W * 0.5 for W in estimator.coefs_]
        estimator.partial_fit(X, y)
    assert_same(*pair, X)


def interrupted_after(monkeypatch: pytest.MonkeyPatch, stretches: int) -> None:
    """Ctrl-C between two stretches of an epoch, each of one step."""
    advance, count = Runner.advance, iter(range(10**9))

    def pressing(self: Runner) -> None:
        advance(self)
        if next(count) + 1 == stretches:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(Runner, "advance", pressing)


def test_ctrl_c_within_an_epoch_keeps_weights_and_optimizer_together(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(100, 4))
    interrupted_after(monkeypatch, 7)
    fitted = MLPRegressor(hidden_layer_sizes=(5,), batch_size=10, max_iter=3, random_state=0)
    with pytest.warns(UserWarning, match="interrupted"):
        fitted.fit(X, X[:, 0])
    assert (fitted.n_iter_, fitted._steps, fitted._optimizer.t) == (0, 7, 7)


def test_a_callback_that_raises_leaves_weights_and_optimizer_together() -> None:
    X = np.random.default_rng(0).normal(size=(100, 4))

    def fail(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise RuntimeError("enough")

    fitted = MLPRegressor(hidden_layer_sizes=(5,), batch_size=10, max_iter=5, random_state=0, callbacks=[fail])
    with pytest.raises(RuntimeError, match="enough"):
        fitted.fit(X, X[:, 0])
    expected = MLPRegressor(hidden_layer_sizes=(5,), batch_size=10, max_iter=2, random_state=0).fit(X, X[:, 0])
    np.testing.assert_array_equal(fitted.coefs_[0], expected.coefs_[0])
    assert fitted._steps == fitted._optimizer.t == expected._optimizer.t


@pytest.mark.parametrize("answer", [1, 1.0, np.ones(3), "yes"])
def test_only_true_ends_a_fit(answer: object) -> None:
    X = np.random.default_rng(0).normal(size=(20, 4))
    assert (
        MLPRegressor(hidden_layer_sizes=(3,), max_iter=3, callbacks=[lambda record: answer]).fit(X, X[:, 0]).n_iter_
        == 3
    )


def test_a_fit_restored_between_two_steps_ends_as_if_it_had_never_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(50, 4))
    settings = {"hidden_layer_sizes": (5,), "batch_size": 10, "max_iter": 3, "random_state": 0}
    whole = MLPRegressor(**settings).fit(X, X[:, 0])
    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)
    advance, count = Runner.advance, iter(range(10**9))

    def going_back(self: Runner) -> None:
        state = self.state
        advance(self)
        if next(count) in (2, 7):
            self.restore(state)

    monkeypatch.setattr(Runner, "advance", going_back)
    again = MLPRegressor(**settings).fit(X, X[:, 0])
    np.testing.assert_array_equal(again.coefs_[0], whole.coefs_[0])
    assert again.loss_curve_ == whole.loss_curve_
