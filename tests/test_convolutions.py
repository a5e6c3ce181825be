"""Convolutions, pooling and BatchNorm on the reference backend: the formulas of docs/convolutions.md, from outside.

Against finite differences, against a definition written as loops, and, where it is installed, against PyTorch.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.backends import Program, Source, get_backend
from nnfast.backends.numpy import layers
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import sgd
from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Dropout, Flatten, LayerNorm, MaxPool2D
from nnfast.networks.network import Network
from nnfast.networks.windows import Window
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from tests.geometries import convolutions, fits
from tests.image_networks import IMAGE_NETWORKS
from tests.programs import assert_finite_differences_agree
from tests.tolerances import ONE_STEP, PEER, difference


def compiled(network: Network, rows: int, *, gives_input_gradient: bool = False, **options: Any) -> Program:
    plan = make_plan(network, rows, gives_input_gradient=gives_input_gradient)
    recipe = Recipe(LOSSES["squared_error"], sgd(), np.dtype(np.float64), **options)
    program = get_backend("numpy").compile(plan, recipe)
    program.parameters = plan.initial_parameters(3) + 0.01
    return program


def some_rows(network: Network, rows: int, seed: int = 0) -> Source:
    random = np.random.default_rng(seed)
    targets = random.normal(size=(rows, network.output_size))
    return Source(random.normal(size=(rows, network.input_size)), targets, random.random(rows) + 0.1)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    network, rows = IMAGE_NETWORKS[name]
    program = compiled(network, rows, alpha=0.1)
    source = some_rows(network, rows)
    assert_finite_differences_agree(program, source)


def meetings(w: Window) -> Any:
    """(y, x, i, j, v, u): output (y, x) meets the pixel (v, u), inside the image, through kernel position (i, j)."""
    outputs = itertools.product(range(w.output_height), range(w.output_width))
    for (y, x), (i, j) in itertools.product(
        outputs, list(itertools.product(range(w.kernel_height), range(w.kernel_width)))
    ):
        v = y * w.stride_y + i * w.dilation_y - w.pad_top
        u = x * w.stride_x + j * w.dilation_x - w.pad_left
        if 0 <= v < w.height and 0 <= u < w.width:
            yield y, x, i, j, v, u


@given(drawn=convolutions(), rows=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_a_convolution_of_any_geometry_is_its_definition_forward_and_backward(drawn: Any, rows: int, seed: int) -> None:
    shape, layer = drawn
    window = layer.window(shape)
    random = np.random.default_rng(seed)
    images = random.normal(size=(rows, *shape))
    W = random.normal(size=layer.weights_shape(shape))
    delta = random.normal(size=(rows, *window.output_shape))
    z, dW, dx = np.zeros_like(delta), np.zeros_like(W), np.zeros_like(images)
    channels, filters = W.shape[2], window.filters // window.groups
    for y, x, i, j, v, u in meetings(window):
        for f in range(window.filters):
            group = slice(f // filters * channels, (f // filters + 1) * channels)
            z[:, y, x, f] += images[:, v, u, group] @ W[i, j, :, f]
            dW[i, j, :, f] += delta[:, y, x, f] @ images[:, v, u, group]
            dx[:, v, u, group] += delta[:, y, x, f, np.newaxis] * W[i, j, :, f]
    flat_images, flat_delta = images.reshape(rows, -1), delta.reshape(rows, -1)
    found = np.zeros_like(W)
    layers.convolution_weights_gradient(flat_images, flat_delta, window, out=found)
    assert difference(layers.convolution(flat_images, W, window), z.reshape(rows, -1)) < ONE_STEP["float64"]
    assert difference(found, dW) < ONE_STEP["float64"]
    assert (
        difference(layers.convolution_inputs_gradient(W, flat_delta, window), dx.reshape(rows, -1))
        < ONE_STEP["float64"]
    )


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["same", "valid", 1, (0, 2)]),
    seed=st.integers(0, 2**32),
)
def test_pools_of_any_geometry_are_their_definition_forward_and_backward(
    height: int, width: int, size: Any, stride: Any, padding: Any, seed: int
) -> None:
    layer, shape = MaxPool2D(size, stride, padding), (height, width, 2)
    if not fits(shape, layer):
        return
    window = layer.window(shape)
    assert window == AveragePool2D(size, stride, padding).window(shape)
    random = np.random.default_rng(seed)
    image = random.integers(0, 3, (height, width, 2)).astype(float)  # many of them equal
    delta = random.normal(size=window.output_shape)
    largest, mean = np.zeros_like(delta), np.zeros_like(delta)
    max_dx, mean_dx = np.zeros_like(image), np.zeros_like(image)
    for y, x in itertools.product(range(window.output_height), range(window.output_width)):
        pixels = [(v, u) for oy, ox, _, _, v, u in meetings(window) if (oy, ox) == (y, x)]
        for c in range(2):
            values = [image[v, u, c] for v, u in pixels]
            largest[y, x, c], mean[y, x, c] = max(values), sum(values) / len(values)
            max_dx[(*pixels[values.index(max(values))], c)] += delta[y, x, c]
            for v, u in pixels:
                mean_dx[v, u, c] += delta[y, x, c] / len(values)
    flat = image.reshape(1, -1)
    flat_delta = delta.reshape(1, -1)
    found = layers.max_pooling(flat, window)
    np.testing.assert_array_equal(found, largest.reshape(1, -1))
    assert (
        difference(layers.max_pooling_gradient(flat, found, flat_delta, window), max_dx.reshape(1, -1))
        < ONE_STEP["float64"]
    )
    assert difference(layers.average_pooling(flat, window), mean.reshape(1, -1)) < ONE_STEP["float64"]
    assert difference(layers.average_pooling_gradient(flat_delta, window), mean_dx.reshape(1, -1)) < ONE_STEP["float64"]


def test_the_example_of_the_docs_is_right() -> None:
    window = Conv2D(1, 2).window((3, 3))
    image = np.array([[1.0, 2, 0, 0, 1, 3, 2, 1, 0]])
    W = np.array([1.0, 0, -1, 2]).reshape(2, 2, 1, 1)
    delta = np.array([[1.0, -1, 0, 2]])
    dW = np.zeros_like(W)
    layers.convolution_weights_gradient(image, delta, window, out=dW)
    np.testing.assert_array_equal(layers.convolution(image, W, window), [[3, 7, 0, 0]])
    np.testing.assert_array_equal(dW.ravel(), [1, 8, 1, -2])
    np.testing.assert_array_equal(
        layers.convolution_inputs_gradient(W, delta, window), [[1, -1, 0, -1, 5, -2, 0, -2, 4]]
    )


# PyTorch: channels first, its own layers, and padding made by hand where it has none of the kind.


def as_torch(program: Program, source: Source, *, trains: bool = True) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, flat gradient and that of the inputs by PyTorch's layers and its automatic differentiation.

    trains: whether BatchNorm takes the batch's statistics; else it takes the running ones.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    functional = torch.nn.functional
    plan, network = program.plan, program.plan.network
    flat, inputs = (torch.tensor(array, requires_grad=True) for array in (program.parameters, source.inputs))
    state = torch.tensor(program.state)

    def take(span: Any) -> Any:
        return flat[span.offset : span.end].reshape(span.shape)

    def padded(x: Any, w: Window, value: float) -> Any:
        below = max((w.output_height - 1) * w.stride_y + w.dilation_y * (w.kernel_height - 1) + 1 - w.height, 0)
        right = max((w.output_width - 1) * w.stride_x + w.dilation_x * (w.kernel_width - 1) + 1 - w.width, 0)
        sides = (w.pad_left, max(right - w.pad_left, 0), w.pad_top, max(below - w.pad_top, 0))
        return functional.pad(x, sides, value=value)

    shape = (*network.input_shape, 1) if len(network.input_shape) == 2 else network.input_shape
    x = inputs.reshape(-1, *shape)
    x = x.permute(0, 3, 1, 2) if len(shape) == 3 else x
    operations = {op.layer_index: op for op in plan.operations}
    for index, layer in enumerate(network.layers):
        op: Any = operations.get(index)
        if isinstance(layer, Dense):
            x = functional.linear(x, take(op.weights).T, take(op.bias) if op.bias else None)
        elif isinstance(layer, Conv2D):
            W = take(op.weights).permute(3, 2, 0, 1)
            bias = take(op.bias) if op.bias else None
            w = op.window
            strides, dilations = (w.stride_y, w.stride_x), (w.dilation_y, w.dilation_x)
            x = functional.conv2d(padded(x, w, 0.0), W, bias, strides, 0, dilations, w.groups)
        elif isinstance(layer, Flatten):
            x = x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x
        elif isinstance(layer, Dropout):
            pass  # gradients are computed without it
        elif isinstance(layer, LayerNorm):
            x = functional.layer_norm(x, x.shape[1:], take(op.gamma), take(op.beta), layer.epsilon)
        elif isinstance(layer, BatchNorm):
            running = [None, None] if trains else [op.running_mean.view(state), op.running_variance.view(state)]
            x = functional.batch_norm(x, *running, take(op.gamma), take(op.beta), training=trains, eps=layer.epsilon)
        else:
            w = op.window
            size, stride = (w.kernel_height, w.kernel_width), (w.stride_y, w.stride_x)
            if op.kind == "max":
                x = functional.max_pool2d(padded(x, w, -np.inf), size, stride)
            else:
                counts = functional.avg_pool2d(padded(torch.ones_like(x), w, 0.0), size, stride)
                x = functional.avg_pool2d(padded(x, w, 0.0), size, stride) / counts
            if layer.kind == "GlobalAveragePool2D":
                x = x.flatten(1)
        if layer.function:
            x = TORCH_ACTIVATIONS[layer.function.name](torch, x)
    losses = ((x - torch.tensor(source.targets)) ** 2 / 2).sum(1)
    weights = torch.tensor(source.sample_weight)
    loss = (weights * losses).sum() / weights.sum()
    loss.backward()
    return float(loss.detach()), flat.grad.numpy(), inputs.grad.numpy()


TORCH_ACTIVATIONS: dict[str, Any] = {
    "identity": lambda torch, x: x,
    "relu": lambda torch, x: torch.relu(x),
    "tanh": lambda torch, x: torch.tanh(x),
    "elu": lambda torch, x: torch.nn.functional.elu(x),
    "silu": lambda torch, x: torch.nn.functional.silu(x),
    "gelu": lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
}


# PyTorch refuses to normalise a single value.
@pytest.mark.parametrize("name", [name for name in IMAGE_NETWORKS if name != "batch norm of one value"])
def test_loss_and_all_gradients_are_pytorch_s(name: str) -> None:
    network, rows = IMAGE_NETWORKS[name]
    program, source = compiled(network, rows), some_rows(network, rows)
    expected_loss, expected, _ = as_torch(program, source)
    loss, gradient = program.loss_and_gradient(source)
    assert loss == pytest.approx(expected_loss, rel=PEER)
    assert difference(gradient, expected) < PEER


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_the_gradient_of_the_inputs_is_pytorch_s(name: str) -> None:
    network, rows = IMAGE_NETWORKS[name]
    program, source = compiled(network, rows, gives_input_gradient=True), some_rows(network, rows)
    program.state = program.plan.initial_state() * 1.7 + np.random.default_rng(5).random(program.plan.state_count)
    assert difference(program.input_gradient(source), as_torch(program, source, trains=False)[2]) < PEER


def test_of_equal_pixels_the_first_gets_the_gradient_as_in_pytorch() -> None:
    network = Network((6, 6, 2), [Conv2D(2, 1), MaxPool2D(3, stride=1), Flatten(), Dense(2)])
    program = compiled(network, 4)
    pixels = np.random.default_rng(0).integers(0, 2, (4, 72)).astype(float)
    source = Source(pixels, np.ones((4, 2)), np.ones(4))
    assert difference(program.loss_and_gradient(source)[1], as_torch(program, source)[1]) < PEER


@pytest.mark.parametrize("shape", [(5,), (4, 3, 5)])
def test_running_statistics_and_predictions_are_pytorch_s(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    network = Network(shape, [BatchNorm(0.3, 1e-3), Flatten(), Dense(2)])
    program = compiled(network, 4)
    source = some_rows(network, 11)
    program.bind(source)
    program.run(np.arange(11), np.array([0, 4, 8, 11]), np.zeros(3), first_step=0)

    kind = torch.nn.BatchNorm1d if len(shape) == 1 else torch.nn.BatchNorm2d
    norm = kind(5, eps=1e-3, momentum=0.3, dtype=torch.float64)
    op: Any = program.plan.operations[0]
    norm.weight.data = torch.tensor(op.gamma.view(program.parameters))
    norm.bias.data = torch.tensor(op.beta.view(program.parameters))
    rows = torch.tensor(source.inputs).reshape(-1, *shape)
    rows = rows.permute(0, 3, 1, 2) if len(shape) == 3 else rows
    for start, end in ((0, 4), (4, 8), (8, 11)):
        norm(rows[start:end])
    assert difference(op.running_mean.view(program.state), norm.running_mean) < PEER
    assert difference(op.running_variance.view(program.state), norm.running_var) < PEER

    norm.eval()
    normalised = norm(rows)
    normalised = normalised.permute(0, 2, 3, 1) if len(shape) == 3 else normalised
    dense = program.plan.output
    assert dense.bias is not None
    expected = normalised.detach().numpy().reshape(11, -1) @ dense.weights.view(program.parameters)
    assert difference(program.predict(source), expected + dense.bias.view(program.parameters)) < PEER


def test_a_row_does_not_depend_on_the_others_of_its_batch_when_predicted() -> None:
    network, _ = IMAGE_NETWORKS["all of them"]
    program = compiled(network, 7)
    source = some_rows(network, 16)
    program.bind(source)
    program.run(np.arange(16), np.array([0, 7, 14]), np.full(2, 0.01), first_step=0)
    alone = np.vstack([program.predict(Source(source.inputs[row : row + 1])) for row in range(16)])
    assert difference(program.predict(source), alone) < ONE_STEP["float64"]


def test_a_network_that_predicts_does_not_drop_pixels() -> None:
    network = Network((4, 4), [Dropout(0.5), Conv2D(2, 3), Flatten(), Dense(1)])
    plain = Network((4, 4), [Conv2D(2, 3), Flatten(), Dense(1)])
    source = some_rows(network, 3)
    dropping, whole = compiled(network, 3), compiled(plain, 3)
    dropping.parameters = whole.parameters
    np.testing.assert_array_equal(dropping.predict(source), whole.predict(source))
