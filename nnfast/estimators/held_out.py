"""Validation inside a fit: the rows held out, their loss and score after an epoch, and what early stopping watches."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer

from ..backends import Program, Source
from ..models.metrics import accuracy, r2

MONITORS = ("score", "loss")


@dataclass(frozen=True)
class Judgement:
    """What an epoch's weights are worth on the rows held out. watched: what stops the fit; larger is better."""

    loss: float
    score: float
    watched: float


class HeldOut:
    """The rows held out. X, y: as a scorer takes them; encoded: y as (n_rows, n_outputs)."""

    def __init__(
        self, estimator: Any, source: Source, X: Any, encoded: NDArray[Any], sample_weight: NDArray[Any] | None
    ) -> None:
        self._source, self._encoded, self._sample_weight = source, encoded, sample_weight
        self._estimator = estimator
        self._is_classifier = is_classifier(estimator)
        monitor = estimator.monitor
        self._monitor = monitor
        if monitor not in MONITORS:
            scorer = get_scorer(monitor) if isinstance(monitor, str) else monitor
            # The scorer meets arrays: without names, a copy does not warn that they have none. It shares the weights.
            judged = copy.copy(estimator)
            vars(judged).pop("feature_names_in_", None)
            y = estimator._label_binarizer.inverse_transform(encoded) if self._is_classifier else encoded
            y = y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y
            options = {} if sample_weight is None else {"sample_weight": sample_weight}

            def metric() -> float:
                judged.coefs_, judged.intercepts_ = estimator.coefs_, estimator.intercepts_
                judged._state = estimator._state
                return float(scorer(judged, X, y, **options))

            self._metric = metric

    def judge(self, program: Program) -> Judgement:
        """Loss, score and what is watched, of the program's parameters; the estimator must have the same."""
        loss, outputs = program.evaluate(self._source)
        score = self._score(outputs)
        if self._monitor in MONITORS:
            return Judgement(loss, score, score if self._monitor == "score" else -loss)
        return Judgement(loss, score, self._metric())

    def _score(self, outputs: NDArray[Any]) -> float:
        """What the estimator's score() gives: accuracy (of whole rows, where there are several labels) or R2."""
        weights = self._sample_weight
        if not self._is_classifier:
            return r2(outputs, self._encoded, weights) if np.isfinite(outputs).all() else float("nan")
        if self._estimator.out_activation_ == "softmax":
            return accuracy(outputs.argmax(axis=1), self._encoded.argmax(axis=1), weights)
        if len(self._estimator.classes_) == 1:
            return 1.0
        return accuracy(((outputs > 0.5) == self._encoded).all(axis=1), np.True_, weights)  # type: ignore[arg-type]
