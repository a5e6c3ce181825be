"""Where the user names no number of threads, the engine takes what measures fastest; no result depends on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from nnfast import History, Model, get_backend, train
from nnfast.backends.numba import program as backend_module
from nnfast.backends.numba import team as team_module
from nnfast.backends.numba.team_size import COST_SHARE, LONGEST_SECONDS, TeamSize
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam
from nnfast.plans.recipe import Recipe
from nnfast.support.threads import is_chosen, run_in_threads
from tests.programs import make_program, make_source
from tests.threads.fits import NETWORKS, fit, guarded, make_rows

Rate = Callable[[int], float]


class Machine:
    """A machine and its clock: rate(n) is the seconds that n threads take for a step. trace: n, of every call."""

    def __init__(self, rate: Rate) -> None:
        self.rate, self.now = rate, 0.0
        self.trace: list[int] = []

    def run(self, size: TeamSize, seconds: float, most: int) -> float:
        """Run so long; returns the steps done."""
        end, steps = self.now + seconds, 0
        while self.now < end:
            count, limit = size.next(most)
            rate = self.rate(count)
            done = max(1, int(size.work_in(limit))) if count == 1 else max(1, round(limit / rate))
            self.trace.append(count)
            self.now += done * rate
            size.note(done, done * rate)
            steps += done
        return steps


def idle(count: int) -> float:
    return 1e-4 / (1 + 0.5 * (count - 1))


def busy(count: int) -> float:
    """As beside four busy processes on two cores: the threads of a team wait for each other's time slices."""
    return 2.5e-4 if count == 1 else 1e-2


def test_an_idle_machine_has_the_team_and_loses_little_by_asking() -> None:
    machine, size = Machine(idle), TeamSize()
    assert machine.run(size, 0.1, 2) > 0.97 * 0.1 / idle(2)
    assert machine.run(size, 10, 2) > 0.99 * 10 / idle(2)
    assert size.count == 2
    assert machine.trace.count(1) > 10  # and yet it asks again


def test_a_busy_machine_has_one_thread_and_loses_little_by_asking() -> None:
    machine, size = Machine(busy), TeamSize()
    assert machine.run(size, 0.1, 2) > 0.8 * 0.1 / busy(1)
    assert machine.run(size, 10, 2) > (1 - 2 * COST_SHARE) * 10 / busy(1)
    assert size.count == 1
    assert machine.trace.count(2) > 3


def test_a_machine_that_changes_is_followed_both_ways() -> None:
    machine, size = Machine(idle), TeamSize()
    machine.run(size, 1, 2)
    machine.rate = busy
    machine.run(size, 2 * LONGEST_SECONDS, 2)
    assert size.count == 1
    machine.rate = idle
    machine.run(size, 4, 2)  # what the change cost is repaid first
    assert size.count == 2


def test_a_team_may_be_best_at_any_size_and_is_found_by_halves() -> None:
    """Beside a few busy processes on many cores, such as 8 threads on 8 processors of which others use some."""
    for best in (1, 2, 4, 8):
        machine, size = Machine(lambda count, best=best: idle(count) if count <= best else 5e-3), TeamSize()
        machine.run(size, 1, 8)
        assert size.count == best


def test_a_share_that_shrinks_or_grows_is_kept_to_at_once() -> None:
    machine, size = Machine(idle), TeamSize()
    machine.run(size, 0.5, 8)
    assert size.count == 8
    machine.trace.clear()
    machine.run(size, 0.5, 3)
    assert (size.count, max(machine.trace)) == (3, 3)
    machine.run(size, 0.5, 8)
    assert size.count == 8


def test_a_team_that_is_slow_at_its_very_beginning_is_measured_when_it_has_settled() -> None:
    """As where the system starts both threads on one processor."""
    machine, size = Machine(idle), TeamSize()
    machine.rate = lambda count: idle(count) if count == 1 or machine.now > 0.006 else 1.9 * idle(1)
    machine.run(size, 0.06, 2)
    assert size.count == 2


def test_calls_shorter_than_a_trial_are_measured_together() -> None:
    """One call in which the system took the processor away decides nothing."""
    size = TeamSize()
    counts = []
    for call in range(300):
        counts.append(size.next(2)[0])
        size.note(1, 3e-4 if counts[-1] == 1 else 2e-4 if call != 30 else 3e-3)
    assert size.count == 2
    assert counts[0] == 1
    assert 5 < counts.count(1) < 20


class Scripted(TeamSize):
    """Takes the numbers of threads in turn, each for as short as it gets."""

    counts: Sequence[int] = (3, 1, 2, 5, 1)

    def __init__(self) -> None:
        super().__init__()
        self._turn = cycle(self.counts)

    def next(self, most: int) -> tuple[int, float]:
        return min(most, next(self._turn)), 0.0

    def work_in(self, seconds: float) -> float:
        return 0.0

    def note(self, work: float, seconds: float) -> None:
        pass


def at_once(function: Callable[[int, int], Any], count: int, *limit: Any) -> None:
    """run_in_threads for a team that is told to stop before it begins."""
    if count > 1 and limit:
        limit[1]()
    run_in_threads(function, count, *limit)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """By default 5 threads, told to stop at every step; the list has the number and the steps of all that is noted."""
    seen: list[tuple[int, int]] = []

    class Noted(Scripted):
        def next(self, most: int) -> tuple[int, float]:
            self.last, seconds = super().next(most)
            return self.last, seconds

        def note(self, work: float, seconds: float) -> None:
            seen.append((self.last, int(work) // 5))  # of which each step has 5

    monkeypatch.setattr(backend_module.NumbaProgram, "_repaid_threads", lambda *_: 5)
    monkeypatch.setattr("nnfast.support.threads.processor_count", lambda: 5)
    monkeypatch.setattr(team_module, "run_in_threads", at_once)
    monkeypatch.setattr(team_module, "TeamSize", Noted)
    return seen


@pytest.mark.parametrize("name", ["relu", "dropout", "normalised", "images", "row by row"])
def test_teams_that_stop_at_every_step_give_the_same_bits(name: str, stopped: list[tuple[int, int]]) -> None:
    alone = fit(NETWORKS[name], 130, 1, epochs=7)
    assert not stopped
    assert guarded(lambda: fit(NETWORKS[name], 130, None, epochs=7)) == alone
    assert {count for count, _ in stopped} == {1, 2, 3, 5}


@pytest.mark.parametrize("weights", [None, np.arange(130) // 30 % 2.0, np.arange(130) // 50 % 2.0])
def test_a_stopped_team_ends_after_its_present_step_and_the_next_goes_on_from_there(
    weights: Any, stopped: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of rows without any weight are left out by all threads alike: they do not wait for each other there."""
    network = NETWORKS["tanh"]
    recipe = Recipe(LOSSES["squared_error"], adam(), np.dtype("float32"), alpha=0.01, clip_norm=0.1)
    source = make_source(network, recipe.loss, 130, "float32")
    source = type(source)(source.inputs, source.targets, None if weights is None else weights.astype("float32"))
    bounds = np.arange(14) * 10
    monkeypatch.setattr(Scripted, "counts", (3, 2, 5))

    def bits(threads: int | None) -> list[bytes]:
        program = make_program(get_backend("numba", threads), network, recipe, rows=10)
        program.bind(source)
        losses = program.run(np.arange(130), bounds, np.full(13, 0.01), first_step=4)
        loss, outputs = program.evaluate(source)
        with pytest.MonkeyPatch.context() as patch:  # a stretch that nothing is measured of begins with its first step
            patch.setattr(backend_module.NumbaProgram, "_repaid_threads", lambda *_: 1)
            more = program.run(np.arange(130), bounds, np.full(13, 0.01), first_step=17)
        parts = (losses, more, program.parameters, program.slots, np.array(loss), outputs)
        return [array.tobytes() for array in parts]

    alone = bits(1)
    assert guarded(lambda: bits(None)) == alone
    if weights is None:
        assert [steps for _, steps in stopped] == [1] * 26  # of the training and of the evaluation
    else:
        assert sum(steps for _, steps in stopped) == 26


def test_a_team_is_told_to_stop_when_its_time_is_up_and_only_then() -> None:
    end, told = threading.Event(), []

    def stop() -> None:
        told.append(True)
        end.set()

    run_in_threads(lambda number, count: end.wait(), 2, 0.01, stop)
    assert told == [True]
    run_in_threads(lambda number, count: None, 2, 100.0, stop)
    assert told == [True]


def test_a_number_that_the_user_chose_is_never_changed(
    teams: list[int], monkeypatch: pytest.MonkeyPatch, stopped: list[tuple[int, int]]
) -> None:
    def noted(function: Callable[[int, int], Any], count: int, *limit: Any) -> None:
        assert not limit
        teams.append(count)
        run_in_threads(function, count)

    monkeypatch.setattr(team_module, "run_in_threads", noted)
    guarded(lambda: fit(NETWORKS["relu"], 130, 3))
    monkeypatch.setenv("NNFAST_NUM_THREADS", "3")
    guarded(lambda: fit(NETWORKS["relu"], 130, None))
    assert set(teams) == {3}
    assert not stopped


def test_a_number_that_other_programs_are_told_is_a_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnfast.support.threads.processor_count", lambda: 6)
    assert not is_chosen(None)
    assert is_chosen(1)
    assert get_backend("numba").description.endswith(", up to 6 threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert get_backend("numba").description.endswith(", up to 4 threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert get_backend("numba").description.endswith(", 1 thread")
    monkeypatch.setenv("NNFAST_NUM_THREADS", "3")
    assert is_chosen(None)
    assert get_backend("numba").description.endswith(", 3 threads")


def test_the_history_tells_the_mean_number_of_each_epoch(tmp_path: Path, stopped: list[tuple[int, int]]) -> None:
    X, y = make_rows(NETWORKS["tanh"], 100, "float32")

    def history(backend: str, threads: int | None, epochs: int = 3) -> History:
        def fitted() -> Model:
            heard: list[Any] = []
            model = train(
                NETWORKS["tanh"], X, y, epochs=epochs, batch_size=20, backend=backend, threads=threads,
                callbacks=[lambda record: heard.append(record.threads)],
            )  # fmt: skip
            assert [number for number in heard if number is not None] == model.history.threads
            assert [record.threads for record in model.history] == heard
            return model

        model: Model = guarded(fitted)
        model.save(tmp_path / "model")
        assert Model.load(tmp_path / "model").history == model.history
        return model.history

    assert history("numba", 1).threads == [1, 1, 1]
    assert history("numba", 2).threads == [2, 2, 2]
    assert history("numpy", None).threads == []
    measured = history("numba", None, epochs=4)
    turns = [count for count, _ in stopped[:20]]
    assert measured.threads == [sum(turns[k : k + 5]) / 5 for k in (0, 5, 10, 15)]
    measured.rewind(2)
    assert len(measured.threads) == 2
