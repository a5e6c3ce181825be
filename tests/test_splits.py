"""Promises of splitting rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.data.splits import split_rows

rows_and_fractions = {
    "n_rows": st.integers(2, 200),
    "fraction": st.floats(0.001, 0.999),
    "seed": st.integers(0, 2**64 - 1),
}


def check_is_partition(kept, held_out, n_rows):
    assert kept.dtype == held_out.dtype == np.int64
    assert len(kept) > 0
    assert len(held_out) > 0
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    assert sorted([*kept, *held_out]) == list(range(n_rows))


@given(**rows_and_fractions)
def test_a_split_covers_every_row_once_and_holds_out_the_fraction(n_rows, fraction, seed):
    kept, held_out = split_rows(n_rows, fraction, seed)
    check_is_partition(kept, held_out, n_rows)
    assert abs(len(held_out) - n_rows * fraction) <= 1
    for ours, again in zip((kept, held_out), split_rows(n_rows, fraction, seed), strict=True):
        np.testing.assert_array_equal(ours, again)


@given(labels=st.lists(st.sampled_from("aaaaabbc"), min_size=2, max_size=120), **rows_and_fractions)
def test_a_stratified_split_is_proportional_and_never_loses_a_class(labels, n_rows, fraction, seed):
    n_rows, labels = len(labels), np.array(labels)
    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    if max(counts.values()) == 1:
        with pytest.raises(ValueError, match="no class has two rows"):
            split_rows(n_rows, fraction, seed, labels=labels)
        return
    kept, held_out = split_rows(n_rows, fraction, seed, labels=labels)
    check_is_partition(kept, held_out, n_rows)
    assert set(labels[kept]) == set(labels)
    wanted = min(max(round(n_rows * fraction), 1), n_rows - 1)
    assert len(held_out) == min(wanted, n_rows - len(counts))
    if all(count * len(held_out) / n_rows <= count - 1 for count in counts.values()):
        for label, count in counts.items():
            assert abs((labels[held_out] == label).sum() - count * len(held_out) / n_rows) < 1


def test_the_largest_remainders_are_rounded_up():
    # Quotas of 10 held out among 24: 5 (12 rows), 3.33 (8), 1.67 (4).
    labels = np.repeat(["a", "b", "c"], [12, 8, 4])
    _, held_out = split_rows(24, 10 / 24, 0, labels=labels)
    assert np.unique(labels[held_out], return_counts=True)[1].tolist() == [5, 3, 2]


def test_seeds_and_kinds_of_split_draw_different_rows():
    splits = [split_rows(1000, 0.2, seed, which=which)[1] for seed in (0, 1) for which in (0, 1)]
    for position, held_out in enumerate(splits):
        for other in splits[:position]:
            assert len(np.intersect1d(held_out, other)) < 100  # 40 expected


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((10, 0.0, 0), ValueError),
        ((10, 1.0, 0), ValueError),
        ((10, float("nan"), 0), ValueError),
        ((10, "0.2", 0), TypeError),
        ((10, True, 0), TypeError),
        ((1, 0.5, 0), ValueError),
        ((2.0, 0.5, 0), TypeError),
        ((10, 0.5, -1), ValueError),
        ((10, 0.5, 0.5), TypeError),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(arguments, error):
    with pytest.raises(error):
        split_rows(*arguments)


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(3,\)"):
        split_rows(4, 0.5, 0, labels=np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="which must be"):
        split_rows(4, 0.5, 0, which=-1)
