"""Candidates of a search: how several values and ranges are written, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from nnfast.cli import _parse
from nnfast.cli.candidates import candidates, several
from nnfast.cli.options import FLAG, OPTIONS, ROWS


def read(name, text):
    return several(ROWS[name])(text)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("learning_rate", "0.001, 1e-2,.5", [0.001, 0.01, 0.5]),
        ("hidden", "64,128:64,none", [[64], [128, 64], []]),
        ("optimizer", "adam,sgd:momentum=0.9,nesterov=true,adam:beta_1=0.8",
         ["adam", "sgd:momentum=0.9,nesterov=true", "adam:beta_1=0.8"]),
        ("schedule", "constant,cosine:warmup=2,step:every=3,factor=0.5",
         ["constant", "cosine:warmup=2", "step:every=3,factor=0.5"]),
        ("batch_size", "16,full", [16, "full"]),
        ("activation", "relu,tanh", ["relu", "tanh"]),
        ("learning_rate", "0.1,0.1", [0.1]),
    ],
)  # fmt: skip
def test_commas_separate_values_and_stay_within_the_options_of_one(name, text, expected):
    assert candidates([read(name, text)], None, 0) == [{name: value} for value in expected]


def test_every_option_of_a_network_and_of_training_that_takes_a_value_may_have_two():
    for title, options in OPTIONS.items():
        for option in options:
            if option.kind == FLAG or option.kind.read is None or title not in ("network", "training"):
                continue
            values = vars(_parse(["search", "digits", option.flag, "2,3"]))[option.name]
            assert [values.read(text) for text in values.texts] == [option.read("2"), option.read("3")], option.name


def test_every_searched_option_s_default_reads_back():
    for name in ("hidden", "optimizer", "loss", "learning_rate", "dropout", "epochs", "batch_size"):
        value = ROWS[name].default
        text = "none" if value is None else ":".join(map(str, value)) if isinstance(value, list) else str(value)
        if value is not None:
            assert candidates([read(name, text)], None, 0) == [{name: value}]


def test_draws_lie_in_their_range_on_a_logarithmic_scale_above_0():
    varied = [
        read("learning_rate", "0.0001..0.1"), read("dropout", "0..0.5"), read("epochs", "10..1000"),
        read("hidden", "8..64:0..3,none"), read("optimizer", "adam,sgd:momentum=0.5..0.9"),
    ]  # fmt: skip
    found = candidates(varied, 400, 0)
    names = ("learning_rate", "dropout", "epochs")
    rates, dropouts, epochs = (np.array([one[name] for one in found]) for name in names)
    assert 0.0001 <= rates.min() < 0.00015
    assert 0.07 < rates.max() <= 0.1
    assert 0.4 < (rates < np.sqrt(0.0001 * 0.1)).mean() < 0.6
    assert 0.4 < (dropouts < 0.25).mean() < 0.6
    assert 0.4 < (epochs < 100).mean() < 0.6
    assert all(isinstance(count, int) for count in epochs.tolist())
    sizes = [one["hidden"] for one in found]
    assert 0.4 < sizes.count([]) / 400 < 0.6
    assert {size[1] for size in sizes if size} == {0, 1, 2, 3}
    momenta = [float(one["optimizer"].partition("=")[2]) for one in found if one["optimizer"] != "adam"]
    assert 0.5 <= min(momenta) < max(momenta) <= 0.9
    assert set(candidates([read("epochs", "1..2")], 50, 0)[0]) == {"epochs"}
    assert {one["epochs"] for one in candidates([read("epochs", "1..2")], 50, 0)} == {1, 2}


def test_more_trials_begin_with_the_same_and_another_seed_draws_others():
    varied = [read("learning_rate", "0.0001..0.1"), read("hidden", "8..64,none")]
    assert candidates(varied, 30, 7)[:10] == candidates(varied, 10, 7)
    assert candidates(varied, 10, 7) != candidates(varied, 10, 8)
