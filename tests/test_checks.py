"""Single values that users hand in: one idea of an integer and of a flag, wherever one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast import Dense, EarlyStopping, Network, get_backend, get_schedule, multilayer_perceptron, train
from nnfast.data.splits import split_rows
from nnfast.networks.layers import Conv2D, Flatten, MaxPool2D
from nnfast.support.checks import check_flag, check_integer
from nnfast.support.random import check_seed

X, Y = np.eye(12, 3), np.arange(12.0)


class Four:
    """An integer of a library of its own."""

    def __index__(self) -> int:
        return 4


def fit(**options: Any) -> Any:
    return train(Network(3, [Dense(1)]), X, Y, **{"backend": "numpy", "epochs": 1, **options})


TAKE_INTEGERS: dict[str, Callable[[Any], Any]] = {
    "a network's input": lambda value: Network(value, [Dense(1)]),
    "a network's shape": lambda value: Network((value, 2), [Flatten(), Dense(1)]),
    "a perceptron's input": lambda value: multilayer_perceptron(value, [2], 1),
    "a perceptron's sizes": lambda value: multilayer_perceptron(3, [value], value),
    "units": lambda value: Dense(value),
    "filters": lambda value: Conv2D(value, value, groups=value),
    "a pool": lambda value: MaxPool2D((value, value)),
    "padding": lambda value: Conv2D(1, 1, padding=(value, value)),
    "epochs": lambda value: fit(epochs=value),
    "batch_size": lambda value: fit(batch_size=value),
    "seed": lambda value: fit(seed=value),
    "patience": lambda value: EarlyStopping(value),
    "threads": lambda value: get_backend("numpy", value),
    "a schedule": lambda value: (get_schedule("step", every=value), get_schedule("plateau", patience=value)),
    "rows to split": lambda value: split_rows(value, 0.5, value),
}


@pytest.mark.parametrize("place", TAKE_INTEGERS)
def test_every_place_takes_the_same_integers(place: str) -> None:
    take = TAKE_INTEGERS[place]
    for value in (4, np.int64(4), np.uint8(4), np.array(4), Four()):
        take(value)
    for wrong in (True, np.True_, np.array(True), 4.0, np.float64(4), "4", None, 4j):
        if wrong is None and place in ("seed", "threads"):
            continue  # which stands for their default
        with pytest.raises(TypeError, match=r"must be (a positive integer|an integer from \d), got"):
            take(wrong)
    with pytest.raises(ValueError, match=r"must be (a positive integer|an integer from \d).*, got -1"):
        take(-1)


@given(value=st.integers(-5, 20), low=st.integers(0, 3), high=st.none() | st.integers(4, 9))
def test_an_integer_is_taken_exactly_within_its_limits(value: int, low: int, high: int | None) -> None:
    fits = value >= low and (high is None or value <= high)
    for given_value in (value, np.int16(value)):
        if fits:
            assert check_integer(given_value, "it", low, high) == value
            assert type(check_integer(given_value, "it", low, high)) is int
        else:
            with pytest.raises(ValueError, match=f"it must be .*, got {value}"):
                check_integer(given_value, "it", low, high)


def test_large_seeds_stay_exact() -> None:
    assert check_seed(np.uint64(2**64 - 1)) == 2**64 - 1


def test_flags_are_true_or_false_and_nothing_that_counts_as_one() -> None:
    assert check_flag(np.True_, "it") is True
    for wrong in (1, 0, "x", None, np.array(True), np.array([])):
        with pytest.raises(TypeError, match="it must be True or False, got"):
            check_flag(wrong, "it")
