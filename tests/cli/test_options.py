"""Options: where their values come from, how they are written, and that each reaches the run."""

from __future__ import annotations

import inspect

import pytest

from nnfast import Model, get_optimizer, get_schedule, multilayer_perceptron
from nnfast.cli import _COMMANDS, _parse
from nnfast.cli.options import (
    DATA_SETTINGS,
    FLAG,
    ROWS,
    as_options,
    brought,
    merge,
    read_config,
)
from nnfast.formulas.choices import format_choice, parse_choice
from nnfast.formulas.losses import get_loss
from nnfast.networks.named import TRAINING_SETTINGS
from nnfast.training.stopping import EarlyStopping
from nnfast.training.train import train
from tests.cli.results import assert_refused, last_json


def test_threads_are_of_a_machine_and_no_part_of_a_run(nnfast, tmp_path):
    """They come from the command line or a file, reach the backend, and are not in the run's own file."""
    (tmp_path / "run.toml").write_text('data = "digits"\nbackend = "numba"\nepochs = 1\nthreads = 3\n')
    used = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnfast.backends.numba.program.FLOPS_PER_THREAD", 1)
        patch.setattr("nnfast.backends.numba.team.run_in_threads", lambda work, count: used.append(count) or work(0, 1))
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
        for wrong, phrase in (
            (0, "threads must be a positive integer up to 1024, got 0"),
            ("many", "--threads: must be an integer"),
        ):
            assert_refused(nnfast(command, *arguments, "--threads", wrong), phrase, command=command)
    (tmp_path / "run.toml").write_text('data = "digits"\nthreads = "all"\n')
    assert_refused(nnfast("train", "--config", "run.toml"), "run.toml: threads must be an integer, got 'all'")


def test_options_override_the_config(nnfast, tmp_path):
    (tmp_path / "run.toml").write_text('data = "digits"\nepochs = 7\nhidden = [4]\nbackend = "numpy"\nbias = false\n')
    _, out, _ = nnfast("train", "--config", "run.toml", "--epochs", 1, "--bias", "--json")
    summary = last_json(out)
    assert (summary["epochs"], summary["backend"]) == (1, "numpy")
    assert summary["parameters"] == 65 * 4 + 5 * 10


def test_the_order_of_sources_is_table_data_network_file_command_line():
    assert merge({"data": "flowers.csv"}, {})["hidden"] == [100]
    assert merge({"data": "digits"}, {})["hidden"] == DATA_SETTINGS["digits"]["hidden"]
    assert merge({"data": "digits"}, {"hidden": [5]})["hidden"] == [5]
    assert merge({"data": "digits", "hidden": []}, {"hidden": [5]})["hidden"] == []
    of_network, of_data = TRAINING_SETTINGS["lenet5"], DATA_SETTINGS["fashion-mini"]
    assert of_network["learning_rate"] != of_data["learning_rate"]
    both = merge({"data": "fashion-mini", "network": "lenet5"}, {})
    assert (both["learning_rate"], both["epochs"]) == (of_network["learning_rate"], of_data["epochs"])
    assert merge({"data": "fashion-mini", "network": "lenet5"}, {"learning_rate": 0.1})["learning_rate"] == 0.1
    assert merge({"data": "fashion-mini", "batch_size": 7}, {"network": "lenet5"})["batch_size"] == 7
    assert merge({"data": "fashion-mini", "hidden": [5]}, {"network": "lenet5"})["batch_size"] == 32


def test_what_names_bring_reads_back_from_the_options_that_are_shown():
    """Of every data set and network, as info, the help and the head of a run show it."""
    for settings in (DATA_SETTINGS | TRAINING_SETTINGS).values():
        words = " ".join(as_options(settings)).split()
        parsed = vars(_parse(["train", "a.npz", *words]))
        assert {name: parsed[name] for name in settings} == settings
    assert as_options({"hidden": [], "shuffle": True}) == ["--hidden none", "--shuffle"]


def test_a_colon_or_a_comma_stands_between_layers():
    """A colon alone can where commas separate networks: in a search."""
    for text in ("64,32", "64:32"):
        assert vars(_parse(["train", "digits", "--hidden", text]))["hidden"] == [64, 32]


def test_what_was_brought_leaves_out_what_was_asked_for():
    given = {"data": "fashion-mini", "network": "lenet5", "batch_size": 64}
    assert brought(merge(given, {}), given) == {
        "lenet5": {"learning_rate": 0.002, "schedule": "cosine"},
        "fashion-mini": {"task": "classification", "epochs": 30},
    }
    assert brought(merge({"data": "a.npz"}, {}), ()) == {}
    without_rate = {"data": "a.npz", "network": "lenet5", "optimizer": "sgd"}
    assert brought(merge(without_rate, {}), without_rate) == {"lenet5": {"schedule": "cosine", "batch_size": 64}}


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
        ("folds = 3", ("folds is not for a file: give --folds to nnfast search",)),
        ("trials = 3", ("trials is not for a file: give --trials to nnfast search",)),
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
    for settings in (DATA_SETTINGS | TRAINING_SETTINGS).values():
        for name, value in settings.items():
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


def test_a_loss_s_constant_reaches_the_run_and_its_file(nnfast, houses):
    options = ("--target", "price", "--backend", "numpy", "--epochs", 2, "--hidden", 4)
    losses = {}
    for text in ("huber", "huber:delta=0.25"):
        assert nnfast("train", houses, *options, "--loss", text, "--out", "a")[0] == 0
        losses[text] = (tuple(Model.load("a/model.safetensors").history.loss), read_config("a/config.toml")["loss"])
        assert Model.load("a/model.safetensors").loss == get_loss(text)
    assert losses["huber"][0] != losses["huber:delta=0.25"][0]
    assert [written for _, written in losses.values()] == ["huber:delta=1.0", "huber:delta=0.25"]
    assert nnfast("train", "--config", "a/config.toml", "--out", "b")[0] == 0
    assert tuple(Model.load("b/model.safetensors").history.loss) == losses["huber:delta=0.25"][0]
    for wrong, phrase in (
        ("huber:dalta=2", "loss 'huber' has no option 'dalta'; it has: delta"),
        ("huber:delta=0", "delta of loss 'huber' must be a finite number above 0, got 0"),
        ("squared_error:delta=2", "loss 'squared_error' has no option 'delta'; it has: none"),
        ("huber:delta", "loss must be NAME or NAME:OPTION=VALUE,..."),
    ):
        assert_refused(nnfast("train", houses, *options, "--loss", wrong), phrase)


def test_every_option_reaches_the_run(nnfast, monkeypatch):
    seen = {}

    def spy(network, X, y, **parameters):
        seen.update(parameters, network=network)
        return train(network, X, y, **parameters)

    monkeypatch.setattr("nnfast.cli.fitting.train", spy)
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


def test_help_of_train_names_what_there_is(nnfast):
    code, out, _ = nnfast("train", "--help")
    assert code == 0
    for option in ROWS.values():
        assert ("[[layers]]" if option.name == "layers" else option.flag) in out
        assert option.kind != FLAG or not option.is_about_run or f"--no-{option.flag[2:]}" in out
    for name in ("relu", "cross_entropy", "glorot_uniform", "adamw(", "cosine(", "huber(delta)"):
        assert name in out
    text = " ".join(out.split())
    for name, settings in (DATA_SETTINGS | TRAINING_SETTINGS).items():
        assert f"{name}: {' '.join(as_options(settings))}" in text


@pytest.mark.parametrize("command", [(), *((name,) for name in _COMMANDS)])
def test_help_is_as_wide_as_the_terminal(nnfast, command):
    code, out, _ = nnfast(*command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
