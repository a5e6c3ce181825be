"""Threads that do not start, that fail, and that are interrupted: no thread waits for ever."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

pytest.importorskip("numba")

from nnfast.backends.numba import frame as frame_module
from nnfast.support.threads import run_in_threads
from tests.threads.fits import NETWORKS, fit, guarded, run_script

# The scripts' threads signal the process with os.kill: like Ctrl-C, that wakes the main thread, which waits for them.
# signal.raise_signal would reach the calling thread alone. On Windows os.kill ends the process instead.
signals_the_process = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to a process")


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
    c_function = frame_module.c_function

    def failing_function(*of_what: Any) -> Any:
        run_frames = c_function(*of_what)

        def failing(*arguments: Any) -> None:
            thread, threads = arguments[-2:]
            if threads == 3 and thread == 1:
                raise MemoryError("no room")
            run_frames(*arguments)

        return failing

    fit(NETWORKS["normalised"], 130, 1)  # compiles
    monkeypatch.setattr(frame_module, "c_function", failing_function)
    with pytest.raises(MemoryError, match="no room"):
        guarded(lambda: fit(NETWORKS["normalised"], 130, 3))
    monkeypatch.undo()
    guarded(lambda: fit(NETWORKS["normalised"], 130, 3))


@signals_the_process
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


@signals_the_process
def test_what_a_signals_handler_raises_waits_for_the_threads() -> None:
    """A time limit, or an orderly exit: the threads use arrays that the caller would let go."""
    run_script("""
done, never = [], threading.Event()

def ring(number, frame):
    raise TimeoutError("the time is up")

def work(number, count):
    for _ in range(count):
        never.wait(0.1)
        if number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
    never.wait(0.5)
    done.append(number)

signal.signal(signal.SIGTERM, ring)
try:
    run_in_threads(work, 3)
except TimeoutError:
    assert sorted(done) == [0, 1, 2], done
    assert threading.active_count() == 1
else:
    sys.exit("the handler's error was lost")
""")


@signals_the_process
def test_ctrl_c_during_a_stretch_leaves_it_whole() -> None:
    """The program's arrays belong to the user alone once KeyboardInterrupt is raised: the stretch is at its end."""
    run_script("""
from nnfast.backends import Source, get_backend
from nnfast.formulas.losses import get_loss
from nnfast.formulas.optimizers import adam
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe

plan = make_plan(Network(5, [Dense(70, "tanh"), Dense(2)]), 50)
source = Source(X.astype("float32"), X[:, :2].astype("float32"))
recipe = Recipe(get_loss("squared_error"), adam(), np.dtype("float32"))
steps = 20_000
order = np.tile(np.arange(50), steps)
in_threads = team.run_in_threads

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
team.run_in_threads = interrupted
try:
    run(programs[1])
except KeyboardInterrupt:
    assert threading.active_count() == 1
    np.testing.assert_array_equal(programs[1].parameters, programs[0].parameters)
else:
    sys.exit("Ctrl-C was lost")
""")
