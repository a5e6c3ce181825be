"""calls.py: both tables, and no figure of anything that gives other results."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, for a short run."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["calls.py", "--calls", "20", "--only", "nnfast,numpy"])
    return importlib.import_module("calls")


def test_every_network_and_number_of_rows_is_timed(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calls.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert "| | nnfast predictor | nnfast predict_proba | numpy |" in lines
    assert "| | nnfast Learner | nnfast step_from | numpy |" in lines
    assert len(lines) == 2 + 8 + 4
    assert not any(" - " in line for line in lines)


@pytest.mark.parametrize("what", ["PREDICTING", "TRAINING"])
def test_what_gives_other_results_is_not_timed(what: str, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"nnfast {'predictor' if what == 'PREDICTING' else 'Learner'}"
    make = getattr(calls, what)[name]

    def wrong(sizes: tuple[int, ...]) -> Any:
        monkeypatch.setattr(calls, "first_layers", lambda sizes: [(W * 1.01, b) for W, b in layers(sizes)])
        try:
            return make(sizes)
        finally:
            monkeypatch.setattr(calls, "first_layers", layers)

    layers = calls.first_layers
    monkeypatch.setitem(getattr(calls, what), name, wrong)
    with pytest.raises(SystemExit, match=f"{name} differs from NumPy in float64 by .* nothing is timed"):
        calls.main()
