"""Trainings in threads with all their bits, and what keeps a deadlock from stopping the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnfast import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    LayerNorm,
    MaxPool2D,
    Network,
    train,
)
from nnfast.kernels.cpu.panels import DIRECT_BYTES

ROOT = Path(__file__).resolve().parents[2]
COUNTS = (1, 2, 3, 5)
GUARD_SECONDS = 300  # far more than any of this takes: who is not back by then waits for ever


def guarded(function: Callable[[], Any]) -> Any:
    """function(), in a thread that a deadlock may keep: the test fails, and the others go on."""
    results: list[Any] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(GUARD_SECONDS)
    if not results:
        pytest.fail("a deadlock")
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def run_script(script: str) -> None:
    """A process of its own, for what needs the main thread or forks; it ends with 0 where its promises hold."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, timeout=GUARD_SECONDS, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


PREAMBLE = """
import multiprocessing, os, signal, sys, threading
import numpy as np
from nnfast import Dense, Network, train
from nnfast.backends.numba import program as backend, team
from nnfast.support.threads import fair_share, run_in_threads

backend.FLOPS_PER_THREAD = 1
X = np.random.default_rng(0).normal(size=(100, 5))

def fit():
    network = Network(5, [Dense(7, "tanh"), Dense(2)])
    return train(network, X, X[:, :2], epochs=3, backend="numba", threads=3).parameters.tobytes()
"""


def make_rows(network: Network, n_rows: int, dtype: str) -> tuple[Any, Any]:
    random = np.random.default_rng(n_rows)
    X = random.normal(size=(n_rows, *network.input_shape)).astype(dtype)
    if network.output_layer.function.name in ("softmax", "sigmoid"):
        classes = max(2, network.output_size)
        return X, np.resize(np.arange(classes), n_rows)
    return X, random.normal(size=(n_rows, network.output_size)).astype(dtype)


def fit(network: Network, n_rows: int, threads: int, dtype: str = "float32", **options: Any) -> tuple[Any, ...]:
    """All bits of a training, with its losses and what the model then says."""
    X, y = make_rows(network, n_rows, dtype)
    options = {"epochs": 2, "batch_size": 50, "learning_rate": 0.01, **options}
    model = train(network, X, y, backend="numba", threads=threads, dtype=dtype, **options)
    loss = model.evaluate(X, y, options.get("sample_weight"))["loss"]
    return model.parameters.tobytes(), model.history.loss, model.outputs(X).tobytes(), loss


WIDE = 300  # columns
NETWORKS = {
    "relu": Network(9, [Dense(33, "relu"), Dense(17, "relu"), Dense(5, "softmax")]),
    "tanh": Network(9, [Dense(20, "tanh"), Dense(3)]),
    "one output": Network(9, [Dense(20, "relu"), Dense(1, "sigmoid")]),
    "two outputs": Network(9, [Dense(20, "gelu"), Dense(2, "softmax")]),
    "one layer": Network(9, [Dense(4, "softmax")]),
    "no bias": Network(9, [Dense(6, "sigmoid", bias=False), Dense(2, bias=False)]),
    "one input": Network(1, [Dense(1, "tanh"), Dense(1)]),
    "wide": Network(DIRECT_BYTES // 4 // WIDE + 1, [Dense(WIDE, "relu"), Dense(3, "softmax")]),
    "dropout": Network(9, [Dropout(0.2), Dense(20, "relu"), Dropout(0.5), Dense(5, "softmax")]),
    "images": Network(
        (7, 6, 2),
        [Conv2D(70, 3, activation="relu"), MaxPool2D(2), Conv2D(6, 2, padding="same"), Flatten(), Dense(4, "softmax")],
    ),
    "normalised": Network(
        (4, 5, 3),
        [Conv2D(5, 2, bias=False), BatchNorm(activation="relu"), AveragePool2D(2), Flatten(), BatchNorm(), Dense(3)],
    ),
    "row by row": Network(9, [Dense(33), LayerNorm(activation="relu"), Dense(17), LayerNorm(), Dense(5, "softmax")]),
    "averaged": Network((5, 4, 3), [Conv2D(6, 2, activation="relu"), GlobalAveragePool2D(), Dense(3, "softmax")]),
    "one weight": Network((3, 3), [Conv2D(1, 1, activation="tanh"), Dropout(0.1), Flatten(), Dense(3, "softmax")]),
}
