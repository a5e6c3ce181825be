"""Compiling takes long and happens once: whoever waits for it is told so, and nobody else."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from nnfast import Dense, Network, train
from nnfast.backends.numba import program as backend_module
from nnfast.kernels.cpu import compilation

LINE = "nnfast: compiling the CPU kernels for float32 (once; 5 to 10 seconds)\n"
TRAIN = ("train", "digits", "--backend", "numba", "--hidden", "8", "--epochs", "1")


@pytest.fixture(autouse=True)
def _nothing_is_compiled(monkeypatch):
    """As far as the announcement knows: the kernels themselves come from the cache."""
    monkeypatch.setattr(compilation, "is_compiled", lambda name, dtype: False)
    monkeypatch.setattr(backend_module, "_announced", set())


def test_a_pipe_is_told_in_one_line_on_standard_error(nnfast):
    code, out, err = nnfast(*TRAIN)
    assert (code, err) == (0, LINE)
    assert out.count("\n") == 1
    assert nnfast(*TRAIN)[2] == "", "once"


def test_so_is_who_predicts(nnfast):
    nnfast(*TRAIN, "--backend", "numpy", "--out", "a")
    assert nnfast("predict", "a", "digits", "--backend", "numba")[2] == LINE


@pytest.mark.parametrize("file", [False, True])
def test_quiet_is_quiet(nnfast, file):
    Path("run.toml").write_text(f"quiet = {str(file).lower()}\n")
    code, _, err = nnfast(*TRAIN, "--config", "run.toml", *([] if file else ["--quiet"]))
    assert (code, err) == (0, "")
    backend_module._announced.clear()
    assert nnfast(*TRAIN)[2] == LINE, "only that run was"


def test_a_terminal_is_told_once(nnfast, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert nnfast(*TRAIN)[2].count(LINE.strip()) == 1


def fit() -> None:
    train(Network(2, [Dense(1)]), np.eye(2), np.eye(2)[0], epochs=1, backend="numba")


def test_python_is_told_in_the_log(caplog, capsys):
    with caplog.at_level(logging.INFO, "nnfast"):
        fit()
    assert [record.getMessage() for record in caplog.records] == [LINE.strip()]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("terminal", "expected"), [(True, LINE), (False, "")])
def test_python_on_a_terminal_is_told_where_nobody_listens_to_the_log(terminal, expected, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    fit()
    assert capsys.readouterr().err == expected
