"""Ctrl-C: noted once, obeyed the second time, and an epoch that it cut short is not counted."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest

from nnfast.backends.numpy.program import NumpyProgram
from nnfast.networks.network import Dense, Network
from nnfast.support.interruption import interruptible, postponed
from nnfast.training.train import train


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_is_noted_and_the_second_interrupts_at_once() -> None:
    with interruptible() as interruption:
        assert not interruption.noted
        press_ctrl_c()
        assert interruption.noted
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_stays_in_charge() -> None:
    heard = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with interruptible() as interruption:
            press_ctrl_c()
        assert heard == [signal.SIGINT]
        assert not interruption.noted
    finally:
        signal.signal(signal.SIGINT, previous)


def test_what_is_postponed_happens_at_the_end_as_often_as_it_was_asked_for() -> None:
    done = []

    @postponed()
    def pressed(times: int) -> None:
        for _ in range(times):
            press_ctrl_c()
        done.append(times)

    for times in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            pressed(times)
    assert done == [1, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interruptible() as interruption:
        pressed(0)
        assert not interruption.noted
        pressed(1)
        assert interruption.noted
        with pytest.raises(KeyboardInterrupt):
            pressed(1)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        pressed(2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_epoch_that_was_cut_short_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)  # a stretch is one step
    run, calls = NumpyProgram.run, []

    def interrupted_run(self: NumpyProgram, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 7:  # the third of an epoch's four steps, in the second epoch
            press_ctrl_c()
        return run(self, *arguments)

    monkeypatch.setattr(NumpyProgram, "run", interrupted_run)
    X = np.random.default_rng(0).normal(size=(8, 2))
    with pytest.warns(UserWarning, match="interrupted"):
        model = train(Network(2, [Dense(1)]), X, X[:, 0], batch_size=2, epochs=5, backend="numpy")
    assert len(calls) == 7
    assert (model.history.stopped, model.history.epochs) == ("interrupted", 1)
