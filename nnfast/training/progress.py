"""A progress bar, as a callback of a training."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ..models.history import EpochRecord


@contextlib.contextmanager
def progress_bar(epochs: int) -> Iterator[Callable[[EpochRecord], Any]]:
    """A bar of epochs as wide as the terminal, and below it the losses and the score, as a callback of train()."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    bar = Progress(TextColumn("epoch"), MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn(), expand=True)
    task = bar.add_task("", total=epochs)
    numbers = Text()

    with Live(Group(bar, numbers), console=Console(stderr=True)):

        def show(record: EpochRecord) -> None:
            words = [f"loss {record.loss:.4g}"]
            for name, value in record.metrics.items():
                # Only a loss could be the training rows' as well; the others' names fit into 60 columns without
                label = "validation loss" if name == "validation_loss" else name.removeprefix("validation_")
                words.append(f"{label} {value:.4g}")
            numbers.plain = ", ".join(words)
            bar.update(task, completed=record.epoch)

        yield show
    print(file=sys.stderr)
