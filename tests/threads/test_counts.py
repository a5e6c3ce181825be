"""How many threads there are, and where users say so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from nnfast import MLPClassifier, MLPRegressor, Model, get_backend, train
from nnfast.support.threads import QUOTA, processor_count, thread_count
from tests.threads.fits import NETWORKS, guarded, make_rows


def test_the_count_is_what_is_asked_for_then_the_variables_then_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnfast.support.threads.processor_count", lambda: 6)
    assert thread_count() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # OpenMP's own notation for nested teams is left to OpenMP
    assert thread_count() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert thread_count() == 4
    monkeypatch.setenv("NNFAST_NUM_THREADS", "3")
    assert thread_count() == 3
    assert thread_count(2) == 2
    assert get_backend("numba").description.endswith(", 3 threads")
    assert get_backend("numba", threads=1).description.endswith(", 1 thread")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1025", "2.0"])
def test_a_variable_of_ours_that_is_no_count_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNFAST_NUM_THREADS", text)
    with pytest.raises(ValueError, match=rf"NNFAST_NUM_THREADS must be an integer in 1\.\.1024, got '{text}'"):
        get_backend("numba")
    monkeypatch.delenv("NNFAST_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert thread_count() == processor_count()


@pytest.mark.parametrize(
    ("quota", "count"),
    [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8), ("", 8), (None, 8)],
)
def test_a_container_s_quota_limits_the_count(
    quota: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(QUOTA).startswith("/sys/fs/cgroup")
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    monkeypatch.setattr("nnfast.support.threads.QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert processor_count() == count


@pytest.mark.parametrize("threads", [0, -3, 1025])
def test_a_count_out_of_range_is_refused(threads: int) -> None:
    for name in ("numba", "numpy", "auto"):
        with pytest.raises(ValueError, match=rf"threads must be a positive integer up to 1024, got {threads}"):
            get_backend(name, threads)


@pytest.mark.parametrize("threads", [True, "2", 2.0, [2]])
def test_a_count_that_is_no_integer_is_refused(threads: Any) -> None:
    with pytest.raises(TypeError, match="threads must be a positive integer, got"):
        get_backend("numba", threads)


def test_a_backend_that_is_there_has_its_own_threads(tmp_path: Path) -> None:
    backend = get_backend("numba", threads=2)
    assert get_backend(backend) is backend
    X, y = make_rows(NETWORKS["tanh"], 20, "float32")
    with pytest.raises(ValueError, match=r"threads=3 beside a Backend.*get_backend\('numba', threads=3\)"):
        train(NETWORKS["tanh"], X, y, backend=backend, threads=3)
    model = train(NETWORKS["tanh"], X, y, epochs=1, backend=backend)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="beside a Backend"):
        Model.load(tmp_path / "model", backend, threads=3).predict(X)
    for kind in (MLPClassifier, MLPRegressor):
        with pytest.raises(ValueError, match="beside a Backend"):
            kind(backend=backend, threads=3).fit(X, np.arange(20) % 2)


def test_training_and_its_model_take_a_count(teams: list[int], tmp_path: Path) -> None:
    X, y = make_rows(NETWORKS["tanh"], 90, "float32")
    model = train(NETWORKS["tanh"], X, y, epochs=2, backend="numba", threads=3)
    assert max(teams) == 3
    outputs = model.outputs(X)
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", "numba", threads=2)
    teams.clear()
    np.testing.assert_array_equal(loaded.outputs(X), outputs)
    assert max(teams) == 2
    loaded.threads = 4
    np.testing.assert_array_equal(loaded.outputs(X), outputs)
    assert max(teams) == 4


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_estimators_take_a_count_that_changes_nothing(kind: Any, solver: str, teams: list[int]) -> None:
    X, y = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 2
    fits = []
    for threads in (1, 3):
        teams.clear()
        estimator = kind(
            hidden_layer_sizes=(9,), solver=solver, backend="numba", threads=threads, max_iter=5, random_state=0
        )
        fits.append(guarded(lambda estimator=estimator: estimator.fit(X, y)))
        assert max(teams, default=1) == threads
        teams.clear()
        estimator.predict(np.tile(X, (3, 1)))  # too many for scikit-learn's own forward pass
        assert max(teams, default=1) == threads
    for first, second in zip(*(estimator.coefs_ for estimator in fits), strict=True):
        np.testing.assert_array_equal(first, second)
    assert "threads" not in fits[1].to_sklearn().get_params()
    assert kind.from_sklearn(fits[1].to_sklearn()).threads is None


@pytest.mark.parametrize("threads", [0, 1025, 2.5, "2"])
def test_the_estimators_refuse_what_is_no_count(threads: Any) -> None:
    X, y = np.eye(4), np.arange(4) % 2
    for kind in (MLPClassifier, MLPRegressor):
        with pytest.raises(ValueError, match=r"'threads' parameter of .* must be an int in the range"):
            kind(threads=threads).fit(X, y)
