"""Made the model files of this folder, which Model.load reads for ever, and what each predicted when it was made.

The files of format 1 were made at commit 9b3d91c, by nnfast 0.1.0. They are never made again: a new format gets a
folder beside format_1, made by the commit that introduces it.

    PYTHONPATH=. python tests/model_files/make.py tests/model_files/format_1
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import nnfast
from nnfast import (
    ACTIVATIONS,
    LOSSES,
    Activation,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    EarlyStopping,
    Flatten,
    GlobalAveragePool2D,
    Loss,
    MaxPool2D,
    Model,
    Network,
    train,
)
from nnfast.data.encoding import InputEncoding
from nnfast.data.table import Table
from nnfast.data.targets import ClassTargets, NumberTargets

SEEN = 6  # rows whose predictions are stored


def models() -> Iterator[tuple[str, Model, Any, Any]]:
    """Name, model, X and y: between them every layer, activation, loss and encoding, both dtypes and a history."""
    random = np.random.default_rng(2024)
    X = random.normal(size=(60, 4))
    float64: dict[str, Any] = {"backend": "numpy", "dtype": "float64", "epochs": 4}
    float32: dict[str, Any] = {**float64, "dtype": "float32"}

    labels = np.array([3, 7, 11])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)]
    network = Network(
        4, [Dense(6, "relu"), Dropout(0.2), Dense(5, "tanh", bias=False, initializer="orthogonal"), Dense(3, "softmax")]
    )
    yield "classes", train(network, X, labels, **float32), X, labels

    stopped = train(
        Network(4, [Dense(8, "relu"), Dense(1, "sigmoid")]), X, X[:, 0] > 0.2, backend="numpy", dtype="float64",
        epochs=200, learning_rate=0.1, validation=0.3, early_stopping=EarlyStopping(patience=3),
    )  # fmt: skip
    yield "early_stopping", stopped, X, X[:, 0] > 0.2

    hidden = [Dense(3, name) for name, row in ACTIVATIONS.items() if not row.output_only]
    counts = random.poisson(3, size=60).astype(float)
    network = Network(4, [*hidden, Dense(1, "exp")])
    yield "activations", train(network, X, counts, loss="poisson", **float64), X, counts

    for name in LOSSES:
        if name not in ("poisson", "cross_entropy", "binary_cross_entropy"):
            y = X[:, :2] * [1.0, 3.0]
            yield name, train(Network(4, [Dense(2)]), X, y, loss=name, **float32), X, y

    pictures = random.integers(0, 256, (40, 7, 6, 2)).astype(np.uint8)
    kinds = np.arange(40) % 3
    network = Network(
        (7, 6, 2),
        [
            Conv2D(4, 3, padding=1, groups=2, bias=False), BatchNorm(activation="relu"), MaxPool2D(2, stride=1),
            Conv2D(3, (2, 3), stride=(2, 1), padding="same", dilation=(1, 2), activation="silu"),
            AveragePool2D(2, padding=1), Flatten(), Dense(5), BatchNorm(0.5, activation="tanh"), Dense(3, "softmax"),
        ],
    )  # fmt: skip
    yield "images", train(network, pictures, kinds, input_scale=1 / 255, **float32), pictures, kinds

    grey = random.normal(size=(40, 6, 6))
    network = Network((6, 6), [Conv2D(3, 2), BatchNorm(), GlobalAveragePool2D(), Dense(2)])
    y = grey[:, 0, :2]
    yield "global_average", train(network, grey, y, **float64), grey, y

    colours = np.array(["blue", "green", 'réd, "dark"'])[random.integers(0, 3, 40)]
    table = Table(("size", "colour", "age"), (random.normal(5, 2, 40), colours, random.normal(50, 9, 40)))
    inputs = InputEncoding.fit(table)
    said = np.where(table["size"] > 5, "buy", "sell")
    network = Network(inputs.n_features, [Dense(6, "tanh"), Dense(2, "softmax")])
    targets = ClassTargets.fit(said)
    yield "text", train(network, table, said, inputs=inputs, targets=targets, **float32), table, said

    matrix = random.normal([100, -3], [20, 0.1], (40, 2))
    prices = 1e5 + 300 * matrix[:, 0]
    inputs = InputEncoding.fit(matrix, names=["width", "depth"])
    network = Network(2, [Dense(4, "relu"), Dense(1)])
    targets = NumberTargets.fit(prices)
    yield "units", train(network, matrix, prices, inputs=inputs, targets=targets, **float64), matrix, prices

    activation = Activation(
        "bent", value="k * z / (1 + abs(z))", derivative="k / (1 + abs(z))**2", constants={"k": 1.5}
    )
    loss = Loss(
        "lopsided", value="where(a > y, over, 1) * (a - y)**2", derivative="where(a > y, over, 1) * 2 * (a - y)",
        constants={"over": 3.0}, reduction="sum",
    )  # fmt: skip
    network = Network(4, [Dense(5, activation), Dense(2)])
    yield "formulas", train(network, X, X[:, 2:], loss=loss, learning_rate=0.01, **float64), X, X[:, 2:]


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, model, X, y in models():
        seen = np.arange(SEEN)
        X, y = X.take(seen) if isinstance(X, Table) else X[:SEEN], y[:SEEN]
        history = model.history
        expected = {
            "version": nnfast.__version__,
            "X": dict(zip(X.names, map(list, X.columns), strict=True)) if isinstance(X, Table) else X.tolist(),
            "X dtype": "table" if isinstance(X, Table) else str(X.dtype),
            "y": y.tolist(),
            "outputs": model.outputs(X).tolist(),
            "predictions": model.predict(X).tolist(),
            "scores": model.evaluate(X, y),
            "history": {
                "loss": history.loss, "learning_rate": history.learning_rate, "seconds": history.seconds,
                "threads": history.threads, "metrics": history.metrics, "stopped": history.stopped,
                "best_epoch": history.best_epoch,
            },
        }  # fmt: skip
        model.save(folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(expected, indent=None, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
