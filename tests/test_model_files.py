"""Model files written once are read for ever: those under tests/model_files were made by the versions they name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnfast.data.table import Table
from nnfast.models.model import Model
from tests.tolerances import ONE_STEP, difference

FILES = sorted((Path(__file__).parent / "model_files").glob("format_*/*.safetensors"))


def _column(values: list[Any]) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=None if isinstance(values[0], str) else np.float64)


def _inputs(expected: dict[str, Any]) -> Any:
    if expected["X dtype"] == "table":
        return Table(tuple(expected["X"]), tuple(map(_column, expected["X"].values())))
    return np.array(expected["X"], dtype=expected["X dtype"])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_old_model_file_predicts_what_it_did_when_it_was_written(path: Path, backend: str) -> None:
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    model = Model.load(path, backend)
    X, tolerance = _inputs(expected), ONE_STEP[model.parameters.dtype.name]
    assert difference(model.outputs(X), expected["outputs"]) < tolerance
    predictions = model.predict(X)
    if predictions.dtype.kind == "f":
        assert difference(predictions, expected["predictions"]) < tolerance
    else:
        assert predictions.tolist() == expected["predictions"]
    assert model.evaluate(X, expected["y"]) == pytest.approx(expected["scores"], rel=tolerance)
    assert dataclasses.asdict(model.history) == {"threads": []} | expected["history"]


def test_the_files_of_format_1_hold_what_that_version_could_write() -> None:
    """A walk over what the files say, so that a lost or emptied file is not a promise less."""
    models = [Model.load(path, "numpy") for path in FILES if path.parent.name == "format_1"]
    layers = [layer for model in models for layer in model.network.layers]
    activations = {layer.function.name for layer in layers if layer.function}
    assert {layer.kind for layer in layers} >= {
        "Dense", "Dropout", "Flatten", "Conv2D", "MaxPool2D", "AveragePool2D", "GlobalAveragePool2D", "BatchNorm",
    }  # fmt: skip
    assert activations >= {
        "identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "softplus", "silu", "gelu", "mish",
        "hard_sigmoid", "hard_swish", "exp", "softmax", "bent",
    }  # fmt: skip
    assert {model.loss.name for model in models} >= {
        "squared_error", "sum_squared_error", "absolute_error", "huber", "log_cosh", "poisson", "binary_cross_entropy",
        "cross_entropy", "lopsided",
    }  # fmt: skip
    assert {model.parameters.dtype.name for model in models} == {"float32", "float64"}
    assert {model.history.stopped for model in models} == {"epochs", "early stopping"}
    assert any(model.inputs is not None and model.inputs.categories for model in models)
    assert {type(model.targets).__name__ for model in models} == {"ClassTargets", "NumberTargets"}
