"""python -m benchmarks.calls: all tables, and no figure of anything that gives other results."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from benchmarks.calls import __main__ as calls
from benchmarks.calls.engine import FrameCalls, LearnerCalls, PredictorCalls, Stretch
from benchmarks.calls.loop import CartPole


@pytest.fixture(autouse=True)
def _a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["calls", "--calls", "20", "--only", "nnfast,numpy"])
    monkeypatch.setattr("benchmarks.calls.engine.STRETCH", 10)
    monkeypatch.setattr("benchmarks.calls.engine.INSIDE", 16)


def test_every_network_and_number_of_rows_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    calls.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert "| | nnfast in @njit | nnfast predictor | nnfast predict_proba | numpy |" in lines
    assert "| | nnfast compute inside | nnfast Learner | nnfast step_from | numpy |" in lines
    assert "| | the loop alone | nnfast Learner | numpy |" in lines
    assert len(lines) == 3 + 8 + 4 + 1
    assert not any(" - " in line for line in lines)


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ("PREDICTING", FrameCalls),
        ("PREDICTING", PredictorCalls),
        ("TRAINING", Stretch),
        ("TRAINING", LearnerCalls),
        ("LOOPING", LearnerCalls),
    ],
)
def test_what_gives_other_results_is_not_timed(columns: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = getattr(calls, columns)
    if columns != "PREDICTING":
        monkeypatch.setattr(calls, "PREDICTED", {})
    (name,) = (name for name, made in table.items() if made is kind)

    def wrong(sizes: Any) -> Any:
        library = kind(sizes)
        for name in {"outputs", "step"} & {*dir(library)}:
            right = getattr(library, name)
            setattr(library, name, lambda x, *y, right=right: right(1.01 * x, *y))
        return library

    monkeypatch.setitem(table, name, wrong)
    with pytest.raises(SystemExit, match=f"{name} differs from NumPy in float64 by .* nothing is timed"):
        calls.main()


def test_what_cannot_be_had_is_a_dash_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(sizes: Any) -> Any:
        raise ImportError("No module named 'numpi'")

    monkeypatch.setattr(calls, "PREDICTED", {})
    monkeypatch.setitem(calls.TRAINING, "numpy", missing)
    calls.main()
    out = capsys.readouterr().out
    assert out.count("\n- numpy: No module named 'numpi'.") == 1
    assert [line.endswith("| - |") for line in out.splitlines() if line.startswith("| 64-100-10")] == [True, True]


def test_the_teacher_keeps_the_pole_up() -> None:
    cart = CartPole()
    for _ in range(1000):
        cart.move(cart.wanted())
    assert cart.falls == 0
