"""Images as users hand them in: shapes, bytes, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnfast.data import load_dataset
from nnfast.data.targets import ClassTargets
from nnfast.formulas.losses import LOSSES
from nnfast.models.model import Model
from nnfast.models.validation import make_source
from nnfast.networks.layers import Conv2D, Dense, Flatten, GlobalAveragePool2D, MaxPool2D
from nnfast.networks.network import Network
from nnfast.training.train import train

LAYERS = (Conv2D(4, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(2, "softmax"))
GREY, COLOUR = Network((8, 6), LAYERS), Network((8, 6, 3), LAYERS)


def labelled(shape: tuple[int, ...], rows: int = 60) -> tuple[Any, Any]:
    """Bytes that are bright above or below, and which it is."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, rows)
    images = random.integers(0, 100, (rows, *shape))
    for image, label in zip(images, labels, strict=True):
        image[:3] += 120 * (label == 0)
        image[-3:] += 120 * (label == 1)
    return images.astype(np.uint8), labels


def trained(network: Network, images: Any, labels: Any, **options: Any) -> Model:
    options = {"epochs": 5, "learning_rate": 0.01, "backend": "numpy", "input_scale": 1 / 255} | options
    return train(network, images, labels, **options)


def test_grey_images_come_with_and_without_a_channel_and_flat() -> None:
    images, labels = labelled((8, 6))
    model = trained(GREY, images, labels)
    assert model.evaluate(images, labels)["accuracy"] == 1
    with_channel = Network((8, 6, 1), LAYERS)
    for network in (GREY, with_channel):
        for shape in ((60, 8, 6), (60, 8, 6, 1), (60, 48)):
            other = trained(network, images.reshape(shape), labels)
            np.testing.assert_array_equal(other.parameters, model.parameters)
            np.testing.assert_array_equal(other.predict_proba(images.reshape(shape)), model.predict_proba(images))


def test_bytes_and_floats_of_one_scale_give_the_same_model() -> None:
    images, labels = labelled((8, 6, 3))
    model = trained(COLOUR, images, labels, dtype="float64")
    floats = trained(COLOUR, images / 255, labels, dtype="float64", input_scale=1)
    np.testing.assert_allclose(floats.parameters, model.parameters, rtol=1e-9)
    np.testing.assert_array_equal(floats.predict(images / 255), model.predict(images))


def test_bytes_are_not_copied() -> None:
    images, labels = labelled((8, 6, 3))
    source = make_source(
        images, labels, None, network=COLOUR, loss=LOSSES["cross_entropy"], dtype=np.dtype("float32"), inputs=None,
        targets=ClassTargets(np.arange(2)), scale=1 / 255,
    )  # fmt: skip
    assert source.inputs.dtype == np.uint8
    assert np.shares_memory(source.inputs, images)
    assert source.scale == 1 / 255


REFUSED = {
    "another size": ((60, 8, 7), GREY, r"X has shape \(60, 8, 7\), but the network takes \(n_rows, 8, 6\)$"),
    "a single image": ((8, 6), GREY, r"X has shape \(8, 6\), but the network takes \(n_rows, 8, 6\)$"),
    "too many channels": ((60, 8, 6, 3), GREY, r"X has shape \(60, 8, 6, 3\), but the network takes \(n_rows, 8, 6\)$"),
    "too few channels": ((60, 8, 6), COLOUR, r"X has shape \(60, 8, 6\), but the network takes \(n_rows, 8, 6, 3\)$"),
    "channels first": (
        (60, 3, 8, 6),
        COLOUR,
        r"X has shape \(60, 3, 8, 6\), but the network takes \(n_rows, 8, 6, 3\); channels come last: "
        r"np\.moveaxis\(X, 1, -1\)",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_images_that_do_not_fit_are_refused_with_both_shapes(what: str) -> None:
    shape, network, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        trained(network, np.zeros(shape, np.uint8), np.arange(60) % 2)
    model = trained(network, *labelled(network.input_shape), epochs=1)
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3)])
def test_images_of_a_file_keep_their_shape_and_kind(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    images, labels = labelled(shape)
    np.savez(tmp_path / "images.npz", X=images.astype(dtype), y=labels)
    data = load_dataset(str(tmp_path / "images.npz"))
    assert not data.standardize
    np.testing.assert_array_equal(data.x_train, images.astype(dtype), strict=True)
    network = COLOUR if len(shape) == 3 else GREY
    trained(network, data.x_train, data.y_train, input_scale=data.input_scale, epochs=1)


def test_the_embedded_pictures_are_images_for_networks_of_images() -> None:
    data = load_dataset("fashion-mini")
    network = Network(
        (28, 28), [Conv2D(3, 5, stride=3, activation="relu"), GlobalAveragePool2D(), Dense(10, "softmax")]
    )
    assert data.x_train.shape[1:] == network.input_shape
    model = trained(network, data.x_train, data.y_train, epochs=1, input_scale=data.input_scale)
    assert model.predict(data.x_test).shape == (200,)
