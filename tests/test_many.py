"""train_many(): many networks in one call, each of them what train() alone makes of it."""

from __future__ import annotations

import signal
import threading
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import KFold

from nnfast import BatchNorm, Dense, DivergenceError, Dropout, EarlyStopping, Model, Network, train, train_many
from nnfast.backends import Backend, Program, get_backend
from nnfast.data.encoding import InputEncoding
from nnfast.data.splits import fold_rows
from nnfast.formulas.losses import LOSSES
from nnfast.plans.plan import Plan
from nnfast.plans.recipe import Recipe
from nnfast.support.threads import fair_share, share_kept
from nnfast.training.job import Data, Settings, make_job
from nnfast.training.many import Result

NETWORK = Network(4, [Dense(6, "relu"), Dense(3, "softmax")])
OTHER = Network(4, [Dense(9, "tanh"), Dropout(0.25), Dense(3, "softmax")])
NORMALISED = Network(4, [Dense(5), BatchNorm(), Dense(3, "softmax")])
X = np.random.default_rng(0).normal(size=(90, 4))
LABELS = np.digitize(X.sum(axis=1), [-1, 1])


def many(*arguments: Any, **options: Any) -> list[Model]:
    results = train_many(*arguments, **{"backend": "numba", "epochs": 6, **options})
    assert all(isinstance(result, Model) for result in results)
    return results  # type: ignore[return-value]


def assert_same(ours: Result, alone: Model) -> None:
    assert isinstance(ours, Model)
    np.testing.assert_array_equal(ours.parameters, alone.parameters)
    np.testing.assert_array_equal(ours.state, alone.state)
    assert (ours.history.loss, ours.history.metrics) == (alone.history.loss, alone.history.metrics)
    assert (ours.history.stopped, ours.history.best_epoch) == (alone.history.stopped, alone.history.best_epoch)
    np.testing.assert_array_equal(ours.outputs(X), alone.outputs(X))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_network_is_to_the_bit_what_train_alone_gives(threads: int) -> None:
    settings: list[dict[str, Any]] = [
        {"seed": 3, "learning_rate": 0.01},
        {"optimizer": "sgd", "batch_size": "full", "epochs": 9, "dtype": "float64"},
        {"validation": 0.2, "early_stopping": EarlyStopping(2), "epochs": 40, "learning_rate": 0.1},
        {"validation": (X[:20], LABELS[:20]), "schedule": "cosine", "alpha": 0.01, "loss": "squared_error"},
        {"sample_weight": np.arange(90.0), "shuffle": False, "clip_norm": 0.1},
    ]
    networks = [NETWORK, OTHER, NORMALISED, NETWORK, OTHER]
    together = train_many(networks, X, LABELS, settings, backend="numba", threads=threads)
    for network, own, result in zip(networks, settings, together, strict=True):
        assert_same(result, train(network, X, LABELS, backend="numba", **own))


def test_so_it_is_on_every_backend(backend: Backend) -> None:
    settings: list[dict[str, Any]] = [{"seed": 3, "validation": 0.2}, {"alpha": 0.1, "batch_size": 40}]
    together = train_many([NETWORK, OTHER], X, LABELS, settings, epochs=2, backend=backend)
    for network, own, result in zip([NETWORK, OTHER], settings, together, strict=True):
        assert_same(result, train(network, X, LABELS, epochs=2, backend=backend, **own))


def test_a_list_has_one_value_for_each_network_and_anything_else_is_for_all() -> None:
    models = many(NETWORK, X, LABELS, learning_rate=[0.1, 0.01], seed=range(2), alpha=0.5)
    for index, model in enumerate(models):
        alone = train(
            NETWORK, X, LABELS, backend="numba", epochs=6, learning_rate=[0.1, 0.01][index], seed=index, alpha=0.5
        )
        assert_same(model, alone)
    for model, network in zip(many([NETWORK, NORMALISED], X, LABELS), [NETWORK, NORMALISED], strict=True):
        assert_same(model, train(network, X, LABELS, backend="numba", epochs=6))
    assert len(many(NETWORK, X, LABELS)) == 1


def test_a_fold_is_to_the_bit_a_training_on_rows_of_its_own(backend: Backend) -> None:
    pairs = fold_rows(90, 3, 0, labels=LABELS)
    models = many([NETWORK, OTHER], X, LABELS, folds=3, backend=backend, epochs=2)
    given = many([NETWORK, OTHER], X, LABELS, folds=pairs, backend=backend, epochs=2)
    expected = [
        train(network, X[kept], LABELS[kept], validation=(X[held], LABELS[held]), backend=backend, epochs=2)
        for network in (NETWORK, OTHER)
        for kept, held in pairs
    ]
    for ours, again, alone in zip(models, given, expected, strict=True):
        assert_same(ours, alone)
        assert_same(again, alone)


def test_a_fold_may_draw_a_row_twice_and_hold_none_out() -> None:
    drawn = np.random.default_rng(1).integers(0, 90, 90)
    (model,) = many(NETWORK, X, LABELS, folds=[(drawn, [])])
    assert_same(model, train(NETWORK, X[drawn], LABELS[drawn], backend="numba", epochs=6))
    assert not model.history.metrics


def test_the_rows_are_read_once_for_all_networks_and_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float64 rows are converted to float32: with 12 trainings a copy each would be 12."""
    from nnfast.training import job

    read: list[Any] = []
    original = job.scaled_inputs
    monkeypatch.setattr(job, "scaled_inputs", lambda *given: read.append(given[0]) or original(*given))
    many([NETWORK, OTHER], X, LABELS, folds=3, loss=["squared_error", "cross_entropy"])
    assert len(read) == 1
    held_out = X[:9], LABELS[:9]
    many(NETWORK, X, LABELS, seed=range(4), validation=held_out)
    assert len(read) == 3


def test_jobs_that_wait_hold_no_order_of_the_rows() -> None:
    rows = np.zeros((100_000, 4), "float32")
    data = Data(rows, np.arange(len(rows)) % 3)
    make_job(NETWORK, data, Settings(shuffle=False))
    tracemalloc.start()
    jobs = [make_job(NETWORK, data, Settings(shuffle=False, validation=share)) for share in (None, 0.1) * 10]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 8 * len(rows)  # of one order
    np.testing.assert_array_equal(jobs[0].orders(3), np.arange(len(rows)))


def test_one_that_diverges_harms_no_other() -> None:
    y = X @ np.arange(4.0)
    network = Network(4, [Dense(5, "relu"), Dense(1)])
    rates = [0.01, 1e30, 0.02]
    results = train_many(network, X, y, optimizer="sgd", learning_rate=rates, epochs=5)
    assert [type(result) for result in results] == [Model, DivergenceError, Model]
    for result, rate in zip(results, rates, strict=True):
        if isinstance(result, Model):
            assert_same(result, train(network, X, y, optimizer="sgd", learning_rate=rate, epochs=5))
    error = results[1]
    assert isinstance(error, DivergenceError)
    assert error.model.history.stopped == "diverged"
    assert error.__traceback__ is None  # which would keep the program and its memory


def test_a_network_finds_nothing_that_an_equal_one_before_it_left(backend: Backend) -> None:
    # In one thread, which makes one program for all of a kind. The first has weights and moments become NaN
    engine = get_backend("numba", 1) if backend.name == "numba" else backend
    rates, seeds = [1e30, 0.1, 0.01], [5, 5, 6]
    for network in (NETWORK, OTHER, NORMALISED):
        if network is NORMALISED and getattr(backend, "path", None) == "narrow":
            continue  # which has no BatchNorm
        options = {"epochs": 3, "batch_size": 40, "alpha": 0.01}
        results = train_many(network, X, LABELS, learning_rate=rates, seed=seeds, backend=engine, **options)
        assert isinstance(results[0], DivergenceError)
        for rate, seed, result in list(zip(rates, seeds, results, strict=True))[1:]:
            alone = train(network, X, LABELS, learning_rate=rate, seed=seed, backend=engine, **options)
            assert_same(result, alone)


def test_equal_networks_of_a_thread_share_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = get_backend("numba", 1)
    compiled: list[Recipe] = []
    right = engine.compile

    def counted(plan: Plan, recipe: Recipe) -> Program:
        compiled.append(recipe)
        return right(plan, recipe)

    monkeypatch.setattr(engine, "compile", counted)
    train_many(NETWORK, X, LABELS, seed=range(4), learning_rate=[0.1, 0.2, 0.3, 0.4], epochs=1, backend=engine)
    assert len(compiled) == 1
    train_many(OTHER, X, LABELS, seed=[1, 2, 2], epochs=1, backend=engine)  # its masks are of its seed
    assert [recipe.seed for recipe in compiled[1:]] == [1, 2]
    loss = LOSSES["cross_entropy"]
    shown = replace(loss, reported_within=(0.0, 0.5))
    first, second = train_many(NETWORK, X, LABELS, loss=[loss, shown], epochs=1, backend=engine)
    assert isinstance(first, Model)
    assert isinstance(second, Model)
    assert second.history.loss[0] < 0.5 < first.history.loss[0]


def test_ctrl_c_keeps_what_is_finished() -> None:
    seen: list[int] = []

    def press(record: Any) -> None:
        seen.append(record.epoch)
        if record.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        results = train_many(
            NETWORK, X, LABELS, threads=1, epochs=[5, 4, 3], callbacks=[(), (press,), ()], backend="numba"
        )
    first, second, third = results
    assert isinstance(first, Model)  # the longest comes first
    assert first.history.epochs == 5
    assert isinstance(second, Model)
    assert (second.history.stopped, second.history.epochs) == ("interrupted", 3)
    assert third is None


def test_ctrl_c_ends_networks_in_several_threads() -> None:
    pressed = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])

    def press(record: Any) -> None:
        if record.epoch == 2:
            pressed.start()

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        results = train_many(
            NETWORK, X, LABELS, [{"callbacks": [press]}, {}, {}, {}], threads=2, epochs=10**9, backend="numba"
        )
    stopped = [None if result is None else result.history.stopped for result in results]  # type: ignore[union-attr]
    assert stopped == ["interrupted", "interrupted", None, None]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nnfast")]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_result_is_told_when_it_is_there(threads: int) -> None:
    told: dict[int, Result] = {}
    here = threading.get_ident()

    def finished(index: int, result: Result) -> None:
        assert threading.get_ident() == here
        told[index] = result

    models = many(NETWORK, X, LABELS, seed=range(3), folds=2, threads=threads, finished=finished)
    assert [told[index] for index in range(6)] == models


def test_an_error_of_a_callback_ends_all_and_is_raised() -> None:
    def fail(record: Any) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train_many(NETWORK, X, LABELS, [{"callbacks": [fail]}, {"epochs": 10**9}], threads=2, backend="numba")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nnfast")]


def test_a_thread_that_trains_counts_also_between_its_stretches() -> None:
    """Else a network beside it would take its processor for a whole stretch."""
    begun, over = threading.Event(), threading.Event()

    def train_on() -> None:
        with share_kept():
            begun.set()
            over.wait()

    thread = threading.Thread(target=train_on)
    thread.start()
    begun.wait()
    with fair_share(2) as beside:
        over.set()
        thread.join()
    with fair_share(2) as alone:
        pass
    assert (beside, alone) == (1, 2)


def test_a_network_s_folds_follow_each_other_and_the_longest_network_goes_first() -> None:
    """Also where some folds train on a row more than others."""
    told: list[int] = []
    pairs = [(range(29), [89]), (range(31), [89]), (range(30), [89])]
    arguments: Any = (NETWORK, X, LABELS, [{"epochs": 2}, {"epochs": 2}, {"epochs": 4}])
    train_many(*arguments, folds=pairs, backend="numpy", finished=lambda place, result: told.append(place))
    assert told == [7, 8, 6, 1, 2, 0, 4, 5, 3]


def test_the_last_network_has_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnfast.backends.numba import program, team

    teams: list[int] = []
    original = team.run_in_threads
    monkeypatch.setattr(program, "FLOPS_PER_THREAD", 1)
    monkeypatch.setattr(
        team, "run_in_threads", lambda function, count, *limit: teams.append(count) or original(function, count, *limit)
    )
    many(NETWORK, X, LABELS, seed=range(3), epochs=[300, 1, 1], threads=2)
    assert teams[-1] == 2


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an unknown option": ({"epoch": 3}, TypeError, "no option 'epoch'; did you mean 'epochs'"),
    "lists of two lengths": ({"seed": [1, 2], "alpha": [0.1]}, ValueError, "seed 2, alpha 1"),
    "an empty list": ({"seed": []}, ValueError, "seed is empty"),
    "a value that does not fit": ({"alpha": [0.1, -1]}, ValueError, "network 1: alpha must be .* got -1"),
    "an option given twice": ({"settings": [{"alpha": 1}], "alpha": 2}, ValueError, "alpha is given twice"),
    "an array of values": ({"learning_rate": np.array([0.1])}, TypeError, "a list with one for each, got ndarray"),
    "a tuple of values": ({"alpha": (0.1, 0.2)}, TypeError, "alpha must be one value for all networks or a list"),
    "a mapping for settings": ({"settings": {"alpha": 1}}, TypeError, "put it into a list"),
    "a splitter": ({"folds": KFold(3)}, TypeError, r"pass its \.split\(X\)"),
    "folds and validation": ({"folds": 3, "validation": 0.1}, ValueError, "give folds or validation"),
    "one fold": ({"folds": 1}, ValueError, "folds must be an integer from 2"),
    "more folds than rows": ({"folds": 91}, ValueError, "90 rows cannot be divided into 91 folds"),
    "a fold of one part": ({"folds": [[1, 2, 3]]}, ValueError, "fold 0 must be a pair"),
    "a row that is not there": ({"folds": [([0, 90], [1])]}, ValueError, r"fold 0 must name rows in \[0, 90\)"),
    "a row on both sides": ({"folds": [([0, 1], [1])]}, ValueError, "holds out row 1, which it also trains on"),
    "a fold without rows": ({"folds": [([], [1])]}, ValueError, "fold 0 has no rows to train on"),
    "a fold of numbers with a point": ({"folds": [([0.5], [1])]}, TypeError, "by their numbers, got float64"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_told_before_anything_is_trained(what: str) -> None:
    options, kind, message = MISTAKES[what]
    trained: list[Any] = []
    with pytest.raises(kind, match=message):
        train_many(NETWORK, X, LABELS, **{"callbacks": [trained.append], **options})
    assert not trained


def test_folds_hold_every_row_out_once_and_every_class_alike() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 11])
    pairs = fold_rows(91, 4, seed=5, labels=labels)
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in pairs])), np.arange(91))
    for kept, held in pairs:
        np.testing.assert_array_equal(np.union1d(kept, held), np.arange(91))
        assert len(kept) + len(held) == 91
        counts = np.bincount(labels[held], minlength=3)
        assert (abs(counts - np.array([50, 30, 11]) / 4) < 1).all()
        assert len(held) in (22, 23)
    assert not np.array_equal(pairs[0][1], fold_rows(91, 4, seed=6, labels=labels)[0][1])


def test_a_progress_bar_shows_the_best_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    train_many(NETWORK, X, LABELS, seed=range(3), epochs=2, progress=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "best loss" in shown


def test_data_that_is_shared_is_encoded_as_each_network_reads_it() -> None:
    encodings = [InputEncoding.fit(rows) for rows in (X, 5 * X + 1)]
    for inputs, model in zip(encodings, many(NETWORK, X, LABELS, inputs=encodings), strict=True):
        assert_same(model, train(NETWORK, X, LABELS, backend="numba", epochs=6, inputs=inputs))


def test_the_bar_does_not_count_what_ctrl_c_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    def press(record: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        train_many(NETWORK, X, LABELS, threads=1, epochs=[5, 4, 3], callbacks=[(), (press,), ()], progress=True)
    shown = capsys.readouterr().err
    assert "1/3" in shown
    assert "2 not finished" in shown


def test_data_that_is_shared_gives_each_network_its_own_targets() -> None:
    """One output reads two labels as a column of numbers, two outputs as class indices."""
    y = (LABELS > 0).astype(int)
    networks = [Network(4, [Dense(1, "sigmoid")]), Network(4, [Dense(2, "softmax")])]
    for network, model in zip(networks, many(networks, X, y), strict=True):
        assert_same(model, train(network, X, y, backend="numba", epochs=6))
