"""The gradient of the loss by the inputs, on every backend."""

from __future__ import annotations

import numpy as np
import pytest

from nnfast.backends import Backend, Program, Source, get_backend
from nnfast.networks.layers import BatchNorm, Dense, Dropout
from nnfast.networks.network import Network
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
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
    plan = make_plan(network, rows, gives_input_gradient=True)
    program = backend.compile(plan, settings)
    program.parameters = plan.initial_parameters(3) + 0.01
    program.state = plan.initial_state() * 1.7 + np.random.default_rng(5).random(plan.state_count)
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
