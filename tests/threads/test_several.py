"""Computations that run at once, in threads and processes of the user's, share the processors."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

pytest.importorskip("numba")

from nnfast import MLPClassifier
from nnfast.support.threads import fair_share, share_kept, thread_count
from tests.threads.fits import GUARD_SECONDS, NETWORKS, fit, run_script


def test_two_trainings_at_once_give_each_its_own_result() -> None:
    cases = [("relu", 130), ("dropout", 97)]
    expected = [fit(NETWORKS[name], rows, 1, epochs=8) for name, rows in cases]
    results: dict[int, Any] = {}

    def run(index: int) -> None:
        name, rows = cases[index]
        results[index] = fit(NETWORKS[name], rows, 2, epochs=8)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert [results.get(index) for index in range(2)] == expected


def share_of_another_thread(count: int, then: Callable[[], Any] = lambda: None) -> int:
    """The share of a computation that calls `then`."""

    def compute() -> int:
        with fair_share(count) as share:
            then()
            return share

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(compute).result(GUARD_SECONDS)


def test_computations_at_once_share_the_threads() -> None:
    share = share_of_another_thread
    with fair_share(4) as alone:
        others: list[int] = []
        half = share(4, lambda: others.append(share(4)))
        with pytest.raises(ZeroDivisionError):
            share(4, lambda: 1 // 0)
        least = share(1)
        again = share(4)
    with fair_share(4) as after:
        pass
    assert (alone, half, others, least, again, after) == (4, 2, [1], 1, 2, 4)


def test_a_share_that_is_kept_counts_between_computations() -> None:
    def half_a_job() -> int:
        with share_kept():
            with fair_share(4) as own:
                pass
            with ThreadPoolExecutor(1) as pool:
                other = pool.submit(share_of_another_thread, 4).result(GUARD_SECONDS)
        return 10 * own + other

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(half_a_job).result(GUARD_SECONDS) == 42
    assert share_of_another_thread(4) == 4


def test_an_interruption_anywhere_loses_no_share_for_good() -> None:
    """Traced, since a signal rarely hits the lines that matter: interrupted at every line in turn."""
    lines = 0
    for interrupted_at in range(1, 100):
        lines = 0

        def trace(frame: Any, event: str, argument: Any, interrupted_at: int = interrupted_at) -> Any:
            nonlocal lines
            if frame.f_code is fair_share.__wrapped__.__code__:  # type: ignore[attr-defined]
                lines += event == "line"
                if lines == interrupted_at:
                    lines += 1
                    raise KeyboardInterrupt
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            with fair_share(4):
                pass
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            sys.settrace(previous)
        with fair_share(4) as share:
            assert share == 4, interrupted_at
        assert share_of_another_thread(4) == 4, interrupted_at
    assert lines > 3


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    fit(NETWORKS["relu"], 130, 5)
    assert threading.active_count() == before


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_a_forked_process_trains_as_its_parent_did() -> None:
    run_script("""
expected = fit()

def child(results):
    results.put(fit() == expected)

if (pid := os.fork()) == 0:
    signal.alarm(60)
    os._exit(0 if fit() == expected else 1)
assert os.waitpid(pid, 0)[1] == 0
fork = multiprocessing.get_context("fork")
results = fork.Queue()
process = fork.Process(target=child, args=(results,))
process.start()
assert results.get()
process.join()
""")


@needs_fork
def test_a_forked_process_begins_without_what_ran_in_its_parent() -> None:
    run_script("""
holds, forked = threading.Event(), threading.Event()

def compute():
    with fair_share(4):
        holds.set()
        forked.wait()

thread = threading.Thread(target=compute)
thread.start()
holds.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(60)  # the parent's own end would not end it
    with fair_share(4) as share:
        os._exit(0 if share == 4 else 1)
forked.set()
thread.join()
assert os.waitpid(pid, 0)[1] == 0
""")


class ThreadCounter(MLPClassifier):
    """Remembers how many threads it had."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        super().fit(X, y, sample_weight)
        self.own_threads_ = thread_count()
        return self


def counted_threads(estimator: ThreadCounter, X: Any, y: Any) -> int:
    count: int = estimator.own_threads_
    return count


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_processes_of_a_search_share_the_processors() -> None:
    """joblib says so in OMP_NUM_THREADS: as many processes as processors have one thread each."""
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    estimator = ThreadCounter((9,), max_iter=5, random_state=0)

    def scores(scoring: Any, n_jobs: int) -> list[float]:
        grid = {"alpha": [1e-4, 1.0]}
        search = GridSearchCV(estimator, grid, scoring=scoring, n_jobs=n_jobs, cv=2, refit=False)
        return list(search.fit(X, y).cv_results_["mean_test_score"])

    assert set(scores(counted_threads, 2)) == {max(1, joblib.cpu_count() // 2)}
    assert scores("accuracy", 2) == scores("accuracy", 1)
