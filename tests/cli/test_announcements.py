"""Compiling takes long and happens once: it is announced when it happens, and only then."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from nnfast import Dense, Network, train
from nnfast.backends.numba import announcement as backend_module
from nnfast.kernels.cpu import compilation
from nnfast.kernels.cpu.catalogue import KERNELS
from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dropout, Flatten, MaxPool2D
from nnfast.plans.plan import make_plan

LINE = "nnfast: compiling float32 CPU kernels for dense layers (once; 3 to 30 seconds)\n"
announce = backend_module.announce  # which conftest.py takes away for the other files
TRAIN = ("train", "digits", "--backend", "numba", "--hidden", "8", "--epochs", "1")


@pytest.fixture(autouse=True)
def _nothing_is_compiled(monkeypatch):
    """As far as the announcement knows: the kernels themselves come from the cache."""
    monkeypatch.setattr(compilation, "is_compiled", lambda name, dtype: False)
    monkeypatch.setattr(backend_module, "announce", announce)
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


def announcements(caplog, layers, shape=(6, 6), dtype="float32"):
    """What is said about compiling for a network of these layers."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "nnfast"):
        train(
            Network(shape, [*layers, Flatten(), Dense(1)]), np.ones((2, *np.atleast_1d(shape))), np.eye(2)[0],
            epochs=1, backend="numba", dtype=dtype,
        )  # fmt: skip
    return [record.getMessage().removeprefix("nnfast: compiling ") for record in caplog.records]


def test_images_are_told_what_is_compiled_for_them_alone(caplog):
    assert announcements(caplog, []) == ["float32 CPU kernels for dense layers (once; 3 to 30 seconds)"]
    assert announcements(caplog, [Conv2D(2, 3), MaxPool2D(2)]) == [
        "float32 CPU kernels for convolutions and pooling (once; 3 to 28 seconds)"
    ]
    assert announcements(caplog, [Conv2D(2, 3), MaxPool2D(2), Dropout(0.5)]) == []
    assert announcements(caplog, [AveragePool2D(2)]) == ["float32 CPU kernels for pooling (once; 1 to 8 seconds)"]
    assert announcements(caplog, [Conv2D(2, 3), BatchNorm(), MaxPool2D(2)], dtype="float64") == [
        "float64 CPU kernels for dense layers, convolutions, BatchNorm and pooling (once; 7 to 66 seconds)"
    ]


def test_batch_norm_of_flat_rows_is_another_than_of_images(caplog):
    announcements(caplog, [Conv2D(2, 3), BatchNorm(), MaxPool2D(2)])
    assert announcements(caplog, [BatchNorm()], shape=5) == ["float32 CPU kernels for BatchNorm (once; 1 to 8 seconds)"]


def test_all_that_takes_its_time_is_announced():
    """The parts name kernels that exist, and leave out those that compile in a fraction of a second alone."""
    layers = [Conv2D(2, 3), BatchNorm(), MaxPool2D(2), AveragePool2D(2), Flatten(), Dense(3), BatchNorm(), Dense(1)]
    parts = backend_module.compiled_parts(make_plan(Network((8, 8), layers), 4))
    assert set(parts) == set(backend_module.COMPILING_SECONDS)
    quick = {"run_frames", "add_penalties", "clip", "multiply", "transpose", "interleave", "deinterleave"}
    dropout = {"dropout", "dropout_in_groups", "dropout_backward"}
    layer_norm = {f"layer_norm_{way}" for way in ("forward", "backward", "sums")}
    named = [name for names in parts.values() for name in names]
    assert set(named) == set(KERNELS) - quick - dropout - layer_norm


def test_what_is_compiled_already_is_not_announced(caplog, monkeypatch):
    monkeypatch.setattr(compilation, "is_compiled", lambda name, dtype: name != "correlate")
    assert announcements(caplog, [Conv2D(2, 3), MaxPool2D(2)]) == [
        "float32 CPU kernels for convolutions (once; 2 to 20 seconds)"
    ]
