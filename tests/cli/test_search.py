"""nnfast search: candidates, their folds, the best of them, and a search that goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nnfast import Model, train_many
from nnfast.cli import search
from nnfast.cli.options import merge, read_config
from nnfast.cli.preparation import prepare
from nnfast.cli.ranking import Candidate, ranked
from nnfast.data.splits import fold_rows
from tests.cli.results import FAST, assert_refused, last_json, press_ctrl_c_at_step

SEARCH = ("search", "digits", "--backend", "numpy", "--epochs", 2, "--folds", 3)
GRID = (*SEARCH, "--learning-rate", "0.001,0.01", "--hidden", "6,8:4")


def lines_of(path):
    return [json.loads(line) for line in Path(path, "search.jsonl").read_text().splitlines()]


def without_seconds(path):
    """What a search found, in one order."""
    return sorted(json.dumps({k: v for k, v in line.items() if k != "seconds"}) for line in lines_of(path))


def outcome(path):
    """All that a search leaves behind that is no measured time."""
    model = Model.load(Path(path, "model.safetensors"))
    config = Path(path, "config.toml").read_text().partition("\n")[2]
    return without_seconds(path), config, model.parameters.tobytes(), model.history.loss


def test_candidates_are_ranked_by_the_mean_over_folds_that_train_many_gives(nnfast):
    code, out, err = nnfast(*GRID, "--json", "--out", "a", "--quiet")
    assert (code, err) == (0, "")
    summary = last_json(out)
    options = merge({"data": "digits", "backend": "numpy", "epochs": 2, "hidden": [8, 4], "learning_rate": 0.01}, {})
    run = prepare(options)
    data = run.data.training
    pairs = fold_rows(len(data), 3, 0, labels=data.y)
    models = train_many(run.network, data.X, data.y, [run.training_options], folds=pairs, backend="numpy")
    scores = [model.history.metrics["validation_accuracy"][-1] for model in models]
    settings = {"hidden": [8, 4], "learning_rate": 0.01}
    found = next(entry for entry in summary["candidates"] if entry["settings"] == settings)
    assert found["mean_accuracy"] == np.mean(scores)
    assert found["deviation"] == np.std(scores)
    assert found["mean_loss"] == np.mean([model.history.metrics["validation_loss"][-1] for model in models])
    means = [entry["mean_accuracy"] for entry in summary["candidates"]]
    assert means == sorted(means, reverse=True)
    assert len(means) == 4
    assert len({json.dumps(entry["settings"]) for entry in summary["candidates"]}) == 4


def test_the_best_is_trained_on_all_training_rows_and_saved_as_a_run(nnfast):
    summary = last_json(nnfast(*GRID, "--json", "--out", "a")[1])
    best = summary["candidates"][0]["settings"]
    assert {name: read_config("a/config.toml")[name] for name in best} == best
    hidden = ",".join(map(str, best["hidden"]))
    options = ("--hidden", hidden, "--learning-rate", best["learning_rate"], "--backend", "numpy", "--epochs", 2)
    alone = last_json(nnfast("train", "digits", *options, "--json", "--out", "b")[1])
    same = ("test_accuracy", "test_loss", "train_loss", "training_rows", "test_rows", "epochs")
    assert {name: summary[name] for name in same} == {name: alone[name] for name in same}
    one, other = (Model.load(f"{run}/model.safetensors") for run in "ab")
    np.testing.assert_array_equal(one.parameters, other.parameters)
    evaluated = last_json(nnfast("evaluate", "a", "digits", "--backend", "numpy", "--json")[1])
    assert evaluated["accuracy"] == summary["test_accuracy"]
    assert nnfast("predict", "a", "digits")[0] == nnfast("info", "a")[0] == 0
    assert last_json(nnfast("train", "--config", "a/config.toml", "--json")[1])["train_loss"] == summary["train_loss"]


def test_the_best_may_become_an_ensemble(nnfast):
    summary = last_json(nnfast(*GRID, "--ensemble", 2, "--json", "--out", "a")[1])
    assert summary["networks"] == 2
    assert json.loads(nnfast("info", "a", "--json")[1])["networks"] == 2


def test_a_regression_is_ranked_by_r2(nnfast, houses):
    options = ("--target", "price", "--backend", "numpy", "--epochs", 20, "--folds", 3)
    code, out, err = nnfast("search", houses, *options, "--learning-rate", "1e-6,0.02")
    assert code == 0
    assert err.startswith("nnfast: the task is regression")
    header, first, second = (line.split() for line in out.splitlines()[:3])
    assert header == ["rank", "learning_rate", "R2", "deviation", "loss"]
    assert (first[:2], second[:2]) == (["1", "0.02"], ["2", "1e-06"])
    assert out.splitlines()[-1].startswith("test R2")


def test_outputs_in_other_units_are_compared_by_r2(nnfast, houses):
    """exp learns prices as they are, identity standardised ones."""
    options = ("--target", "price", "--backend", "numpy", "--epochs", 5, "--clip-norm", 1, "--folds", 2)
    code, out, _ = nnfast("search", houses, *options, "--output-activation", "exp,identity", "--json")
    assert code == 0
    assert [entry["settings"] for entry in last_json(out)["candidates"]] == [
        {"output_activation": "identity"}, {"output_activation": "exp"},
    ]  # fmt: skip


def test_a_pipe_gets_a_line_for_each_candidate_and_the_table_at_the_end(nnfast):
    code, out, err = nnfast(*GRID)
    assert code == 0
    assert [line.split()[1] for line in err.splitlines()] == ["1/4", "2/4", "3/4", "4/4"]
    assert "hidden 8:4, learning_rate 0.001: accuracy " in err
    header, *rows = out.partition("\n\n")[0].splitlines()
    assert header.split() == ["rank", "hidden", "learning_rate", "accuracy", "deviation", "loss"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4"]
    ends = out.splitlines()
    assert ends[-2].endswith("on all 1,438 training rows:")
    assert ends[-1].startswith("test accuracy ")
    code, out, err = nnfast(*GRID, "--quiet")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.startswith("test accuracy ")


def test_a_terminal_sees_the_table_fill(nnfast, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    seen = []
    monkeypatch.setattr("rich.text.Text.plain", property(lambda self: "", lambda self, text: seen.append(text)))
    code, _, err = nnfast(*GRID)
    assert code == 0
    assert "digits: 1,438 training rows; 4 candidates x 3 folds on numpy" in err
    tables = [text for text in seen if text.startswith("rank")]
    assert [text.count("\n") for text in tables] == [1, 2, 3, 4]
    assert nnfast(*GRID, "--quiet")[2] == ""


def test_a_value_that_is_there_twice_is_told(nnfast):
    """nnfast train takes 64,64 for two layers, a search for the same network twice."""
    for arguments, line in (
        (("--hidden", "8,8"), "--hidden 8,8 names the same network twice; for two layers write 8:8"),
        (("--hidden", "8,4:2,4:2"), "--hidden 8,4:2,4:2 names the same network twice"),
        (("--hidden", 8, "--dropout", "0.1,0.2,0.1"), "--dropout 0.1,0.2,0.1 names 0.1 twice"),
    ):
        code, _, err = nnfast(*SEARCH, *arguments)
        assert (code, err.splitlines()[0]) == (0, f"nnfast: {line}")
    assert "twice" not in nnfast(*SEARCH, "--hidden", "8,8:8")[2]
    assert nnfast(*SEARCH, "--hidden", "8,8", "--quiet")[2] == ""


def test_what_diverged_is_shown_as_such_and_ranked_last(nnfast):
    options = (*SEARCH, "--optimizer", "sgd", "--hidden", 8)
    code, out, err = nnfast(*options, "--learning-rate", "1e30,0.01", "--out", "a")
    assert code == 0
    assert "learning_rate 1e+30: diverged in fold 0, 1, 2" in err
    lines = out.splitlines()
    assert lines[1].split()[:2] == ["1", "0.01"]
    assert lines[2].split() == ["1e+30", "diverged"]
    assert {line["fold"] for line in lines_of("a")[1:] if "diverged" in line} == {0, 1, 2}
    code, out, err = nnfast(*options, "--learning-rate", "1e30", "--json", "--out", "b")
    assert code == 4
    assert err.splitlines()[-1].startswith("nnfast: every candidate diverged: ")
    assert last_json(out)["stopped"] == "diverged"
    assert last_json(out)["candidates"] == [{"settings": {}, "diverged": [0, 1, 2]}]


def test_ties_are_broken_by_the_loss(nnfast, tmp_path):
    """Every rate gets all rows right, the larger one with the lower loss."""
    x = np.repeat([[-3.0], [3.0]], 20, axis=0)
    np.savez("data.npz", X=x, y=np.repeat([0, 1], 20))
    options = ("--backend", "numpy", "--hidden", "none", "--epochs", 40, "--folds", 2, "--task", "classification")
    found = last_json(nnfast("search", "data.npz", *options, "--learning-rate", "0.02,0.2", "--json")[1])["candidates"]
    assert [entry["mean_accuracy"] for entry in found] == [1.0, 1.0]
    assert found[0]["mean_loss"] < found[1]["mean_loss"]
    assert found[0]["settings"] == {"learning_rate": 0.2}


def test_trials_are_trained(nnfast):
    options = (*SEARCH, "--hidden", "4..8", "--learning-rate", "0.001..0.1,0.5", "--trials", 3)
    found = last_json(nnfast(*options, "--json")[1])["candidates"]
    assert len(found) == 3
    assert found == last_json(nnfast(*options, "--json")[1])["candidates"]
    assert found != last_json(nnfast(*options, "--json", "--seed", 1)[1])["candidates"]


def test_equal_draws_are_told(nnfast):
    assert nnfast(*SEARCH, "--hidden", 8, "--trials", 3)[2].startswith("nnfast: 3 draws, 1 of them different\n")
    assert "draws" not in nnfast(*SEARCH, "--learning-rate", "0.001..0.1", "--trials", 2)[2]


def test_a_score_that_is_no_number_is_ranked_before_what_diverged_and_after_the_rest():
    lines = {
        "low": {"validation_r2": -3.0, "validation_loss": 9.0},
        "none": {"validation_r2": None, "validation_loss": 1.0},
        "infinite": {"validation_r2": float("-inf"), "validation_loss": 1.0},
        "diverged": {"diverged": "the loss became nan"},
        "high": {"validation_r2": 0.5, "validation_loss": None},
    }
    found = [Candidate({"name": name}, None, "r2", {0: line}) for name, line in lines.items()]
    assert [one.settings["name"] for one in ranked(found)] == ["high", "low", "none", "infinite", "diverged"]
    assert found[1].summary()["mean_r2"] is found[2].summary()["mean_r2"] is None


# Going on


def test_a_search_that_is_killed_goes_on_and_ends_as_one_that_was_not(nnfast):
    arguments = [str(argument) for argument in (*GRID, "--epochs", 40, "--hidden", "64,32,16")]
    process = subprocess.Popen(
        [sys.executable, "-m", "nnfast", *arguments, "--out", "a"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    file = Path("a", "search.jsonl")
    until = time.monotonic() + 50
    while (not file.exists() or file.read_bytes().count(b"\n") < 3) and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    known = file.read_bytes()
    ended = known.count(b"\n") - 1
    assert 2 <= ended < 18, "it was not killed amid the search"
    code, out, err = nnfast(*arguments, "--out", "a")
    assert code == 0
    assert err.startswith(f"nnfast: {ended} of 18 trainings are in a/search.jsonl\n")
    assert file.read_bytes().startswith(known[: known.rfind(b"\n") + 1])
    code, undisturbed, _ = nnfast(*arguments, "--out", "b")
    assert outcome("a") == outcome("b")
    assert out.partition("training loss")[0] == undisturbed.partition("training loss")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such lock")
def test_two_searches_at_once_never_share_a_directory(nnfast):
    """Not while candidates are trained, nor while the best is; and once the first has ended, there is no lock."""
    refused = []

    def another():
        result = subprocess.run(
            [sys.executable, "-m", "nnfast", *map(str, GRID), "--out", "a"], capture_output=True, text=True, timeout=60
        )
        refused.append((result.returncode, result.stdout, result.stderr))

    for name in ("_run", "complete"):
        original = getattr(search, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, name, lambda *of, original=original: another() or original(*of))
            assert nnfast(*GRID, "--out", "a")[0] == 0
    assert len(refused) == 2
    for result in refused:
        assert_refused(result, "another nnfast search is writing a: wait for it, or give another", command="search")
    assert nnfast(*GRID, "--out", "b")[0] == 0
    assert outcome("a") == outcome("b")


def test_only_what_is_missing_is_trained(nnfast, monkeypatch):
    trained = []

    def spy(networks, *arguments, folds, **options):
        trained.append((len(networks), len(folds)))
        return train_many(networks, *arguments, folds=folds, **options)

    monkeypatch.setattr("nnfast.cli.search.train_many", spy)
    assert nnfast(*GRID, "--out", "a")[0] == 0
    assert trained == [(4, 3)]
    expected, text = outcome("a"), Path("a/search.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    missing = [line for line in lines if '"fold": 1' in line and "[6]" in line]
    for kept, cut, jobs in (
        (lines, "", []),
        ([line for line in lines if line not in missing], '{"candidate": {"hid', [(2, 1)]),  # a line cut short
        (lines[:1], "", [(4, 3)]),
    ):
        trained.clear()
        Path("a/search.jsonl").write_text("".join(kept) + cut)
        assert nnfast(*GRID, "--out", "a")[0] == 0
        assert trained == jobs
        assert outcome("a") == expected


def test_a_search_may_be_widened(nnfast):
    options = (*SEARCH, "--hidden", 6, "--out", "a")
    assert nnfast(*options, "--learning-rate", "0.001,0.01")[0] == 0
    _, out, err = nnfast(*options, "--learning-rate", "0.001,0.01,0.1")
    assert err.startswith("nnfast: 6 of 9 trainings are in ")
    assert err.count("\n") == 2
    assert [row.split()[0] for row in out.splitlines()[1:4]] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        (("--folds", 4), "a search with folds 3, not 4"),
        (("--epochs", 3), "epochs 2, not 3"),
        (("--seed", 1), "seed 0, not 1"),
        (("--alpha", "0,1"), "over hidden and learning_rate, not over hidden and learning_rate and alpha"),
        (("--no-standardize",), "standardize True, not False"),
        (("--test", 0.3), "test 0.2, not 0.3"),
    ],
)
def test_another_search_in_the_same_place_is_refused_with_the_way_out(nnfast, changed, phrase):
    assert nnfast(*GRID, "--out", "a")[0] == 0
    before = outcome("a")
    refused = nnfast(*GRID, *changed, "--out", "a")
    assert_refused(refused, "a/search.jsonl", phrase, "or another --out", command="search")
    assert outcome("a") == before


def test_data_that_was_changed_is_another_search(nnfast, flowers):
    options = ("--target", "kind", *FAST, "--folds", 2, "--learning-rate", "0.01,0.1", "--out", "a", "--quiet")
    assert nnfast("search", flowers, *options)[0] == 0
    flowers.write_text(flowers.read_text() + "3.5,red,iris\n")
    assert_refused(nnfast("search", flowers, *options), "with sha256", command="search")


def test_a_random_seed_is_drawn_once(nnfast):
    code, out, _ = nnfast(*GRID, "--seed", "random", "--out", "a", "--json")
    assert code == 0
    _, again, err = nnfast(*GRID, "--seed", "random", "--out", "a", "--json")
    assert err == "nnfast: 12 of 12 trainings are in a/search.jsonl\n"
    assert last_json(out)["seed"] == last_json(again)["seed"] == read_config("a/config.toml")["seed"] != 0


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(nnfast, monkeypatch):
    from nnfast.cli.search_file import SearchFile

    append, expected = SearchFile.append, nnfast(*GRID, "--out", "b")

    def interrupt(self, line):
        append(self, line)
        if len(lines_of("a")) == 6:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(SearchFile, "append", interrupt)
        code, out, err = nnfast(*GRID, "--out", "a")
    assert (code, err.count("\n")) == (130, 1)
    assert out.splitlines()[0].startswith("rank")
    assert out.splitlines()[1].startswith("   1")
    assert out.splitlines()[-1] == "interrupted; 5 of 12 trainings are in a; the same command goes on"
    assert not Path("a/config.toml").exists()
    assert len(lines_of("a")) == 6
    code, out, _ = nnfast(*GRID, "--out", "a")
    assert code == expected[0] == 0
    assert outcome("a") == outcome("b")


def test_a_training_that_ctrl_c_cut_short_is_trained_anew(nnfast, monkeypatch):
    with monkeypatch.context() as patch:
        press_ctrl_c_at_step(patch, 90)  # of 60 steps for each training
        code, out, err = nnfast(*GRID, "--out", "a")
    assert (code, err) == (130, "")
    assert out == "interrupted; 1 of 12 trainings are in a; the same command goes on\n"
    assert len(lines_of("a")) == 2
    for command in (("evaluate", "a", "digits"), ("info", "a")):
        phrases = ("a holds no model.safetensors: its search has not finished", "the same nnfast search goes on")
        assert_refused(nnfast(*command), *phrases, command=command[0])
    assert nnfast(*GRID, "--out", "a")[0] == nnfast(*GRID, "--out", "b")[0] == 0
    assert outcome("a") == outcome("b")
    press_ctrl_c_at_step(monkeypatch, 90)
    code, out, _ = nnfast(*GRID, "--json")
    assert (code, last_json(out)["stopped"], last_json(out)["candidates"]) == (130, "interrupted", [])


def test_ctrl_c_before_a_training_ended_leaves_nothing_and_promises_nothing(nnfast, monkeypatch):
    with monkeypatch.context() as patch:
        press_ctrl_c_at_step(patch, 10)
        assert nnfast(*GRID, "--out", "a") == (130, "interrupted; no training had ended\n", "")
    assert not Path("a").exists()
    press_ctrl_c_at_step(monkeypatch, 90)
    assert nnfast(*GRID)[1] == "interrupted; 1 of 12 trainings had ended; with --out it could go on\n"


def test_train_takes_the_place_of_a_search_and_leaves_its_file(nnfast):
    nnfast(*GRID, "--out", "a")
    (Path("a") / "config.toml").unlink()
    assert nnfast("train", "digits", *FAST, "--out", "a")[0] == 0
    assert len(lines_of("a")) == 13


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (("--learning-rate", "0.1,x"), ("--learning-rate", "must be a number, got 'x'")),
        (("--learning-rate", "0.1,"), ("--learning-rate", "on both sides of a comma")),
        (("--learning-rate", "0.1..0.01", "--trials", 3), ("--learning-rate", "lower end of a range first")),
        (("--learning-rate", "0.1..0.5"), ("--learning-rate has the range 0.1..0.5", "--trials")),
        (("--epochs", "1..2.5", "--trials", 3), ("--epochs", "must be an integer, got '2.5'")),
        (
            ("--hidden", "8,4:x"),
            ("--hidden: must be the sizes of each network, such as 64,128:64,none (a ", "got '4:x'"),
        ),
        (("--hidden", "8,0"), ("positive integer",)),
        (("--activation", "relu,rleu"), ("unknown activation 'rleu'",)),
        (("--activation", "relu..tanh", "--trials", 2), ("unknown activation 'relu..tanh'",)),
        (("--optimizer", "adam,sgd:momentum=2"), ("momentum",)),
        (("--epochs", "2,0"), ("epochs must be",)),
        (("--seed", "1,2"), ("--seed: must be an integer or 'random', got '1,2'",)),
        (("--seed", "-1"), ("seed must be an integer from 0",)),
        (("--folds", "1"), ("--folds must be an integer from 2", "got 1")),
        (("--folds", "2000"), ("1438 rows cannot be divided into 2000 folds",)),
        (("--trials", "0"), ("--trials must be a positive integer",)),
        (("--validation", "0.1"), ("the folds are held out: --validation is for nnfast train",)),
        (("--config", "run.toml"), ("run.toml: validation is 0.1, but a search holds out folds",)),
        (("--network", "lenet5", "--hidden", "8,16"), ("network and hidden both describe the layers",)),
        (("--backend", "cudo"), ("unknown backend 'cudo'",)),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(nnfast, arguments, phrases):
    Path("run.toml").write_text("validation = 0.1\n")
    assert_refused(nnfast("search", "digits", "--quiet", "--out", "a", *arguments), *phrases, command="search")
    assert not Path("a").exists()


DAMAGED = (
    "{}",
    "no JSON",
    "[" * 100_000,
    '"nnfast search"',
    '["nnfast search"]',
    '{"nnfast search": 1}\n{"fold": 1}',
    '{"nnfast search": 1}\n[1]',
    '{"nnfast search": 1}\n["candidate", "fold"]',
    '{"nnfast search": 1}\n{"candidate": {}, "fold": 1, "validation_accuracy": "0.9"}',
    '{"nnfast search": 1}\n{"candidate": {}, "fold": 1, "validation_loss": 1' + "0" * 400 + "}",
)


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_refused(nnfast, text):
    assert nnfast("train", "digits", *FAST, "--out", "a")[0] == 0
    Path("a/search.jsonl").write_text(text + "\n")
    assert_refused(nnfast(*GRID, "--out", "a"), "search.jsonl: line", "another --out", command="search")


def test_help_says_how_several_values_are_written(nnfast):
    code, out, _ = nnfast("search", "--help")
    assert code == 0
    for words in ("--folds", "--trials", "sgd:momentum=0.9,nesterov=true", "128:64", "1e-4..0.1", "the same --out"):
        assert words in out
    assert "--validation" not in out
    assert "one value each (--folds, --trials and several values are for the command line)" in " ".join(out.split())
