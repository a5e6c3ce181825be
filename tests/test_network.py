"""The description of a network: validation, summary, equality, JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.formulas.activations import ACTIVATIONS, Activation
from nnfast.networks.initializers import INITIALIZERS
from nnfast.networks.layers import (
    AveragePool2D,
    BaseLayer,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    LayerNorm,
    MaxPool2D,
)
from nnfast.networks.network import Network, multilayer_perceptron

HIDDEN = [name for name in ACTIVATIONS if not ACTIVATIONS[name].output_only]

layers = st.one_of(
    st.builds(
        Dense,
        st.integers(1, 1000),
        st.sampled_from(HIDDEN),
        st.booleans(),
        st.sampled_from(sorted(INITIALIZERS)),
    ),
    st.builds(Dropout, st.floats(0, 0.99)),
    st.builds(LayerNorm, st.floats(1e-9, 1), st.sampled_from(HIDDEN)),
)
pairs = st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 9), st.integers(1, 9)))
image_layers = st.one_of(
    st.builds(
        Conv2D,
        st.integers(1, 9),
        st.integers(1, 3),
        stride=pairs,
        padding=st.one_of(st.just("same"), st.integers(2, 5), st.tuples(st.integers(2, 5), st.integers(2, 5))),
        activation=st.sampled_from(HIDDEN),
        bias=st.booleans(),
    ),
    st.builds(Conv2D, st.integers(1, 9), pairs, padding=st.just("same"), dilation=pairs),
    st.builds(MaxPool2D, pairs, st.one_of(st.none(), pairs), st.just("same")),
    st.builds(AveragePool2D, pairs, st.one_of(st.none(), pairs), st.just("same")),
    st.builds(BatchNorm, st.floats(0, 1), st.floats(1e-9, 1), st.sampled_from(HIDDEN)),
    st.builds(Dropout, st.floats(0, 0.99)),
)


@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=3), middle=st.lists(image_layers, max_size=5))
def test_a_network_of_images_survives_json(shape: list[int], middle: list[Layer]) -> None:
    for end in (Flatten(), GlobalAveragePool2D()):
        network = Network(tuple(shape), (*middle, end, Dense(3)))
        again = Network.from_json(network.to_json())
        assert again == network
        assert hash(again) == hash(network)
        assert again.summary() == network.summary()


@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=3), middle=st.lists(layers, max_size=6))
def test_a_network_survives_json_and_is_compared_by_value(shape: list[int], middle: list[Layer]) -> None:
    network = Network(tuple(shape), (Flatten(), *middle, Dense(3, "softmax")))
    again = Network.from_json(network.to_json())
    assert again == network
    assert hash(again) == hash(network)
    assert Network((*shape, 2), network.layers) != network


def test_a_network_with_a_formula_of_ones_own_survives_json() -> None:
    mine = Activation("mine", value="k * z", derivative="k", constants={"k": 2.0})
    network = Network(3, [Dense(4, mine), Dense(2)])
    assert Network.from_json(network.to_json()) == network


REFUSED = {
    "a size of zero": (lambda: Dense(0), "units must be a positive integer up to 2147483647, got 0"),
    "a fraction": (lambda: Dense(2.5), "units must be a positive integer, got 2.5"),
    "an unknown activation": (lambda: Dense(2, "rellu"), "unknown activation 'rellu'"),
    "an unknown initializer": (lambda: Dense(2, initializer="xavier"), "unknown initializer 'xavier'; known: zeros"),
    "a rate of one": (lambda: Dropout(1.0), r"rate must lie in \[0, 1\), got 1.0"),
    "no layers": (lambda: Network(3, []), "the last layer must be Dense"),
    "dropout last": (lambda: Network(3, [Dense(3), Dropout(0.1)]), "the last layer must be Dense"),
    "no input": (lambda: Network((), [Dense(3)]), "at least one dimension"),
    "an empty input": (lambda: Network((3, 0), [Flatten(), Dense(3)]), "input_shape must be a positive integer"),
    "an image without Flatten": (
        lambda: Network((8, 8), [Dropout(0.1), Dense(3)]),
        r"layer 1 \(Dense\): needs a flat input, got shape \(8, 8\); put Flatten\(\) before it",
    ),
    "softmax inside": (
        lambda: Network(3, [Dense(3), Dense(4, "softmax"), Dense(2)]),
        r"layer 1 \(Dense\): activation 'softmax' is for the last layer only",
    ),
    "a kind outside the union": (
        lambda: Network(3, [type("Own", (BaseLayer,), {"kind": "Own"})(), Dense(1)]),
        r"layer 0 must be one of Dense, Dropout, .*BatchNorm",
    ),
    "something else": (lambda: Network(3, ["dense"]), r"layer 0 must be one of Dense, Dropout, .*, got 'dense'"),
    "a kernel that is too large": (
        lambda: Network((8, 8), [Conv2D(3, 3), Conv2D(3, 7, padding=(0, 1)), Flatten(), Dense(1)]),
        r"layer 1 \(Conv2D\): the kernel of 7x7 is larger than the padded image of 6x8; use a smaller kernel",
    ),
    "a dilated kernel that is too large": (
        lambda: Network((8, 8), [Conv2D(3, 3, dilation=4), Flatten(), Dense(1)]),
        "the kernel of 3x3, dilated to 9x9, is larger than the padded image of 8x8",
    ),
    "a pool that is too large": (
        lambda: Network((3, 3), [MaxPool2D(4), Flatten(), Dense(1)]),
        r"layer 0 \(MaxPool2D\): the pool of 4x4 is larger than the padded image of 3x3; use a smaller pool",
    ),
    "a pool of padding alone": (
        lambda: Network((4, 4), [AveragePool2D(2, padding=(1, 2)), Flatten(), Dense(1)]),
        "padding 2 would make pools that hold no pixel; with a pool of 2x2 it is at most 1",
    ),
    "groups that do not divide": (
        lambda: Network((8, 8, 3), [Conv2D(4, 3, groups=2), Flatten(), Dense(1)]),
        r"layer 0 \(Conv2D\): groups must divide the input's 3 channels and the 4 filters, got 2",
    ),
    "a convolution of flat rows": (
        lambda: Network(64, [Conv2D(4, 3), Flatten(), Dense(1)]),
        r"layer 0 \(Conv2D\): needs an image \(height, width\) or \(height, width, channels\), got shape \(64,\)",
    ),
    "a dense layer after an image": (
        lambda: Network((8, 8), [Conv2D(4, 3), Dense(1)]),
        r"layer 1 \(Dense\): needs a flat input, got shape \(6, 6, 4\); put Flatten\(\) before it",
    ),
    "softmax in a convolution": (
        lambda: Network((8, 8), [Conv2D(4, 3, activation="softmax"), Flatten(), Dense(1)]),
        r"layer 0 \(Conv2D\): activation 'softmax' is for the last layer only",
    ),
    "a kernel of three sizes": (
        lambda: Conv2D(3, (3, 3, 3)),
        r"Conv2D: kernel_size must be an integer or a pair \(vertical, horizontal\), got \(3, 3, 3\)",
    ),
    "a stride of zero": (lambda: MaxPool2D(2, stride=(1, 0)), "MaxPool2D: stride must be a positive integer"),
    "an unknown padding": (lambda: Conv2D(3, 3, padding="full"), r"padding must be 'valid', 'same', n or \(n, m\)"),
    "a negative padding": (lambda: Conv2D(3, 3, padding=-1), "padding must be an integer from 0"),
    "a momentum beyond one": (lambda: BatchNorm(1.5), r"momentum must lie in \[0, 1\], got 1.5"),
    "an epsilon of zero": (lambda: BatchNorm(epsilon=0), "epsilon must be a finite number above 0, got 0"),
    "an epsilon without end": (lambda: LayerNorm(float("inf")), "LayerNorm: epsilon must be a finite number above 0"),
    "a layer norm of images": (
        lambda: Network((8, 8, 3), [LayerNorm(), Flatten(), Dense(1)]),
        r"layer 0 \(LayerNorm\): needs a flat input, got shape \(8, 8, 3\); put Flatten\(\) before it",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_with_index_and_name(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", "3", '{"input_shape": 3, "layers": []}', '{"input_shape": [3], "layers": [1]}',
        '{"input_shape": [3], "layers": [{"kind": "Conv9D"}]}',
        '{"input_shape": [3], "layers": [{"kind": "Dense", "units": 3, "evil": 1}]}',
        '{"input_shape": [3], "layers": [{"kind": "Dense", "units": 3, "activation": {"name": "x"}}]}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_json_that_is_no_network_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        Network.from_json(text)


def test_a_formula_in_json_passes_through_the_grammar() -> None:
    activation = {"name": "x", "value": "__import__('os').getpid()", "derivative": "1"}
    data = {"input_shape": [3], "layers": [{"kind": "Dense", "units": 1, "activation": activation}]}
    with pytest.raises(ValueError, match=r"not allowed|unknown function"):
        Network.from_json(json.dumps(data))


def test_the_summary_counts_parameters() -> None:
    network = multilayer_perceptron((8, 8), [100], 10, dropout=0.25, output_activation="softmax")
    assert network.parameter_count == 64 * 100 + 100 + 100 * 10 + 10
    summary = str(network)
    assert summary.splitlines()[-1].split() == ["total", "7,510"]
    for part in ("Flatten", "Dropout(0.25)", "softmax", "(100,)", "6,500", "1,010"):
        assert part in summary
    assert all(line == line.rstrip() for line in summary.splitlines())


def test_layers_and_shapes_may_come_from_any_iterable() -> None:
    layers = [Dense(3, "relu"), Dense(1)]
    network = Network(4, layers)
    assert (network.input_shape, network.layers) == ((4,), tuple(layers))
    for same in (
        Network((4,), tuple(layers)),
        Network([4], iter(layers)),
        Network(input_shape=np.array([4]), layers=layers),
        dataclasses.replace(Network(7, layers), input_shape=4),
        pickle.loads(pickle.dumps(network)),
        copy.deepcopy(network),
    ):
        assert same == network
        assert hash(same) == hash(network)
        assert repr(same) == repr(network)


def test_layers_print_as_they_are_written() -> None:
    assert repr(Dense(3, "relu")) == "Dense(units=3, activation='relu', bias=True, initializer='glorot_uniform')"


def test_image_layers_print_with_what_differs_from_the_defaults() -> None:
    layers = [
        (Conv2D(6, 5), "Conv2D(6, 5x5)"),
        (Conv2D(6, (3, 5), stride=2, padding="same", groups=3), "Conv2D(6, 3x5, stride 2x2, same, groups 3)"),
        (Conv2D(6, 3, padding=1, dilation=(1, 2)), "Conv2D(6, 3x3, padding 1x1, dilation 1x2)"),
        (MaxPool2D(2), "MaxPool2D(2x2)"),
        (AveragePool2D(3, stride=2), "AveragePool2D(3x3, stride 2x2)"),
        (BatchNorm(), "BatchNorm"),
        (LayerNorm(), "LayerNorm"),
    ]
    assert [layer.label for layer, _ in layers] == [label for _, label in layers]


SHAPES = [  # input, layer, output, parameters
    ((28, 28), Conv2D(6, 5), (24, 24, 6), 5 * 5 * 6 + 6),
    ((24, 24, 6), MaxPool2D(2), (12, 12, 6), 0),
    ((7, 5, 4), Conv2D(8, 3, stride=2, padding="same", groups=4, bias=False), (4, 3, 8), 3 * 3 * 1 * 8),
    ((7, 5, 4), Conv2D(8, (7, 5)), (1, 1, 8), 7 * 5 * 4 * 8 + 8),
    ((7, 5), Conv2D(1, 3, padding=(1, 0), dilation=(1, 2)), (7, 1, 1), 10),
    ((7, 5, 2), AveragePool2D(3, stride=2, padding=1), (4, 3, 2), 0),
    ((7, 5, 2), MaxPool2D((2, 3), padding="same"), (4, 2, 2), 0),
    ((7, 5, 2), GlobalAveragePool2D(), (2,), 0),
    ((7, 5), GlobalAveragePool2D(), (1,), 0),
    ((7, 5, 2), BatchNorm(), (7, 5, 2), 4),
    ((7, 5), BatchNorm(), (7, 5), 2),
    ((7,), BatchNorm(), (7,), 14),
    ((7,), LayerNorm(), (7,), 14),
]


@pytest.mark.parametrize(("before", "layer", "after", "parameters"), SHAPES)
def test_image_layers_know_their_output_and_their_parameters(
    before: tuple[int, ...], layer: Layer, after: tuple[int, ...], parameters: int
) -> None:
    assert layer.output_shape(before) == after
    assert layer.parameter_count(before) == parameters


@given(height=st.integers(1, 40), size=st.integers(1, 9), stride=st.integers(1, 9), dilation=st.integers(1, 4))
def test_same_padding_gives_one_output_for_every_stride_and_pads_the_rest_below(
    height: int, size: int, stride: int, dilation: int
) -> None:
    layer = Conv2D(1, (size, 1), (stride, 1), "same", (dilation, 1))
    window = layer.window((height, 1))
    assert window.output_height == -(-height // stride)
    span = dilation * (size - 1) + 1
    below = (window.output_height - 1) * stride + span - height - window.pad_top
    assert below < 0 or below - window.pad_top in (0, 1)
