"""Runs that end early: by divergence, by Ctrl-C, and because they improve no more."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np

from nnfast import Model
from nnfast.cli.run_directory import RunDirectory
from tests.cli.results import last_json


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
