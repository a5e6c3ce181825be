"""Splitting rows into a part kept and a part held out, by seed and, if wanted, class by class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.support.checks import check_integer, shown
from nnfast.support.random import Purpose, check_seed, generator

TEST, VALIDATION, FOLDS = range(3)  # what rows are held out for: draws of one seed that share no numbers


def split_rows(
    n_rows: int,
    fraction: float,
    seed: int,
    *,
    labels: NDArray[Any] | None = None,
    which: int = TEST,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the rows to hold out: `(kept, held_out)`, disjoint ascending int64 indices that cover all rows.

    fraction: the share held out, rounded to whole rows, at least one and at most all but one.
    labels: shape (n_rows,). If given, each class is held out in proportion (largest remainder; of equal remainders,
    the smaller label's comes first), and every class keeps at least one row, even where fewer rows are then held out.
    which: TEST or VALIDATION.

    Raises TypeError or ValueError for a fraction outside (0, 1), fewer than two rows, labels of another
    length, a seed outside [0, 2**64), and labels of which no class has two rows.
    """
    check_seed(seed)
    n_rows = check_integer(n_rows, "n_rows", 0)
    if n_rows < 2:
        raise ValueError(f"a split needs at least 2 rows, got {n_rows}")
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float, np.integer, np.floating)):
        raise TypeError(f"the fraction to hold out must be a number, got {shown(fraction)}")
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to hold out must lie between 0 and 1, both excluded, got {fraction}")
    if which < 0:
        raise ValueError(f"which must be 0 (test), 1 (validation) or another non-negative number, got {which}")

    n_held = min(max(round(n_rows * float(fraction)), 1), n_rows - 1)
    rng = generator(seed, Purpose.SPLIT, which)
    if labels is None:
        drawn = rng.permutation(n_rows)[:n_held]
    else:
        labels = np.asarray(labels)
        if labels.shape != (n_rows,):
            raise ValueError(f"labels must have one entry per row, shape ({n_rows},), got {labels.shape}")
        _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        shares = _held_per_class(counts, n_held)
        by_class = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
        drawn = np.concatenate([rng.permutation(rows)[:share] for rows, share in zip(by_class, shares, strict=True)])
    is_held = np.zeros(n_rows, dtype=bool)
    is_held[drawn] = True
    return np.flatnonzero(~is_held).astype(np.int64), np.flatnonzero(is_held).astype(np.int64)


def fold_rows(
    n_rows: int, folds: int, seed: int, *, labels: NDArray[Any] | None = None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Draw `folds` parts of the rows: of each, `(kept, held_out)` as of split_rows. Every row is held out once.

    The parts differ by one row at most. labels: shape (n_rows,). If given, so do those of every class; a class may have
    fewer rows than there are folds.

    Raises TypeError or ValueError for fewer than two folds, more folds than rows, a seed outside [0, 2**64), and labels
    of another length.
    """
    check_seed(seed)
    folds = check_integer(folds, "folds", 2)
    if folds > n_rows:
        raise ValueError(f"{n_rows} rows cannot be divided into {folds} folds")
    drawn = generator(seed, Purpose.SPLIT, FOLDS).permutation(n_rows)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (n_rows,):
            raise ValueError(f"labels must have one entry per row, shape ({n_rows},), got {labels.shape}")
        drawn = drawn[np.argsort(labels[drawn], kind="stable")]
    part = np.empty(n_rows, np.int64)
    part[drawn] = np.arange(n_rows) % folds  # dealt out one by one, class after class
    return [(np.flatnonzero(part != fold), np.flatnonzero(part == fold)) for fold in range(folds)]


def _held_per_class(counts: NDArray[np.intp], n_held: int) -> NDArray[np.int64]:
    """How many rows of each class to hold out, proportional to `counts` and leaving each class a row."""
    n_rows = int(counts.sum())
    n_held = min(n_held, n_rows - len(counts))
    if n_held == 0:
        raise ValueError(
            f"no class has two rows ({n_rows} rows, {len(counts)} classes), so none can be held out "
            "class by class; split without labels"
        )
    # In whole numbers: a remainder in floating point could tie on one machine and not on another.
    products = [int(count) * n_held for count in counts]
    shares = np.array([product // n_rows for product in products], dtype=np.int64)
    by_remainder = sorted(range(len(counts)), key=lambda position: (-(products[position] % n_rows), position))
    left = n_held - int(shares.sum())
    while left:
        for position in by_remainder:
            if left and shares[position] < counts[position] - 1:
                shares[position] += 1
                left -= 1
    return shares
