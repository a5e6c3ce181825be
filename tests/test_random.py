"""Randomness: the published Philox vectors, and draws that depend on nothing but their place."""

from __future__ import annotations

import numpy as np
import pytest

from nnfast.support.random import Purpose, ShuffledOrders, check_seed, dropout_keep, generator, philox4x32

# Random123 1.09, kat_vectors: philox4x32 10
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_vectors(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert tuple(philox4x32(np.array([counter], dtype=np.uint32), key)[0]) == expected


def test_a_mask_is_a_function_of_seed_layer_and_step() -> None:
    first = dropout_keep(seed=7, layer=1, step=5, n_elements=1001, rate=0.3)
    np.testing.assert_array_equal(first, dropout_keep(7, 1, 5, 1001, 0.3))
    np.testing.assert_array_equal(first[:10], dropout_keep(7, 1, 5, 10, 0.3))
    for other in ((8, 1, 5), (7, 2, 5), (7, 1, 6), (7, 1, 5 + 2**32), (7 + 2**32, 1, 5)):
        assert (first != dropout_keep(*other, 1001, 0.3)).sum() > 200


def test_a_mask_keeps_the_stated_share() -> None:
    assert dropout_keep(0, 0, 0, 100_000, 0.3).mean() == pytest.approx(0.7, abs=0.006)  # four standard deviations
    assert dropout_keep(0, 0, 0, 1000, 0.0).all()


def test_an_epoch_s_order_does_not_depend_on_the_orders_before_it() -> None:
    orders = ShuffledOrders(seed=3, n_rows=50)
    sequence = [orders(epoch) for epoch in range(4)]
    np.testing.assert_array_equal(orders(2), sequence[2])
    np.testing.assert_array_equal(generator(3, Purpose.ORDER, 2).permutation(50), sequence[2])
    assert sorted(sequence[1]) == list(range(50))
    assert not np.array_equal(sequence[0], sequence[1])
    assert not np.array_equal(ShuffledOrders(4, 50)(0), sequence[0])


def test_purposes_share_no_draws() -> None:
    draws = {tuple(generator(0, purpose).integers(0, 2**63, 4)) for purpose in Purpose}
    assert len(draws) == len(Purpose)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be an integer from 0 up to 18446744073709551615, got"):
        check_seed(seed)


@pytest.mark.parametrize("seed", [1.0, "1", True, None])
def test_seeds_that_are_no_integers_are_refused(seed: object) -> None:
    with pytest.raises(TypeError, match="seed must be an integer"):
        check_seed(seed)  # type: ignore[arg-type]
