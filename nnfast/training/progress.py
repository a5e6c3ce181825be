"""Progress bars: of epochs, as a callback of a training, of networks, and of anything else."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..models.history import EpochRecord
from ..models.model import Model

if TYPE_CHECKING:
    from rich.text import Text


@contextlib.contextmanager
def progress_bar(epochs: int) -> Iterator[Callable[[EpochRecord], Any]]:
    """A bar of epochs as wide as the terminal, and below it the losses and the score, as a callback of train()."""
    with bar("epoch", epochs) as (move, numbers):

        def show(record: EpochRecord) -> None:
            words = [f"loss {record.loss:.4g}"]
            for name, value in record.metrics.items():
                # Only a loss could be the training rows' as well; the others' names fit into 60 columns without
                label = "validation loss" if name == "validation_loss" else name.removeprefix("validation_")
                words.append(f"{label} {value:.4g}")
            numbers.plain = ", ".join(words)
            move(record.epoch)

        yield show


@contextlib.contextmanager
def networks_bar(networks: int) -> Iterator[Callable[[int, Any], Any]]:
    """A bar of networks, and below it the best so far; called with the number of one that is done, and its result."""
    with bar("network", networks) as (move, numbers):
        done, best, diverged, unfinished, leader = 0, math.inf, 0, 0, ""

        def show(index: int, result: Any) -> None:
            nonlocal done, best, diverged, unfinished, leader
            if result is None or (isinstance(result, Model) and result.history.stopped == "interrupted"):
                unfinished += 1
            else:
                done += 1
            if isinstance(result, Model):
                name = "validation_loss" if result.history.metrics else "loss"
                loss = result.history.kept(name)
                if loss is not None and loss < best:
                    best, leader = loss, f"best {name.replace('_', ' ')} {loss:.4g} (network {index})"
            elif result is not None:
                diverged += 1
            others = {"diverged": diverged, "not finished": unfinished}
            words = [leader, *(f"{count} {what}" for what, count in others.items() if count)]
            numbers.plain = ", ".join(filter(None, words))
            move(done)

        yield show


@contextlib.contextmanager
def bar(unit: str, total: int) -> Iterator[tuple[Callable[[int], None], Text]]:
    """A bar on standard error: what moves it, and the line of text below it."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    line = Progress(TextColumn(unit), MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn(), expand=True)
    task, numbers = line.add_task("", total=total), Text()
    with Live(Group(line, numbers), console=Console(stderr=True)):
        yield lambda done: line.update(task, completed=done), numbers
    print(file=sys.stderr)
