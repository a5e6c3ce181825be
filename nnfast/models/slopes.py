"""Which output Model.input_gradient differentiates, as a loss and its targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.targets import ClassTargets, TargetEncoding
from ..support.arrays import to_host
from ..support.checks import shown


def output_slopes(
    output: ArrayLike | None, targets: TargetEncoding, shape: tuple[int, int], dtype: np.dtype[Any], scale: float
) -> NDArray[Any]:
    """By how much the chosen output, in the targets' units, changes with each of the network's; times `scale`.

    output: a label or the index of a number, for all rows or for each; None for the only number. shape: (n_rows,
    output_size). Raises TypeError or ValueError for an output that the targets do not have.
    """
    rows, size = shape
    slopes = np.zeros(shape, dtype)
    if isinstance(targets, ClassTargets):
        assert output is not None  # Model puts predicted labels in its place
        chosen = targets.encode(_of_each_row(output, rows))
        if size == 1:  # the probability of the second class; the first has the rest
            slopes[:, 0] = np.where(chosen == 1, scale, -scale)
        else:
            slopes[np.arange(rows), chosen] = scale
        return slopes
    if output is None and size > 1:
        raise ValueError(f"the network has {size} outputs: pass output=0 to {size - 1}")
    chosen = _of_each_row(0 if output is None else output, rows)
    if chosen.dtype.kind not in "iu":
        raise TypeError(f"output must be the index of an output, in [0, {size}), got {shown(output)}")
    if (chosen < 0).any() or (chosen >= size).any():
        raise ValueError(f"output must lie in [0, {size}), got {output!r}")
    slopes[np.arange(rows), chosen] = scale * targets.scale[chosen]
    return slopes


def _of_each_row(output: ArrayLike, rows: int) -> NDArray[Any]:
    """(rows,) of one label or number for all rows, or of one for each."""
    chosen = np.asarray(to_host(output))
    if chosen.shape not in ((), (rows,)):
        raise ValueError(f"output must be one for all rows, or have shape ({rows},), got shape {chosen.shape}")
    return np.broadcast_to(chosen, (rows,))
