"""In which order X lies in memory: it changes no bit of a result, and a large X is copied in no order."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.base import is_classifier

from nnfast import Dense, Dropout, MLPClassifier, MLPRegressor, Network, train
from nnfast.backends import Backend, Source
from nnfast.formulas.optimizers import adam
from nnfast.support.arrays import SMALL_BYTES
from tests.programs import make_program, recipe

ROWS, COLUMNS = 90, 37  # 37: not whole groups of columns
LARGE = (40_000, 400)  # of float32, 61 MiB
BLOCK = 25 * 2**20  # what may be held beside a large X, whatever its size


def fortran(X: np.ndarray) -> np.ndarray:
    return np.asfortranarray(X)


def from_behind(X: np.ndarray) -> np.ndarray:
    return np.asfortranarray(X[::-1, ::-1])[::-1, ::-1]


def parts_of_a_larger_one(X: np.ndarray) -> np.ndarray:
    larger = np.zeros((2 * len(X), X.shape[1] + 3), X.dtype)
    larger[1::2, :-3] = X
    return larger[1::2, :-3]


ORDERS = [fortran, from_behind, parts_of_a_larger_one]
orders = pytest.mark.parametrize("reorder", ORDERS, ids=lambda order: order.__name__)


def results(backend: Backend, source: Source, dtype: str) -> list[Any]:
    """What a program makes of a source, in all its calls."""
    network = Network(COLUMNS, [Dense(6, "tanh"), Dropout(0.3), Dense(2)])
    program = make_program(
        backend, network, recipe("squared_error", adam(), dtype, alpha=0.1), 16, gives_input_gradient=True
    )
    few = replace(
        source, inputs=source.inputs[3:14], targets=source.targets[3:14], sample_weight=source.sample_weight[3:14]
    )
    found = [program.predict(few), program.predict(source), *program.evaluate(source), *program.loss_and_gradient(few)]
    found.append(program.input_gradient(few))
    program.bind(source)
    order = np.random.default_rng(1).permutation(ROWS)
    bounds = np.append(np.arange(0, ROWS, 16), ROWS)
    for steps in range(0, len(bounds) - 1, 4):
        within = bounds[steps : steps + 5]
        found.append(program.run(order, within, np.full(len(within) - 1, 0.01), steps))
    return [*found, program.parameters, program.slots]


@orders
@pytest.mark.parametrize("block_bytes", [1, 5000, 2**24])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("f4", "float32"), ("f8", "float32"), ("f8", "float64"), ("u1", "float32")]
)
def test_a_program_gives_the_same_bits(
    backend: Backend,
    reorder: Callable[[np.ndarray], np.ndarray],
    block_bytes: int,
    kind: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("numba.blocks", "cuda.memory"):
        monkeypatch.setattr(f"nnfast.backends.{module}.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("nnfast.backends.cuda.memory.STAGED_BYTES", 0)
    random = np.random.default_rng(0)
    X = random.integers(0, 256, (ROWS, COLUMNS)).astype(kind)
    targets, weights = random.normal(size=(ROWS, 2)).astype(dtype), random.random(ROWS).astype(dtype)
    scale = 1 / 255 if kind == "u1" else 1.0
    reordered = reorder(X)
    assert not reordered.flags.c_contiguous
    found = results(backend, Source(reordered, targets, weights, scale), dtype)
    expected = results(backend, Source(X, targets, weights, scale), dtype)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend_name", ["numpy", "numba"])
@orders
def test_training_and_predicting_give_the_same_bits(
    reorder: Callable[[np.ndarray], np.ndarray], backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnfast.support.arrays.SMALL_BYTES", 0)
    random = np.random.default_rng(0)
    X, y = random.normal(size=(ROWS, COLUMNS)).astype("float32"), random.integers(0, 3, ROWS)
    network = Network(COLUMNS, [Dense(6, "relu"), Dense(3, "softmax")])
    models = [train(network, rows, y, epochs=3, seed=0, backend=backend_name) for rows in (X, reorder(X))]
    np.testing.assert_array_equal(models[0].parameters, models[1].parameters)
    np.testing.assert_array_equal(models[0].outputs(X), models[0].outputs(reorder(X)))
    assert models[0].evaluate(X, y) == models[0].evaluate(reorder(X), y)
    for kind in (MLPClassifier, MLPRegressor):
        for solver in ("adam", "lbfgs"):
            parameters = {"hidden_layer_sizes": (5,), "solver": solver, "random_state": 0, "backend": backend_name}
            with pytest.warns(match="converge"):
                fitted = [kind(max_iter=3, **parameters).fit(rows, y) for rows in (X, reorder(X))]
            np.testing.assert_array_equal(fitted[0].coefs_[0], fitted[1].coefs_[0])
            many = np.tile(X, (4, 1))
            np.testing.assert_array_equal(fitted[0].predict(many), fitted[0].predict(reorder(many)))


def peak_of(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("backend_name", ["numpy", "numba"])
def test_a_large_matrix_in_fortran_order_is_not_copied_whole(backend_name: str) -> None:
    X = np.zeros(LARGE, "float32", order="F")
    X[:, 0] = np.arange(len(X)) % 7
    y = (X[:, 0] > 3).astype(int)
    assert X.nbytes > SMALL_BYTES
    assert X.nbytes > 2 * BLOCK
    network = Network(LARGE[1], [Dense(2, "relu"), Dense(2, "softmax")])
    options = {"backend": backend_name, "threads": 1}
    model = train(network, X[:200], y[:200], epochs=1, **options)  # compiles, if anything has to be
    assert peak_of(lambda: train(network, X, y, epochs=1, **options)) < BLOCK
    assert peak_of(lambda: model.predict(X)) < BLOCK
    assert peak_of(lambda: model.evaluate(X, y)) < BLOCK


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator", [MLPClassifier((2,), max_iter=1), MLPRegressor(hidden_layer_sizes=(2,), max_iter=1)]
)
def test_nor_do_the_estimators_copy_it(estimator: Any) -> None:
    X = np.zeros(LARGE, "float32", order="F")
    X[:, 0] = np.arange(len(X)) % 7
    y = (X[:, 0] > 3).astype(int if is_classifier(estimator) else "float32")
    estimator.fit(X[:200], y[:200])
    assert peak_of(lambda: estimator.fit(X, y)) < BLOCK
    assert peak_of(lambda: estimator.partial_fit(X, y)) < BLOCK
    assert peak_of(lambda: estimator.predict(X)) < BLOCK
