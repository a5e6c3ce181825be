"""nnfast train --ensemble: several networks in one run, which predict together."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from nnfast import Ensemble, Model
from nnfast.cli.run_directory import RunDirectory
from nnfast.data import load_dataset
from tests.cli.results import FAST, assert_refused, last_json, press_ctrl_c_at_step, read_csv

TRAIN = ("train", "digits", *FAST, "--seed", 5)


def lines_of(path):
    return [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]


def load(path):
    return Ensemble.load(Path(path, "model.safetensors"))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_members_are_the_networks_that_train_gives_from_their_seeds(nnfast, backend):
    options = ("--validation", 0.2, "--early-stopping", "--backend", backend)
    assert nnfast(*TRAIN, *options, "--ensemble", 3, "--out", "a")[0] == 0
    members = load("a").members
    assert len(members) == 3
    # The split is the run's, from --seed, so that only the first has a twin in a run of its own
    assert nnfast(*TRAIN, *options, "--out", "b")[0] == 0
    alone = Model.load("b/model.safetensors")
    np.testing.assert_array_equal(members[0].parameters, alone.parameters)
    assert members[0].history.metrics == alone.history.metrics
    assert not np.array_equal(members[0].parameters, members[1].parameters)


def test_its_score_stands_beside_its_members_mean(nnfast):
    code, out, err = nnfast(*TRAIN, "--ensemble", 3, "--out", "a", "--json")
    assert (code, err) == (0, "")
    summary = last_json(out)
    alone = last_json(nnfast("train", "--config", "a/config.toml", "--ensemble", 1, "--json")[1])
    assert (summary["networks"], summary["epochs"], summary["stopped"]) == (3, 6, "epochs")
    assert load("a").members[0].history.loss[-1] == alone["train_loss"]
    _, out, _ = nnfast("evaluate", "a", "digits", "--backend", "numpy", "--json")
    assert last_json(out)["part"] == "test"
    assert last_json(out)["accuracy"] == summary["test_accuracy"]
    assert summary["members_test_accuracy"] != summary["test_accuracy"]
    _, out, _ = nnfast("train", "--config", "a/config.toml")
    each = f"{summary['members_test_accuracy']:.2%}"
    assert out.startswith(f"test accuracy {summary['test_accuracy']:.2%}")
    assert f"; 3 networks, each {each} on average; training loss" in out
    assert "; 6 epochs in " in out


def test_the_members_mean_is_that_of_their_own_scores(nnfast, houses):
    options = ("--target", "price", *FAST, "--test", 0, "--no-standardize", "--learning-rate", 1e-4)
    _, out, _ = nnfast("train", houses, *options, "--ensemble", 2, "--out", "a", "--json", "--quiet")
    summary, rows = last_json(out), read_csv(houses.read_text())[1:]
    prices = np.array([float(row[2]) for row in rows])
    code, out, _ = nnfast("predict", "a", houses, "--backend", "numpy")
    assert code == 0
    predicted = np.array([float(row[0]) for row in read_csv(out)[1:]])
    spread = ((prices - prices.mean()) ** 2).sum()
    assert summary["training_r2"] == pytest.approx(1 - ((prices - predicted) ** 2).sum() / spread, rel=1e-4)
    assert summary["members_training_r2"] != summary["training_r2"]
    assert summary["members_training_r2"] == pytest.approx(summary["training_r2"], rel=0.1)


def test_it_predicts_labels_and_probabilities_by_the_mean(nnfast, flowers):
    assert nnfast("train", flowers, "--target", "kind", *FAST, "--ensemble", 4, "--out", "a")[0] == 0
    _, out, _ = nnfast("predict", "a", flowers, "--proba", "--backend", "numpy")
    header, *rows = read_csv(out)
    probabilities = np.array(rows, dtype=float)
    labels = [row[0] for row in read_csv(nnfast("predict", "a", flowers, "--backend", "numpy")[1])[1:]]
    assert labels == [header[index] for index in probabilities.argmax(axis=1)]
    each = np.stack([member.outputs(load_dataset(str(flowers), target="kind").x_train) for member in load("a").members])
    np.testing.assert_allclose(probabilities, each.mean(axis=0), rtol=1e-6)


def test_info_and_debug_know_it(nnfast):
    nnfast(*TRAIN, "--ensemble", 3, "--out", "a")
    code, out, err = nnfast("info", "a")
    assert (code, err) == (0, "")
    assert out.startswith("an ensemble of 3 networks, the first of them:\n")
    facts = json.loads(nnfast("info", "a", "--json")[1])
    assert (facts["networks"], facts["parameters"]) == (3, 64 * 8 + 8 + 8 * 10 + 10)
    assert nnfast("debug", "a", "--show", "plan")[0] == 0


def test_its_config_repeats_it_and_metrics_stand_in_the_order_of_its_networks(nnfast):
    assert nnfast(*TRAIN, "--backend", "numba", "--ensemble", 5, "--threads", 3, "--out", "a")[0] == 0
    assert nnfast("train", "--config", "a/config.toml", "--threads", 1, "--out", "b")[0] == 0
    for one, other in zip(load("a").members, load("b").members, strict=True):
        np.testing.assert_array_equal(one.parameters, other.parameters)
    one, other = ([line | {"seconds": 0} for line in lines_of(run)] for run in "ab")
    assert one == other
    assert [(line["network"], line["epoch"]) for line in one] == [(n, e) for n in range(5) for e in (1, 2)]
    assert [line["loss"] for line in one[2:4]] == load("a").members[1].history.loss
    nnfast(*TRAIN, "--out", "single")
    assert "network" not in lines_of("single")[0]


def test_pictures_of_images_are_drawn(nnfast, pictures):
    options = ("--backend", "numpy", "--task", "classification", "--network", "lenet5", "--epochs", 1)
    assert nnfast("train", pictures, *options, "--ensemble", 2, "--out", "a")[0] == 0
    assert {"loss.png", "filters.png"} <= {path.name for path in Path("a").iterdir()}


def test_one_bar_counts_the_networks(nnfast, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    _, _, err = nnfast(*TRAIN, "--ensemble", 3)
    assert "training  3 networks, cross_entropy" in err
    assert "3/3" in err
    assert nnfast(*TRAIN, "--ensemble", 3, "--quiet")[2] == ""


def test_ctrl_c_keeps_the_networks_that_are_finished(nnfast, monkeypatch):
    record = RunDirectory.record_network

    def interrupt(self, index, history):
        record(self, index, history)
        if index == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "record_network", interrupt)
    code, out, err = nnfast(*TRAIN, "--ensemble", 5, "--out", "a", "--json")
    assert (code, err) == (130, "")
    assert (last_json(out)["stopped"], last_json(out)["networks"]) == ("interrupted", 2)
    assert len(load("a")) == 2
    assert {line["network"] for line in lines_of("a")} == {0, 1}


@pytest.mark.parametrize(("step", "epochs"), [(60, [1]), (120, [2]), (200, [2, 2])])
def test_ctrl_c_amid_a_network_leaves_it_out_unless_it_is_the_first(nnfast, monkeypatch, step, epochs):
    """A network has 90 steps."""
    press_ctrl_c_at_step(monkeypatch, step)
    code, out, _ = nnfast(*TRAIN, "--ensemble", 4, "--out", "a")
    assert code == 130
    assert [member.history.epochs for member in load("a").members] == epochs
    assert f"; interrupted after {sum(epochs)} epoch" in out
    assert f"; {len(epochs)} of 4 networks, each " in out


def test_what_diverged_is_left_out_and_counted(nnfast, monkeypatch):
    from nnfast.cli import fitting

    def diverging(network, X, y, **options):
        rates = [1e30 if seed == 6 else 0.01 for seed in options.pop("seed")]
        options.pop("learning_rate")
        return fitting_train_many(network, X, y, seed=5, learning_rate=rates, **options)

    fitting_train_many = fitting.train_many
    monkeypatch.setattr(fitting, "train_many", diverging)
    options = (*TRAIN, "--optimizer", "sgd", "--ensemble", 3, "--out", "a")
    code, out, _ = nnfast(*options)
    assert code == 0
    assert "2 networks, each" in out
    assert "on average, 1 more diverged" in out
    assert len(load("a")) == 2


def test_if_all_diverge_the_exit_code_is_4(nnfast):
    options = ("--optimizer", "sgd", "--learning-rate", 1e30, "--ensemble", 2)
    code, out, err = nnfast(*TRAIN, *options, "--out", "a")
    assert (code, out) == (4, "")
    assert err.startswith("nnfast train: error: the loss became ")
    assert Model.load("a/model.safetensors").history.stopped == "diverged"


@pytest.mark.parametrize("wrong", ["0", "-1", "x", "1.5"])
def test_a_wrong_number_of_networks_is_one_line(nnfast, wrong, tmp_path):
    assert_refused(nnfast("train", "digits", "--ensemble", wrong, "--out", "a"), "ensemble", wrong)
    assert not (tmp_path / "a").exists()
