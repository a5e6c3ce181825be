"""What a fit says while it goes on: scikit-learn's printed lines and warnings, and callbacks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.neural_network import _multilayer_perceptron as scikit_learns

from ..models.history import EpochRecord


class Watcher:
    """Follows one fit: prints scikit-learn's lines to standard output if `prints`, and calls the callbacks."""

    def __init__(self, estimator: Any) -> None:
        self.stopped = False
        self.prints = bool(estimator.verbose)
        self._callbacks = list(estimator.callbacks)

    @property
    def is_watching(self) -> bool:
        """Whether every epoch must be reported as soon as it is over."""
        return self.prints or bool(self._callbacks)

    def say(self, line: str) -> None:
        if self.prints:
            print(line)

    def tell(self, record: EpochRecord) -> None:
        """Call every callback; one that returns True ends the fit."""
        for callback in self._callbacks:
            if callback(record) in (True, np.True_):
                self.stopped = True


def warn_as_scikit_learn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue scikit-learn's own warning from scikit-learn's module, so that filters for that module apply to it."""
    warnings.warn_explicit(
        message,
        category,
        filename=scikit_learns.__file__,
        lineno=scikit_learns.BaseMultilayerPerceptron._fit_stochastic.__code__.co_firstlineno,
        module=scikit_learns.__name__,
        registry=vars(scikit_learns).setdefault("__warningregistry__", {}),  # shared with its own warnings
    )
