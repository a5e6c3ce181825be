"""A network is data: an input shape and a list of layers, without arrays. What it computes, not how.

Frozen and compared by value; prints as a table of layers, output shapes and parameter counts; round-trips through
JSON, which is how a model file stores it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, SupportsIndex

from ..formulas.activations import ACTIVATIONS, Activation
from ..formulas.formula import read_row
from ..support.checks import check_integer, shown
from .layers import LAYERS, MAX_UNITS, BaseLayer, Dense, Dropout, Flatten, Layer
from .windows import Shape

MAX_LAYERS = 1000


@dataclass(frozen=True, init=False)  # what it takes is more than what it keeps
class Network:
    """A feedforward network: the shape of one row of input and the layers it passes through.

    Parameters
    ----------
    input_shape : int or iterable of int
        64 for rows of 64 numbers, (28, 28) for grey images, (32, 32, 3) for images of three channels.
    layers : iterable of Layer
        At least one; the last must be Dense.

    Attributes
    ----------
    input_shape : tuple of int
    layers : tuple of Layer

    Raises
    ------
    ValueError or TypeError, with the layer's index and name, for sizes and shapes that do not fit.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]

    def __init__(self, input_shape: SupportsIndex | Iterable[SupportsIndex], layers: Iterable[BaseLayer]) -> None:
        object.__setattr__(self, "input_shape", _shape(input_shape))
        if isinstance(layers, BaseLayer):
            raise TypeError(f"layers must be a list of layers, got {shown(layers)}: put it into a list")
        object.__setattr__(self, "layers", tuple(layers))
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):  # the base class is what a type checker makes of a list of several kinds
                raise TypeError(f"layer {index} must be one of {', '.join(LAYERS)}, got {shown(layer)}")
        if not self.layers or not isinstance(self.layers[-1], Dense):
            raise ValueError("the last layer must be Dense: it gives the outputs")
        if len(self.layers) > MAX_LAYERS:
            raise ValueError(f"a network has at most {MAX_LAYERS} layers, got {len(self.layers)}")
        for index, layer in enumerate(self.layers[:-1]):
            if layer.function and layer.function.output_only:
                raise ValueError(
                    f"layer {index} ({layer.kind}): activation {layer.function.name!r} is for the last layer only"
                )
        self.shapes  # noqa: B018 - computed once here, so that shapes that do not fit are refused now

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of one row before the first layer and after each layer."""
        shapes = [self.input_shape]
        for index, layer in enumerate(self.layers):
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except ValueError as error:
                raise ValueError(f"layer {index} ({layer.kind}): {error}") from None
            if math.prod(shapes[-1]) > MAX_UNITS:
                raise ValueError(f"layer {index} ({layer.kind}): more than {MAX_UNITS} values in a row")
        return tuple(shapes)

    @property
    def input_size(self) -> int:
        """Numbers in one row of input."""
        return math.prod(self.input_shape)

    @property
    def output_size(self) -> int:
        """Numbers in one row of output."""
        return self.output_layer.units

    @property
    def output_layer(self) -> Dense:
        last = self.layers[-1]
        assert isinstance(last, Dense)  # __init__ saw to it
        return last

    @property
    def parameter_count(self) -> int:
        """Weights and biases of all layers."""
        return sum(layer.parameter_count(shape) for layer, shape in zip(self.layers, self.shapes, strict=False))

    def summary(self) -> str:
        """A table of the layers: number, kind, activation, output shape, parameters."""
        rows = [("", "layer", "activation", "output shape", "parameters"), ("", "input", "", str(self.input_shape), "")]
        shapes = self.shapes
        for index, (layer, before, after) in enumerate(zip(self.layers, shapes[:-1], shapes[1:], strict=True)):
            activation = layer.function.name if layer.function else ""
            rows.append((str(index), layer.label, activation, str(after), f"{layer.parameter_count(before):,}"))
        rows.append(("", "total", "", "", f"{self.parameter_count:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1].rjust(widths[-1])]
            ).rstrip()
            for row in rows
        )

    def __str__(self) -> str:
        return self.summary()

    def to_json(self) -> str:
        """The network as a JSON text that from_json reads back to an equal network."""
        return json.dumps({"input_shape": self.input_shape, "layers": [_layer_to_data(layer) for layer in self.layers]})

    @classmethod
    def from_json(cls, text: str) -> Network:
        """The network of to_json. Raises ValueError for anything else: the text may come from a stranger."""
        try:
            data = json.loads(text)
            shape, layers = data["input_shape"], data["layers"]
            if not isinstance(shape, list) or not isinstance(layers, list):
                raise TypeError("input_shape and layers must be lists")
            return cls(tuple(shape), tuple(layer_from_data(index, layer) for index, layer in enumerate(layers)))
        except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a network in JSON: {error!r}") from None


def multilayer_perceptron(
    input_shape: SupportsIndex | Iterable[SupportsIndex],
    hidden: Iterable[int],
    outputs: int,
    *,
    activation: str | Activation = "relu",
    output_activation: str | Activation = "identity",
    dropout: float = 0.0,
    bias: bool = True,
    initializer: str = "glorot_uniform",
) -> Network:
    """Dense layers of the `hidden` sizes, each followed by Dropout where `dropout` > 0, and a Dense output layer."""
    shape = _shape(input_shape)
    layers: list[Layer] = [Flatten()] if len(shape) > 1 else []
    for units in hidden:
        layers.append(Dense(units, activation, bias, initializer))
        if dropout:
            layers.append(Dropout(dropout))
    layers.append(Dense(outputs, output_activation, bias, initializer))
    return Network(shape, layers)


def _shape(input_shape: Any) -> Shape:
    """The shape that an integer or several stand for. Raises TypeError or ValueError."""
    try:
        sizes = tuple(input_shape)
    except TypeError:  # an integer, of any type
        sizes = (input_shape,)
    if not sizes:
        raise ValueError("input_shape must have at least one dimension, got ()")
    return tuple(check_integer(size, "input_shape", 1, MAX_UNITS) for size in sizes)


def _layer_to_data(layer: Layer) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": layer.kind}
    for field in fields(layer):
        value = getattr(layer, field.name)
        data[field.name] = _activation_to_data(value) if isinstance(value, Activation) else value
    return data


def layer_from_data(index: int, data: Any) -> Layer:
    """The layer of a mapping such as {"kind": "Dense", "units": 3}. Raises ValueError with `index`, its number."""
    kind = data.get("kind") if isinstance(data, dict) else data
    if not isinstance(kind, str) or kind not in LAYERS:
        raise ValueError(f"layer {index}: unknown kind {kind!r}; known: {', '.join(LAYERS)}")
    options = {name: value for name, value in data.items() if name != "kind"}
    try:
        if isinstance(options.get("activation"), dict):
            _check_fields(Activation, options["activation"], "activation")
            options["activation"] = read_row(Activation, options["activation"])
        _check_fields(LAYERS[kind], options, kind)
        return LAYERS[kind](**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"layer {index} ({kind}): {str(error).removeprefix(f'{kind}: ')}") from None


def _check_fields(make: Any, data: dict[str, Any], what: str) -> None:
    """Raise ValueError for a name that the dataclass `make` does not have, and for one that it lacks."""
    known = [field.name for field in fields(make)]
    for name in data:
        if name not in known:
            raise ValueError(f"{what}: unknown {name!r}; known: {', '.join(known) or 'nothing'}")
    for field in fields(make):
        if field.default is MISSING and field.name not in data:
            raise ValueError(f"{what}: {field.name} is missing")


def _activation_to_data(activation: Activation) -> str | dict[str, Any]:
    if ACTIVATIONS.get(activation.name) == activation:
        return activation.name
    data = {field.name: getattr(activation, field.name) for field in fields(activation)}
    return data | {"constants": dict(activation.constants)}
