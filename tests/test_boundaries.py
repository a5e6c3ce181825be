"""What users hand in meets its checks at the boundary: masks, names of columns, and numbers beyond the dtype."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnfast import MLPRegressor
from nnfast.data.encoding import InputEncoding
from nnfast.data.table import Table
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam
from nnfast.models.validation import converted
from nnfast.networks.layers import BatchNorm, Dense
from nnfast.networks.network import Network
from nnfast.training.stopping import DivergenceError
from nnfast.training.train import train
from tests.test_training import CLASSIFIER, REGRESSION, quick

X = np.random.default_rng(0).normal(size=(70, 3))
Y = np.sin(X).sum(axis=1)
LABELS = np.digitize(Y, [-0.5, 0.5])


def test_a_model_reads_a_data_frame_by_its_columns_names() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=["length", "width", "height"])
    model = quick(REGRESSION, table, Y, inputs=InputEncoding.fit(table))
    turned = table[["height", "length", "width"]]
    np.testing.assert_array_equal(model.predict(turned), model.predict(table))
    assert model.evaluate(turned, Y) == model.evaluate(table, Y)
    with pytest.raises(ValueError, match="lack the columns 'width'"):
        model.predict(table[["height", "length"]])


def masked(array: Any) -> Any:
    """With one value hidden, which nothing may see."""
    hidden = np.zeros(array.shape, bool)
    hidden[3] = True
    return np.ma.MaskedArray(array, hidden)


def test_masked_values_are_refused_and_never_trained_on() -> None:
    weights = np.ones(len(Y))
    model, classifier = quick(REGRESSION, X, Y), quick(CLASSIFIER, X, LABELS)
    encoding = InputEncoding.fit(X)
    two_classes = Network(3, [Dense(1, "sigmoid")])
    calls: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: quick(REGRESSION, masked(X), Y), "X holds 3 masked values, the first at [3, 0]: fill them in with"),
        (lambda: quick(REGRESSION, X, masked(Y)), "the target holds 1 masked values"),
        (lambda: quick(CLASSIFIER, X, masked(LABELS)), "the target holds 1 masked values"),
        (lambda: quick(CLASSIFIER, X, masked(LABELS.astype(str))), "the target holds 1 masked values"),
        (lambda: quick(two_classes, X, masked(Y > 0)), "the target holds 1 masked values"),
        (lambda: quick(REGRESSION, X, Y, sample_weight=masked(weights)), "sample_weight holds 1 masked values"),
        (lambda: quick(REGRESSION, X, Y, validation=(X, masked(Y))), "the target holds 1 masked values"),
        (lambda: quick(REGRESSION, masked(X), Y, inputs=encoding), "the input holds 3 masked values"),
        (lambda: InputEncoding.fit(masked(X)), "the input holds 3 masked values"),
        (lambda: Table(("a",), (masked(Y),)), "column 'a' holds 1 masked values"),
        (lambda: model.predict(masked(X)), "X holds 3 masked values"),
        (lambda: classifier.predict_proba(masked(X)), "X holds 3 masked values"),
        (lambda: model.evaluate(X, masked(Y)), "the target holds 1 masked values"),
        (lambda: model.evaluate(X, Y, masked(weights)), "sample_weight holds 1 masked values"),
    )
    for call, message in calls:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    unmasked = quick(REGRESSION, np.ma.MaskedArray(X), np.ma.MaskedArray(Y), sample_weight=np.ma.MaskedArray(weights))
    np.testing.assert_array_equal(unmasked.parameters, quick(REGRESSION, X, Y, sample_weight=weights).parameters)


HUGE: dict[str, tuple[Callable[[], Any], str]] = {
    "X": (lambda: train(REGRESSION, 1e300 * X, Y), "X holds .*e\\+299 in row 0, column 0 .* too large for float32"),
    "X in prediction": (lambda: train(REGRESSION, X, Y, epochs=1).predict(1e300 * X), "too large for float32"),
    "X in a table": (
        lambda: InputEncoding.fit(1e-100 * X).transform(1e250 * X), "the input, standardised, holds -?inf in row 0"
    ),
    "X times input_scale": (
        lambda: train(REGRESSION, 1e30 * X, Y, input_scale=1e30), "X, times input_scale, holds -?inf in row 0"
    ),
    "y": (lambda: train(REGRESSION, X, 1e300 * Y), "y holds .* too large for float32"),
    "sample_weight": (
        lambda: train(REGRESSION, X, Y, sample_weight=np.full(70, 1e300)), "sample_weight holds 1e\\+300 in row 0"
    ),
    "initial_parameters": (
        lambda: train(REGRESSION, X, Y, initial_parameters=np.full(41, 1e39)), "initial_parameters holds 1e\\+39"
    ),
    "learning_rate": (
        lambda: train(REGRESSION, X, Y, learning_rate=1e39), r"learning_rate must be at most 3.4e\+38 in float32"
    ),
    "epsilon": (
        lambda: train(REGRESSION, X, Y, optimizer=adam(epsilon=1e308)), r"epsilon of 'adam' must be at most 3.4e\+38"
    ),
    "epsilon of BatchNorm": (
        lambda: train(Network(3, [BatchNorm(epsilon=1e308), Dense(1)]), X, Y), "epsilon of BatchNorm must be at most"
    ),
    "a constant of the loss": (
        lambda: train(REGRESSION, X, Y, loss=replace(LOSSES["huber"], constants={"delta": 1e39})),
        r"delta of 'huber' must be at most 3.4e\+38 in float32, got 1e\+39",
    ),
    "a rate that grows": (
        lambda: train(REGRESSION, X, Y, optimizer="adamw", learning_rate=3e38), "the loss became"
    ),
    "y in an estimator": (
        lambda: MLPRegressor(dtype="float32").fit(X, 1e300 * Y), "y holds .* too large for float32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HUGE)
def test_numbers_too_large_for_the_dtype_are_one_error_without_numpy_s_warnings(what: str) -> None:
    """Warnings are errors here, and of another type."""
    call, message = HUGE[what]
    with pytest.raises((ValueError, DivergenceError), match=message):
        call()


def test_scores_of_huge_numbers_do_not_warn() -> None:
    scores = quick(REGRESSION, X, Y).evaluate(X, 1e200 * Y)
    assert not np.isfinite([scores["loss"], scores["r2"]]).any()


@given(values=hnp.arrays(np.float64, (2, 3), elements=st.floats()), dtype=st.sampled_from(["float32", "float64"]))
def test_what_is_converted_is_finite_and_what_is_refused_is_not(values: Any, dtype: str) -> None:
    with np.errstate(over="ignore"):
        expected = values.astype(dtype)
    wrong = np.argwhere(~np.isfinite(expected))
    if len(wrong):
        row, column = wrong[0]
        message = f"X holds {values[row, column]} in row {row}, column {column} (counted from 0)"
        with pytest.raises(ValueError, match=re.escape(message)):
            converted(values, np.dtype(dtype), "X")
    else:
        np.testing.assert_array_equal(converted(values, np.dtype(dtype), "X"), expected)
