"""The promise of the project: every backend computes what the NumPy backend computes, and that is the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from nnfast.backends import Backend, Source, get_backend
from nnfast.formulas.activations import ACTIVATIONS, Activation
from nnfast.formulas.intervals import lies_within
from nnfast.formulas.losses import LOSSES, Loss
from nnfast.formulas.optimizers import OPTIMIZERS, Optimizer, adam, sgd
from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Dropout, Flatten, Layer, MaxPool2D
from nnfast.networks.network import Network
from nnfast.plans.plan import make_plan
from tests.image_networks import IMAGE_NETWORKS, WITH_DROPOUT
from tests.programs import (
    assert_finite_differences_agree,
    assert_one_step_agrees,
    both,
    make_program,
    make_source,
    recipe,
    ten_steps,
)
from tests.tolerances import ONE_STEP, TEN_STEPS, difference

PAIRS = [
    (activation, loss)
    for loss in LOSSES
    for activation in ACTIVATIONS
    if lies_within(ACTIVATIONS[activation].range, LOSSES[loss].domain)
]
HIDDEN = [name for name in ACTIVATIONS if not ACTIVATIONS[name].output_only]


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_the_gradient_of_every_pair_is_that_of_finite_differences(activation: str, loss: str) -> None:
    network = Network(5, [Dense(4, "tanh"), Dense(3, activation)])
    program = make_program(get_backend("numpy"), network, recipe(loss, alpha=0.1, l1=0.05), rows=7)
    source = make_source(network, LOSSES[loss], 7)
    assert_finite_differences_agree(program, source)


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_every_pair_gives_the_same_loss_and_gradient(faster_backend: Backend, activation: str, loss: str) -> None:
    network = Network(5, [Dense(6, "tanh"), Dense(3, activation)])
    assert_one_step_agrees(faster_backend, network, recipe(loss, alpha=0.1, l1=0.05), rows=7)


@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_hidden_activation_gives_the_same_gradient(faster_backend: Backend, activation: str, dtype: str) -> None:
    network = Network(3, [Dense(5, activation), Dense(4, activation, bias=False), Dense(2)])
    assert_one_step_agrees(faster_backend, network, recipe("squared_error", dtype=dtype), rows=9)


SHAPES = {
    "one row": (Network(4, [Dense(3, "relu"), Dense(2)]), 1),
    "one unit everywhere": (Network(1, [Dense(1, "sigmoid"), Dense(1)]), 5),
    "no hidden layer": (Network(7, [Dense(3, "sigmoid")]), 6),
    "ten layers": (Network(6, [*(Dense(5, "tanh") for _ in range(9)), Dense(3)]), 8),
    "odd sizes": (Network(13, [Dense(17, "relu"), Dense(7, "elu"), Dense(5, "softmax")]), 11),
    "wider than the input": (Network(2, [Dense(67, "silu"), Dense(1)]), 33),
    "an image": (Network((5, 3), [Flatten(), Dense(4, "gelu"), Dense(2)]), 4),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_gradient(faster_backend: Backend, shape: str, dtype: str) -> None:
    network, rows = SHAPES[shape]
    assert_one_step_agrees(faster_backend, network, recipe("squared_error", dtype=dtype), rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_every_image_network_gives_the_same_gradient(faster_image_backend: Backend, name: str, dtype: str) -> None:
    network, rows = IMAGE_NETWORKS[name]
    assert_one_step_agrees(faster_image_backend, network, recipe("squared_error", dtype=dtype, alpha=0.1), rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["all of them", "batch norm of rows", "batch norm of images", "max pools", "groups"])
def test_steps_with_images_give_the_same_parameters_and_state(
    faster_image_backend: Backend, name: str, dtype: str
) -> None:
    network, _ = IMAGE_NETWORKS[name]
    results = []
    for backend in both(faster_image_backend):
        program = make_program(backend, network, recipe("squared_error", sgd(0.9), dtype, alpha=0.01), rows=19)
        program.bind(make_source(network, program.recipe.loss, 45, dtype))
        order = np.random.default_rng(1).permutation(45)  # batches of nineteen, and a ragged last one
        losses = program.run(order, np.array([0, 19, 38, 45]), np.full(3, 0.01), first_step=0)
        loss, outputs = program.evaluate(make_source(network, program.recipe.loss, 33, dtype, seed=1))
        results.append((losses, program.parameters, program.state, np.array(loss), outputs))
    for ours, reference in zip(*reversed(results), strict=True):
        assert difference(ours, reference) < TEN_STEPS[dtype]


def test_the_running_statistics_follow_training_and_nothing_else(image_backend: Backend) -> None:
    network, _ = IMAGE_NETWORKS["batch norm of images"]
    program = make_program(image_backend, network, recipe("squared_error"), rows=5)
    source = make_source(network, LOSSES["squared_error"], 5)
    assert source.sample_weight is not None
    start = program.state
    np.testing.assert_array_equal(start, program.plan.initial_state())
    program.loss_and_gradient(source)
    program.evaluate(source)
    before = program.predict(source)
    program.bind(Source(source.inputs, source.targets, source.sample_weight * 0))
    program.run(np.arange(5), np.array([0, 5]), np.zeros(1), first_step=0)
    np.testing.assert_array_equal(program.state, start)
    program.bind(source)
    program.run(np.arange(5), np.array([0, 5]), np.zeros(1), first_step=0)
    followed = program.state
    assert (followed != start).all()
    assert difference(program.predict(source), before) > 0.01
    program.state = start
    np.testing.assert_array_equal(program.predict(source), before)
    program.state = followed
    np.testing.assert_array_equal(program.state, followed)


def test_images_of_bytes_are_scaled_as_they_are_gathered(image_backend: Backend) -> None:
    network = Network((6, 5, 2), [Conv2D(3, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(2)])
    program = make_program(image_backend, network, recipe("squared_error"), rows=18)
    pixels = np.random.default_rng(0).integers(0, 256, (18, 60)).astype(np.uint8)
    targets = np.random.default_rng(1).normal(size=(18, 2))
    from_bytes = program.loss_and_gradient(Source(pixels, targets, scale=1 / 255))
    from_floats = program.loss_and_gradient(Source(pixels / 255, targets))
    assert from_bytes[0] == pytest.approx(from_floats[0], rel=ONE_STEP["float64"])
    assert difference(from_bytes[1], from_floats[1]) < ONE_STEP["float64"]


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "momentum", "nesterov"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ten_steps_of_every_optimizer_give_the_same_parameters(
    faster_backend: Backend, optimizer: str, dtype: str
) -> None:
    chosen = {"momentum": sgd(0.9), "nesterov": sgd(0.9, nesterov=True)}.get(optimizer) or OPTIMIZERS[optimizer]()
    network = Network(5, [Dense(8, "tanh"), Dense(3, "softmax")])
    settings = recipe("cross_entropy", chosen, dtype, alpha=0.01, l1=0.001, clip_norm=0.5)
    results = []
    for backend in (get_backend("numpy"), faster_backend):
        program = make_program(backend, network, settings, rows=8)
        program.bind(make_source(network, settings.loss, 23, dtype))
        order = np.random.default_rng(1).permutation(80) % 23
        # batches of eight, and a ragged last one
        losses = program.run(order[:77], np.append(np.arange(0, 77, 8), 77), np.full(10, 0.01), first_step=0)
        results.append((losses, program.parameters, program.slots))
    for ours, reference in zip(*reversed(results), strict=True):
        assert difference(ours, reference) < TEN_STEPS[dtype]


def test_dropout_masks_are_the_same_bit_for_bit(faster_backend: Backend) -> None:
    # With weights of one and a single row of ones, the gradient of the output layer is the mask itself.
    network = Network(10, [Dropout(0.4), Dense(1, bias=False)])
    gradients = []
    for backend in (get_backend("numpy"), faster_backend):
        program = backend.compile(make_plan(network, 1), recipe("squared_error", sgd(), seed=2**63 + 5))
        program.bind(Source(np.ones((1, 10)), -np.ones((1, 1))))
        program.run(np.zeros(1, np.int64), np.array([0, 1]), np.ones(1), first_step=2**33 + 7)
        gradients.append(program.parameters)
    assert 0 < np.count_nonzero(gradients[0]) < 10
    np.testing.assert_array_equal(*gradients)


def test_dropout_trains_to_the_same_parameters(faster_backend: Backend) -> None:
    network = Network(6, [Dense(9, "relu"), Dropout(0.5), Dense(7, "tanh"), Dropout(0.1), Dense(2)])
    results = [ten_steps(backend, network, recipe("huber", adam(), seed=11)) for backend in both(faster_backend)]
    assert difference(*reversed(results)) < TEN_STEPS["float64"]


def test_dropout_of_pixels_trains_to_the_same_parameters(faster_image_backend: Backend) -> None:
    results = [
        ten_steps(backend, WITH_DROPOUT, recipe("huber", sgd(), seed=11)) for backend in both(faster_image_backend)
    ]
    assert difference(*reversed(results)) < TEN_STEPS["float64"]


def test_a_network_may_begin_with_dropout(faster_backend: Backend) -> None:
    network = Network(6, [Dropout(0.2), Dropout(0.5), Dense(9, "relu"), Dense(2)])
    results = [ten_steps(backend, network, recipe("squared_error")) for backend in both(faster_backend)]
    assert difference(*reversed(results)) < TEN_STEPS["float64"]


def test_a_batch_whose_weights_are_all_zero_changes_nothing(backend: Backend) -> None:
    network = Network(3, [Dense(4, "relu"), Dense(1)])
    program = make_program(backend, network, recipe("squared_error", adam(), alpha=0.5), rows=2)
    random = np.random.default_rng(0)
    program.bind(Source(random.normal(size=(4, 3)), random.normal(size=(4, 1)), np.array([0.0, 0.0, 1.0, 2.0])))
    before = program.parameters, program.slots
    losses = program.run(np.array([0, 1]), np.array([0, 2]), np.ones(1), first_step=0)
    assert losses[0] == 0
    np.testing.assert_array_equal(program.parameters, before[0])
    np.testing.assert_array_equal(program.slots, before[1])


def test_bytes_are_scaled_as_they_are_gathered(backend: Backend) -> None:
    network = Network(4, [Dense(3, "softmax")])
    labels = np.array([0, 2, 1, 1], dtype=np.int64)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4)).astype(np.uint8)
    program = make_program(backend, network, recipe("cross_entropy"), rows=4)
    from_bytes = program.loss_and_gradient(Source(pixels, labels, scale=1 / 255))
    from_floats = program.loss_and_gradient(Source(pixels / 255, np.eye(3)[labels]))
    assert from_bytes[0] == pytest.approx(from_floats[0], rel=ONE_STEP["float64"])
    assert difference(from_bytes[1], from_floats[1]) < ONE_STEP["float64"]


@pytest.mark.parametrize("stored", ["float32", "float64"])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_sparse_rows_and_rows_of_the_other_dtype_give_the_same_model(backend: Backend, stored: str, index: str) -> None:
    network = Network(9, [Dense(5, "tanh"), Dense(3, "softmax")])
    random = np.random.default_rng(0)
    full = (random.normal(size=(23, 9)) * (random.random((23, 9)) < 0.3)).astype(stored)
    sparse = sp.csr_array(full)
    sparse.indices, sparse.indptr = sparse.indices.astype(index), sparse.indptr.astype(index)
    labels = random.integers(0, 3, 23)
    results = []
    for inputs in (full.astype("float64"), full, sparse):
        program = make_program(backend, network, recipe("cross_entropy", adam(), alpha=0.1), rows=8)
        program.bind(Source(inputs, labels))
        losses = program.run(np.arange(69) % 23, np.append(np.arange(0, 69, 8), 69), np.full(9, 0.01), first_step=0)
        results.append((losses, program.parameters, program.predict(Source(inputs))))
    for other in results[1:]:
        for ours, reference in zip(other, results[0], strict=True):
            assert difference(ours, reference) < ONE_STEP["float64"]


def test_evaluation_is_the_weighted_mean_over_all_rows_without_penalty_or_dropout(backend: Backend) -> None:
    network = Network(4, [Dense(5, "relu"), Dropout(0.5), Dense(3, "softmax")])
    source = make_source(network, LOSSES["cross_entropy"], 10)
    in_parts = make_program(backend, network, recipe("cross_entropy", alpha=3.0), rows=4)
    at_once = make_program(backend, network, recipe("cross_entropy"), rows=10)
    loss, outputs = in_parts.evaluate(source)
    assert loss == pytest.approx(at_once.loss_and_gradient(source)[0], rel=1e-12)
    assert difference(outputs, in_parts.predict(source)) == 0
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-12)


def test_rows_measured_where_they_stand_are_to_the_bit_a_source_of_their_own(backend: Backend) -> None:
    network = Network(4, [Dense(5, "relu"), Dense(3, "softmax")])
    source = make_source(network, LOSSES["cross_entropy"], 13)
    rows = np.array([12, 0, 7, 7, 3])
    assert source.targets is not None
    assert source.sample_weight is not None
    apart = Source(source.inputs[rows], source.targets[rows], source.sample_weight[rows])
    program = make_program(backend, network, recipe("cross_entropy"), rows=3)
    for (loss, outputs), (expected, expected_outputs) in [
        (program.evaluate(source, rows), program.evaluate(apart)),
        (program.evaluate(source), program.evaluate(source, np.arange(13))),
    ]:
        assert loss == expected
        np.testing.assert_array_equal(outputs, expected_outputs)


def test_rows_without_weight_are_evaluated_all_the_same(backend: Backend) -> None:
    network = Network(4, [Dense(5, "relu"), Dense(2)])
    source = make_source(network, LOSSES["squared_error"], 12)
    assert source.sample_weight is not None
    source.sample_weight[:8] = 0
    program = make_program(backend, network, recipe("squared_error"), rows=4)
    assert difference(program.evaluate(source)[1], program.predict(source)) == 0


@pytest.mark.parametrize("loss", ["squared_error", "sum_squared_error"])
def test_rows_without_weight_have_no_gradient_whatever_was_computed_before(backend: Backend, loss: str) -> None:
    """With penalties too, which are divided like the loss: by nothing, here."""
    program = make_program(backend, Network(4, [Dense(5, "tanh"), Dense(2)]), recipe(loss, alpha=0.5), rows=6)
    source = make_source(program.plan.network, LOSSES[loss], 6)
    assert program.loss_and_gradient(source)[1].any()
    value, gradient = program.loss_and_gradient(Source(source.inputs, source.targets, np.zeros(6)))
    assert value == 0
    assert gradient.dtype == np.float64
    np.testing.assert_array_equal(gradient, np.zeros(program.plan.parameter_count))


def test_kernels_reach_what_lies_beyond_the_largest_launch(
    faster_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnfast.backends.cuda.wide.MAX_BLOCKS", 1)
    network = Network(7, [Dense(9, "silu"), Dropout(0.5), Dense(3, "softmax")])
    source = make_source(network, LOSSES["cross_entropy"], 600)
    results = []
    for backend in both(faster_backend):
        program = make_program(backend, network, recipe("cross_entropy", adam()), rows=600)
        program.bind(source)
        losses = program.run(np.arange(600), np.array([0, 600]), np.full(1, 0.01), first_step=0)
        results.append((losses, program.parameters))
    for ours, reference in zip(*reversed(results), strict=True):
        assert difference(ours, reference) < ONE_STEP["float64"]


def test_l1_leaves_a_weight_of_zero_where_it_is(backend: Backend) -> None:
    # Inputs of zero: the gradient of the weights is that of the penalty alone.
    program = make_program(backend, Network(2, [Dense(2, bias=False)]), recipe("squared_error", l1=0.5), rows=1)
    program.parameters = np.array([0.0, 2.0, -3.0, 0.0])
    _, gradient = program.loss_and_gradient(Source(np.zeros((1, 2)), np.zeros((1, 2))))
    np.testing.assert_array_equal(gradient, [0.0, 0.5, -0.5, 0.0])


def test_a_nan_reaches_the_loss_whatever_it_passes_through(faster_backend: Backend) -> None:
    floored = Activation("floored", "max(floor, z)", "where(z > floor, 1, 0)", {"floor": 0.0})
    for activation in (floored, *map(ACTIVATIONS.__getitem__, HIDDEN)):
        program = make_program(faster_backend, Network(2, [Dense(2, activation), Dense(1)]), recipe("huber"), rows=1)
        poisoned = program.parameters
        poisoned[0] = np.nan
        program.parameters = poisoned
        assert np.isnan(program.loss_and_gradient(Source(np.ones((1, 2)), np.ones((1, 1))))[0]), activation


@pytest.mark.parametrize("pool", [MaxPool2D(3), MaxPool2D(2, padding="same"), AveragePool2D(3), BatchNorm()])
def test_a_nan_reaches_the_loss_through_images(image_backend: Backend, pool: Layer) -> None:
    network = Network((3, 3), [Conv2D(2, 1), pool, Flatten(), Dense(1)])
    program = make_program(image_backend, network, recipe("huber"), rows=2)
    poisoned = program.parameters
    poisoned[1] = np.nan
    program.parameters = poisoned
    source = Source(np.ones((2, 9)), np.ones((2, 1)))
    assert np.isnan(program.loss_and_gradient(source)[0])
    assert np.isnan(program.predict(source)).all()


def test_a_summed_loss_is_not_divided(backend: Backend) -> None:
    network = Network(3, [Dense(2)])
    source = make_source(network, LOSSES["sum_squared_error"], 6)
    program = make_program(backend, network, recipe("sum_squared_error", alpha=0.5), rows=6)
    loss, _ = program.loss_and_gradient(source)
    assert source.targets is not None
    assert source.sample_weight is not None
    errors = ((program.predict(source) - source.targets) ** 2).sum(axis=1)
    weights = program.plan.weight_spans[0].view(program.parameters)
    assert loss == pytest.approx(source.sample_weight @ errors + 0.25 * (weights**2).sum(), rel=1e-12)


def test_a_layer_computes_its_formula_whatever_its_name(faster_image_backend: Backend) -> None:
    """An activation that was pickled before its name was refused."""
    twice = Activation("twice", value="2 * z", derivative="2")
    object.__setattr__(twice, "name", "identity")
    network = Network((4, 4), [Conv2D(2, 3, activation=twice), BatchNorm(activation=twice), Flatten(), Dense(1)])
    assert_one_step_agrees(faster_image_backend, network, recipe("squared_error"), rows=3)


def test_formulas_of_ones_own_work_everywhere(faster_backend: Backend) -> None:
    swoosh = Activation(
        "swoosh",
        value="log(1 + exp(min(z, 30) - shift)) - slope * z",
        derivative="where(z < 30, 1 / (1 + exp(shift - min(z, 30))), 0) - slope",
        constants={"shift": 1.0, "slope": 0.08},
    )
    quartic = Loss("quartic", value="power * (a - y)**4", derivative="4 * power * (a - y)**3", constants={"power": 0.1})
    lion = Optimizer(
        "lion",
        updates={
            "p": "p - learning_rate * where(beta * m + (1 - beta) * g > 0, 1, -1)",
            "m": "decay * m + (1 - decay) * g",
        },
        constants={"beta": 0.9, "decay": 0.99},
    )
    network = Network(4, [Dense(6, swoosh), Dense(2, swoosh)])
    results = [ten_steps(backend, network, recipe(quartic, lion)) for backend in both(faster_backend)]
    assert difference(*reversed(results)) < TEN_STEPS["float64"]
