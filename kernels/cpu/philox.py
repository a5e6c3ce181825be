"""Dropout masks from Philox4x32-10 (Salmon et al. 2011); nnfast.support.random defines the same, bit for bit."""

from __future__ import annotations

import numpy as np
from numba import njit

from nnfast.support.random import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, Purpose

from .options import OPTIONS

_M0, _M1 = (np.uint64(value) for value in PHILOX_MULTIPLIERS)
_W0, _W1 = (np.uint64(value) for value in PHILOX_WEYL)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_PURPOSE = np.uint64(Purpose.DROPOUT << 24)


@njit(inline="always", **OPTIONS)  # a call would keep the loop over blocks from vectorising
def words_of(block, seed, step, layer):
    """The four words of counter (block, step, layer)."""
    step_word = np.uint64(step)
    c0 = np.uint64(block) & _LOW
    c1 = step_word & _LOW
    c2 = step_word >> _SHIFT
    c3 = _PURPOSE | np.uint64(layer)
    k0 = seed & _LOW
    k1 = seed >> _SHIFT
    for _ in range(PHILOX_ROUNDS):
        product0 = c0 * _M0
        product1 = c2 * _M1
        c0 = (product1 >> _SHIFT) ^ c1 ^ k0
        c1 = product1 & _LOW
        c2 = (product0 >> _SHIFT) ^ c3 ^ k1
        c3 = product0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def dropout(inputs, outputs, mask, count, first, seed, step, layer, threshold, scale):
    """outputs = inputs * mask, where mask is 0 for words below the threshold and scale[0] elsewhere.

    inputs, outputs, mask: `count` elements of a batch from number `first` on, a multiple of 4. Element e of the batch
    takes word e % 4 of counter (e // 4, step, layer).
    """
    kept = scale[0]
    dropped = kept - kept
    for block in range((count + 3) // 4):
        c0, c1, c2, c3 = words_of(first // 4 + block, seed, step, layer)
        for word in range(4):
            e = 4 * block + word
            if e < count:
                drawn = c0 if word == 0 else c1 if word == 1 else c2 if word == 2 else c3
                mask[e] = kept if drawn >= threshold else dropped
                outputs[e] = inputs[e] * mask[e]


def dropout_in_groups(inputs, outputs, mask, size, group, begin, end, seed, step, layer, threshold, scale):
    """The same for the rows begin..end-1 of `size` elements, stored in groups (see images.py)."""
    kept = scale[0]
    dropped = kept - kept
    for row in range(begin, end):
        place = row // group * group * size + row % group
        block = -1
        for j in range(size):
            e = row * size + j
            if e // 4 != block:
                block = e // 4
                c0, c1, c2, c3 = words_of(block, seed, step, layer)
            word = e % 4
            drawn = c0 if word == 0 else c1 if word == 1 else c2 if word == 2 else c3
            mask[place] = kept if drawn >= threshold else dropped
            outputs[place] = inputs[place] * mask[place]
            place += group


def dropout_backward(delta, mask, dx, count):
    """dLoss/dinputs = dLoss/doutputs * mask."""
    for i in range(count):
        dx[i] = delta[i] * mask[i]
