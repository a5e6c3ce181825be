"""The layers of which networks are made: frozen descriptions that know shapes and parameter counts, and hold no arrays.

A layer of a new kind stands here, a class of the union `Layer`; its arrays in nnfast.plans, its arithmetic in the
backends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, get_args

import numpy as np

from ..formulas.activations import Activation, get_activation
from ..support.checks import check_flag, check_integer
from .initializers import check_initializer
from .windows import Padding, Pair, Shape, Window, image_shape, make_window, text_of

MAX_UNITS = 2**31 - 1


@dataclass(frozen=True)
class BaseLayer:
    """What all layers share: how the shape of one row changes, and how many parameters they hold."""

    kind: ClassVar[str]
    is_windowed: ClassVar[bool] = False  # whether it moves a window over images

    @property
    def function(self) -> Activation | None:
        """The activation as a row of the table; None for a layer that has none."""
        return None

    @property
    def label(self) -> str:
        """The layer in a few words, as the summary shows it."""
        return self.kind

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of one row of output. Raises ValueError where the input's shape does not fit."""
        return input_shape

    def parameter_count(self, input_shape: Shape) -> int:
        return 0


@dataclass(frozen=True)
class Dense(BaseLayer):
    """A fully connected layer: a = activation(x W + b), with W of shape (inputs, units) and b of shape (units,).

    activation: a name from ACTIVATIONS or an Activation. initializer: a name from INITIALIZERS, for W; b starts at 0.
    """

    units: int
    activation: str | Activation = "identity"
    bias: bool = True
    initializer: str = "glorot_uniform"
    kind: ClassVar[str] = "Dense"

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", check_integer(self.units, "Dense: units", 1, MAX_UNITS))
        object.__setattr__(self, "activation", get_activation(self.activation))
        _check_bias_and_initializer(self)

    @property
    def function(self) -> Activation:
        return get_activation(self.activation)

    def output_shape(self, input_shape: Shape) -> Shape:
        _check_flat(input_shape)
        return (self.units,)

    def parameter_count(self, input_shape: Shape) -> int:
        return (input_shape[0] + self.bias) * self.units


@dataclass(frozen=True)
class Dropout(BaseLayer):
    """Sets each input to 0 with probability `rate` in training and scales the others by 1 / (1 - rate).

    Srivastava et al. 2014, in the form that leaves prediction untouched.
    """

    rate: float
    kind: ClassVar[str] = "Dropout"

    def __post_init__(self) -> None:
        if not _is_number(self.rate) or not 0 <= self.rate < 1:
            raise ValueError(f"Dropout: rate must lie in [0, 1), got {self.rate!r}")
        object.__setattr__(self, "rate", float(self.rate))

    @property
    def label(self) -> str:
        return f"Dropout({self.rate:g})"


@dataclass(frozen=True)
class Flatten(BaseLayer):
    """Turns a row of any shape into a flat one, in C order."""

    kind: ClassVar[str] = "Flatten"

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)


@dataclass(frozen=True)
class Conv2D(BaseLayer):
    """A convolution of images (height, width, channels) with `filters` kernels: a = activation(x * W + b).

    W has shape (kernel height, kernel width, channels / groups, filters), b shape (filters,); the formula is in
    docs/convolutions.md. kernel_size, stride, dilation: one number for both directions, or (vertical, horizontal).
    padding: "valid" (none), "same" (outputs of ceil(size / stride); what is odd is padded below and to the right), or
    zeros on every side, n or (n, m). groups: channels and filters come in that many parts, and the filters of a
    part see its channels only; as many groups as channels is a depthwise convolution.

    initializer: a name from INITIALIZERS, where a weight's fan-in is kernel size * channels / groups, and its fan-out
    kernel size * filters / groups; b starts at 0.
    """

    filters: int
    kernel_size: int | Pair
    stride: int | Pair = 1
    padding: str | int | Pair = "valid"
    dilation: int | Pair = 1
    groups: int = 1
    activation: str | Activation = "identity"
    bias: bool = True
    initializer: str = "glorot_uniform"
    kind: ClassVar[str] = "Conv2D"
    is_windowed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", check_integer(self.filters, "Conv2D: filters", 1, MAX_UNITS))
        for name in ("kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, _pair(getattr(self, name), f"Conv2D: {name}"))
        object.__setattr__(self, "padding", _padding(self.padding, "Conv2D"))
        object.__setattr__(self, "groups", check_integer(self.groups, "Conv2D: groups", 1, MAX_UNITS))
        object.__setattr__(self, "activation", get_activation(self.activation))
        _check_bias_and_initializer(self)

    @property
    def function(self) -> Activation:
        return get_activation(self.activation)

    @property
    def label(self) -> str:
        options = _options(self, stride=(1, 1), padding="valid", dilation=(1, 1), groups=1)
        return f"Conv2D({', '.join([str(self.filters), text_of(self.kernel_size), *options])})"

    def window(self, input_shape: Shape) -> Window:
        """The geometry over images of this shape. Raises ValueError where it does not fit."""
        return make_window(
            input_shape,
            _made_pair(self.kernel_size),
            _made_pair(self.stride),
            _made_padding(self.padding),
            dilation=_made_pair(self.dilation),
            filters=self.filters,
            groups=self.groups,
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.window(input_shape).output_shape

    def weights_shape(self, input_shape: Shape) -> Shape:
        """(kernel height, kernel width, channels / groups, filters)."""
        return (*_made_pair(self.kernel_size), image_shape(input_shape)[2] // self.groups, self.filters)

    def parameter_count(self, input_shape: Shape) -> int:
        return math.prod(self.weights_shape(input_shape)) + self.bias * self.filters


@dataclass(frozen=True)
class _Pool2D(BaseLayer):
    """The base of the pooling layers: windows over each channel separately."""

    pool_size: int | Pair
    stride: int | Pair | None = None
    padding: str | int | Pair = "valid"
    is_windowed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool_size", _pair(self.pool_size, f"{self.kind}: pool_size"))
        stride = self.pool_size if self.stride is None else _pair(self.stride, f"{self.kind}: stride")
        object.__setattr__(self, "stride", stride)
        object.__setattr__(self, "padding", _padding(self.padding, self.kind))

    @property
    def label(self) -> str:
        options = _options(self, stride=self.pool_size, padding="valid")
        return f"{self.kind}({', '.join([text_of(self.pool_size), *options])})"

    def window(self, input_shape: Shape) -> Window:
        """The geometry over images of this shape. Raises ValueError where it does not fit."""
        return make_window(
            input_shape, _made_pair(self.pool_size), _made_pair(self.stride), _made_padding(self.padding)
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.window(input_shape).output_shape


@dataclass(frozen=True)
class MaxPool2D(_Pool2D):
    """The largest number of each window of `pool_size`, channel by channel.

    stride: by default the pool's own size, so that windows do not overlap. padding: as Conv2D's; what is padded is
    never the largest. The gradient goes to the first of equal numbers, row by row.
    """

    kind: ClassVar[str] = "MaxPool2D"


@dataclass(frozen=True)
class AveragePool2D(_Pool2D):
    """The mean of each window of `pool_size`, channel by channel, over the pixels inside the image.

    stride: by default the pool's own size, so that windows do not overlap. padding: as Conv2D's; what is padded is
    not counted.
    """

    kind: ClassVar[str] = "AveragePool2D"


@dataclass(frozen=True)
class GlobalAveragePool2D(BaseLayer):
    """The mean of each channel over the whole image: (height, width, channels) becomes (channels,)."""

    kind: ClassVar[str] = "GlobalAveragePool2D"
    is_windowed: ClassVar[bool] = True

    def window(self, input_shape: Shape) -> Window:
        """One window that is the image."""
        size = image_shape(input_shape)[:2]
        return make_window(input_shape, size, size, "valid")

    def output_shape(self, input_shape: Shape) -> Shape:
        return (image_shape(input_shape)[2],)


@dataclass(frozen=True)
class BatchNorm(BaseLayer):
    """Normalises each channel of images, or each unit of flat rows; Ioffe & Szegedy 2015.

    a = activation(gamma (x - m) / sqrt(v + epsilon) + beta), with parameters gamma, from 1, and beta, from 0. In
    training, m and v are the batch's mean and (biased) variance over rows and pixels, whatever the rows' weights, and
    running statistics follow them: running = (1 - momentum) running + momentum * batch, with the unbiased variance,
    from mean 0 and variance 1. Prediction and evaluation use the running statistics, which are saved with the model.
    L1 and L2 penalties leave gamma and beta alone.

    momentum: in [0, 1], the weight of the newest batch. epsilon: above 0. activation: of the normalised numbers; the
    layer before this one then has none of its own, and needs no bias.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    activation: str | Activation = "identity"
    kind: ClassVar[str] = "BatchNorm"

    def __post_init__(self) -> None:
        if not _is_number(self.momentum) or not 0 <= self.momentum <= 1:
            raise ValueError(f"BatchNorm: momentum must lie in [0, 1], got {self.momentum!r}")
        object.__setattr__(self, "momentum", float(self.momentum))
        object.__setattr__(self, "epsilon", _epsilon(self.epsilon, "BatchNorm"))
        object.__setattr__(self, "activation", get_activation(self.activation))

    @property
    def function(self) -> Activation:
        return get_activation(self.activation)

    def channels(self, input_shape: Shape) -> int:
        """How many means there are: the channels of an image, the units of a flat row."""
        return 1 if len(input_shape) == 2 else input_shape[-1]

    def parameter_count(self, input_shape: Shape) -> int:
        return 2 * self.channels(input_shape)


@dataclass(frozen=True)
class LayerNorm(BaseLayer):
    """Normalises each flat row by its own mean and variance; Ba, Kiros & Hinton 2016.

    a = activation(gamma (x - m) / sqrt(v + epsilon) + beta), where m and v are the mean and the (biased) variance of
    the row's numbers. Every unit has a parameter gamma, which starts from 1, and a parameter beta, which starts from 0;
    L1 and L2 penalties leave both alone. Rows do not depend on each other: training and prediction compute the same,
    for batches of any size, and there are no running statistics.

    Parameters
    ----------
    epsilon
        Added to the variance; above 0.
    activation
        The activation after the normalisation, a name from ACTIVATIONS or an Activation. The layer before this one
        then needs none.

    Raises
    ------
    TypeError, ValueError
        epsilon is not a finite number above 0, or there is no such activation. A Network raises ValueError for a
        LayerNorm of images: put Flatten() before it.

    Examples
    --------
    >>> from nnfast import Dense, LayerNorm, Network
    >>> Network(8, [Dense(32), LayerNorm(activation="relu"), Dense(1)]).parameter_count
    385
    """

    epsilon: float = 1e-5
    activation: str | Activation = "identity"
    kind: ClassVar[str] = "LayerNorm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _epsilon(self.epsilon, "LayerNorm"))
        object.__setattr__(self, "activation", get_activation(self.activation))

    @property
    def function(self) -> Activation:
        return get_activation(self.activation)

    def output_shape(self, input_shape: Shape) -> Shape:
        _check_flat(input_shape)
        return input_shape

    def parameter_count(self, input_shape: Shape) -> int:
        return 2 * input_shape[0]


# The kinds are a closed set, the union `Layer`; LAYERS has them by name.
Layer: TypeAlias = (
    Dense | Dropout | Flatten | Conv2D | MaxPool2D | AveragePool2D | GlobalAveragePool2D | BatchNorm | LayerNorm
)
LAYERS: dict[str, type[Layer]] = {layer.kind: layer for layer in get_args(Layer)}


def _pair(value: Any, what: str, least: int = 1) -> Pair:
    """(vertical, horizontal) from one integer or a pair. Raises TypeError or ValueError."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{what} must be an integer or a pair (vertical, horizontal), got {value!r}")
        return check_integer(value[0], what, least, MAX_UNITS), check_integer(value[1], what, least, MAX_UNITS)
    number = check_integer(value, what, least, MAX_UNITS)
    return number, number


def _padding(value: Any, kind: str) -> Padding:
    if isinstance(value, str):
        if value not in ("valid", "same"):
            raise ValueError(f"{kind}: padding must be 'valid', 'same', n or (n, m), got {value!r}")
        return value
    return _pair(value, f"{kind}: padding", least=0)


# What __post_init__ made of what the user gave
def _made_pair(value: Any) -> Pair:
    assert isinstance(value, tuple)
    return value


def _made_padding(value: Any) -> Padding:
    assert isinstance(value, (tuple, str))
    return value


def _options(layer: BaseLayer, **defaults: Any) -> list[str]:
    """ "stride 2x2", "same", "groups 4": what differs from the defaults."""
    shown = []
    for name, default in defaults.items():
        value = getattr(layer, name)
        if value != default:
            words = text_of(value) if isinstance(value, tuple) else str(value)
            shown.append(words if value == "same" else f"{name} {words}")
    return shown


def _epsilon(value: Any, kind: str) -> float:
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{kind}: epsilon must be a finite number above 0, got {value!r}")
    return float(value)


def _check_flat(input_shape: Shape) -> None:
    if len(input_shape) != 1:
        raise ValueError(f"needs a flat input, got shape {input_shape}; put Flatten() before it")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)


def _check_bias_and_initializer(layer: Dense | Conv2D) -> None:
    object.__setattr__(layer, "bias", check_flag(layer.bias, f"{layer.kind}: bias"))
    check_initializer(layer.initializer)
