"""What lies on the device besides a program's own vectors: the rows of a source, and the steps of a stretch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import Plan, make_plan
from ...plans.recipe import Recipe
from ...support.arrays import is_on_device
from ..base import Source
from .geometry import part_sizes

HEADER = 3  # words before the records of a stretch's steps; see kernels/cuda/common.cu
RECORD = 3  # words of a step's record

STAGED_BYTES = 1 << 20  # that are sent by way of page-locked memory at most
BLOCK_BYTES = 1 << 24  # that are brought into C order at once

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


def upload(xp: Any, source: Source, dtype: np.dtype[Any], device: int) -> DeviceRows:
    """The source's rows on the device, which is the current one; what is there already is not copied.

    Raises OutOfDeviceMemoryError, and ValueError for a CuPy array on another device.
    """
    inputs = source.inputs
    parts: tuple[Any, ...] = (inputs,)
    if source.is_sparse:
        if not inputs.has_canonical_format:  # a warp fills a row in at once: no column may stand twice
            inputs = inputs.copy()
            inputs.sum_duplicates()
        parts = (inputs.data, inputs.indices.astype(np.int64), inputs.indptr.astype(np.int64))
    elif is_on_device(inputs) and inputs.device.id != device:
        other = inputs.device.id
        raise ValueError(f"X is on device {other}, but the backend is on device {device}; use backend 'cuda:{other}'")
    labels, numbers, kind = np.zeros(1, np.int64), np.zeros(1, dtype), NO_TARGETS
    if source.targets is not None:
        if source.targets.ndim == 1:
            labels, kind = source.targets, LABELS
        else:
            numbers, kind = source.targets, NUMBERS
    weights = np.zeros(1, dtype) if source.sample_weight is None else source.sample_weight
    arrays = (*parts, labels, numbers, weights)
    free = free_bytes(xp)
    try:
        *parts_there, labels, numbers, weights = (_send(xp, array) for array in arrays)
    except MemoryError:
        needed = sum(array.nbytes for array in arrays if not is_on_device(array))
        raise OutOfDeviceMemoryError(
            f"{source.n_rows:,} rows of data need {needed:,} bytes, but cuda:{device} has {free:,} bytes free; use "
            "fewer rows, float32, or bytes (uint8) with an input scale"
        ) from None
    return DeviceRows(
        inputs=tuple(parts_there),
        scale=source.scale if inputs.dtype == np.uint8 else 1.0,
        labels=labels,
        numbers=numbers,
        target_kind=kind,
        sample_weight=weights,
        is_weighted=source.sample_weight is not None,
    )


def _send(xp: Any, array: Any) -> Any:
    """A host array on the device, which CuPy's asarray would send by way of page-locked memory.

    Of that CuPy takes the next power of two bytes, and keeps it: for rows as many as fit into a device, too much. What
    is not in C order is brought into it block by block.
    """
    if is_on_device(array):
        return array
    if array.nbytes <= STAGED_BYTES:
        return xp.asarray(np.ascontiguousarray(array))
    there = xp.empty(array.shape, array.dtype)
    rows = len(array) if array.flags.c_contiguous else max(1, len(array) * BLOCK_BYTES // array.nbytes)
    for first in range(0, len(array), rows):
        host = np.ascontiguousarray(array[first : first + rows])
        there[first : first + rows].set(host)
        xp.cuda.get_current_stream().synchronize()  # until then the device may read what was sent
    return there


class Stretch:
    """The steps of one call on the device: what common.cu says of them, and the place for their losses.

    It keeps its place in memory from call to call, so that prepared launches stay good; it moves only when more is
    asked of it than ever before.
    """

    def __init__(self, xp: Any, width: int) -> None:
        self._xp = xp
        self.width = width  # numbers a step: the divisor, and the optimizer's values
        self.words, self.values, self.losses = (xp.empty(0, kind) for kind in (np.int64, np.float64, np.float64))
        self._sent: tuple[NDArray[Any], ...] = ()  # kept until the next: a device may read them when set() has returned

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
        flat = np.ascontiguousarray(values, np.float64).reshape(-1)
        self._sent = words, flat
        self.words[: len(words)].set(words)
        self.values[: flat.size].set(flat)
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


def single_steps(n_rows: int, size: int, order: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """`n_rows` rows in batches of `size`, each of them a stretch of one step.

    order: the rows' numbers, (n_rows,), where they are not taken as they stand. Shape (n_batches, HEADER + RECORD), and
    with an order as many columns more as a batch has rows.
    """
    firsts = np.arange(0, n_rows, size)
    lasts = np.minimum(firsts + size, n_rows)
    words = np.zeros((len(firsts), HEADER + RECORD + (0 if order is None else min(size, n_rows))), np.int64)
    words[:, HEADER], words[:, HEADER + 1] = firsts, lasts
    if order is not None:
        words[:, HEADER], words[:, HEADER + 1] = 0, lasts - firsts
        words[:, HEADER - 1] = HEADER + RECORD  # where the order begins
        for record, first, last in zip(words, firsts, lasts, strict=True):
            record[HEADER + RECORD :][: last - first] = order[first:last]
    return words


class OutOfDeviceMemoryError(MemoryError):
    """What a program needs does not fit into the device's memory; the message says how much that is, and what fits."""


def bytes_needed(plan: Plan, recipe: Recipe) -> int:
    """The device memory of a program: parameters, gradient, slots and state, and what a batch needs on its way."""
    vectors = (2 + len(recipe.optimizer.slots)) * plan.parameter_count
    numbers, doubles = part_sizes(plan)
    return (vectors + plan.state_count + plan.workspace_size + numbers) * recipe.dtype.itemsize + 8 * doubles


def largest_batch(plan: Plan, recipe: Recipe, free: int) -> int:
    """The most rows, below the plan's, for which a program takes at most `free` bytes; 0 if none."""
    low, high = 0, plan.rows  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if bytes_needed(make_plan(plan.network, middle), recipe) <= free:
            low = middle
        else:
            high = middle
    return low


def free_bytes(xp: Any) -> int:
    """What can still be allocated on the current device: what the driver has, and what CuPy keeps for reuse."""
    return int(xp.cuda.Device().mem_info[0] + xp.get_default_memory_pool().free_bytes())


@contextlib.contextmanager
def reporting_memory(xp: Any, plan: Plan, recipe: Recipe, device: int) -> Iterator[None]:
    """Around the making of a program: says in numbers what does not fit."""
    free = free_bytes(xp)
    try:
        yield
    except MemoryError:
        fits = largest_batch(plan, recipe, free)
        advice = (
            f"batches of at most {fits:,} rows fit" if fits else "not even a batch of one row fits: use fewer units"
        )
        raise OutOfDeviceMemoryError(
            f"batches of {plan.rows:,} rows need {bytes_needed(plan, recipe):,} bytes for the network and its "
            f"activations, but cuda:{device} has {free:,} bytes free; {advice}"
        ) from None
