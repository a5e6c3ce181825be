"""Searches over joblib's Dask backend, with two worker processes: their results, their data, and a killed worker."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from nnfast import MLPClassifier
from nnfast.support.threads import thread_count

distributed = pytest.importorskip("distributed", reason="the extra nnfast[dask] is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:`apply_async` is deprecated:DeprecationWarning"),  # joblib 1.5's own backend
]

X, y = load_digits(return_X_y=True)
FOLDS = [*StratifiedKFold(3).split(X, y)]
DATA = [X, y, *itertools.chain(*FOLDS)]
GRID = {"alpha": [1e-4, 0.1, 1.0], "learning_rate_init": [0.001, 0.01, 0.1]}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.amm.stop()  # which leaves one copy of what every worker was sent, for a killed worker to take along
        yield client


def search(**parameters: Any) -> GridSearchCV:
    return GridSearchCV(MLPClassifier(max_iter=10, random_state=0), GRID, cv=FOLDS, **parameters)


def scores(found: GridSearchCV) -> dict[str, Any]:
    return {name: value for name, value in found.cv_results_.items() if "_time" not in name}


def test_a_search_finds_what_it_finds_in_sequence(client: Any) -> None:
    with joblib.parallel_config("dask", scatter=DATA):
        found = search().fit(X, y)
    np.testing.assert_equal(scores(found), scores(search().fit(X, y)))


def test_every_thread_of_every_worker_has_a_fit_with_one_thread_of_the_engine(client: Any) -> None:
    assert set(client.run(thread_count).values()) == {1}
    with joblib.parallel_config("dask"):
        assert joblib.effective_n_jobs() == 4


class CountCopies:
    """A scorer that counts the arrays of this many bytes that the workers hold, each under a name of its own."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        return [*distributed.get_client().nbytes(summary=False).values()].count(self.n_bytes)


def test_the_data_is_sent_once(client: Any) -> None:
    with joblib.parallel_config("dask", scatter=DATA):
        found = search(scoring=CountCopies(X.nbytes)).fit(X, y)
    counted = [value for name, value in scores(found).items() if name.startswith("split")]
    assert set(np.concatenate(counted)) == {1.0}


class KillOnce:
    """Accuracy; the first worker that has three fits to score is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(".")
            scored = file.tell()
        if scored == 3:
            with contextlib.suppress(FileExistsError):
                (self.folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return float(estimator.score(X, y))


def test_a_search_whose_worker_is_killed_finds_the_same(client: Any, tmp_path: Path) -> None:
    before = {*client.run(os.getpid).values()}
    with joblib.parallel_config("dask", scatter=DATA):
        found = search(scoring=KillOnce(tmp_path)).fit(X, y)
    assert (tmp_path / "killed").exists()
    assert len(before - {*client.run(os.getpid).values()}) == 1
    np.testing.assert_equal(scores(found), scores(search().fit(X, y)))
