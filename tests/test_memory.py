"""What a training is said to take in memory is what it takes, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnfast import BatchNorm, Conv2D, Dense, Dropout, Flatten, LayerNorm, MaxPool2D, Network, lenet5, train
from nnfast.backends import Backend, get_backend
from nnfast.training.memory import workspace_bytes, workspace_words

NETWORKS = {
    "wide": Network(9, [Dense(33, "relu"), Dropout(0.1), Dense(40, "gelu"), Dense(20, "softmax")]),
    "narrow": Network(30, [Dense(3, "tanh"), Dense(2, "softmax")]),
    "one layer": Network(5, [Dense(3, "softmax")]),
    "images": lenet5((16, 17), 3),
    "images, the dense part alone learns": Network((8, 8), [MaxPool2D(2), Flatten(), Dense(3, "softmax")]),
    "row by row": Network(9, [Dense(33), LayerNorm(activation="gelu"), Dense(3, "softmax")]),
    "normalised": Network((5, 5, 2), [Conv2D(3, 2), BatchNorm(activation="relu"), Flatten(), Dense(3, "softmax")]),
}


def assert_as_said(
    network: Network, batch_size: int, n_rows: int, dtype: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_, programs = type(backend).compile, []

    def kept(self: Any, plan: Any, recipe: Any) -> Any:
        programs.append(compile_(self, plan, recipe))
        return programs[-1]

    monkeypatch.setattr(type(backend), "compile", kept)
    X, y = np.zeros((n_rows, *network.input_shape), dtype), np.arange(n_rows) % network.output_size
    train(network, X, y, batch_size=batch_size, epochs=1, backend=backend, dtype=dtype)
    assert workspace_bytes(network, batch_size, dtype, backend, n_rows) == programs[0]._workspace.nbytes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("batch_size", "n_rows"), [(32, 300), (32, 40), (280, 300), (64, 20)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_s_workspace_is_as_large_as_was_said(
    name: str, batch_size: int, n_rows: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_as_said(NETWORKS[name], batch_size, n_rows, dtype, get_backend("numba"), monkeypatch)


def test_so_it_is_on_every_backend(faster_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_as_said(NETWORKS["narrow"], 32, 40, "float32", faster_backend, monkeypatch)


def test_many_rows_are_assumed_where_nobody_says_how_many() -> None:
    network = NETWORKS["wide"]
    for batch_size in (1, 255, 256, 1000):
        of_many = workspace_bytes(network, batch_size, "float32", "numba", 10**6)
        assert workspace_bytes(network, batch_size, "float32", "numba") == of_many


def test_a_line_says_it_with_backend_batch_and_evaluation() -> None:
    network = Network(3, [Dense(1)])
    size = workspace_bytes(network, 64, "float64", "numba")
    assert 10_000 < size < 100_000
    line = workspace_words(network, 64, "float64", "numba")
    assert line == f"workspace: {size / 1000:.3g} kB on numba, for batches of 64 (256 rows in evaluation)"
    assert workspace_words(network, 64, "float64", "numba", 5).endswith(" B on numba, for batches of 5")
    assert workspace_words(network, 512, "float32", "numba").endswith(" on numba, for batches of 512")
    assert workspace_words(network, 64, "float32", "numpy") == "workspace: none on numpy, which takes memory as it goes"
