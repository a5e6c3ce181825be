"""How threads share things: rows of a batch, or of a layer's weights."""

from __future__ import annotations

from .compilation import helper
from .tables import BIAS_SIZE, KIND, PASS, WEIGHT_ROWS, WEIGHTS


@helper
def share(count, thread, threads):
    """Where this thread's share of `count` things begins and ends."""
    if threads == 1:  # small networks feel a division
        return 0, count
    return count * thread // threads, count * (thread + 1) // threads


@helper
def bias_share(op, thread, threads):
    """Where the biases begin and end whose gradients a thread computes, and which it therefore updates."""
    if op[KIND] != PASS or op[WEIGHTS] < 0:
        return share(op[BIAS_SIZE], thread, threads)
    # A convolution's all come with the first row of its weights
    start, stop = share(op[WEIGHT_ROWS], thread, threads)
    return 0, op[BIAS_SIZE] if start == 0 and stop > 0 else 0
