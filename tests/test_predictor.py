"""Model.predictor: the model's outputs one call at a time, from any thread, and no pointer before all is checked."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest

from nnfast import BatchNorm, Conv2D, Dense, Flatten, Model, Network, train
from nnfast.backends import Backend
from nnfast.data.encoding import InputEncoding
from nnfast.data.table import Table

X = np.random.default_rng(0).normal(size=(300, 9)).astype("float32")


def trained(dtype: str = "float32", **options: Any) -> Model:
    network = Network(9, [Dense(20, "tanh"), BatchNorm(), Dense(3, "softmax")])
    return train(network, X, np.arange(300) % 3, epochs=1, dtype=dtype, **{"backend": "numpy", **options})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_it_gives_the_model_s_outputs(rows: int, dtype: str, image_backend: Backend) -> None:
    model = trained(dtype, backend=image_backend)
    predict, x = model.predictor(300), X[:rows]
    expected = model.outputs(x)
    out = np.empty((rows, 3), dtype)
    assert predict(x, out) is out
    strided = np.zeros((rows, 6), dtype)[:, ::2]
    predict(x, out=strided)
    fixed = x.astype(dtype)
    fixed.flags.writeable = False
    forms = [fixed, x.astype(dtype), x.astype("float64"), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]]
    forms.append(x.tolist())
    for outputs in (out, strided, *(predict(form) for form in forms)):
        np.testing.assert_array_equal(outputs, expected)
    assert predict(x).dtype == dtype


def test_rows_that_are_not_aligned_in_memory_are_read_as_well() -> None:
    model = trained(backend="auto")
    memory = np.zeros(X.nbytes + 1, np.uint8)
    shifted = memory[1:].view("float32").reshape(X.shape)
    shifted[...] = X
    assert not shifted.flags.aligned
    np.testing.assert_array_equal(model.predictor(300)(shifted), model.outputs(X))


def test_images_and_bytes_come_in_their_own_shapes() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 4, 5)).astype(np.uint8)
    network = Network((4, 5), [Conv2D(3, 2), Flatten(), Dense(2, "softmax")])
    model = train(network, pixels, np.arange(40) % 2, epochs=1, input_scale=1 / 255)
    predict = model.predictor(40)
    for form in (pixels, pixels.reshape(40, 20), pixels[..., np.newaxis]):
        np.testing.assert_array_equal(predict(form), model.outputs(pixels))


def test_the_weights_are_a_snapshot_until_the_update() -> None:
    model = trained(backend="auto")
    predict, before = model.predictor(), model.outputs(X[:4])
    model.parameters *= 0.5
    model.state += 0.25
    np.testing.assert_array_equal(predict(X[:4]), before)
    predict.update()
    np.testing.assert_array_equal(predict(X[:4]), model.outputs(X[:4]))
    assert not np.array_equal(predict(X[:4]), before)


def test_several_threads_may_call_it_at_once() -> None:
    model = trained(backend="auto", threads=1)
    predict, wrong = model.predictor(64), []
    expected = model.outputs(X)

    def work(first: int) -> None:
        for k in range(400):
            start = (first + 7 * k) % 236
            if not np.array_equal(predict(X[start : start + 64]), expected[start : start + 64]):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(50 * n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_travels_to_other_processes_with_its_snapshot() -> None:
    model = trained(backend="auto")
    predict, before = model.predictor(16), model.outputs(X[:4])
    predict(X[:1])
    model.parameters *= 0.5
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(predict))(X[:4]), before)


def test_one_that_travelled_takes_rows_of_its_dtype_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = pickle.loads(pickle.dumps(trained(backend="auto").predictor(16)))
    monkeypatch.setattr(predict, "_converted", lambda x: pytest.fail("rows were converted"))
    predict(X[:4])


REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no rows": (np.zeros((0, 9)), None, ValueError, "x has 0 rows, but this predictor takes 1 to 16"),
    "too many rows": (X[:17], None, ValueError, "x has 17 rows, but this predictor takes 1 to 16"),
    "other columns": (X[:2, :8], None, ValueError, r"X has shape \(2, 8\), but the network takes \(n_rows, 9\)"),
    "a row alone": (X[0], None, ValueError, r"X has shape \(9,\)"),
    "a number": (1.0, None, ValueError, "got a single number"),
    "text": ([["a"] * 9], None, TypeError, "x must hold numbers"),
    "complex": (X[:2] * 1j, None, TypeError, "x must hold numbers, got dtype complex"),
    "masked": (np.ma.masked_less(X[:2], 0), None, ValueError, "masked values"),
    "out of other rows": (X[:2], np.empty((3, 3), "f4"), ValueError, r"out must have shape \(2, 3\), got \(3, 3\)"),
    "out of other columns": (X[:2], np.empty((2, 9), "f4"), ValueError, r"out must have shape \(2, 3\)"),
    "out of another dtype": (X[:2], np.empty((2, 3)), TypeError, "out must be an array of float32, got float64"),
    "a list as out": (X[:2], [[0.0] * 3] * 2, TypeError, "out must be an array of float32, got list"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str) -> None:
    x, out, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message):
        trained().predictor(16)(x, out)


def test_out_may_neither_be_read_only_nor_overlap_x() -> None:
    predict, x = trained().predictor(16), X[:2].copy()
    with pytest.raises(ValueError, match="out and x overlap"):
        predict(x, x[:, 3:6])
    fixed = np.zeros((2, 3), "float32")
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        predict(x, fixed)
    np.testing.assert_array_equal(x, X[:2])


def test_columns_that_need_an_encoding_are_not_for_a_predictor() -> None:
    table = Table(("a", "b"), (np.arange(6.0), np.array(list("xyxyxy"))))
    encoding = InputEncoding.fit(table)
    network = Network(encoding.n_features, [Dense(2, "softmax")])
    model = train(network, table, np.arange(6) % 2, epochs=1, inputs=encoding, backend="numpy")
    with pytest.raises(TypeError, match="this model encodes columns"):
        model.predictor()
    with pytest.raises(ValueError, match="max_rows must be a positive integer, got 0"):
        trained().predictor(0)
