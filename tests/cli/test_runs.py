"""nnfast train: what a run reaches, prints and writes, and that its own file repeats it."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nnfast import Model, multilayer_perceptron, train
from nnfast.cli.options import ROWS, read_config
from nnfast.cli.run_directory import RunDirectory
from nnfast.data import FASHION_CLASSES, load_dataset
from tests.cli.results import FAST, last_json


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


def test_a_run_tells_how_many_threads_it_used(nnfast):
    _, out, _ = nnfast("train", "digits", *FAST, "--backend", "numba", "--out", "a", "--json")
    assert last_json(out)["threads"] == 1
    assert [json.loads(line)["threads"] for line in Path("a/metrics.jsonl").read_text().splitlines()] == [1, 1]
    _, out, _ = nnfast("train", "digits", *FAST, "--backend", "numba", "--batch-size", 1000, "--threads", 2)
    assert " samples/s on numba, " in out
    _, out, _ = nnfast("train", "digits", *FAST, "--json")
    assert last_json(out)["threads"] is None


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
    assert config["backend"] in ("numba", "numpy")
    assert config["optimizer"] == "adam:beta_1=0.9,beta_2=0.999,epsilon=1e-08"
    assert config["learning_rate"] == 0.001
    assert (config["loss"], config["output_activation"]) == ("cross_entropy", "softmax")
    undecided = {"target", "clip_norm", "network", "layers"}  # None, which TOML cannot say
    left_out = {name for name, option in ROWS.items() if not option.is_about_run}
    assert set(config) == {"data", *ROWS} - undecided - left_out


def test_a_random_seed_is_another_one_every_time(nnfast):
    seeds = {last_json(nnfast("train", "digits", *FAST, "--seed", "random", "--json")[1])["seed"] for _ in range(3)}
    assert len(seeds) == 3


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
    assert nnfast("train", "digits", *FAST, "--out", "a", "--quiet")[2] == ""


def test_a_terminal_sees_network_backend_progress_and_confusion_matrix(nnfast, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = nnfast("train", "digits", "--epochs", 2, "--hidden", 8, "--validation", 0.1)
    assert code == 0
    assert "auto chose" in err
    assert "output shape" in err
    assert "settings  digits brings --task classification --learning-rate 0.003 --schedule cosine\n" in err
    assert "for batches of 32 (256 rows in evaluation)" in err
    assert "epoch" in err
    assert "validation loss" in err
    assert ", accuracy 0." in err
    assert out.startswith("true \\ predicted")
    assert out.splitlines()[-1].startswith("test accuracy")

    code, out, err = nnfast("train", "digits", *FAST, "--quiet")
    assert err == ""
    assert out.count("\n") == 1


def test_fashion_mini_is_predicted_by_name(nnfast, monkeypatch):
    options = ("--backend", "numpy", "--epochs", 2, "--hidden", "16")
    assert nnfast("train", "fashion-mini", *options, "--out", "a")[0] == 0
    _, out, _ = nnfast("predict", "a", "fashion-mini")
    assert set(out.splitlines()[1:]) <= set(FASHION_CLASSES)
    _, out, _ = nnfast("predict", "a", "fashion-mini", "--proba")
    assert set(out.splitlines()[0].split(",")) == set(FASHION_CLASSES)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = nnfast("evaluate", "a", "fashion-mini")
    assert all(name in out for name in FASHION_CLASSES)


def test_a_model_that_knows_fashion_mini_by_numbers_is_still_measured(nnfast, tmp_path):
    """As it was trained before the data set had names for its classes."""
    data = load_dataset("fashion-mini")
    numbers = [np.array([FASHION_CLASSES.index(name) for name in y]) for y in (data.y_train, data.y_test)]
    network = multilayer_perceptron((28, 28), [16], 10, output_activation="softmax")
    model = train(network, data.x_train, numbers[0], input_scale=data.input_scale, epochs=3, backend="numpy")
    model.save(tmp_path / "model.safetensors")
    code, out, err = nnfast("evaluate", "model.safetensors", "fashion-mini", "--backend", "numpy", "--json")
    assert (code, err) == (0, "")
    assert last_json(out)["accuracy"] == model.evaluate(data.x_test, numbers[1])["accuracy"]
    _, out, _ = nnfast("predict", "model.safetensors", "fashion-mini", "--backend", "numpy")
    assert out.splitlines()[1:] == [str(label) for label in model.predict(data.x_test)]


def test_a_repeated_run_s_files_differ_in_seconds_and_their_place_alone(nnfast):
    assert nnfast("train", "digits", *FAST, "--out", "a")[0] == 0
    assert nnfast("train", "--config", "a/config.toml", "--out", "b")[0] == 0
    one, other = (load_file(f"{name}/model.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert {name for name in one if one[name].tobytes() != other[name].tobytes()} <= {"history.seconds"}
    one, other = (Path(name, "config.toml").read_text().splitlines() for name in "ab")
    assert one[1:] == other[1:]
    assert one[0].replace(" a/", " b/") == other[0]
    lines = [[json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()] for name in "ab"]
    assert [line | {"seconds": 0} for line in lines[0]] == [line | {"seconds": 0} for line in lines[1]]
    for picture in ("loss.png", "mistakes.png"):
        assert Path("a", picture).read_bytes() == Path("b", picture).read_bytes()
