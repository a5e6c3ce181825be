"""The progress of a run, on terminals of any width."""

from __future__ import annotations

import pytest

from nnfast.models.history import EpochRecord
from nnfast.training.progress import progress_bar


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_and_every_number_are_readable(width, monkeypatch, capsys):
    """No line is longer than the terminal is wide, no number is cut, and the bar has room to move."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")  # rich prints the last state only, without control characters
    metrics = {"validation_loss": 2.3456e-10, "validation_accuracy": 0.9123456}
    with progress_bar(1500) as show:
        for epoch in (1, 750, 1500):
            show(EpochRecord(epoch, 1.2344e-07, 0.1, 0.1, metrics))
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert max(map(len, lines)) <= width
    first, numbers = lines
    assert first.startswith("epoch 1500/1500 ━")
    assert first.count("━") >= width - 30
    assert first.endswith("0:00:00")
    assert numbers == "loss 1.234e-07, validation loss 2.346e-10, accuracy 0.9123"
