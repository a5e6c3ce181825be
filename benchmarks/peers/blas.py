"""The rate to hold all others to: one large float32 matrix product by NumPy's BLAS."""

from __future__ import annotations

import numpy as np

SIZE = 2048
FLOPS = 2 * SIZE**3


class Product:
    """A product of two square matrices, run like a peer so that it is measured in turn with them."""

    def __init__(self) -> None:
        source = np.random.default_rng(0)
        self._a, self._b = source.random((2, SIZE, SIZE), dtype=np.float32)
        self._out = np.empty_like(self._a)

    def reset(self) -> None:
        pass

    def train(self) -> None:
        np.matmul(self._a, self._b, out=self._out)
