"""Who hears of an epoch while a fit goes on: scikit-learn's printed lines, a progress bar on a terminal, callbacks."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from ..models.history import EpochRecord
from ..training.progress import progress_bar


class Watcher:
    """A context for one fit. prints: whether scikit-learn's lines go to standard output."""

    def __init__(self, estimator: Any, epochs: int) -> None:
        self.stopped = False
        self._shows_bar = bool(estimator.verbose) and sys.stderr.isatty()
        self.prints = bool(estimator.verbose) and not self._shows_bar
        self._callbacks = list(estimator.callbacks)
        self._epochs = epochs
        self._stack = ExitStack()

    @property
    def is_watching(self) -> bool:
        """Whether anybody wants to hear of every epoch when it is over."""
        return self.prints or bool(self._callbacks)

    def __enter__(self) -> Watcher:
        if self._shows_bar:
            self._callbacks.append(self._stack.enter_context(progress_bar(self._epochs)))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def say(self, line: str) -> None:
        if self.prints:
            print(line)

    def tell(self, record: EpochRecord) -> None:
        """Call every callback; one that returns True ends the fit."""
        for callback in self._callbacks:
            if callback(record) is True:
                self.stopped = True
