"""From a network's outputs to what users ask for: labels, numbers in their units, probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.targets import ClassTargets, TargetEncoding
from ..formulas.intervals import SIMPLEX, lies_within
from ..networks.network import Network
from ..support.arrays import array_module


def predicted_classes(outputs: NDArray[Any]) -> NDArray[np.int64]:
    """Class indices from outputs: the largest, or, of a single output, whether it exceeds a half. Shape (n_rows,)."""
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > 0.5).astype(np.int64)
    return outputs.argmax(axis=1)


def predictions(outputs: NDArray[Any], targets: TargetEncoding) -> NDArray[Any]:
    """Labels, (n_rows,), of classes; else numbers in the targets' units and of their shape."""
    return targets.decode(predicted_classes(outputs) if isinstance(targets, ClassTargets) else outputs)


def check_probabilities(network: Network, targets: TargetEncoding) -> None:
    """Raise TypeError where no classes are told apart, or by outputs that are no probabilities."""
    if not isinstance(targets, ClassTargets):
        raise TypeError("predict_proba is for classes, but this model was trained on numbers; use predict")
    activation = network.output_layer.function
    if not lies_within(activation.range, "[0, 1]" if network.output_size == 1 else SIMPLEX):
        raise TypeError(f"outputs of activation {activation.name!r} are no probabilities; use outputs or predict")


def probabilities(outputs: NDArray[Any]) -> NDArray[Any]:
    """(n_rows, n_classes): the outputs, or, of a single one, those of both classes."""
    if outputs.shape[1] > 1:
        return outputs
    both: NDArray[Any] = array_module(outputs).concatenate([1 - outputs, outputs], axis=1)
    return both
