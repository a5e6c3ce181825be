"""Who hears of an epoch while a fit goes on: scikit-learn's printed lines, a progress bar on a terminal, callbacks."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from ..training.progress import progress_bar


class Watcher:
    """A context for one fit. prints: whether scikit-learn's lines go to standard output. callbacks: of every epoch."""

    def __init__(self, estimator: Any, epochs: int) -> None:
        self._shows_bar = bool(estimator.verbose) and sys.stderr.isatty()
        self.prints = bool(estimator.verbose) and not self._shows_bar
        self.callbacks = list(estimator.callbacks)
        self._epochs = epochs
        self._stack = ExitStack()

    def __enter__(self) -> Watcher:
        if self._shows_bar:
            self.callbacks.append(self._stack.enter_context(progress_bar(self._epochs)))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def say(self, line: str) -> None:
        if self.prints:
            print(line)
