"""Randomness as a function: every draw is determined by (seed, purpose, position), never by what was drawn before.

The host draws initial weights, orders and splits once, from NumPy's Philox4x64 keyed by (seed, purpose), and hands
them to every backend. Kernels draw dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC'11), written out below as the definition that every backend's own version must equal bit for bit.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .checks import check_integer


class Purpose(IntEnum):
    """What a draw is for. Draws of different purposes share no numbers, whatever their positions."""

    WEIGHTS = 1  # position: the layer
    ORDER = 2  # position: the epoch
    SPLIT = 3  # position: which split
    DROPOUT = 4  # position: layer, step and element (drawn by philox4x32)
    CANDIDATE = 5  # position: the trial of a search


MAX_SEED = 2**64 - 1


def check_seed(seed: int) -> int:
    """Return `seed` as an int in [0, 2**64), or raise TypeError or ValueError."""
    return check_integer(seed, "seed", 0, MAX_SEED)


def generator(seed: int, purpose: Purpose, position: int = 0) -> np.random.Generator:
    """A host generator for one draw: the same three numbers give the same draws on every machine."""
    # The counter's low word is what NumPy advances; a draw of 2**64 numbers would be needed to meet a neighbour.
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, position, 0, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class ShuffledOrders:
    """The order in which each epoch visits the rows: a function of (seed, epoch), called as orders(epoch)."""

    def __init__(self, seed: int, n_rows: int) -> None:
        self._n_rows = n_rows
        self._generator = generator(seed, Purpose.ORDER)
        self._state = self._generator.bit_generator.state

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        # Moving one generator's counter to the epoch's place draws what a new one would, in a tenth of the time.
        self._state["state"]["counter"][1] = epoch
        self._generator.bit_generator.state = self._state
        return self._generator.permutation(self._n_rows)


PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as fractions of 2**32
PHILOX_ROUNDS = 10


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10: four uniform 32-bit words for every counter.

    counter: (n, 4) uint32. key: two 32-bit words. Returns (n, 4) uint32.
    """
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    k0, k1 = key
    for _ in range(PHILOX_ROUNDS):
        product0 = c0 * np.uint64(PHILOX_MULTIPLIERS[0])
        product1 = c2 * np.uint64(PHILOX_MULTIPLIERS[1])
        c0 = (product1 >> shift) ^ c1 ^ np.uint64(k0)
        c1 = product1 & mask
        c2 = (product0 >> shift) ^ c3 ^ np.uint64(k1)
        c3 = product0 & mask
        k0 = (k0 + PHILOX_WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + PHILOX_WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def split_words(value: int) -> tuple[int, int]:
    """The low and the high 32 bits of a 64-bit number."""
    return value & 0xFFFFFFFF, value >> 32


def dropout_threshold(rate: float) -> int:
    """An element is dropped where its 32-bit word is below this: an integer test is the same on every backend."""
    return round(rate * 2**32)


def dropout_keep(seed: int, layer: int, step: int, n_elements: int, rate: float) -> NDArray[np.bool_]:
    """Which of a batch's elements (C-order) dropout keeps in step number `step`. Shape (n_elements,).

    Element e takes word e % 4 of the counter (e // 4, step low, step high, purpose and layer) under the seed as key.
    """
    blocks = -(-n_elements // 4)
    counter = np.empty((blocks, 4), dtype=np.uint32)
    counter[:, 0] = np.arange(blocks)
    counter[:, 1], counter[:, 2] = split_words(step)
    counter[:, 3] = Purpose.DROPOUT << 24 | layer
    words = philox4x32(counter, split_words(seed)).reshape(-1)[:n_elements]
    return words >= dropout_threshold(rate)
