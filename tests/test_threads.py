"""Threads of the CPU engine: no bit of a result depends on their number, and none is left behind or waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV

pytest.importorskip("numba")

from nnfast import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPool2D,
    MLPClassifier,
    MLPRegressor,
    Model,
    Network,
    get_backend,
    train,
)
from nnfast.backends import Recipe, Source
from nnfast.backends import numba as backend_module
from nnfast.kernels.cpu import epoch
from nnfast.kernels.cpu.products import DIRECT_BYTES, REPAID
from nnfast.losses import get_loss
from nnfast.optimizers import adam
from nnfast.plan import make_plan
from nnfast.threads import QUOTA, VARIABLES, fair_share, processor_count, run_in_threads, thread_count

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (1, 2, 3, 5)
GUARD_SECONDS = 300  # far more than any of this takes: who is not back by then waits for ever


def guarded(function: Callable[[], Any]) -> Any:
    """function(), in a thread that a deadlock may keep: the test fails, and the others go on."""
    results: list[Any] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(GUARD_SECONDS)
    if not results:
        pytest.fail("a deadlock")
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def run_script(script: str) -> None:
    """A process of its own, for what needs the main thread or forks; it ends with 0 where its promises hold."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, timeout=GUARD_SECONDS, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


PREAMBLE = """
import multiprocessing, os, signal, sys, threading
import numpy as np
from nnfast import Dense, Network, train
from nnfast.backends import numba as backend
from nnfast.threads import fair_share, run_in_threads

backend.FLOPS_PER_THREAD = 1
X = np.random.default_rng(0).normal(size=(100, 5))

def fit():
    network = Network(5, [Dense(7, "tanh"), Dense(2)])
    return train(network, X, X[:, :2], epochs=3, backend="numba", threads=3).parameters.tobytes()
"""


@pytest.fixture(autouse=True)
def teams(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads every stretch asked for; small networks use threads as large ones do."""
    seen: list[int] = []

    def noted(function: Callable[[int, int], Any], count: int) -> None:
        seen.append(count)
        run_in_threads(function, count)

    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(backend_module, "FLOPS_PER_THREAD", 1)
    monkeypatch.setattr(backend_module, "run_in_threads", noted)
    return seen


def make_rows(network: Network, n_rows: int, dtype: str) -> tuple[Any, Any]:
    random = np.random.default_rng(n_rows)
    X = random.normal(size=(n_rows, *network.input_shape)).astype(dtype)
    if network.output_layer.function.name in ("softmax", "sigmoid"):
        classes = max(2, network.output_size)
        return X, np.resize(np.arange(classes), n_rows)
    return X, random.normal(size=(n_rows, network.output_size)).astype(dtype)


def fit(network: Network, n_rows: int, threads: int, dtype: str = "float32", **options: Any) -> tuple[Any, ...]:
    """All bits of a training, with its losses and what the model then says."""
    X, y = make_rows(network, n_rows, dtype)
    options = {"epochs": 2, "batch_size": 50, "learning_rate": 0.01, **options}
    model = train(network, X, y, backend="numba", threads=threads, dtype=dtype, **options)
    loss = model.evaluate(X, y, options.get("sample_weight"))["loss"]
    return model.parameters.tobytes(), model.history.loss, model.outputs(X).tobytes(), loss


WIDE = 300  # columns
NETWORKS = {
    "relu": Network(9, [Dense(33, "relu"), Dense(17, "relu"), Dense(5, "softmax")]),
    "tanh": Network(9, [Dense(20, "tanh"), Dense(3)]),
    "one output": Network(9, [Dense(20, "relu"), Dense(1, "sigmoid")]),
    "two outputs": Network(9, [Dense(20, "gelu"), Dense(2, "softmax")]),
    "one layer": Network(9, [Dense(4, "softmax")]),
    "no bias": Network(9, [Dense(6, "sigmoid", bias=False), Dense(2, bias=False)]),
    "one input": Network(1, [Dense(1, "tanh"), Dense(1)]),
    "wide": Network(DIRECT_BYTES // 4 // WIDE + 1, [Dense(WIDE, "relu"), Dense(3, "softmax")]),
    "dropout": Network(9, [Dropout(0.2), Dense(20, "relu"), Dropout(0.5), Dense(5, "softmax")]),
    "images": Network(
        (7, 6, 2),
        [Conv2D(70, 3, activation="relu"), MaxPool2D(2), Conv2D(6, 2, padding="same"), Flatten(), Dense(4, "softmax")],
    ),
    "normalised": Network(
        (4, 5, 3),
        [Conv2D(5, 2, bias=False), BatchNorm(activation="relu"), AveragePool2D(2), Flatten(), BatchNorm(), Dense(3)],
    ),
    "one weight": Network((3, 3), [Conv2D(1, 1, activation="tanh"), Dropout(0.1), Flatten(), Dense(3, "softmax")]),
}
RECIPES: dict[str, dict[str, Any]] = {
    "penalties": {"alpha": 0.01, "l1": 0.001},
    "clipped": {"clip_norm": 0.01},
    "all of it": {"alpha": 0.01, "l1": 0.001, "clip_norm": 0.01, "optimizer": "sgd"},
    "weighted": {"sample_weight": np.random.default_rng(5).random(130) * (np.arange(130) // 50 != 1)},
    "full batch": {"batch_size": "full"},
    "summed loss": {"loss": "sum_squared_error", "learning_rate": 1e-4},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_threads_gives_the_same_bits(name: str, dtype: str, teams: list[int]) -> None:
    alone = fit(NETWORKS[name], 130, 1, dtype)
    for threads in COUNTS[1:]:
        teams.clear()
        assert guarded(lambda threads=threads: fit(NETWORKS[name], 130, threads, dtype)) == alone, threads
        assert max(teams) == threads


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECIPES)
def test_so_do_penalties_clipping_weights_and_losses(name: str, dtype: str) -> None:
    """Of the weighted run, the second batch weighs nothing and is left out, where the order stays."""
    network = Network(9, [Dense(33, "relu"), Dropout(0.3), Dense(2)])
    options = {"shuffle": name != "weighted", **RECIPES[name]}
    alone = fit(network, 130, 1, dtype, **options)
    for threads in COUNTS[1:]:
        assert guarded(lambda threads=threads: fit(network, 130, threads, dtype, **options)) == alone, threads


@pytest.mark.parametrize("threads", COUNTS)
def test_a_batch_in_blocks_has_the_bits_of_one_in_one_piece(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS["dropout"]
    whole = fit(network, 500, 1, batch_size="full")
    monkeypatch.setattr(backend_module, "BLOCK_BYTES", 1)
    for rows in (16, 64):
        monkeypatch.setattr(backend_module, "BLOCK_ROWS", rows)
        assert guarded(lambda: fit(network, 500, threads, batch_size="full")) == whole, rows


def test_a_wide_layer_is_copied_piece_by_piece_in_some_threads_only() -> None:
    """What the case "wide" is there for: the shares of a batch of 50 rows lie on both sides of REPAID."""
    W = NETWORKS["wide"].input_size * WIDE * 4
    assert W > DIRECT_BYTES
    assert 16 < REPAID <= 32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["relu", "one output", "wide"])
def test_loss_gradient_and_outputs_have_the_same_bits(name: str, dtype: str) -> None:
    network = NETWORKS[name]
    X, y = make_rows(network, 70, dtype)
    loss = get_loss("binary_cross_entropy" if network.output_size == 1 else "cross_entropy")
    plan = make_plan(network, 70)
    weights = np.random.default_rng(0).random(70).astype(dtype)
    source = Source(X, y.astype(np.int64), weights)

    def bits(threads: int) -> tuple[Any, ...]:
        program = get_backend("numba", threads).compile(plan, Recipe(loss, adam(), np.dtype(dtype), 0.1, 0.01, 1.0))
        program.parameters = plan.initial_parameters(3)
        mean, gradient = program.loss_and_gradient(source)
        value, outputs = program.evaluate(source)
        return mean, gradient.tobytes(), value, outputs.tobytes()

    alone = bits(1)
    for threads in COUNTS[1:]:
        assert guarded(lambda threads=threads: bits(threads)) == alone, threads


def test_an_evaluation_in_many_parts_has_the_same_bits() -> None:
    """A thread that is done with its rows must not write over losses that another has yet to add up."""
    network = Network(1, [Dense(1)])
    X, y = make_rows(network, 200_000, "float32")
    recipe = Recipe(get_loss("squared_error"), adam(), np.dtype("float32"))

    def bits(threads: int) -> tuple[float, bytes]:
        program = get_backend("numba", threads).compile(make_plan(network, 4096), recipe)
        program.parameters = np.ones(2)
        loss, outputs = program.evaluate(Source(X, y))
        return loss, outputs.tobytes()

    alone = bits(1)
    for threads in (5, 8) * 5:
        assert guarded(lambda threads=threads: bits(threads)) == alone


@settings(max_examples=100)
@given(
    rows=st.integers(1, 90),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    outputs=st.integers(1, 20),
    batch=st.integers(1, 90),
    threads=st.integers(2, 9),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_networks_and_batches_of_any_size_have_the_same_bits(
    rows: int, sizes: list[int], outputs: int, batch: int, threads: int, dtype: str
) -> None:
    """Also batches with fewer groups of rows, and layers with fewer rows of weights, than there are threads."""
    network = Network(sizes[0], [*(Dense(size, "tanh") for size in sizes[1:]), Dense(outputs)])
    options = {"batch_size": batch, "epochs": 1, "alpha": 0.1, "clip_norm": 0.5}
    alone = fit(network, rows, 1, dtype, **options)
    assert guarded(lambda: fit(network, rows, threads, dtype, **options)) == alone


def test_more_threads_than_rows_and_processors_give_the_same_bits(teams: list[int]) -> None:
    alone = fit(NETWORKS["tanh"], 40, 1)
    assert guarded(lambda: fit(NETWORKS["tanh"], 40, 40)) == alone
    assert max(teams) == 40


def test_small_networks_do_without_threads(teams: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(backend_module, "run_in_threads", lambda function, count: teams.append(count) or function(0, 1))
    fit(NETWORKS["tanh"], 40, 8)
    assert set(teams) == {1}
    network = Network(400, [Dense(400, "relu"), Dense(10, "softmax")])
    fit(network, 200, 3, epochs=1, batch_size=200)
    assert max(teams) == 3


# --- several at once, and other processes


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


# --- what goes wrong


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_threads_that_do_not_start_are_done_without(refused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = fit(NETWORKS["relu"], 130, 1)
    start, begun = threading.Thread.start, []

    def refusing(thread: threading.Thread) -> None:
        begun.append(thread)
        if len(begun) >= refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    def work() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refusing)
            return fit(NETWORKS["relu"], 130, 3)

    assert guarded(work) == alone
    assert len(begun) >= refused


def test_threads_are_told_how_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    start, begun, calls = threading.Thread.start, [], []

    def refusing(thread: threading.Thread) -> None:
        begun.append(thread)
        if len(begun) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    run_in_threads(lambda number, count: calls.append((number, count)), 5)
    assert sorted(calls) == [(0, 2), (1, 2)]


def test_an_error_in_a_thread_is_raised() -> None:
    def fail(number: int, count: int) -> None:
        if number == 1:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        run_in_threads(fail, 3)


def test_threads_do_not_wait_for_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    run_steps = epoch.run_steps

    def failing(*arguments: Any) -> None:
        thread, threads = arguments[-2:]
        if threads == 3 and thread == 1:
            raise MemoryError("no room")
        run_steps(*arguments)

    fit(NETWORKS["normalised"], 130, 1)  # compiles
    monkeypatch.setattr(epoch, "run_steps", failing)
    with pytest.raises(MemoryError, match="no room"):
        guarded(lambda: fit(NETWORKS["normalised"], 130, 3))
    monkeypatch.undo()
    guarded(lambda: fit(NETWORKS["normalised"], 130, 3))


def test_ctrl_c_waits_for_the_threads_and_is_raised() -> None:
    """Pressed as often as there are threads: a join that is interrupted takes its thread for dead."""
    run_script("""
done, never = [], threading.Event()

def work(number, count):
    for _ in range(count):
        never.wait(0.1)
        if number == 0:
            os.kill(os.getpid(), signal.SIGINT)
    never.wait(0.5)
    done.append(number)

try:
    run_in_threads(work, 3)
except KeyboardInterrupt:
    assert sorted(done) == [0, 1, 2], done
    assert threading.active_count() == 1
else:
    sys.exit("Ctrl-C was lost")
with fair_share(2) as share:
    assert share == 2
""")


def test_ctrl_c_during_a_stretch_leaves_it_whole() -> None:
    """The program's arrays are nobody's but the user's once KeyboardInterrupt is there: the stretch is at its end."""
    run_script("""
from nnfast.backends import Recipe, Source, get_backend
from nnfast.losses import get_loss
from nnfast.optimizers import adam
from nnfast.plan import make_plan

plan = make_plan(Network(5, [Dense(70, "tanh"), Dense(2)]), 50)
source = Source(X.astype("float32"), X[:, :2].astype("float32"))
recipe = Recipe(get_loss("squared_error"), adam(), np.dtype("float32"))
steps = 20_000
order = np.tile(np.arange(50), steps)
in_threads = backend.run_in_threads

def interrupted(function, count):
    def work(number, count):
        if number == 0:
            os.kill(os.getpid(), signal.SIGINT)
        function(number, count)
    in_threads(work, count)

def run(program):
    program.run(order, np.arange(steps + 1) * 50, np.full(steps, 1e-3), 0)

programs = [get_backend("numba", threads=2).compile(plan, recipe) for _ in range(2)]
for program in programs:
    program.parameters = plan.initial_parameters(0)
    program.bind(source)
run(programs[0])
backend.run_in_threads = interrupted
try:
    run(programs[1])
except KeyboardInterrupt:
    assert threading.active_count() == 1
    np.testing.assert_array_equal(programs[1].parameters, programs[0].parameters)
else:
    sys.exit("Ctrl-C was lost")
""")


# --- how many


def test_the_count_is_what_is_asked_for_then_the_variables_then_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnfast.threads.processor_count", lambda: 6)
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
    monkeypatch.setattr("nnfast.threads.QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert processor_count() == count


@pytest.mark.parametrize("threads", [0, -3, 1025])
def test_a_count_out_of_range_is_refused(threads: int) -> None:
    for name in ("numba", "numpy", "auto"):
        with pytest.raises(ValueError, match=rf"threads must lie in 1\.\.1024, got {threads}"):
            get_backend(name, threads)


@pytest.mark.parametrize("threads", [True, "2", 2.0, [2]])
def test_a_count_that_is_no_integer_is_refused(threads: Any) -> None:
    with pytest.raises(TypeError, match="threads must be a positive integer or None, got"):
        get_backend("numba", threads)


# --- where users say so


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
        assert max(teams) == threads
        teams.clear()
        estimator.predict(X)
        assert max(teams) == threads
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
