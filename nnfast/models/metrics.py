"""Scores of predictions, as scikit-learn defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.targets import ClassTargets, TargetEncoding
from .answers import predicted_classes


def accuracy(predicted: NDArray[Any], true: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> float:
    """The share of rows, by weight, whose label is right."""
    return float(np.average(predicted == true, weights=sample_weight))


def r2(predicted: NDArray[Any], true: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> float:
    """1 - residual / total sum of squares, averaged over outputs; 1.0 or 0.0 where the targets do not vary."""
    predicted = predicted.astype(np.float64).reshape(len(true), -1)
    true = true.astype(np.float64).reshape(len(true), -1)
    weights = np.ones(len(true)) if sample_weight is None else sample_weight.astype(np.float64)
    with np.errstate(all="ignore"):  # numbers whose squares overflow give NaN
        residual = weights @ (true - predicted) ** 2
        total = weights @ (true - np.average(true, axis=0, weights=weights)) ** 2
        varies = total > 0
        scores = np.where(varies, 1 - residual / np.where(varies, total, 1), np.where(residual > 0, 0.0, 1.0))
    return float(scores.mean())


def score(
    outputs: NDArray[Any], encoded: NDArray[Any], targets: TargetEncoding, sample_weight: NDArray[Any] | None = None
) -> dict[str, float]:
    """{"accuracy": ...} for classes, {"r2": ...} for numbers, of outputs against encoded targets."""
    if isinstance(targets, ClassTargets):
        return {"accuracy": accuracy(predicted_classes(outputs), encoded.reshape(-1), sample_weight)}
    return {"r2": r2(outputs, encoded, sample_weight)}
