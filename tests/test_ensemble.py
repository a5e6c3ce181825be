"""Ensemble: several models as one."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from nnfast import BatchNorm, Dense, DivergenceError, Ensemble, Model, Network, train, train_many
from nnfast.backends import Backend
from nnfast.data.encoding import InputEncoding
from nnfast.data.splits import fold_rows
from nnfast.data.targets import NumberTargets
from nnfast.formulas.losses import LOSSES
from tests.tolerances import ONE_STEP, difference

CLOSE = ONE_STEP["float64"]

X = np.random.default_rng(0).normal(size=(80, 4))
LABELS = np.array(["a", "b", "c"])[np.digitize(X.sum(axis=1), [-1, 1])]
NUMBERS = np.stack([X.sum(axis=1), X[:, 0] * 100], axis=1)
CLASSIFIER = Network(4, [Dense(8, "tanh"), Dense(3, "softmax")])
SINGLE = Network(4, [Dense(6, "relu"), Dense(1, "sigmoid")])
REGRESSOR = Network(4, [Dense(8, "tanh"), Dense(2)])


def ensemble(network: Network = CLASSIFIER, y: Any = LABELS, **options: Any) -> Ensemble:
    return Ensemble(train_many(network, X, y, **{"epochs": 5, "seed": range(4), "dtype": "float64", **options}))


def regressors() -> Ensemble:
    return ensemble(REGRESSOR, NUMBERS, targets=NumberTargets.fit(NUMBERS, standardize=True))


def test_probabilities_are_the_members_mean_and_spread_their_standard_deviation() -> None:
    together = ensemble()
    each = np.stack([member.predict_proba(X) for member in together.members])
    assert difference(together.predict_proba(X), each.mean(axis=0)) < CLOSE
    assert difference(together.spread(X), each.std(axis=0)) < CLOSE
    np.testing.assert_array_equal(together.predict(X), np.array(["a", "b", "c"])[each.mean(axis=0).argmax(axis=1)])
    np.testing.assert_array_equal(together.member_outputs(X), each)


def test_one_output_tells_two_classes_apart_by_its_mean() -> None:
    together = ensemble(SINGLE, LABELS == "a")
    each = np.stack([member.predict_proba(X) for member in together.members])
    assert difference(together.predict_proba(X), each.mean(axis=0)) < CLOSE
    assert together.spread(X).shape == (80, 2)
    np.testing.assert_array_equal(together.predict(X), each.mean(axis=0)[:, 1] > 0.5)


def test_numbers_are_in_the_targets_units() -> None:
    together = regressors()
    each = np.stack([member.predict(X) for member in together.members])
    assert difference(together.predict(X), each.mean(axis=0)) < CLOSE
    assert difference(together.spread(X), each.std(axis=0)) < CLOSE
    with pytest.raises(TypeError, match="predict_proba is for classes"):
        together.predict_proba(X)


@pytest.mark.parametrize("network", [CLASSIFIER, SINGLE, REGRESSOR])
@pytest.mark.parametrize("weights", [None, np.arange(80.0)])
def test_an_ensemble_of_one_is_measured_as_its_member(network: Network, weights: Any) -> None:
    y: Any = {CLASSIFIER: LABELS, SINGLE: LABELS == "a", REGRESSOR: NUMBERS}[network]
    alone = train(network, X, y, epochs=5, dtype="float64")
    ours, theirs = Ensemble([alone]).evaluate(X, y, weights), alone.evaluate(X, y, weights)
    assert ours == pytest.approx(theirs, rel=CLOSE)


def test_several_are_measured_by_their_mean() -> None:
    together = ensemble()
    mean = together.predict_proba(X)
    truth = np.array([list("abc").index(label) for label in LABELS])
    scores = together.evaluate(X, LABELS)
    assert scores["loss"] == pytest.approx(-np.log(mean[np.arange(80), truth]).mean(), rel=CLOSE)
    assert scores["accuracy"] == (mean.argmax(axis=1) == truth).mean()


@pytest.mark.parametrize("make", [ensemble, regressors])
def test_a_row_is_predicted_out_of_fold_by_those_that_did_not_see_it(make: Any) -> None:
    together = make()
    pairs = fold_rows(80, 3, seed=1)
    held = [pairs[0][1], pairs[1][1], np.r_[pairs[1][1], pairs[2][1][1:]], []]
    told = together.out_of_fold(X, held)
    show = "predict_proba" if make is ensemble else "predict"
    first, second, third, _ = (getattr(member, show)(X) for member in together.members)
    assert difference(told[pairs[0][1]], first[pairs[0][1]]) < CLOSE
    assert difference(told[pairs[1][1]], (second + third)[pairs[1][1]] / 2) < CLOSE
    assert difference(told[pairs[2][1][1:]], third[pairs[2][1][1:]]) < CLOSE
    assert np.isnan(told[pairs[2][1][0]]).all()


def test_out_of_fold_predictions_of_named_columns_keep_their_names() -> None:
    frame = pd.DataFrame(X, columns=list("pqrs"))
    encoding = InputEncoding.fit(frame)
    pairs = fold_rows(80, 2, seed=1)
    folded = Ensemble(train_many(CLASSIFIER, frame, LABELS, folds=pairs, inputs=encoding, epochs=3))
    told = folded.out_of_fold(frame, [held for _, held in pairs])
    for member, (_, held) in zip(folded.members, pairs, strict=True):
        np.testing.assert_array_equal(told[held], member.predict_proba(frame.iloc[held]))


@pytest.mark.parametrize("make", [ensemble, regressors])
def test_an_ensemble_comes_back_from_its_file(make: Any, tmp_path: Path) -> None:
    together = make()
    together.save(tmp_path / "ensemble.safetensors")
    again = Ensemble.load(tmp_path / "ensemble.safetensors", backend="numba", threads=1)
    assert len(again) == 4
    np.testing.assert_array_equal(again.member_outputs(X), together.member_outputs(X))
    assert [member.history for member in again.members] == [member.history for member in together.members]
    assert (again.members[3].backend, again.members[3].threads) == ("numba", 1)


def test_members_may_be_of_several_networks() -> None:
    wide = Network(4, [Dense(20, "relu"), Dense(3, "softmax")])
    together = Ensemble(train_many([CLASSIFIER, wide], X, LABELS, epochs=2))
    each = np.stack([member.predict_proba(X) for member in together.members])
    np.testing.assert_array_equal(together.member_outputs(X), each)


def test_an_ensemble_travels_and_serves_several_threads() -> None:
    together = ensemble()
    expected = together.member_outputs(X)
    again = pickle.loads(pickle.dumps(together))
    np.testing.assert_array_equal(again.member_outputs(X), expected)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: together.member_outputs(X), range(20)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 80, 3000])
def test_every_member_computes_as_its_model_does(backend: Backend, rows: int) -> None:
    wide = Network(4, [Dense(20, "relu"), Dense(3, "softmax")])
    many = X[np.arange(rows) % 80]
    together = Ensemble(
        train_many([CLASSIFIER, wide, CLASSIFIER], X, LABELS, seed=[0, 1, 2], epochs=1, backend=backend)
    )
    for outputs, member in zip(together.member_outputs(many), together.members, strict=True):
        np.testing.assert_array_equal(outputs, member.outputs(many))


def test_every_member_has_its_own_running_statistics(image_backend: Backend) -> None:
    normalised = Network(4, [Dense(6), BatchNorm(), Dense(3, "softmax")])
    together = Ensemble(train_many(normalised, X, LABELS, seed=[0, 1], epochs=2, backend=image_backend))
    for outputs, member in zip(together.member_outputs(X), together.members, strict=True):
        np.testing.assert_array_equal(outputs, member.outputs(X))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    model, path = train(CLASSIFIER, X, LABELS, epochs=1), tmp_path / "file.safetensors"
    model.save(path)
    with pytest.raises(ValueError, match=r"is not an ensemble file: it holds a Model, which Model\.load reads"):
        Ensemble.load(path)
    Ensemble([model]).save(path)
    with pytest.raises(ValueError, match=r"is not a model file: it holds an Ensemble, which Ensemble\.load reads"):
        Model.load(path)
    for members, arrays in (
        ("[{}]", {}),
        ("[]", {}),
        ("3", {}),
        ("[]", {"members.0.x": np.zeros(1)}),
        ("[{}]", {"x": np.zeros(1)}),
    ):
        save_file(arrays, path, {"format": "nnfast ensemble 1", "members": members})
        with pytest.raises(ValueError, match="damaged"):
            Ensemble.load(path)


def test_what_does_not_fit_is_refused() -> None:
    model = train(CLASSIFIER, X, LABELS, epochs=1)
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])
    with pytest.raises(TypeError, match=r"member 1 must be a Model, got DivergenceError.*: leave out"):
        Ensemble([model, DivergenceError("the loss became nan", model)])
    others = {
        "a dtype": train(CLASSIFIER, X, LABELS, epochs=1, dtype="float64"),
        "a number of outputs": train(SINGLE, X, LABELS == "a", epochs=1),
        "an encoding of targets": train(CLASSIFIER, X, np.where(LABELS == "a", "d", LABELS), epochs=1),
        "a loss": train(CLASSIFIER, X, LABELS, epochs=1, loss="squared_error"),
        "an input scale": train(CLASSIFIER, X, LABELS, epochs=1, input_scale=0.5),
        "an encoding of inputs": train(CLASSIFIER, X, LABELS, epochs=1, inputs=InputEncoding.fit(X)),
    }
    for what, other in others.items():
        with pytest.raises(ValueError, match=f"member 1 has {what} other than member 0"):
            Ensemble([model, other])
    hubers = [replace(LOSSES["huber"], constants={"delta": delta}) for delta in (1.0, 9.0)]
    with pytest.raises(ValueError, match=r"member 1 has a loss other than member 0: Loss.*, not 'huber'"):
        Ensemble(train_many(REGRESSOR, X, NUMBERS, loss=hubers, epochs=1))
    with pytest.raises(TypeError, match="a list of Models, got a single one"):
        Ensemble(model)
    together = Ensemble([model, model])
    with pytest.raises(TypeError, match="pass their second parts"):
        together.out_of_fold(X, fold_rows(80, 2, seed=0))
    assert together.out_of_fold(X, (held for _, held in fold_rows(80, 2, seed=0))).shape == (80, 3)
    for held, message in (
        ([[0]], "2 arrays of rows"),
        ([[0], [80]], r"held_out\[1\] .* in \[0, 80\)"),
        ([[], []], "names no rows"),
    ):
        with pytest.raises(ValueError, match=message):
            together.out_of_fold(X, held)
