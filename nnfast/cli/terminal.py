"""What a person at a terminal sees of a run while it goes on, all of it on standard error."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plans.plan import make_plan
from ..training.job import planned_rows
from ..training.memory import workspace_words
from .options import as_options

if TYPE_CHECKING:
    from ..backends import Backend
    from .preparation import Divided, Prepared


def is_watched(quiet: bool) -> bool:
    """Whether standard error is a terminal, and not to be kept quiet."""
    return not quiet and sys.stderr.isatty()


def note(message: str) -> None:
    """One line that is not the result."""
    print(f"nnfast: {message}", file=sys.stderr)


def note_on_data(data: Divided, name: str, given: Collection[str], *, with_task: bool = True) -> None:
    """What is inferred from the data, and what of the options given it makes void."""
    if data.reason and with_task:
        note(f"the task is {data.task}: {data.reason}")
    if "test" in given and data.brings_test:
        note(f"{name} brings its own test part; --test is not used")


def print_header(run: Prepared, backend: Backend, brought: Mapping[str, Mapping[str, Any]]) -> None:
    """The data, the task, the network and the backend, before training begins; and which settings names brought."""
    parts = {"training": run.data.training, "validation": run.data.validation, "test": run.data.test}
    rows = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
    kind = f"{run.targets.n_outputs} classes" if run.values["task"] == "classification" else "numbers"
    why = f" ({run.data.reason})" if run.data.reason else ""
    values = run.values
    how = f"{values['loss']}, {values['optimizer']}, learning rate {values['learning_rate']:g}, {values['schedule']}"
    networks = f"{values['ensemble']} networks, " if values["ensemble"] > 1 else ""
    lines = {
        "data": f"{values['data']}: {rows} rows",
        "task": f"{values['task']} of {kind}{why}",
        "training": f"{networks}{how}, batches of {values['batch_size']}",
        "settings": "; ".join(f"{name} brings {' '.join(as_options(found))}" for name, found in brought.items()),
        "backend": f"{backend.name}: {backend.description}" + (f"; {backend.choice}" if backend.choice else ""),
    }
    rows_at_once = planned_rows(run.batch_size, len(run.data.training))
    if choice := backend.choose(make_plan(run.network, rows_at_once), np.dtype(values["dtype"])):
        lines["backend"] += f"; {choice}"
    width = max(map(len, lines))
    print("\n".join(f"{name.ljust(width)}  {text}" for name, text in lines.items() if text), file=sys.stderr)
    words = workspace_words(run.network, run.batch_size, values["dtype"], backend, len(run.data.training))
    print(f"\n{run.network.summary()}\n{words}\n", file=sys.stderr)
