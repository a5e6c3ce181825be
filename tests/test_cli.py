"""The command line: what it prints, what it writes, and what it exits with."""

from __future__ import annotations

import csv
import inspect
import io
import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nnfast import (
    BatchNorm,
    Conv2D,
    Dense,
    GlobalAveragePool2D,
    Model,
    Network,
    get_optimizer,
    get_schedule,
    lenet5,
    multilayer_perceptron,
)  # fmt: skip
from nnfast.cli import main
from nnfast.cli.options import DATA_DEFAULTS, FLAG, ROWS, format_choice, merge, parse_choice, read_config
from nnfast.cli.run_directory import RunDirectory
from nnfast.plan import make_plan
from nnfast.training import EarlyStopping, train

FAST = ("--backend", "numpy", "--epochs", "2", "--hidden", "8")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nnfast(capsys):
    """Runs a command line; gives its exit code, and what it wrote to stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def flowers(tmp_path):
    """Two classes, a number column and a category column."""
    rng = np.random.default_rng(0)
    lines = ["length,colour,kind"]
    for row in range(120):
        kind = ("iris", "rose")[row % 2]
        lines.append(f"{rng.normal((2, 6)[row % 2], 0.5):.3f},{('blue', 'red', 'white')[row % 3]},{kind}")
    path = tmp_path / "flowers.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def houses(tmp_path):
    """A price in the ten thousands, of an area and a town."""
    rng = np.random.default_rng(1)
    lines = ["area,town,price"]
    for row in range(150):
        area = rng.uniform(40, 200)
        lines.append(f"{area:.2f},{('Bonn', 'Kiel')[row % 2]},{500 * area + 20000 * (row % 2):.2f}")
    path = tmp_path / "houses.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def read_csv(text):
    return list(csv.reader(io.StringIO(text)))


def last_json(out):
    return json.loads(out.splitlines()[-1])


def assert_refused(result, *phrases, code=2, command="train"):
    """One line on stderr that says why, nothing on stdout."""
    got, out, err = result
    assert got == code, err
    assert out == ""
    assert err.startswith(f"nnfast {command}: error: ")
    assert err.count("\n") == 1
    for phrase in phrases:
        assert phrase in err


# --- training


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_digits_reaches_97_percent_with_its_defaults(nnfast, backend):
    code, out, _ = nnfast("train", "digits", "--backend", backend, "--json")
    assert code == 0
    assert last_json(out)["test_accuracy"] >= 0.97


def test_a_pipe_gets_the_final_line_only(nnfast):
    code, out, err = nnfast("train", "digits", *FAST)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert out.startswith("test accuracy ")
    assert "samples/s on numpy" in out


def test_json_is_the_last_line_of_stdout(nnfast):
    code, out, err = nnfast("train", "digits", *FAST, "--json", "--validation", "0.1", "--seed", 5)
    summary = last_json(out)
    assert (code, err) == (0, "")
    assert summary["backend"] == "numpy"
    assert (summary["epochs"], summary["stopped"], summary["seed"], summary["dtype"]) == (2, "epochs", 5, "float32")
    assert (summary["training_rows"], summary["test_rows"]) == (1294, 359)
    assert summary["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert summary["samples_per_second"] == pytest.approx(1294 * 2 / summary["seconds"])
    assert 0 < summary["test_accuracy"] < 1
    assert summary["train_loss"] > 0
    assert 0 < summary["validation_accuracy"] < 1
    assert summary["out"] is None


def test_without_out_nothing_is_written(nnfast, tmp_path):
    assert nnfast("train", "digits", *FAST)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_out_receives_config_metrics_model_and_plot(nnfast, tmp_path):
    code, out, err = nnfast("train", "digits", *FAST, "--out", "runs/a", "--json", "--validation", 0.1)
    run = tmp_path / "runs" / "a"
    assert (code, err) == (0, "")
    written = {"config.toml", "metrics.jsonl", "model.safetensors", "loss.png", "mistakes.png"}
    assert {file.name for file in run.iterdir()} == written
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    summary = last_json(out)
    assert summary["out"] == "runs/a"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    names = {"epoch", "loss", "learning_rate", "seconds", "validation_loss", "validation_accuracy"}
    assert set(lines[-1]) == names
    assert lines[-1]["loss"] == summary["train_loss"]
    assert Model.load(run / "model.safetensors").history.loss[-1] == summary["train_loss"]


def test_metrics_are_on_disk_when_their_epoch_ends(nnfast, tmp_path, monkeypatch):
    seen = []
    record = RunDirectory.record

    def spy(self, epoch):
        record(self, epoch)
        seen.append((tmp_path / "a" / "metrics.jsonl").read_text().count("\n"))
        assert (tmp_path / "a" / "config.toml").exists()
        assert not (tmp_path / "a" / "model.safetensors").exists(), "a previous run's model beside this one's config"

    monkeypatch.setattr(RunDirectory, "record", spy)
    for _ in range(2):
        seen.clear()
        assert nnfast("train", "xor", "--backend", "numpy", "--epochs", 3, "--out", "a")[0] == 0
        assert seen == [1, 2, 3]


@pytest.mark.parametrize("extra", [(), ("--dropout", "0.3", "--validation", "0.2", "--early-stopping")])
def test_the_config_repeats_the_run_bitwise(nnfast, flowers, extra):
    options = ("--target", "kind", "--optimizer", "sgd:momentum=0.9", "--schedule", "cosine:warmup=1", *extra)
    assert nnfast("train", flowers, *FAST, "--seed", "random", *options, "--out", "a")[0] == 0
    assert nnfast("train", "--config", "a/config.toml", "--out", "b")[0] == 0
    first, second = (Model.load(f"{run}/model.safetensors") for run in "ab")
    assert first.network == second.network
    assert first.parameters.tobytes() == second.parameters.tobytes()
    assert first.history.loss == second.history.loss
    configs = [tomllib.loads(Path(run, "config.toml").read_text()) for run in "ab"]
    assert configs[0] == configs[1]
    assert isinstance(configs[0]["seed"], int)


def test_the_config_leaves_nothing_to_a_default(nnfast):
    nnfast("train", "digits", "--backend", "auto", "--epochs", 1, "--optimizer", "adam", "--out", "a")
    config = read_config("a/config.toml")
    assert config["backend"] in ("cuda", "numba")
    assert config["optimizer"] == "adam:beta_1=0.9,beta_2=0.999,epsilon=1e-08"
    assert config["learning_rate"] == 0.001
    assert (config["loss"], config["output_activation"]) == ("cross_entropy", "softmax")
    undecided = {"target", "clip_norm", "network", "layers"}  # None, which TOML cannot say
    left_out = {name for name, option in ROWS.items() if not option.is_about_run}
    assert set(config) == {"data", *ROWS} - undecided - left_out


def test_threads_are_of_a_machine_and_no_part_of_a_run(nnfast, tmp_path):
    """They come from the command line or a file, reach the backend, and are not in the run's own file."""
    (tmp_path / "run.toml").write_text('data = "digits"\nbackend = "numba"\nepochs = 1\nthreads = 3\n')
    used = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnfast.backends.numba.FLOPS_PER_THREAD", 1)
        patch.setattr("nnfast.backends.numba.run_in_threads", lambda work, count: used.append(count) or work(0, 1))
        for threads, arguments in (
            (3, ("train", "--config", "run.toml", "--out", "a")),
            (2, ("train", "--config", "run.toml", "--threads", 2, "--out", "b")),
            (5, ("predict", "a", "digits", "--threads", 5, "--backend", "numba")),
            (4, ("evaluate", "a", "digits", "--threads", 4, "--backend", "numba")),
        ):
            used.clear()
            assert nnfast(*arguments)[0] == 0
            assert max(used) == threads
    assert "threads" not in read_config("a/config.toml")
    for command, arguments in {"train": ("digits",), "predict": ("a", "digits"), "evaluate": ("a", "digits")}.items():
        for wrong, phrase in ((0, "threads must lie in 1..1024, got 0"), ("many", "--threads: must be an integer")):
            assert_refused(nnfast(command, *arguments, "--threads", wrong), phrase, command=command)
    (tmp_path / "run.toml").write_text('data = "digits"\nthreads = "all"\n')
    assert_refused(nnfast("train", "--config", "run.toml"), "run.toml: threads must be an integer, got 'all'")


def test_options_override_the_config(nnfast, tmp_path):
    (tmp_path / "run.toml").write_text('data = "digits"\nepochs = 7\nhidden = [4]\nbackend = "numpy"\nbias = false\n')
    _, out, _ = nnfast("train", "--config", "run.toml", "--epochs", 1, "--bias", "--json")
    summary = last_json(out)
    assert (summary["epochs"], summary["backend"]) == (1, "numpy")
    assert summary["parameters"] == 65 * 4 + 5 * 10


def test_the_order_of_sources_is_table_data_file_command_line():
    assert merge({"data": "flowers.csv"}, {})["hidden"] == [100]
    assert merge({"data": "digits"}, {})["hidden"] == DATA_DEFAULTS["digits"]["hidden"]
    assert merge({"data": "digits"}, {"hidden": [5]})["hidden"] == [5]
    assert merge({"data": "digits", "hidden": []}, {"hidden": [5]})["hidden"] == []


def test_a_learning_rate_is_not_handed_on_to_another_optimizer():
    assert merge({"data": "xor"}, {})["learning_rate"] == 1.0
    assert merge({"data": "xor", "optimizer": "adam"}, {})["learning_rate"] is None
    assert merge({"data": "xor"}, {"optimizer": "adam", "learning_rate": 0.1})["learning_rate"] == 0.1
    assert merge({"data": "xor", "learning_rate": 0.2}, {"optimizer": "adam"})["learning_rate"] == 0.2


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("learning-rate = 1", ("unknown key 'learning-rate'", "did you mean 'learning_rate'?")),
        ("nonsense = 1", ("unknown key 'nonsense'",)),
        ('epochs = "five"', ("epochs must be an integer, got 'five'",)),
        ("epochs = true", ("epochs must be an integer",)),
        ("bias = 1", ("bias must be true or false, got 1",)),
        ("hidden = 100", ("hidden must be sizes",)),
        ("validation = 1.5", ("validation must be a share",)),
        ("data = 3", ("data must be text",)),
        ("epochs = ", ("run.toml is not TOML",)),
    ],
)
def test_a_faulty_config_is_refused_by_the_key_s_name(nnfast, tmp_path, text, phrases):
    (tmp_path / "run.toml").write_text(text)
    assert_refused(nnfast("train", "digits", "--config", "run.toml"), "run.toml", *phrases)


def test_every_default_is_a_value_that_its_option_takes():
    for option in ROWS.values():
        if option.default is not None:
            assert option.check(option.default, option.name) == option.default
    for defaults in DATA_DEFAULTS.values():
        for name, value in defaults.items():
            assert ROWS[name].check(value, name) == value


def test_every_option_of_train_has_its_place_on_the_command_line():
    of_train = set(inspect.signature(train).parameters) - {
        "network", "X", "y", "sample_weight", "callbacks", "initial_parameters", "initial_state", "orders",
        "inputs", "targets", "input_scale",
    }  # fmt: skip
    assert of_train <= set(ROWS)


@pytest.mark.parametrize("text", ["sgd", "sgd:momentum=0.9,nesterov=true", "step:every=3,factor=0.5"])
def test_a_choice_with_options_reads_back_as_written(text):
    assert format_choice(*parse_choice(text, "optimizer")) == text


@pytest.mark.parametrize("text", ["adam:beta_1", "adam:", "adam:beta_1=x", "adam:beta_1=1,beta_1=2", "adam:=1"])
def test_a_malformed_choice_is_refused(nnfast, text):
    assert_refused(nnfast("train", "digits", "--optimizer", text), "NAME:OPTION=VALUE", repr(text))


def test_every_option_reaches_the_run(nnfast, monkeypatch):
    seen = {}

    def spy(network, X, y, **parameters):
        seen.update(parameters, network=network)
        return train(network, X, y, **parameters)

    monkeypatch.setattr("nnfast.cli.train.train", spy)
    code, _, err = nnfast(
        "train", "digits", "--backend", "numpy", "--hidden", "6,5", "--activation", "tanh", "--dropout", 0.25,
        "--no-bias", "--initializer", "he_normal", "--output-activation", "sigmoid", "--loss", "squared_error",
        "--optimizer", "sgd:momentum=0.5,nesterov=true", "--schedule", "step:every=3", "--learning-rate", 0.02,
        "--alpha", 0.001, "--l1", 0.002, "--clip-norm", 3, "--batch-size", 50, "--epochs", 2, "--no-shuffle",
        "--early-stopping", "--patience", 4, "--tolerance", 0.01, "--dtype", "float64", "--seed", 9,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert seen["network"] == multilayer_perceptron(
        (8, 8), [6, 5], 10, activation="tanh", output_activation="sigmoid", dropout=0.25, bias=False,
        initializer="he_normal",
    )  # fmt: skip
    assert seen["optimizer"] == get_optimizer("sgd", momentum=0.5, nesterov=True)
    assert seen["schedule"] == get_schedule("step", every=3)
    assert seen["early_stopping"] == EarlyStopping(4, 0.01)
    assert (seen["loss"], seen["learning_rate"], seen["alpha"], seen["l1"]) == ("squared_error", 0.02, 0.001, 0.002)
    assert (seen["clip_norm"], seen["batch_size"], seen["epochs"], seen["shuffle"]) == (3.0, 50, 2, False)
    assert (seen["dtype"], seen["seed"], seen["backend"].name) == ("float64", 9, "numpy")
    assert seen["input_scale"] == 1 / 16


def test_a_random_seed_is_another_one_every_time(nnfast):
    seeds = {last_json(nnfast("train", "digits", *FAST, "--seed", "random", "--json")[1])["seed"] for _ in range(3)}
    assert len(seeds) == 3


# --- the tutorial's network


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_xor_is_the_tutorial_s_network_and_shows_predictions_beside_true_values(nnfast, backend):
    code, out, err = nnfast("train", "xor", "--backend", backend)
    assert (code, err) == (0, "")
    header, *rows = [line.split() for line in out.splitlines()[:5]]
    assert header == ["true", "predicted"]
    assert [row[0] for row in rows] == ["0", "1", "1", "0"]
    assert all(abs(float(true) - float(predicted)) < 0.1 for true, predicted in rows)
    assert "1,500 epochs" in out.splitlines()[-1]


def test_xor_s_resolved_options_are_the_tutorial_s(nnfast):
    nnfast("train", "xor", "--backend", "numpy", "--epochs", 1, "--out", "a")
    config = read_config("a/config.toml")
    network = Model.load("a/model.safetensors").network
    assert network.parameter_count == 3 * 4 + 4 * 1
    assert [layer.function.name for layer in network.layers] == ["sigmoid", "sigmoid"]
    assert (config["loss"], config["optimizer"]) == ("sum_squared_error", "sgd:momentum=0.0,nesterov=false")
    assert (config["learning_rate"], config["batch_size"], config["shuffle"]) == (1.0, "full", False)
    assert (config["dtype"], config["initializer"], config["test"]) == ("float64", "uniform_0_1", 0.0)


def test_without_a_test_part_the_training_score_is_named_so(nnfast):
    _, out, _ = nnfast("train", "xor", "--backend", "numpy", "--json")
    summary = last_json(out)
    assert summary["test_r2"] is None
    assert summary["training_r2"] > 0.98
    assert summary["test_rows"] == 0


# --- the user's files


def test_csv_with_categories_is_classified_end_to_end(nnfast, flowers):
    code, out, err = nnfast(
        "train", flowers, "--target", "kind", "--backend", "numpy", "--epochs", 30, "--out", "a", "--json"
    )
    assert code == 0
    assert err == "nnfast: the task is classification: the target 'kind' holds text\n"
    summary = last_json(out)
    assert summary["test_accuracy"] > 0.95

    code, out, err = nnfast("predict", "a", flowers, "--backend", "numpy")
    header, *rows = read_csv(out)
    truth = [row[2] for row in read_csv(flowers.read_text())[1:]]
    assert (code, err, header) == (0, "", ["prediction"])
    assert np.mean([row[0] == true for row, true in zip(rows, truth, strict=True)]) > 0.95

    # The rows that train held out are drawn again
    code, out, err = nnfast("evaluate", "a", flowers, "--json", "--backend", "numpy")
    assert (code, err) == (0, "")
    evaluated = last_json(out)
    assert (evaluated["part"], evaluated["rows"]) == ("test", 24)
    assert evaluated["accuracy"] == summary["test_accuracy"]
    assert evaluated["loss"] == pytest.approx(summary["test_loss"])


def test_csv_is_regressed_end_to_end_in_the_user_s_units(nnfast, houses):
    code, out, err = nnfast(
        "train", houses, "--target", "price", "--backend", "numpy", "--epochs", 60, "--out", "a", "--json"
    )
    assert code == 0
    assert "the task is regression" in err
    summary = last_json(out)
    assert summary["test_r2"] > 0.95
    _, out, _ = nnfast("predict", "a", houses, "--backend", "numpy")
    predicted = np.array([float(row[0]) for row in read_csv(out)[1:]])
    true = np.array([float(row[2]) for row in read_csv(houses.read_text())[1:]])
    assert np.abs(predicted - true).mean() < 0.1 * true.mean()
    _, out, _ = nnfast("evaluate", "a", houses, "--backend", "numpy")
    assert out.startswith(f"test R2 {summary['test_r2']:.4f} (30 rows)")


def test_predict_needs_no_target_column(nnfast, flowers, tmp_path):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "a")
    with_target = nnfast("predict", "a", flowers, "--backend", "numpy")
    (tmp_path / "new.csv").write_text(
        "".join(f"{line.rpartition(',')[0]}\n" for line in flowers.read_text().splitlines())
    )
    assert nnfast("predict", "a", "new.csv", "--backend", "numpy") == with_target
    assert nnfast("predict", "a/model.safetensors", "new.csv", "--backend", "numpy") == with_target


def test_probabilities_are_named_by_class_and_sum_to_one(nnfast, flowers):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "a")
    _, out, _ = nnfast("predict", "a", flowers, "--proba", "--backend", "numpy")
    header, *rows = read_csv(out)
    assert header == ["iris", "rose"]
    probabilities = np.array(rows, dtype=float)
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-6
    labels = [row[0] for row in read_csv(nnfast("predict", "a", flowers, "--backend", "numpy")[1])[1:]]
    assert labels == [header[index] for index in probabilities.argmax(axis=1)]


def test_one_sigmoid_output_tells_two_classes_apart(nnfast, flowers):
    nnfast("train", flowers, "--target", "kind", *FAST, "--output-activation", "sigmoid", "--out", "a")
    model = Model.load("a/model.safetensors")
    assert (model.network.output_size, model.loss.name) == (1, "binary_cross_entropy")
    _, out, _ = nnfast("predict", "a", flowers, "--proba", "--backend", "numpy")
    assert np.abs(np.array(read_csv(out)[1:], dtype=float).sum(axis=1) - 1).max() < 1e-6


def test_several_targets_are_predicted_in_columns_of_their_own(nnfast):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    np.savez("data.npz", X=x, y=np.stack([x[:, 0], x[:, 1] * 100 + 7], axis=1))
    assert nnfast("train", "data.npz", *FAST, "--out", "a")[0] == 0
    _, out, _ = nnfast("predict", "a", "data.npz", "--backend", "numpy", "--out", "p.csv")
    assert out == ""
    header, *rows = read_csv(Path("p.csv").read_text())
    assert header == ["prediction_0", "prediction_1"]
    assert len(rows) == 60


def test_images_with_a_test_part_of_their_own(nnfast):
    rng = np.random.default_rng(0)
    y = np.tile([3, 8], 40)
    x = (rng.integers(0, 100, (80, 5, 4)) + 100 * (y == 8)[:, None, None]).astype(np.uint8)
    np.savez("images.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    code, out, err = nnfast(
        "train", "images.npz", "--backend", "numpy", "--task", "classification", "--epochs", 100, "--out", "a",
        "--learning-rate", 0.01, "--test", 0.5, "--json",
    )  # fmt: skip
    assert code == 0
    assert err == "nnfast: images.npz brings its own test part; --test is not used\n"
    summary = last_json(out)
    assert (summary["training_rows"], summary["test_rows"], summary["test_accuracy"]) == (60, 20, 1.0)
    assert Model.load("a/model.safetensors").network.input_shape == (5, 4)
    assert last_json(nnfast("evaluate", "a", "images.npz", "--json")[1])["part"] == "test"
    labels = {row[0] for row in read_csv(nnfast("predict", "a", "images.npz")[1])[1:]}
    assert labels == {"3", "8"}


@pytest.fixture
def pictures(tmp_path):
    """Images of 16 x 17 bytes, bright on the left or on the right, with a test part."""
    rng = np.random.default_rng(0)
    y = np.tile([3, 8], 40)
    x = rng.integers(0, 100, (80, 16, 17))
    x[y == 3, :, :8] += 100
    x[y == 8, :, 9:] += 100
    x = x.astype(np.uint8)
    np.savez(tmp_path / "pictures.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return "pictures.npz"


OF_PICTURES = ("--backend", "numpy", "--task", "classification")


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


REFUSED_NETWORKS = {
    "twice": ((), 'network = "lenet5"\nhidden = [3]', "network and hidden both describe the layers"),
    "hidden layers' options": (("--dropout", 0.1), 'network = "lenet5"', "dropout is of hidden layers"),
    "an unknown name": (("--network", "lenet6"), "", "unknown network 'lenet6'; known: lenet5"),
    "an unknown kind": ((), '[[layers]]\nkind = "Conv3D"', "layer 0: unknown kind 'Conv3D'; known: Dense, "),
    "a wrong value": ((), '[[layers]]\nkind = "Conv2D"\nfilters = 2\nkernel_size = "big"', "layer 0 (Conv2D): "),
    "an unknown field": ((), '[[layers]]\nkind = "Conv2D"\nfilter = 2', "layer 0 (Conv2D): "),
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
    assert out.rstrip("\n") == lenet5().summary(64)
    assert out.splitlines()[-1].endswith(" MB for batches of 64")
    facts = json.loads(nnfast("info", "lenet5", "--batch-size", 8, "--json")[1])
    assert facts["parameters"] == lenet5().parameter_count == 44426
    assert facts["workspace_bytes"] == make_plan(lenet5(), 8).workspace_bytes("float32")
    assert Network.from_json(json.dumps(facts["network"])) == lenet5()
    nnfast("train", "digits", *FAST, "--out", "a")
    assert nnfast("info", "a")[1].rstrip("\n") == Model.load("a/model.safetensors").network.summary(64)
    assert_refused(nnfast("info", "nosuch"), "there is no run 'nosuch'", command="info")
    assert_refused(nnfast("info", "lenet5", "--batch-size", 0), "--batch-size", command="info")


def test_no_standardize_leaves_numbers_as_they_are(nnfast, houses):
    nnfast("train", houses, "--target", "price", *FAST, "--no-standardize", "--learning-rate", 1e-9, "--out", "a")
    model = Model.load("a/model.safetensors")
    assert (model.inputs.mean.tolist(), model.inputs.scale.tolist()) == ([0.0], [1.0])
    assert (model.targets.mean.tolist(), model.targets.scale.tolist()) == ([0.0], [1.0])


def test_standardisation_sees_the_rows_trained_on_only(nnfast, houses):
    nnfast("train", houses, "--target", "price", *FAST, "--validation", 0.3, "--out", "a")
    everything = np.array([float(row[0]) for row in read_csv(houses.read_text())[1:]])
    assert Model.load("a/model.safetensors").inputs.mean[0] != pytest.approx(everything.mean(), rel=1e-6)


def test_a_category_whose_rows_are_all_held_out_does_not_end_the_run(nnfast, tmp_path):
    rows = "".join(f"{row},{'rare' if row == 7 else 'common'},{row % 2}\n" for row in range(40))
    (tmp_path / "data.csv").write_text("x,c,y\n" + rows)
    for seed in range(8):
        result = nnfast("train", "data.csv", "--target", "y", *FAST, "--seed", seed, "--test", 0.5, "--quiet")
        assert result[0] == 0, result


def test_outputs_that_cannot_reach_every_number_get_targets_as_they_are(nnfast, houses):
    nnfast("train", houses, "--target", "price", *FAST, "--output-activation", "exp", "--clip-norm", 1, "--out", "a")
    model = Model.load("a/model.safetensors")
    assert (model.targets.scale.tolist(), model.loss.name) == ([1.0], "poisson")


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (("nosuch.csv", "--target", "x"), ("there is no file 'nosuch.csv'",)),
        (("data.json",), ("unknown data 'data.json'", "'digits'")),
        ((), ("give DATA: digits",)),
        (("digits", "--target", "x"), ("a target column ('x') is chosen for CSV files only",)),
        (("digits", "--activation", "rleu"), ("unknown activation 'rleu'; known: identity",)),
        (("digits", "--optimizer", "adam:beta1=0.9"), ("no option 'beta1'; it has: beta_1",)),
        (("digits", "--schedule", "cosine:warm=1"), ("no option 'warm'",)),
        (("digits", "--loss", "nope"), ("unknown loss 'nope'",)),
        (("digits", "--backend", "cudo"), ("unknown backend 'cudo'",)),
        (("digits", "--hidden", "8,x"), ("--hidden", "got '8,x'")),
        (("digits", "--hidden", "0"), ("positive integer",)),
        (("digits", "--dropout", "1"), ("rate must lie in [0, 1)",)),
        (("digits", "--test", "1"), ("--test", "share")),
        (("digits", "--task", "clustering"), ("task",)),
        (("digits", "--dtype", "float16"), ("dtype must be one of float32, float64",)),
        (("digits", "--batch-size", "half"), ("--batch-size", "'full'")),
        (("digits", "--seed", "-1"), ("seed must lie in [0, 2**64)",)),
        (("digits", "--epoch", "5"), ("unrecognized arguments: --epoch 5", "nnfast train --help")),
        (("digits", "--config", "nosuch.toml"), ("nosuch.toml: No such file",)),
        (("digits", "--learning-rate", "nan"), ("learning_rate must be a finite number",)),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(nnfast, arguments, phrases):
    assert_refused(nnfast("train", *arguments), *phrases)


@pytest.mark.parametrize("arguments", [("--epochs", "0"), ("--alpha", "-1"), ("--clip-norm", "0")])
def test_a_run_that_is_refused_leaves_no_directory(nnfast, tmp_path, arguments):
    assert_refused(nnfast("train", "digits", "--out", "a", *arguments))
    assert list(tmp_path.iterdir()) == []


def test_missing_values_are_refused_with_line_and_column(nnfast, tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n,3\n")
    assert_refused(nnfast("train", "data.csv", "--target", "b"), "column 'a'", "missing value in line 3")


def test_a_csv_without_target_is_refused_with_its_columns(nnfast, flowers):
    assert_refused(nnfast("train", flowers), "needs a target", "'length', 'colour', 'kind'")


def test_an_unknown_category_is_refused_at_prediction(nnfast, flowers, tmp_path):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "a")
    (tmp_path / "new.csv").write_text("length,colour\n3,green\n")
    assert_refused(nnfast("predict", "a", "new.csv"), "unknown category 'green'", command="predict")


def test_a_label_that_no_training_row_has_is_refused_before_training(nnfast, tmp_path):
    np.savez("data.npz", x_train=np.eye(4), y_train=[0, 1, 0, 1], x_test=np.eye(4)[:1], y_test=[5])
    result = nnfast("train", "data.npz", "--task", "classification", *FAST, "--out", "a")
    assert_refused(result, "the label 5")
    assert not (tmp_path / "a").exists()


def test_runs_and_data_that_do_not_fit_are_refused(nnfast, flowers, tmp_path):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "f")
    nnfast("train", "digits", *FAST, "--out", "d")
    (tmp_path / "empty").mkdir()
    for arguments, phrase in (
        (("nowhere", "digits"), "there is no run 'nowhere'"),
        (("empty", "digits"), "holds no model.safetensors"),
        ((flowers, flowers), "is not a model file"),
        (("f", "digits"), "give one with the columns 'length', 'colour'"),
        (("d", flowers), "give an .npz file with X of (n_rows, 8, 8)"),
        (("d", "fashion-mini"), "(n_rows, 8, 8)"),
        (("d", "digits", "--out", "no/such/file.csv"), "there is no directory 'no/such'"),
    ):
        assert_refused(nnfast("predict", *arguments), phrase, command="predict")
    nnfast("train", "xor", "--backend", "numpy", "--epochs", 1, "--out", "x")
    assert_refused(nnfast("predict", "x", "xor", "--proba"), "--proba is for classes", command="predict")


def test_out_refuses_a_directory_of_other_things_and_reuses_that_of_a_run(nnfast, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text('title = "not nnfast\'s"\n')
    assert_refused(nnfast("train", "xor", "--out", "mine"), "holds files, but no run of nnfast's")
    (tmp_path / "file").touch()
    assert_refused(nnfast("train", "xor", "--out", "file"), "is not a directory")

    assert nnfast("train", "digits", *FAST, "--out", "a")[0] == 0
    (tmp_path / "a" / "notes.txt").write_text("keep me")
    assert nnfast("train", "xor", "--backend", "numpy", "--epochs", 5, "--out", "a")[0] == 0
    assert (tmp_path / "a" / "notes.txt").read_text() == "keep me"
    assert (tmp_path / "a" / "metrics.jsonl").read_text().count("\n") == 5
    assert read_config("a/config.toml")["data"] == "xor"


def test_a_directory_that_cannot_be_written_to_is_refused_before_training(nnfast, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert_refused(nnfast("train", "digits", "--out", "a"), "--out a cannot be written to: No space left")


def test_an_unavailable_backend_is_exit_code_3_and_never_another_backend(nnfast, monkeypatch):
    monkeypatch.setattr("nnfast.backends.cuda.unavailable_reason", lambda: "there is no GPU; install one")
    result = nnfast("train", "digits", "--backend", "cuda", "--out", "a")
    assert_refused(result, "backend 'cuda' is not available: there is no GPU", "Available: numba, numpy", code=3)


# --- runs that end early


def test_divergence_is_exit_code_4_with_the_model_kept(nnfast, tmp_path):
    code, out, err = nnfast(
        "train", "digits", "--backend", "numpy", "--optimizer", "sgd", "--learning-rate", 1e30, "--out", "a", "--json"
    )
    assert code == 4
    assert err.startswith("nnfast train: error: the loss became ")
    assert err.count("\n") == 1
    assert last_json(out)["stopped"] == "diverged"
    model = Model.load(tmp_path / "a" / "model.safetensors")
    assert model.history.stopped == "diverged"
    assert np.isfinite(model.parameters).all()


def test_ctrl_c_is_exit_code_130_with_everything_saved(nnfast, tmp_path, monkeypatch):
    record = RunDirectory.record

    def interrupt(self, epoch):
        record(self, epoch)
        if epoch.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "record", interrupt)
    code, out, err = nnfast("train", "digits", "--backend", "numpy", "--hidden", 8, "--out", "a")
    assert (code, err) == (130, "")
    assert "interrupted after 3 epochs" in out
    assert {file.name for file in (tmp_path / "a").iterdir()} >= {"config.toml", "model.safetensors", "loss.png"}
    assert Model.load(tmp_path / "a" / "model.safetensors").history.epochs == 3


def test_ctrl_c_outside_of_training_is_one_line(nnfast, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnfast.cli.train.prepare", interrupted)
    assert nnfast("train", "digits") == (130, "", "nnfast train: interrupted\n")


def test_early_stopping_keeps_the_best_epoch_and_says_so(nnfast):
    options = ("--epochs", 300, "--early-stopping", "--patience", 2, "--validation", 0.2)
    _, out, _ = nnfast("train", "digits", "--backend", "numpy", "--hidden", 16, *options, "--json", "--out", "a")
    summary = last_json(out)
    assert summary["stopped"] == "early stopping"
    lines = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == summary["epochs"] < 300
    assert summary["train_loss"] == lines[summary["best_epoch"] - 1]["loss"]
    _, out, _ = nnfast("train", "--config", "a/config.toml")
    assert f"stopped early after {summary['epochs']} epochs" in out
    assert f"(the weights of epoch {summary['best_epoch']} are kept)" in out


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("nnfast.cli.train.prepare", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "digits"])


def test_without_matplotlib_one_line_says_so_and_the_run_succeeds(nnfast, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = nnfast("train", "digits", *FAST, "--out", "a")
    assert code == 0
    assert err == "nnfast: no loss.png: matplotlib is not installed; pip install nnfast[plot]\n"
    assert "saved in a" in out
    assert not (tmp_path / "a" / "loss.png").exists()
    assert (tmp_path / "a" / "model.safetensors").exists()


# --- on a terminal


def test_a_terminal_sees_network_backend_progress_and_confusion_matrix(nnfast, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = nnfast("train", "digits", "--epochs", 2, "--hidden", 8, "--validation", 0.1)
    assert code == 0
    assert "auto chose" in err
    assert "output shape" in err
    assert "epoch" in err
    assert "validation accuracy" in err
    assert out.startswith("true \\ predicted")
    assert out.splitlines()[-1].startswith("test accuracy")

    code, out, err = nnfast("train", "digits", *FAST, "--quiet")
    assert err == ""
    assert out.count("\n") == 1


# --- the other commands


def test_evaluate_says_when_the_rows_were_trained_on(nnfast):
    nnfast("train", "xor", "--backend", "numpy", "--out", "a")
    code, out, err = nnfast("evaluate", "a", "xor", "--backend", "numpy")
    assert code == 0
    assert err == "nnfast: these rows were trained on: no part was held out to test with\n"
    assert out.splitlines()[-1].startswith("R2 0.99")


def test_evaluate_takes_all_rows_of_other_data(nnfast, flowers, tmp_path):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "a")
    (tmp_path / "other.csv").write_text("length,colour,kind\n2,red,iris\n6,blue,rose\n")
    _, out, err = nnfast("evaluate", "a", "other.csv", "--json", "--backend", "numpy")
    assert err == ""
    assert {name: last_json(out)[name] for name in ("part", "rows")} == {"part": "all", "rows": 2}


def test_labels_that_look_like_numbers_stay_the_text_they_were(nnfast, tmp_path):
    rows = "".join(f"{row % 3},{('1', '2', 'A')[row % 3]}\n" for row in range(60))
    (tmp_path / "data.csv").write_text("x,y\n" + rows)
    nnfast("train", "data.csv", "--target", "y", *FAST, "--out", "a")
    (tmp_path / "new.csv").write_text("x,y\n0,1\n1,2\n")
    code, out, _ = nnfast("evaluate", "a", "new.csv", "--json", "--backend", "numpy")
    assert (code, last_json(out)["rows"]) == (0, 2)


def test_info_names_every_backend_and_why_not(nnfast, monkeypatch):
    monkeypatch.setattr("nnfast.backends.cuda.unavailable_reason", lambda: "there is no GPU")
    _, out, _ = nnfast("info", "--json")
    facts = json.loads(out)
    assert facts["backends"]["numpy"]["available"]
    assert facts["backends"]["cuda"] == {"available": False, "reason": "there is no GPU", "description": None}
    assert facts["cores"] >= 1
    monkeypatch.setenv("NNFAST_NUM_THREADS", "7")
    assert json.loads(nnfast("info", "--json")[1])["threads"] == 7
    assert facts["packages"]["numpy"] == np.__version__
    code, out, err = nnfast("info")
    assert (code, err) == (0, "")
    assert "no: there is no GPU" in out
    assert "threads   7 for numba" in out


def test_bench_hands_its_options_on(nnfast, monkeypatch):
    calls = []
    module = ModuleType("nnfast.bench")
    module.bench_command = lambda backends, workloads, repeats, as_json, threads: (
        calls.append((backends, workloads, repeats, as_json, threads)) or 0
    )
    monkeypatch.setitem(sys.modules, "nnfast.bench", module)
    options = ("--backend", "numba,numpy", "--workload", "xor", "--repeats", 2, "--threads", 3, "--json")
    assert nnfast("bench", *options)[0] == 0
    assert nnfast("bench")[0] == 0
    assert calls == [(["numba", "numpy"], ["xor"], 2, True, 3), (None, None, 3, False, None)]
    assert_refused(nnfast("bench", "--repeats", 0), "--repeats", command="bench")


def test_help_of_train_names_what_there_is(nnfast):
    code, out, _ = nnfast("train", "--help")
    assert code == 0
    for option in ROWS.values():
        assert ("[[layers]]" if option.name == "layers" else option.flag) in out
        assert option.kind != FLAG or not option.is_about_run or f"--no-{option.flag[2:]}" in out
    for name in ("relu", "cross_entropy", "glorot_uniform", "adamw(", "cosine("):
        assert name in out


def test_a_missing_command_is_one_line(nnfast):
    for arguments in ((), ("trian",)):
        code, out, err = nnfast(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def run_python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def test_help_and_version_import_nothing_heavy():
    code = "import sys; from nnfast.cli import main; main(['--help']); main(['--version']); print(*sys.modules)"
    result = run_python("-c", code)
    assert "nnfast 0." in result.stdout
    heavy = {"numpy", "numba", "scipy", "rich", "matplotlib", "sklearn", "safetensors"}
    assert heavy.isdisjoint(result.stdout.splitlines()[-1].split())


def test_train_in_a_pipe_imports_neither_rich_nor_matplotlib_nor_scikit_learn():
    code = (
        "import sys; from nnfast.cli import main; main('train digits --epochs 1 --backend numpy'.split());"
        "print(*sys.modules)"
    )
    result = run_python("-c", code)
    assert {"rich", "matplotlib", "sklearn", "numba"}.isdisjoint(result.stdout.splitlines()[-1].split())


def test_python_m_nnfast_is_the_command():
    result = run_python("-m", "nnfast", "train", "digits", "--backend", "nope")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("nnfast train: error: unknown backend 'nope'")


def test_a_reader_who_leaves_is_no_error():
    main(["train", "xor", "--backend", "numpy", "--epochs", "1", "--out", "a", "--quiet"])
    command = [sys.executable, "-m", "nnfast", "predict", "a", "xor", "--backend", "numpy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141
