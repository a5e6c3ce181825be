"""The gradient of the loss, and of outputs, by the inputs: on every backend, and from a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnfast.backends import Backend, Program, Source, get_backend
from nnfast.data.encoding import InputEncoding
from nnfast.data.targets import ClassTargets, NumberTargets
from nnfast.formulas.losses import LOSSES
from nnfast.models.model import Model
from nnfast.networks.layers import BatchNorm, Conv2D, Dense, Dropout, Flatten
from nnfast.networks.network import Network
from nnfast.plans.plan import ROWS_AT_ONCE, make_plan
from nnfast.plans.recipe import Recipe
from tests import programs
from tests.image_networks import IMAGE_NETWORKS, WITH_DROPOUT
from tests.programs import recipe
from tests.tolerances import FINITE_DIFFERENCES, ONE_STEP, difference

DENSE_NETWORKS: dict[str, tuple[Network, int]] = {
    "one layer": (Network(5, [Dense(3)]), 7),
    "one input": (Network(1, [Dense(4, "tanh"), Dense(3)]), 5),
    "one unit": (Network(6, [Dense(1, "tanh"), Dense(3)]), 5),
    "three layers": (Network(6, [Dense(9, "relu"), Dense(7, "silu"), Dense(3)]), 37),
    "more inputs than units": (Network(70, [Dense(5, "relu", bias=False), Dense(3)]), 19),
    "dropout": (Network(6, [Dropout(0.3), Dense(9, "tanh"), Dropout(0.5), Dense(3)]), 9),
}
NETWORKS = DENSE_NETWORKS | IMAGE_NETWORKS | {"image dropout": (WITH_DROPOUT, 5)}


def make_program(backend: Backend, network: Network, rows: int, settings: Recipe) -> Program:
    """A program with running statistics unlike those of any batch."""
    program = programs.make_program(backend, network, settings, rows, gives_input_gradient=True)
    program.state = program.plan.initial_state() * 1.7 + np.random.default_rng(5).random(program.plan.state_count)
    return program


def make_source(network: Network, rows: int, dtype: str = "float64") -> Source:
    random = np.random.default_rng(1)
    arrays = random.normal(size=(rows, network.input_size)), random.normal(size=(rows, network.output_size))
    return Source(*(array.astype(dtype) for array in (*arrays, random.random(rows) + 0.1)))


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_slope_of_the_loss_of_evaluate(name: str) -> None:
    network, rows = NETWORKS[name]
    rows = min(rows, 5)
    program = make_program(get_backend("numpy"), network, rows, recipe("squared_error", alpha=0.1))
    source = make_source(network, rows)
    slopes = np.empty_like(source.inputs)
    for place in np.ndindex(slopes.shape):
        values = []
        for step in (1e-6, -1e-6):
            moved = source.inputs.copy()
            moved[place] += step
            values.append(program.evaluate(Source(moved, source.targets, source.sample_weight))[0])
        slopes[place] = (values[0] - values[1]) / 2e-6
    assert difference(program.input_gradient(source), slopes) < FINITE_DIFFERENCES


def assert_agrees(backend: Backend, network: Network, rows: int, settings: Recipe, source: Source) -> None:
    found, expected = (
        make_program(each, network, rows, settings).input_gradient(source) for each in (backend, get_backend("numpy"))
    )
    assert found.dtype == settings.dtype
    assert abs(expected).max() > 0
    assert difference(found, expected) < ONE_STEP[settings.dtype.name]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", DENSE_NETWORKS)
def test_every_backend_gives_the_same_of_dense_networks(faster_backend: Backend, name: str, dtype: str) -> None:
    network, rows = DENSE_NETWORKS[name]
    assert_agrees(
        faster_backend, network, rows, recipe("squared_error", dtype=dtype), make_source(network, rows, dtype)
    )


@pytest.mark.parametrize("name", [*IMAGE_NETWORKS, "image dropout"])
def test_every_backend_gives_the_same_of_images_and_batch_norm(faster_image_backend: Backend, name: str) -> None:
    network, rows = NETWORKS[name]
    assert_agrees(faster_image_backend, network, rows, recipe("squared_error"), make_source(network, rows))


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_softmax_and_a_mean_over_weights_are_differentiated_through(faster_backend: Backend, loss: str) -> None:
    network = Network(6, [Dense(7, "tanh"), Dense(4, "softmax")])
    source = make_source(network, 9)
    assert source.targets is not None
    targets = abs(source.targets) / abs(source.targets).sum(axis=1, keepdims=True)
    source = Source(source.inputs, targets, source.sample_weight)
    assert_agrees(faster_backend, network, 9, recipe(loss), source)


def test_a_training_step_and_other_gradients_leave_nothing_behind(backend: Backend) -> None:
    network = NETWORKS["dropout"][0]
    source = make_source(network, 9)
    program = make_program(backend, network, 9, recipe("squared_error"))
    before = program.input_gradient(source)
    parameters = program.parameters
    program.bind(source)
    program.run(np.arange(9), np.array([0, 9]), np.full(1, 0.1), first_step=0)
    program.loss_and_gradient(source)
    program.parameters = parameters
    np.testing.assert_array_equal(program.input_gradient(source), before)


def test_batch_norm_has_no_part_of_an_earlier_gradient(image_backend: Backend) -> None:
    network, rows = NETWORKS["batch norm of rows"]
    source = make_source(network, rows)
    program = make_program(image_backend, network, rows, recipe("squared_error"))
    before, state = program.input_gradient(source), program.state
    assert abs(program.loss_and_gradient(source)[1]).max() > 0
    np.testing.assert_array_equal(program.input_gradient(source), before)
    np.testing.assert_array_equal(program.state, state)


def test_a_plan_that_gives_it_trains_as_one_that_does_not(image_backend: Backend) -> None:
    for name in ("batch norm of the input", "all of them", "pools of the input", "more inputs than units"):
        network, rows = NETWORKS[name]
        source = make_source(network, rows)
        gradients = []
        for gives in (False, True):
            plan = make_plan(network, rows, gives_input_gradient=gives)
            program = image_backend.compile(plan, recipe("squared_error"))
            program.parameters = plan.initial_parameters(3)
            gradients.append(program.loss_and_gradient(source)[1])
        np.testing.assert_array_equal(*gradients)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    network, rows = Network(60, [BatchNorm(), Dense(300, "tanh"), BatchNorm(activation="relu"), Dense(90)]), 200
    source = make_source(network, rows)
    first, *others = (
        make_program(get_backend("numba", threads), network, rows, recipe("squared_error")).input_gradient(source)
        for threads in (1, 2, 3)
    )
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_rows_without_weight_have_no_gradient(backend: Backend) -> None:
    network = NETWORKS["one layer"][0]
    source = make_source(network, 4)
    program = make_program(backend, network, 4, recipe("squared_error"))
    for weights in (np.zeros(4), np.array([1.0, 0, 2, 0])):
        gradient = program.input_gradient(Source(source.inputs, source.targets, weights))
        assert not gradient[weights == 0].any()
        assert gradient[weights != 0].all()


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_sparse_rows_are_differentiated_by_all_inputs(backend: Backend, density: float) -> None:
    scipy = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    network = Network(400, [Dense(6, "tanh"), Dense(3)])
    X = scipy.random(11, 400, density, format="csr", random_state=0)
    targets = make_source(network, 11).targets
    program = make_program(backend, network, 11, recipe("squared_error"))
    from_sparse = program.input_gradient(Source(X, targets))
    assert difference(from_sparse, program.input_gradient(Source(X.toarray(), targets))) < ONE_STEP["float64"]


def test_a_plan_without_room_for_it_is_refused(backend: Backend) -> None:
    network = NETWORKS["one layer"][0]
    program = backend.compile(make_plan(network, 4), recipe("squared_error"))
    with pytest.raises(ValueError, match=r"make_plan\(network, 4, gives_input_gradient=True\)"):
        program.input_gradient(make_source(network, 4))
    with pytest.raises(ValueError, match="5 rows in one batch, but the plan has room for 4"):
        program.input_gradient(make_source(network, 5))


# Model.input_gradient


def a_model(network: Network, targets: Any, loss: str = "squared_error", **options: Any) -> Model:
    plan = make_plan(network, 1)
    state = plan.initial_state() * 1.7 + 0.3
    return Model(network, plan.initial_parameters(3), state, LOSSES[loss], targets, backend="numpy", **options)


def slopes_of(function: Any, X: np.ndarray) -> np.ndarray:
    """By central differences; function: of all rows, (n_rows,)."""
    slopes = np.empty_like(X)
    for place in np.ndindex(X.shape[1:]):
        moved = []
        for step in (1e-6, -1e-6):
            copy = X.copy()
            copy[(slice(None), *place)] += step
            moved.append(function(copy))
        slopes[(slice(None), *place)] = (moved[0] - moved[1]) / 2e-6
    return slopes


LABELS = ClassTargets(np.array(["cat", "cow", "dog"]))


def test_a_model_gives_the_slope_of_a_label_s_probability() -> None:
    network = Network(
        (5, 4, 2), [Conv2D(3, 2), BatchNorm(activation="tanh"), Dropout(0.4), Flatten(), Dense(3, "softmax")]
    )
    model = a_model(network, LABELS, "cross_entropy", input_scale=0.25)
    X = np.random.default_rng(0).normal(size=(6, 5, 4, 2))
    for column, label in enumerate(LABELS.classes):
        expected = slopes_of(lambda rows, k=column: model.predict_proba(rows)[:, k], X)
        found = model.input_gradient(X, label)
        assert found.shape == X.shape
        assert difference(found, expected) < FINITE_DIFFERENCES
    model.parameters *= 5  # so that rows differ in their labels
    labels = model.predict(X)
    assert len(set(labels)) > 1
    of_each = [model.input_gradient(X[row : row + 1], label)[0] for row, label in enumerate(labels)]
    assert difference(model.input_gradient(X), of_each) < ONE_STEP["float64"]
    np.testing.assert_array_equal(model.input_gradient(X), model.input_gradient(X, labels))


def test_both_labels_of_a_single_output_have_a_slope() -> None:
    model = a_model(
        Network(4, [Dense(3, "tanh"), Dense(1, "sigmoid")]), ClassTargets(np.array([3, 7])), "binary_cross_entropy"
    )
    X = np.random.default_rng(0).normal(size=(5, 4))
    for column, label in enumerate((3, 7)):
        expected = slopes_of(lambda rows, k=column: model.predict_proba(rows)[:, k], X)
        assert difference(model.input_gradient(X, label), expected) < FINITE_DIFFERENCES


def test_numbers_are_differentiated_in_the_targets_units() -> None:
    targets = NumberTargets(np.array([5.0, -1.0]), np.array([100.0, 3.0]), is_flat=False)
    model = a_model(Network(4, [Dense(3, "tanh"), Dense(2)]), targets)
    X = np.random.default_rng(0).normal(size=(5, 4))
    for column in range(2):
        expected = slopes_of(lambda rows, k=column: model.predict(rows)[:, k], X)
        assert difference(model.input_gradient(X, column), expected) < FINITE_DIFFERENCES
    single = a_model(Network(4, [Dense(1)]), NumberTargets(np.zeros(1), np.ones(1), is_flat=True))
    assert difference(single.input_gradient(X), slopes_of(single.predict, X)) < FINITE_DIFFERENCES


def test_bytes_and_more_rows_than_a_batch_are_differentiated_as_floats_are(backend: Backend) -> None:
    model = a_model(Network((2, 3), [Flatten(), Dense(3, "softmax")]), LABELS, "cross_entropy", input_scale=1 / 255)
    model.backend = backend
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS_AT_ONCE + 5, 2, 3)).astype(np.uint8)
    from_bytes = model.input_gradient(pixels, "cow")
    assert from_bytes.shape == pixels.shape
    assert difference(from_bytes, model.input_gradient(pixels.astype(float), "cow")) < ONE_STEP["float64"]
    assert difference(from_bytes[-5:], model.input_gradient(pixels[-5:], "cow")) < ONE_STEP["float64"]


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ("horse", ValueError, "the label 'horse' in row 0"),
        (1, TypeError, "the labels are numbers"),
        (["cat", "dog"], ValueError, r"one for all rows, or have shape \(4,\), got shape \(2,\)"),
    ],
)
def test_labels_that_the_model_does_not_know_are_refused(output: Any, error: type, message: str) -> None:
    model = a_model(Network(4, [Dense(3, "softmax")]), LABELS, "cross_entropy")
    with pytest.raises(error, match=message):
        model.input_gradient(np.zeros((4, 4)), output)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (None, ValueError, "the network has 2 outputs: pass output=0 to 1"),
        (2, ValueError, r"output must lie in \[0, 2\), got 2"),
        (-1, ValueError, r"output must lie in \[0, 2\), got -1"),
        (0.5, TypeError, r"output must be the index of an output, in \[0, 2\), got 0.5"),
    ],
)
def test_outputs_that_a_regression_does_not_have_are_refused(output: Any, error: type, message: str) -> None:
    model = a_model(Network(4, [Dense(2)]), NumberTargets(np.zeros(2), np.ones(2), is_flat=False))
    with pytest.raises(error, match=message):
        model.input_gradient(np.zeros((4, 4)), output)


def test_encoded_columns_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(5, 4))
    model = a_model(Network(4, [Dense(3, "softmax")]), LABELS, "cross_entropy", inputs=InputEncoding.fit(X))
    with pytest.raises(TypeError, match="this model encodes columns"):
        model.input_gradient(X)
