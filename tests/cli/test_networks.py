"""Networks with a name, and networks described layer by layer in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnfast import BatchNorm, Conv2D, Dense, GlobalAveragePool2D, LayerNorm, Model, Network, lenet5
from nnfast.cli.options import read_config
from nnfast.networks.named import NETWORKS, TRAINING_SETTINGS
from nnfast.training.memory import workspace_bytes, workspace_words
from nnfast.training.train import train
from tests.cli.results import FAST, OF_PICTURES, assert_refused, last_json, read_csv


def test_a_network_with_a_name_is_trained_and_repeated(nnfast, pictures):
    code, out, err = nnfast(
        "train", pictures, *OF_PICTURES, "--network", "lenet5", "--epochs", 8, "--out", "a", "--json"
    )
    assert (code, err) == (0, "")
    assert last_json(out)["test_accuracy"] == 1.0
    model = Model.load("a/model.safetensors")
    assert model.network == lenet5((16, 17), 2)
    assert last_json(nnfast("train", "--config", "a/config.toml", "--out", "b", "--json")[1])["test_accuracy"] == 1.0
    np.testing.assert_array_equal(Model.load("b/model.safetensors").parameters, model.parameters)
    config = read_config("a/config.toml")
    assert config["network"] == "lenet5"
    assert not {"hidden", "dropout", "activation", "layers"} & set(config)
    nnfast("train", "--config", "a/config.toml", "--hidden", "5", "--epochs", 1, "--out", "c")
    assert [layer.kind for layer in Model.load("c/model.safetensors").network.layers] == ["Flatten", "Dense", "Dense"]
    labels = {row[0] for row in read_csv(nnfast("predict", "a", pictures, "--backend", "numpy")[1])[1:]}
    assert labels == {"3", "8"}
    for run, drawn in (("a", {"filters.png", "loss.png"}), ("c", {"loss.png"})):  # no mistakes; no filters
        assert {file.name for file in Path(run).glob("*.png")} - {"mistakes.png"} == drawn
    assert not Path("a/mistakes.png").exists()
    nnfast("train", pictures, *OF_PICTURES, "--network", "lenet5", "--epochs", 1, "--learning-rate", 1e-9, "--out", "a")
    assert Path("a/mistakes.png").read_bytes().startswith(b"\x89PNG")


def test_python_trains_a_named_network_with_the_settings_that_the_shell_takes(nnfast, pictures):
    assert nnfast("train", pictures, *OF_PICTURES, "--network", "lenet5", "--epochs", 2, "--out", "a")[0] == 0
    arrays, labels = np.load(pictures), np.array([3, 8])
    model = train(
        lenet5((16, 17), 2), arrays["x_train"], np.searchsorted(labels, arrays["y_train"]), epochs=2,
        input_scale=1 / 255, backend="numpy", **TRAINING_SETTINGS["lenet5"],
    )  # fmt: skip
    np.testing.assert_array_equal(model.parameters, Model.load("a/model.safetensors").parameters)


LAYERS_IN_A_FILE = """
epochs = 6
output_activation = "sigmoid"

[[layers]]
kind = "Conv2D"
filters = 4
kernel_size = [3, 5]
stride = 2
padding = "same"

[[layers]]
kind = "BatchNorm"
activation = "relu"

[[layers]]
kind = "GlobalAveragePool2D"
"""


def test_layers_of_a_file_come_before_the_outputs(nnfast, pictures):
    Path("run.toml").write_text(LAYERS_IN_A_FILE)
    assert nnfast("train", pictures, *OF_PICTURES, "--config", "run.toml", "--out", "a")[0] == 0
    network = Model.load("a/model.safetensors").network
    assert network.layers == (
        Conv2D(4, (3, 5), 2, "same"),
        BatchNorm(activation="relu"),
        GlobalAveragePool2D(),
        Dense(1, "sigmoid"),
    )
    assert nnfast("train", "--config", "a/config.toml", "--out", "b")[0] == 0
    np.testing.assert_array_equal(*(Model.load(f"{run}/model.safetensors").parameters for run in ("a", "b")))


def test_layers_of_a_file_normalise_the_rows_of_a_table(nnfast, flowers):
    Path("run.toml").write_text(
        '[[layers]]\nkind = "Dense"\nunits = 9\n[[layers]]\nkind = "LayerNorm"\nepsilon = 0.01\nactivation = "relu"\n'
    )
    options = ("--target", "kind", "--backend", "numpy", "--epochs", 15, "--learning-rate", 0.02)
    code, out, _ = nnfast("train", flowers, *options, "--config", "run.toml", "--out", "a", "--json")
    assert (code, last_json(out)["test_accuracy"]) == (0, 1.0)
    network = Model.load("a/model.safetensors").network
    assert network.layers[:2] == (Dense(9), LayerNorm(0.01, "relu"))
    assert nnfast("train", "--config", "a/config.toml", "--out", "b")[0] == 0
    np.testing.assert_array_equal(*(Model.load(f"{run}/model.safetensors").parameters for run in ("a", "b")))
    shown = nnfast("info", "a")[1]
    assert ["1", "LayerNorm", "relu", "(9,)", "18"] in [line.split() for line in shown.splitlines()]
    assert shown.rstrip("\n") == f"{network.summary()}\n{workspace_words(network, 64, 'float32')}"


REFUSED_NETWORKS = {
    "twice": ((), 'network = "lenet5"\nhidden = [3]', "network and hidden both describe the layers"),
    "hidden layers' options": (("--dropout", 0.1), 'network = "lenet5"', "dropout is of hidden layers"),
    "an unknown name": (("--network", "lenet6"), "", "unknown network 'lenet6'; known: lenet5"),
    "an unknown kind": ((), '[[layers]]\nkind = "Conv3D"', "layer 0: unknown kind 'Conv3D'; known: Dense, "),
    "a wrong value": (
        (),
        '[[layers]]\nkind = "Conv2D"\nfilters = 2\nkernel_size = "big"',
        "(Conv2D): kernel_size must be",
    ),
    "an unknown field": (
        (),
        '[[layers]]\nkind = "MaxPool2D"\npool_size = 2\nkind2 = 3',
        "layer 0 (MaxPool2D): unknown 'kind2'; known: pool_size, stride, padding\n",
    ),
    "a missing field": ((), '[[layers]]\nkind = "Conv2D"\nfilters = 2', "layer 0 (Conv2D): kernel_size is missing\n"),
    "a field of a layer without any": (
        (),
        '[[layers]]\nkind = "Flatten"\nunits = 2',
        "layer 0 (Flatten): unknown 'units'; known: nothing\n",
    ),
    "an activation's unknown field": (
        (),
        '[[layers]]\nkind = "Conv2D"\nfilters = 2\nkernel_size = 2\nactivation = {name = "x", valeu = "z"}',
        "layer 0 (Conv2D): activation: unknown 'valeu'; known: name, value, derivative, constants, range, output_only",
    ),
    "an activation's missing field": (
        (),
        '[[layers]]\nkind = "Conv2D"\nfilters = 2\nkernel_size = 2\nactivation = {name = "x", value = "z"}',
        "layer 0 (Conv2D): activation: derivative is missing",
    ),
    "an activation without a name": (
        (),
        '[[layers]]\nkind = "BatchNorm"\nactivation = {name = 3, value = "z", derivative = "1"}',
        "layer 0 (BatchNorm): an activation's name must be text, got 3",
    ),
    "constants that are none": (
        (),
        '[[layers]]\nkind = "BatchNorm"\nactivation = {name = "x", value = "z", derivative = "1", constants = 3}',
        "layer 0 (BatchNorm): constants must be numbers by name, such as {'slope': 0.1}, got 3",
    ),
    "no Flatten": (
        (),
        '[[layers]]\nkind = "MaxPool2D"\npool_size = 2',
        "layer 1 (Dense): needs a flat input, got shape (8, 8, 1); put Flatten() before it",
    ),
    "no table": ((), "layers = 3", "run.toml: layers must be [[layers]] tables, each with a kind, got 3"),
}


@pytest.mark.parametrize("what", REFUSED_NETWORKS)
def test_networks_that_cannot_be_are_refused(nnfast, pictures, what):
    options, text, phrase = REFUSED_NETWORKS[what]
    Path("run.toml").write_text(text)
    assert_refused(nnfast("train", pictures, *OF_PICTURES, "--config", "run.toml", *options), phrase)


def test_a_network_of_images_refuses_a_table(nnfast, flowers):
    assert_refused(
        nnfast("train", flowers, "--target", "kind", "--network", "lenet5"),
        "layer 0 (Conv2D): needs an image (height, width) or (height, width, channels), got shape (4,)",
    )


def test_info_tells_a_network_s_layers_and_its_memory(nnfast):
    code, out, err = nnfast("info", "lenet5")
    assert (code, err) == (0, "")
    assert out.startswith(f"{lenet5().summary()}\n{workspace_words(lenet5(), 64, 'float32')}\n")
    shown = "--learning-rate 0.002 --schedule cosine --batch-size 64"
    assert out.splitlines()[-1].startswith(f"nnfast train --network lenet5 begins with {shown};")
    facts = json.loads(nnfast("info", "lenet5", "--batch-size", 8, "--json")[1])
    assert facts["parameters"] == lenet5().parameter_count == 44426
    assert facts["workspace_bytes"] == workspace_bytes(lenet5(), 8, "float32", facts["backend"])
    assert Network.from_json(json.dumps(facts["network"])) == lenet5()
    assert facts["settings"] == TRAINING_SETTINGS["lenet5"]
    assert set(TRAINING_SETTINGS) <= set(NETWORKS)
    nnfast("train", "digits", *FAST, "--out", "a")
    network = Model.load("a/model.safetensors").network
    assert nnfast("info", "a")[1].rstrip("\n") == f"{network.summary()}\n{workspace_words(network, 64, 'float32')}"
    assert_refused(nnfast("info", "nosuch"), "there is no run 'nosuch'", command="info")
    assert_refused(nnfast("info", "lenet5", "--batch-size", 0), "--batch-size", command="info")
