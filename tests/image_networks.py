"""Networks with image layers, BatchNorm and LayerNorm, each with a number of rows, to hold backends and formulas to."""

from __future__ import annotations

from nnfast.networks.layers import (
    AveragePool2D,
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
from nnfast.networks.network import Network


def _images(shape: tuple[int, ...], *layers: Layer) -> Network:
    return Network(shape, [*layers, Flatten(), Dense(3)])


IMAGE_NETWORKS: dict[str, tuple[Network, int]] = {
    "one pixel": (_images((1, 1), Conv2D(1, 1)), 1),
    "one image": (_images((6, 5, 2), Conv2D(3, 3, activation="relu"), MaxPool2D(2)), 1),
    "odd sizes": (_images((7, 9, 3), Conv2D(5, (3, 2), activation="tanh"), Conv2D(7, 3, activation="silu")), 17),
    "without bias": (_images((6, 6), Conv2D(3, 3, activation="silu", bias=False), Conv2D(2, 2, bias=False)), 3),
    "stride 2": (_images((8, 7, 2), Conv2D(4, 3, stride=2, activation="relu"), Conv2D(3, 2, stride=(1, 2))), 5),
    "a stride longer than the kernel": (_images((9, 8, 2), Conv2D(3, 2, activation="tanh", stride=3)), 5),
    "same padding": (_images((6, 5, 2), Conv2D(3, 4, padding="same"), Conv2D(2, 3, padding="same")), 5),
    "same padding, stride 2": (
        _images((7, 6), Conv2D(3, 3, 2, "same", activation="relu"), Conv2D(4, (2, 5), (3, 2), "same")),
        9,
    ),
    "padding on all sides": (_images((5, 4), Conv2D(3, 3, padding=2), Conv2D(2, 3, padding=(0, 1))), 4),
    "dilation": (_images((9, 8, 2), Conv2D(3, 3, dilation=(2, 3)), Conv2D(2, 2, padding="same", dilation=2)), 4),
    "groups": (_images((6, 6, 4), Conv2D(6, 3, groups=2, activation="relu"), Conv2D(3, 3, groups=3)), 6),
    "depthwise, then 1x1": (
        _images((6, 6, 5), Conv2D(5, 3, padding=1, groups=5), Conv2D(8, 1, activation="gelu"), Conv2D(8, 3, groups=8)),
        5,
    ),
    "two filters a channel": (_images((5, 5, 3), Conv2D(6, 2, groups=3), Conv2D(2, 1)), 3),
    "kernels as large as the image": (_images((5, 4, 2), Conv2D(4, (5, 4), activation="tanh"), Conv2D(3, 1)), 6),
    "many filters": (_images((4, 4, 3), Conv2D(33, 2, activation="relu"), Conv2D(18, 2)), 10),
    "max pools": (_images((9, 8, 3), Conv2D(4, 2), MaxPool2D(2), Conv2D(3, 2), MaxPool2D((2, 1), padding="same")), 7),
    "overlapping max pools": (_images((7, 7, 2), Conv2D(3, 1), MaxPool2D(3, stride=2, padding=1)), 5),
    "average pools": (_images((7, 8, 2), Conv2D(3, 2), AveragePool2D((2, 3)), Conv2D(2, 1), AveragePool2D(1)), 5),
    "overlapping average pools": (
        _images((6, 7), Conv2D(3, 1, activation="tanh"), AveragePool2D(3, stride=(1, 2), padding="same")),
        4,
    ),
    "pools of the input": (_images((8, 8, 2), MaxPool2D(2), AveragePool2D(2), Conv2D(3, 2, activation="relu")), 4),
    "pools alone": (_images((6, 6, 2), MaxPool2D(3), AveragePool2D(2, padding="same", stride=1)), 4),
    "global average": (
        Network((5, 4, 3), [Conv2D(6, 2, activation="relu"), GlobalAveragePool2D(), Dense(4, "tanh"), Dense(3)]),
        5,
    ),
    "batch norm of rows": (Network(6, [Dense(5), BatchNorm(activation="relu"), Dense(4), BatchNorm(), Dense(3)]), 9),
    "batch norm of the input": (Network(6, [BatchNorm(), Dense(3)]), 9),
    "batch norm of images": (
        _images((6, 5, 2), Conv2D(4, 3, bias=False), BatchNorm(activation="silu"), MaxPool2D(2), BatchNorm(0.3, 0.1)),
        17,
    ),
    "batch norm of grey images": (_images((5, 4), BatchNorm(), Conv2D(3, 2, activation="tanh"), BatchNorm()), 4),
    "batch norm after flattening": (
        Network((5, 5), [Conv2D(2, 3), MaxPool2D(2), Flatten(), BatchNorm(activation="tanh"), Dense(3)]),
        5,
    ),
    "batch norm without a convolution": (Network((3, 4, 2), [BatchNorm(), Flatten(), Dense(3)]), 5),
    "batch norm of one value": (Network(4, [Dense(3), BatchNorm(activation="tanh"), Dense(3)]), 1),
    "layer norm": (
        Network(6, [Dense(5), LayerNorm(activation="relu"), Dense(37), LayerNorm(0.1, "silu"), Dense(3)]),
        19,
    ),
    "layer norm of the input": (Network(6, [LayerNorm(), Dense(3)]), 9),
    "layer norm after a convolution": (
        Network((5, 5), [Conv2D(2, 3, activation="tanh"), Flatten(), LayerNorm(activation="gelu"), Dense(3)]),
        5,
    ),
    "dropout, which a gradient leaves out": (
        Network((5, 4, 2), [Dropout(0.4), Conv2D(3, 2, activation="tanh"), Dropout(0.2), Flatten(), Dense(3)]),
        5,
    ),
    "all of them": (
        Network(
            (12, 11, 2),
            [
                Conv2D(6, 3, padding="same"), BatchNorm(activation="relu"), MaxPool2D(2),
                Conv2D(6, 3, groups=3, activation="silu"), AveragePool2D(2, stride=1), Conv2D(9, 1, activation="tanh"),
                GlobalAveragePool2D(), Dense(7), BatchNorm(activation="elu"), Dense(3),
            ],
        ),
        19,
    ),
}  # fmt: skip

WITH_DROPOUT = Network(
    (7, 6, 2),
    [
        Dropout(0.2), Conv2D(4, 3, activation="relu"), Dropout(0.5), MaxPool2D(2), Dropout(0.1), BatchNorm(), Flatten(),
        Dropout(0.3), Dense(3),
    ],
)  # fmt: skip
