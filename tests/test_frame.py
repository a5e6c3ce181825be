"""Predictor.frame: the model's outputs inside a function compiled by Numba, from memory that stays while it is used."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

from nnfast import BatchNorm, Conv2D, Dense, Dropout, Flatten, Model, Network, predict_frame, train

X = np.random.default_rng(0).normal(size=(40, 12)).astype("float32")
NETWORKS = {
    "dense": Network(12, [Dense(20, "relu"), Dropout(0.2), Dense(3, "softmax")]),
    "normalised": Network(12, [BatchNorm(), Dense(20, "tanh"), BatchNorm(), Dense(3, "softmax")]),
    "images": Network((4, 3), [Conv2D(3, 2, activation="relu"), Flatten(), Dense(3, "softmax")]),
}


def trained(name: str = "dense", **options: Any) -> Model:
    settings = {"epochs": 2, "backend": "numba", "threads": 1, **options}
    network = NETWORKS[name]
    return train(network, X.reshape(40, *network.input_shape), np.arange(40) % 3, **settings)


@njit(nogil=True)
def outputs_of(frame: Any, x: Any, times: int) -> Any:
    """The outputs of x, each block of max_rows rows computed `times` times."""
    found = np.empty((len(x), frame.outputs.shape[1]), frame.outputs.dtype)
    for first in range(0, len(x), len(frame.inputs)):
        rows = min(len(frame.inputs), len(x) - first)
        frame.inputs[:rows] = x[first : first + rows]
        for _ in range(times):
            predict_frame(frame, rows)
        found[first : first + rows] = frame.outputs[:rows]
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_code_computes_the_model_s_outputs(name: str, rows: int, dtype: str) -> None:
    model = trained(name, dtype=dtype)
    x = X.astype(dtype)
    frame = model.predictor(rows).frame()
    np.testing.assert_array_equal(
        outputs_of(frame, x, 2), model.outputs(x.reshape(40, *model.network.input_shape)), strict=True
    )


def test_its_weights_are_the_predictor_s_and_others_may_be_written() -> None:
    model = trained("normalised")
    predictor, before = model.predictor(8), model.outputs(X)
    model.parameters *= 0.5
    model.state += 0.25
    frame = predictor.frame()
    np.testing.assert_array_equal(outputs_of(frame, X, 1), before)
    frame.parameters[...], frame.state[...] = model.parameters, model.state
    np.testing.assert_array_equal(outputs_of(frame, X, 1), model.outputs(X))
    np.testing.assert_array_equal(predictor(X[:8]), before[:8])
    predictor.update()
    np.testing.assert_array_equal(outputs_of(predictor.frame(), X, 1), model.outputs(X))


def test_it_keeps_its_program_alive_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    compile_program = Model.compile

    def compiled(model: Model, rows: int) -> Any:
        program = compile_program(model, rows)
        made.append(weakref.ref(program))
        return program

    monkeypatch.setattr(Model, "compile", compiled)
    frame = trained().predictor(8).frame()
    call = frame.call[:2]
    del frame
    gc.collect()
    assert made[-1]() is not None
    del call
    gc.collect()
    assert made[-1]() is None


def test_threads_with_a_frame_each_compute_at_once() -> None:
    model = trained()
    predictor, expected, results = model.predictor(3), model.outputs(X), []

    def work() -> None:
        results.append(outputs_of(predictor.frame(), X, 200))

    outputs_of(predictor.frame(), X, 1)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for outputs in results:
        np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_does_not_travel(copied: Any) -> None:
    with pytest.raises(
        TypeError, match=r"neither pickled nor copied: send the predictor, and call its frame\(\) there"
    ):
        copied(trained().predictor(3).frame())


@pytest.mark.parametrize("rows", [-1, 0, 4])
def test_rows_beyond_its_memory_are_refused(rows: int) -> None:
    frame = trained().predictor(3).frame()
    with pytest.raises(ValueError, match="rows must lie in 1 to the predictor's max_rows"):
        predict_frame(frame, rows)


def test_what_has_no_frame_says_so() -> None:
    with pytest.raises(ValueError, match=r"backend 'numpy' has nothing .*: set model\.backend = 'numba'"):
        trained(backend="numpy").predictor().frame()
    bytes_, labels = np.arange(120, dtype=np.uint8).reshape(10, 12), np.arange(10) % 3
    model = train(NETWORKS["dense"], bytes_, labels, epochs=1, backend="numba", input_scale=0.5)
    with pytest.raises(ValueError, match=r"this model scales X by 0\.5: train on X \* 0\.5, without input_scale"):
        model.predictor().frame()


CACHED = """
import sys
import numpy as np
from numba import njit
from nnfast import Dense, Network, predict_frame, train

@njit(cache=True)
def first_output(frame, row):
    frame.inputs[0] = row
    predict_frame(frame, 1)
    return frame.outputs[0, 0]

X = np.random.default_rng(0).normal(size=(40, 12)).astype("float32")
moved = [np.zeros(n) for n in range(int(sys.argv[1]))]
model = train(Network(12, [Dense(3, "softmax")]), X, np.arange(40) % 3, epochs=1, backend="numba")
predictor = model.predictor(1)
assert first_output(predictor.frame(), X[5]) == model.outputs(X)[5, 0]
print(sum(first_output.stats.cache_hits.values()))
"""


def test_what_numba_keeps_on_disk_knows_no_address(tmp_path: Path) -> None:
    script = tmp_path / "cached.py"
    script.write_text(CACHED)
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
    }
    hits = [
        subprocess.run(
            [sys.executable, script, str(moved)], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for moved in (0, 3000)
    ]
    assert hits == [["0"], ["1"]]
