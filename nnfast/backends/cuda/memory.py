"""What lies on the device besides a program's own vectors: the rows of a source, and the steps of a stretch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Source

HEADER = 3  # words before the records of a stretch's steps; see kernels/cuda/common.cu
RECORD = 3  # words of a step's record

NO_TARGETS, LABELS, NUMBERS = range(3)  # the kinds of targets, as row_loss.cu tells them apart


@dataclass(frozen=True)
class DeviceRows:
    """A Source on the device, as kernels take it.

    inputs: (n_rows, columns), or, of sparse rows, values, column indices and where each row starts. Where there are
    no labels, numbers or sample weights, an array of one element stands in, for kernels take no missing pointer.
    """

    inputs: tuple[Any, ...]
    scale: float
    labels: Any
    numbers: Any
    target_kind: int
    sample_weight: Any
    is_weighted: bool

    @property
    def is_sparse(self) -> bool:
        return len(self.inputs) > 1


def upload(xp: Any, source: Source, dtype: np.dtype[Any]) -> DeviceRows:
    """The source's rows on the current device."""
    inputs = source.inputs
    parts: tuple[Any, ...] = (inputs,)
    if source.is_sparse:
        if not inputs.has_canonical_format:  # a warp fills a row in at once: no column may stand twice
            inputs = inputs.copy()
            inputs.sum_duplicates()
        parts = (inputs.data, inputs.indices.astype(np.int64), inputs.indptr.astype(np.int64))
    labels, numbers, kind = np.zeros(1, np.int64), np.zeros(1, dtype), NO_TARGETS
    if source.targets is not None:
        if source.targets.ndim == 1:
            labels, kind = source.targets, LABELS
        else:
            numbers, kind = source.targets, NUMBERS
    weights = np.zeros(1, dtype) if source.sample_weight is None else source.sample_weight
    return DeviceRows(
        inputs=tuple(xp.asarray(part) for part in parts),
        scale=source.scale if inputs.dtype == np.uint8 else 1.0,
        labels=xp.asarray(labels),
        numbers=xp.asarray(numbers),
        target_kind=kind,
        sample_weight=xp.asarray(weights),
        is_weighted=source.sample_weight is not None,
    )


class Stretch:
    """The steps of one call on the device: what common.cu says of them, and the place for their losses.

    It keeps its place in memory from call to call, so that prepared launches stay good; it moves only when more is
    asked of it than ever before.
    """

    def __init__(self, xp: Any, width: int) -> None:
        self._xp = xp
        self.width = width  # numbers a step: the divisor, and the optimizer's values
        self.words, self.values, self.losses = (xp.empty(0, kind) for kind in (np.int64, np.float64, np.float64))

    def upload(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], numbers: NDArray[np.int64], values: NDArray[Any]
    ) -> bool:
        """Send the steps over, in two transfers; True if the buffers have moved.

        order: rows, or none for rows as they stand. bounds: (n_steps, 2), the places of a step's first row and of
        the one after its last. numbers: (n_steps,) in the run. values: (n_steps, width).
        """
        steps = len(numbers)
        words = np.empty(HEADER + RECORD * steps + len(order), np.int64)
        first = HEADER + RECORD * steps
        words[:HEADER] = 0, 0, first if len(order) else 0
        records = words[HEADER:first].reshape(steps, RECORD)
        records[:, :2], records[:, 2] = bounds, numbers
        words[first:] = order
        moved = self._reserve(len(words), steps)
        self.words[: len(words)].set(words)
        self.values[: values.size].set(np.ascontiguousarray(values, np.float64).reshape(-1))
        return moved

    def _reserve(self, words: int, steps: int) -> bool:
        """Make room, at least twice as much as there was: it is asked for little at first, while steps are timed."""
        moved = False
        if words > len(self.words):
            self.words, moved = self._xp.empty(max(words, 2 * len(self.words)), np.int64), True
        if steps > len(self.losses):
            room = max(steps, 2 * len(self.losses))
            self.values = self._xp.empty(room * self.width, np.float64)
            self.losses, moved = self._xp.empty(room, np.float64), True
        return moved


def single_steps(n_rows: int, size: int) -> NDArray[np.int64]:
    """All rows as they stand, in batches of `size`: each a stretch of one step. Shape (n_batches, HEADER + RECORD)."""
    firsts = np.arange(0, n_rows, size)
    words = np.zeros((len(firsts), HEADER + RECORD), np.int64)
    words[:, HEADER], words[:, HEADER + 1] = firsts, np.minimum(firsts + size, n_rows)
    return words
