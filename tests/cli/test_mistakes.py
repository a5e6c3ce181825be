"""Mistakes: one line that says what is wrong, an exit code, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest

from nnfast.cli import main
from nnfast.cli.options import read_config
from tests.cli.results import FAST, assert_refused


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
        (("digits", "--seed", "-1"), ("seed must be an integer from 0 up to 18446744073709551615, got -1",)),
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


def test_data_that_teaches_nothing_or_is_no_data_is_refused(nnfast, tmp_path):
    (tmp_path / "same.csv").write_text("a,b\n" + "1,x\n" * 9)
    assert_refused(nnfast("train", "same.csv", "--target", "b"), "needs at least two classes, but y holds only 'x'")
    (tmp_path / "text.npz").write_text("no arrays")
    result = nnfast("train", "text.npz")
    assert_refused(result, "text.npz is not an .npz file of plain arrays")
    assert "trust" not in result[2], "NumPy's advice to load it all the same"


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
        (("d", "digits", "--out", "empty"), "error: empty: Is a directory"),
    ):
        assert_refused(nnfast("predict", *arguments), phrase, command="predict")
    assert not [*tmp_path.glob(".*")], "what was begun"
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


def test_a_missing_command_is_one_line(nnfast):
    for arguments in ((), ("trian",)):
        code, out, err = nnfast(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("nnfast.cli.train.prepare", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "digits"])


@pytest.mark.parametrize("value", ["1", "yes", "0", "", None])
def test_nnfast_debug_shows_the_traceback_of_an_error(nnfast, monkeypatch, value):
    monkeypatch.delenv("NNFAST_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("NNFAST_DEBUG", value)
    code, out, err = nnfast("train", "digits", "--activation", "rleu")
    *trace, line = err.splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("nnfast train: error: unknown activation 'rleu'")
    if value in ("1", "yes"):
        assert trace[0] == "Traceback (most recent call last):"
        assert "get_activation" in "".join(trace)
        assert trace[-1].startswith("ValueError: unknown activation 'rleu'")
    else:
        assert trace == []


def test_help_names_the_variable_that_shows_tracebacks(nnfast):
    assert "NNFAST_DEBUG=1" in nnfast("--help")[1]
