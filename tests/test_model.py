"""A trained model: saved, loaded, and what a damaged or hostile file does."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nnfast.backends import Backend
from nnfast.data.encoding import InputEncoding
from nnfast.data.table import Table
from nnfast.data.targets import ClassTargets
from nnfast.formulas.activations import Activation
from nnfast.formulas.losses import Loss
from nnfast.models.model import Model
from nnfast.networks.layers import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D
from nnfast.networks.network import Network
from nnfast.plans.plan import make_plan
from nnfast.training.stopping import EarlyStopping
from nnfast.training.train import train
from tests.tolerances import ONE_STEP, difference


@pytest.fixture
def table() -> Table:
    random = np.random.default_rng(0)
    colours = np.array(["red", "green", "blue"])[random.integers(0, 3, 40)]
    return Table(("size", "colour"), (random.normal(5, 2, 40), colours))


@pytest.fixture
def model(table: Table) -> Model:
    labels = np.where((table["size"] > 5) ^ (table["colour"] == "red"), "buy", "sell")
    inputs = InputEncoding.fit(table)
    network = Network(inputs.n_features, [Dense(6, "tanh"), Dense(2, "softmax")])
    return train(network, table, labels, inputs=inputs, epochs=3, backend="numpy", validation=0.2)


def test_a_model_survives_its_file(model: Model, table: Table, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = Model.load(path, backend="numpy")
    assert again.network == model.network
    assert again.loss == model.loss
    assert again.parameters.dtype == model.parameters.dtype
    np.testing.assert_array_equal(again.parameters, model.parameters)
    np.testing.assert_array_equal(again.predict(table), model.predict(table))
    np.testing.assert_array_equal(again.predict_proba(table), model.predict_proba(table))
    assert again.history == model.history
    assert set(again.predict(table)) <= {"buy", "sell"}


def test_formulas_of_ones_own_survive_the_file(tmp_path: Path) -> None:
    activation = Activation("mine", value="k * z", derivative="k", constants={"k": 0.5})
    loss = Loss("fourth", value="(a - y)**4", derivative="4 * (a - y)**3")
    X = np.random.default_rng(0).normal(size=(20, 2))
    model = train(Network(2, [Dense(3, activation), Dense(1)]), X, X[:, 0], loss=loss, epochs=2, backend="numpy")
    model.save(tmp_path / "m")
    again = Model.load(tmp_path / "m", backend="numpy")
    assert (again.network, again.loss) == (model.network, loss)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_a_file_whose_formulas_bear_a_name_that_is_taken_is_read_under_another(tmp_path: Path) -> None:
    """Files of format 1 may hold them: a name was refused only later, or came into the tables later."""
    activation = Activation("mine", value="2 * z", derivative="2")
    loss = Loss("fourth", value="(a - y)**4", derivative="4 * (a - y)**3")
    X = np.random.default_rng(0).normal(size=(20, 2))
    layers = [Dense(3), BatchNorm(activation=activation), Dense(1, activation)]
    model = train(Network(2, layers), X, X[:, 0], loss=loss, epochs=2, backend="numpy", dtype="float64")
    path = tmp_path / "m"
    model.save(path)
    rewrite(
        path,
        network=model.network.to_json().replace('"mine"', '"identity"'),
        loss=json.dumps({"name": "squared_error", "value": loss.value, "derivative": loss.derivative, "constants": {}}),
    )
    for backend in ("numpy", "numba"):
        again = Model.load(path, backend=backend)
        assert difference(again.predict(X), model.predict(X)) < ONE_STEP["float64"]
        assert again.evaluate(X, X[:, 0])["loss"] == pytest.approx(model.evaluate(X, X[:, 0])["loss"])
    names = [layer.function.name for layer in again.network.layers if layer.function]
    assert (names, again.loss.name) == (["identity", "identity (own)", "identity (own)"], "squared_error (own)")
    again.save(path)
    assert Model.load(path).network == again.network


def test_others_can_read_the_weights_by_name(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    arrays = load_file(tmp_path / "m.safetensors")
    assert arrays["layers.0.weights"].shape == (4, 6)
    assert arrays["layers.1.bias"].shape == (2,)


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    """safetensors alone writes the texts in another order each time."""
    model = train(Network(3, [Dense(2, "softmax")]), np.eye(3), [0, 1, 1], epochs=1)
    files = set()
    for number in range(8):
        model.save(path := tmp_path / f"{number}.safetensors")
        files.add(path.read_bytes())
        np.testing.assert_array_equal(Model.load(path).parameters, model.parameters)
    assert len(files) == 1


def test_a_failed_save_leaves_the_old_file(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def rewrite(path: Path, **changes: Any) -> None:
    """Save the model file again with changed metadata; a value of None drops the entry."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    metadata |= changes
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if value is not None})


DAMAGED: dict[str, dict[str, Any]] = {
    "no network": {"network": None},
    "another network": {"network": Network(4, [Dense(2, "softmax")]).to_json()},
    "a wider network": {"network": Network(4, [Dense(7, "tanh"), Dense(2, "softmax")]).to_json()},
    "an unknown loss": {"loss": '"mse"'},
    "a loss that does not fit": {
        "loss": '"binary_cross_entropy"',
        "network": Network(4, [Dense(6, "tanh"), Dense(2)]).to_json(),
    },
    "a formula that is code": {"loss": json.dumps({"name": "x", "value": "__import__('os')", "derivative": "1"})},
    "no JSON": {"description": "{"},
    "targets of another kind": {
        "description": json.dumps({"targets": {"kind": "pickle"}, "history": {}, "input_scale": 1})
    },
    "deep JSON": {"description": "[" * 100_000},
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_one_value_error_that_names_it(model: Model, tmp_path: Path, what: str) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    rewrite(path, **DAMAGED[what])
    with pytest.raises(ValueError, match=r"model\.safetensors is a damaged model file: "):
        Model.load(path)


def test_arrays_that_do_not_belong_are_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "m"
    model.save(path)
    arrays = load_file(path)
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    nan = arrays["layers.0.weights"] * np.nan
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"layers.0.weights": nan}, "layers.0.weights holds nan"),
        ({"extra": np.zeros(1)}, "unknown array 'extra'"),
        ({"layers.0.weights": arrays["layers.0.weights"].astype(np.float64)}, "but the network needs"),
        ({"layers.0.weights": np.zeros((1, 1), np.float32)}, "parameters, but its network has"),
    )
    for change, message in changes:
        save_file(arrays | change, path, metadata)
        with pytest.raises(ValueError, match=message):
            Model.load(path)


def test_more_classes_than_outputs_are_refused(tmp_path: Path) -> None:
    X, y = np.zeros((6, 2)), np.arange(6) % 2
    network = Network(2, [Dense(2, "softmax")])
    with pytest.raises(ValueError, match="9 classes do not fit a network of 2 outputs"):
        train(network, X, y, targets=ClassTargets(np.arange(9)), epochs=1, backend="numpy")
    model = train(network, X, y, epochs=1, backend="numpy")
    model.targets = ClassTargets(np.arange(9))
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="damaged model file: 9 classes do not fit"):
        Model.load(tmp_path / "m")


def test_a_model_may_be_used_by_several_threads_at_once() -> None:
    random = np.random.default_rng(0)
    network = Network(50, [Dense(200, "relu"), Dense(200, "relu"), Dense(3)])
    X = random.normal(size=(8, 700, 50))
    model = train(network, X[0], X[0, :, :3], epochs=1, backend="numba")
    expected = [model.predict(part) for part in X]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, alone in zip(pool.map(model.predict, X), expected, strict=True):
                np.testing.assert_array_equal(found, alone)


def test_a_model_can_be_copied_and_changed_after_it_has_predicted(model: Model, table: Table) -> None:
    before = model.predict_proba(table)
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.predict_proba(table), before)
    copied.layer_parameters()["layers.1.bias"][0] += 5
    assert (copied.predict(table) == model.targets.classes[0]).all()  # type: ignore[union-attr]
    np.testing.assert_array_equal(copy.deepcopy(model).predict_proba(table), before)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("parameters", [0.0], "a list"),
        ("parameters", np.zeros(1, np.float32), r"float32 of shape \(1,\)"),
        ("parameters", np.zeros(44), r"float64 of shape \(44,\)"),
        ("parameters", np.zeros((44, 1), np.float32), r"float32 of shape \(44, 1\)"),
        ("state", np.zeros(2, np.float32), r"float32 of shape \(2,\)"),
    ],
)
def test_parameters_of_another_shape_or_dtype_are_refused_when_they_are_set(
    model: Model, table: Table, name: str, value: Any, found: str
) -> None:
    before = model.predict_proba(table)
    size = {"parameters": 44, "state": 0}[name]
    with pytest.raises(ValueError, match=rf"{name} must be a float32 array of shape \({size},\), got {found}"):
        setattr(model, name, value)
    np.testing.assert_array_equal(model.predict_proba(table), before)
    model.parameters = model.parameters / 2
    model.parameters *= 2
    np.testing.assert_array_equal(model.predict_proba(table), before)


def test_a_model_can_be_copied_whatever_computes_its_predictions(backend: Backend) -> None:
    X = np.random.default_rng(0).normal(size=(20, 3))
    model = train(Network(3, [Dense(4, "tanh"), Dense(1)]), X, X[:, 0], epochs=1, backend=backend)
    backend.choice = "for the test"
    before = model.predict(X)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        found = copied.backend
        assert found is not backend
        assert (type(found), found.description, found.choice) == (type(backend), backend.description, backend.choice)
        np.testing.assert_array_equal(copied.predict(X), before)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Model.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text is not a model file"):
        Model.load(tmp_path / "text")
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match="other is not a model file of this version"):
        Model.load(tmp_path / "other")


def test_predictions_have_the_shape_and_units_of_the_targets() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    flat = train(Network(2, [Dense(1)]), X, X[:, 0], epochs=1, backend="numpy")
    column = train(Network(2, [Dense(1)]), X, X[:, :1], epochs=1, backend="numpy")
    several = train(Network(2, [Dense(3)]), X, np.ones((30, 3)), epochs=1, backend="numpy")
    assert [model.predict(X).shape for model in (flat, column, several)] == [(30,), (30, 1), (30, 3)]


def test_evaluation_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    X, weights = random.normal(size=(50, 2)), random.random(50)
    y = X @ [[1.0, 2.0], [0.5, -1.0]]
    regressor = train(Network(2, [Dense(2)]), X, y, epochs=3, backend="numpy", dtype="float64")
    expected = metrics.r2_score(y, regressor.predict(X), sample_weight=weights)
    assert regressor.evaluate(X, y, weights)["r2"] == pytest.approx(expected, rel=1e-9)
    labels = (y[:, 0] > 0).astype(int)
    classifier = train(Network(2, [Dense(2, "softmax")]), X, labels, epochs=3, backend="numpy", dtype="float64")
    scores = classifier.evaluate(X, labels, weights)
    assert scores["accuracy"] == pytest.approx(
        metrics.accuracy_score(labels, classifier.predict(X), sample_weight=weights)
    )
    assert scores["loss"] == pytest.approx(
        metrics.log_loss(labels, classifier.predict_proba(X), sample_weight=weights), rel=1e-9
    )


def test_a_model_prints_as_its_network_and_not_as_its_numbers(model: Model) -> None:
    lines = repr(model).splitlines()
    assert lines[0] == "Model(44 parameters in float32, loss 'cross_entropy', 3 epochs)"
    assert "\n".join(lines[1:]) == model.network.summary()


NORMALISED = Network(
    (7, 6, 2),
    [
        Conv2D(4, 3, bias=False, groups=2), BatchNorm(activation="relu"), MaxPool2D(2), BatchNorm(), Flatten(),
        Dense(5), BatchNorm(0.5, activation="tanh"), Dense(4, "relu"), BatchNorm(), Dense(3, "softmax"),
    ],
)  # fmt: skip


@pytest.fixture
def images() -> Any:
    random = np.random.default_rng(0)
    return random.normal(size=(40, 7, 6, 2)), random.integers(0, 3, 40)


def test_running_statistics_survive_the_file(images: Any, tmp_path: Path) -> None:
    model = train(NORMALISED, *images, epochs=2, batch_size=8, backend="numpy")
    assert repr(model).startswith("Model(194 parameters in float32, 34 running statistics, loss 'cross_entropy', 2 ")
    assert not np.array_equal(model.state, make_plan(NORMALISED, 1).initial_state())
    model.save(tmp_path / "m")
    assert load_file(tmp_path / "m")["layers.1.running_mean"].shape == (4,)
    assert load_file(tmp_path / "m")["layers.0.weights"].shape == (3, 3, 1, 4)
    again = Model.load(tmp_path / "m", backend="numpy")
    np.testing.assert_array_equal(again.state, model.state)
    np.testing.assert_array_equal(again.predict_proba(images[0]), model.predict_proba(images[0]))
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.predict_proba(images[0]), model.predict_proba(images[0]))


def test_a_negative_running_variance_is_refused(images: Any, tmp_path: Path) -> None:
    model = train(NORMALISED, *images, epochs=1, backend="numpy")
    model.layer_state()["layers.1.running_variance"][0] = -1
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"layers\.1\.running_variance holds a negative variance"):
        Model.load(tmp_path / "m")


def test_a_folded_model_predicts_the_same_with_fewer_layers(images: Any, tmp_path: Path) -> None:
    model = train(NORMALISED, *images, epochs=3, batch_size=8, backend="numpy", dtype="float64")
    for name, array in model.layer_parameters().items():
        if name.endswith(("gamma", "beta")):
            array[...] += np.linspace(-0.5, 0.5, array.size)
    folded = model.folded()
    kinds = [layer.kind for layer in folded.network.layers]
    # One follows a pool and one a layer with an activation of its own: these two stay.
    assert kinds == ["Conv2D", "MaxPool2D", "BatchNorm", "Flatten", "Dense", "Dense", "BatchNorm", "Dense"]
    assert folded.network.layers[0] == Conv2D(4, 3, groups=2, activation="relu")
    assert folded.network.layers[4] == Dense(5, "tanh")
    assert difference(folded.predict_proba(images[0]), model.predict_proba(images[0])) < ONE_STEP["float64"]
    folded.save(tmp_path / "m")
    again = Model.load(tmp_path / "m", backend="numpy")
    np.testing.assert_array_equal(again.predict_proba(images[0]), folded.predict_proba(images[0]))
    assert again.folded().network == folded.network


def test_a_model_that_goes_on_training_goes_on_with_its_statistics(images: Any) -> None:
    options: Any = {"optimizer": "sgd", "batch_size": 8, "shuffle": False, "backend": "numpy"}
    at_once = train(NORMALISED, *images, epochs=4, **options)
    half = train(NORMALISED, *images, epochs=2, **options)
    rest = train(NORMALISED, *images, epochs=2, initial_parameters=half.parameters, initial_state=half.state, **options)
    np.testing.assert_array_equal(rest.parameters, at_once.parameters)
    np.testing.assert_array_equal(rest.state, at_once.state)
    with pytest.raises(ValueError, match=r"initial_state must have shape \(34,\), got \(3,\)"):
        train(NORMALISED, *images, initial_state=np.zeros(3), backend="numpy")
    with pytest.raises(ValueError, match=r"running_variance must be finite, and a variance not negative"):
        train(NORMALISED, *images, initial_state=-half.state - 1)


def test_early_stopping_restores_the_best_epoch_s_statistics(images: Any) -> None:
    seen: list[float] = []
    options: Any = {"batch_size": 8, "validation": images, "backend": "numpy", "learning_rate": 0.05}
    model = train(
        NORMALISED, *images, epochs=12, early_stopping=EarlyStopping(3), **options,
        callbacks=[lambda record: seen.append(record.metrics["validation_loss"])],
    )  # fmt: skip
    best = model.history.best_epoch
    assert best is not None
    assert best < len(seen)
    assert model.evaluate(*images)["loss"] == min(seen)
    until_best = train(NORMALISED, *images, epochs=best, **options)
    np.testing.assert_array_equal(model.state, until_best.state)
