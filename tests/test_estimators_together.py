"""together(): what scikit-learn's tools give is what they give in sequence, and nothing is left of it afterwards."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from joblib.parallel import get_active_backend
from sklearn.ensemble import BaggingClassifier, BaggingRegressor, StackingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from nnfast import EpochRecord, MLPClassifier, MLPRegressor, together
from nnfast.support import threads as support
from tests.test_estimators_same_model import make_data

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GUARD_SECONDS = 60
LONG = {"max_iter": 10**6, "tol": 0, "n_iter_no_change": 10**7}
GRID = {"alpha": [1e-4, 0.1], "learning_rate_init": [0.001, 0.01, 0.1]}


def classifier(**parameters: Any) -> MLPClassifier:
    return MLPClassifier(**{"hidden_layer_sizes": (9, 5), "random_state": 0, "max_iter": 8, **parameters})


def regressor() -> MLPRegressor:
    return MLPRegressor(hidden_layer_sizes=(9, 5), random_state=0, max_iter=8, alpha=0.01)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No thread, no share of the threads, no limit of BLAS, no other filter of warnings."""
    alive, filters, blas = threading.active_count(), warnings.filters, blas_threads()
    yield
    assert threading.active_count() == alive
    assert not support._keeping
    assert blas_threads() == blas
    assert warnings.filters is filters


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def searched(search: Any, X: Any, y: Any) -> dict[str, Any]:
    """All that a search found but for how long it took."""
    search.fit(X, y)
    kept = {name: value for name, value in search.cv_results_.items() if "_time" not in name}
    return kept | {"best": search.best_params_, "predicted": search.predict(X)}


SEARCHES = {
    "grid": lambda: GridSearchCV(classifier(), GRID, cv=3, return_train_score=True),
    "regressors": lambda: GridSearchCV(regressor(), GRID, cv=3, scoring=["r2", "neg_mean_squared_error"], refit="r2"),
    "one at a time": lambda: GridSearchCV(classifier(), GRID, cv=3, pre_dispatch=1, n_jobs=3),
    "pipeline": lambda: GridSearchCV(
        make_pipeline(StandardScaler(), classifier()), {"mlpclassifier__alpha": [1e-4, 0.1]}, cv=3
    ),
    "random": lambda: RandomizedSearchCV(classifier(), GRID, n_iter=4, cv=3, random_state=0),
    "halving": lambda: HalvingGridSearchCV(classifier(), GRID, cv=2, min_resources=20, random_state=0),
    "halving at random": lambda: HalvingRandomSearchCV(classifier(), GRID, cv=2, min_resources=20, random_state=0),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_it_finds_in_sequence(name: str) -> None:
    X, y = make_data("regression" if name == "regressors" else "multiclass")
    with threadpool_limits(1, "blas"):  # scikit-learn's own products round otherwise in several threads
        with joblib.parallel_config("sequential"):
            alone = searched(SEARCHES[name](), X, y)
        with together(threads=4):
            at_once = searched(SEARCHES[name](), X, y)
    np.testing.assert_equal(at_once, alone)


MODELS = {
    "bagging": lambda: BaggingClassifier(classifier(), 5, random_state=0),
    "bagging of regressors": lambda: BaggingRegressor(regressor(), 5, random_state=0),
    "stacking": lambda: StackingClassifier([("a", classifier()), ("b", classifier(alpha=1.0))], LogisticRegression()),
    "one against the rest": lambda: OneVsRestClassifier(classifier()),
    "bagging of searches": lambda: BaggingClassifier(
        GridSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, cv=2, n_jobs=3), 3, random_state=0
    ),
    "a search of baggings": lambda: GridSearchCV(
        BaggingClassifier(classifier(), 3, n_jobs=-1, random_state=0), {"n_estimators": [2, 3]}, cv=2
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_ensemble_predicts_what_it_predicts_in_sequence(name: str) -> None:
    X, y = make_data("regression" if name == "bagging of regressors" else "multiclass")
    with threadpool_limits(1, "blas"):
        with joblib.parallel_config("sequential"):
            alone = MODELS[name]().fit(X, y)
        with together(threads=3):
            at_once = MODELS[name]().fit(X, y)
        method = "predict_proba" if hasattr(alone, "predict_proba") else "predict"
        with joblib.parallel_config("sequential"):
            np.testing.assert_array_equal(getattr(at_once, method)(X), getattr(alone, method)(X))


def test_validations_score_what_they_score_in_sequence() -> None:
    X, y = make_data("multiclass")
    with threadpool_limits(1, "blas"):
        alone = cross_val_score(classifier(), X, y, cv=4), cross_validate(classifier(), X, y, cv=4)["test_score"]
        with together(threads=2):
            at_once = cross_val_score(classifier(), X, y, cv=4), cross_validate(classifier(), X, y, cv=4)["test_score"]
    np.testing.assert_equal(at_once, alone)


def test_each_fit_runs_in_a_thread_of_its_own_and_in_one_of_the_engine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    both, seen, teams = threading.Barrier(2, timeout=GUARD_SECONDS), set(), []
    epochs: dict[int, int] = {}

    def meet(record: EpochRecord) -> None:  # so that there are two fits whenever one trains, but for the first epoch
        seen.add(threading.get_ident())
        epochs[threading.get_ident()] = record.epoch
        both.wait()

    def note_team(function: Callable[[int, int], Any], count: int) -> None:
        if 1 <= epochs.get(threading.get_ident(), 0) < 8:
            teams.append(count)
        support.run_in_threads(function, count)

    monkeypatch.setattr("nnfast.backends.numba.program.FLOPS_PER_THREAD", 1)
    monkeypatch.setattr("nnfast.backends.numba.team.run_in_threads", note_team)
    X, y = make_data("multiclass")
    with together(threads=2):
        cross_val_score(classifier(callbacks=[meet], threads=2), X, y, cv=2)
    assert len(seen) == 2
    assert threading.get_ident() not in seen
    assert len(teams) >= 14
    assert set(teams) == {1}


def test_nested_searches_start_no_further_threads() -> None:
    most, before = [0], threading.active_count()

    def count(record: EpochRecord) -> None:
        most.append(threading.active_count() - before)

    X, y = make_data("multiclass")
    search = GridSearchCV(classifier(callbacks=[count]), {"alpha": [1e-4, 1.0]}, cv=2, n_jobs=-1)
    with together(threads=3):
        BaggingClassifier(search, 6, n_jobs=-1).fit(X, y)
    assert 1 <= max(most) <= 3


def test_the_number_of_jobs_is_that_of_the_context_unless_the_tool_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = get_active_backend()[0].__class__
    with together(threads=5):
        given = [joblib.effective_n_jobs(asked) for asked in (None, -1, -2, 1, 2, -9)]
        assert given == [5, 5, 4, 1, 2, 1]
        with pytest.raises(ValueError, match="n_jobs == 0"):
            joblib.effective_n_jobs(0)
    assert get_active_backend()[0].__class__ is before
    monkeypatch.setenv("NNFAST_NUM_THREADS", "7")
    with together():
        assert joblib.effective_n_jobs(None) == 7
    with pytest.raises(ValueError, match=r"threads must .*, got 0"), together(threads=0):
        pass
    assert get_active_backend()[0].__class__ is before


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
def test_a_fit_that_fails_has_the_error_score_and_harms_no_other() -> None:
    X, y = make_data("multiclass")
    search = GridSearchCV(classifier(), {"learning_rate_init": [0.001, 1e300]}, cv=3, refit=False)
    with together(threads=3), pytest.warns(FitFailedWarning, match="3 fits failed"):
        scores = search.fit(X, y).cv_results_["mean_test_score"]
    assert np.isfinite(scores[0])
    assert np.isnan(scores[1])


class Ended:
    """A scorer that counts the fits that came to their ends, and may be long about it."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds, self.count = seconds, 0

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        for _ in range(int(1000 * self.seconds)):
            time.sleep(0.001)
        self.count += 1
        return 0.0


@pytest.mark.parametrize(
    ("estimator", "seconds"),
    [(classifier(**LONG), 0), (classifier(backend="numpy", **LONG), 0), (classifier(), 20)],
    ids=["numba", "numpy", "scorer"],
)
def test_ctrl_c_ends_all_fits(estimator: MLPClassifier, seconds: float) -> None:
    X, y = make_data("multiclass")
    ended = Ended(seconds)
    timer = threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with together(threads=3), pytest.raises(KeyboardInterrupt):
        GridSearchCV(estimator, GRID, cv=3, scoring=ended).fit(X, y)
    timer.join()
    assert ended.count == 0


def test_an_error_ends_all_fits() -> None:
    X, y = make_data("multiclass")
    candidates = [{"max_iter": [10**6]}, {"hidden_layer_sizes": [(0,)]}]
    ended = Ended()
    search = GridSearchCV(classifier(**LONG), candidates, cv=2, error_score="raise", scoring=ended)
    with together(threads=4), pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
        search.fit(X, y)
    assert ended.count == 0


def test_a_time_limit_ends_all_tasks() -> None:
    ended = Ended(20)
    with together(threads=2), pytest.raises(multiprocessing.TimeoutError):
        joblib.Parallel(timeout=0.1)(joblib.delayed(ended)(None, None, None) for _ in range(5))
    assert ended.count == 0


def test_a_call_may_follow_one_that_failed() -> None:
    with together(threads=2), joblib.Parallel() as parallel:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                parallel(joblib.delayed(divmod)(1, i) for i in range(20))
            found = parallel(joblib.delayed(abs)(i) for i in range(20))
            assert found[-20:] == [*range(20)]  # behind what joblib, with any backend, may keep of the failed call


def test_a_task_has_the_configuration_of_its_caller_and_clears_no_filters_of_warnings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def score(estimator: Any, X: Any, y: Any) -> float:
        return float(sklearn.get_config()["assume_finite"])

    cleared: list[int] = []
    monkeypatch.setattr(warnings, "resetwarnings", lambda: cleared.append(threading.get_ident()))
    X, y = make_data("multiclass")
    with together(threads=2):
        assert not cross_val_score(classifier(), X, y, cv=4, scoring=score).any()
        with sklearn.config_context(assume_finite=True):
            assert cross_val_score(classifier(), X, y, cv=4, scoring=score).all()
    assert not cleared


@pytest.mark.filterwarnings("ignore:.*have been cancelled:UserWarning")
def test_the_end_of_a_call_ends_no_task_of_another() -> None:
    def later(number: int) -> int:
        time.sleep(0.01)
        return number

    with together(threads=2):
        calls = [joblib.Parallel(return_as="generator")(joblib.delayed(later)(i) for i in range(20)) for _ in range(2)]
        assert next(calls[0]) == 0
        calls[0].close()
        assert [*calls[1]] == [*range(20)]


def test_tasks_have_their_share_of_blas_and_leave_the_filters_of_warnings_alone() -> None:
    begun, entered, left = threading.Event(), threading.Event(), threading.Event()

    def first() -> list[int]:
        with warnings.catch_warnings():
            begun.set()
            assert entered.wait(GUARD_SECONDS)
        left.set()
        return blas_threads()

    def second() -> list[int]:
        assert begun.wait(GUARD_SECONDS)
        with warnings.catch_warnings():  # and restores the filters of the other, which are gone
            entered.set()
            assert left.wait(GUARD_SECONDS)
        return blas_threads()

    with threadpool_limits(2, "blas"), together(threads=2):
        limits = joblib.Parallel()(joblib.delayed(task)() for task in (first, second))
    assert {*itertools.chain(*limits)} == {1}


def test_it_serves_a_thread_that_is_not_the_main_one_and_no_other() -> None:
    X, y = make_data("multiclass")

    def search() -> dict[str, Any]:
        with together(threads=2):
            found = searched(GridSearchCV(classifier(), GRID, cv=2), X, y)
            inside.set()
            assert looked.wait(GUARD_SECONDS)
            return found

    inside, looked = threading.Event(), threading.Event()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(1) as pool:
        given = pool.submit(search)
        assert inside.wait(GUARD_SECONDS)
        assert joblib.effective_n_jobs(None) == 1
        looked.set()
        np.testing.assert_equal(given.result(), searched(GridSearchCV(classifier(), GRID, cv=2), X, y))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="warns of every fork in a process that has had threads")
def test_a_forked_process_searches_as_well() -> None:
    X, y = make_data("multiclass")
    with together(threads=2):
        expected = cross_val_score(classifier(), X, y, cv=3)
        child = os.fork()
        if not child:
            status = 1
            try:
                signal.alarm(GUARD_SECONDS)
                status = int((cross_val_score(classifier(), X, y, cv=3) != expected).any())
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
