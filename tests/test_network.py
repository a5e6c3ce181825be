"""The description of a network: validation, summary, equality, JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.activations import ACTIVATIONS, Activation
from nnfast.initializers import INITIALIZERS
from nnfast.network import Dense, Dropout, Flatten, Layer, Network, multilayer_perceptron

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
)


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
    "something else": (lambda: Network(3, ["dense"]), "layer 0 must be one of Dense, Dropout, Flatten, got 'dense'"),
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


def test_layers_print_as_they_are_written() -> None:
    assert repr(Dense(3, "relu")) == "Dense(units=3, activation='relu', bias=True, initializer='glorot_uniform')"
