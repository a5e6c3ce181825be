"""The rate to hold all others to: one large float32 matrix product, by NumPy's BLAS or, on a GPU, by cuBLAS."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

SIZES = {"cpu": 2048, "cuda": 8192}


def flops(device: str) -> float:
    """Of one product."""
    return 2.0 * SIZES[device] ** 3


class Product:
    """A product of two square matrices, run like a peer so that it is measured in turn with them."""

    def __init__(self, device: str = "cpu") -> None:
        self._xp: Any = np if device == "cpu" else importlib.import_module("cupy")
        source, size = np.random.default_rng(0), SIZES[device]
        self._a, self._b = (self._xp.asarray(source.random((size, size), dtype=np.float32)) for _ in range(2))
        self._out = self._xp.empty((size, size), np.float32)

    def reset(self) -> None:
        pass

    def train(self) -> None:
        self._xp.matmul(self._a, self._b, out=self._out)
        if self._xp is not np:
            self._xp.cuda.get_current_stream().synchronize()

    def stream_seconds(self) -> None:
        return None
