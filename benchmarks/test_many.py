"""python -m benchmarks.many: all tables, and no figure of anything that gives other results."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import nnfast
from benchmarks.many import __main__ as many
from benchmarks.many import memory, networks, search
from benchmarks.many.networks import Outcome, Task

OURS = ("train_many", "loop of train", "joblib, loky")


@pytest.fixture(autouse=True)
def _a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SIZES", ((4, 8, 2),))
    monkeypatch.setattr(networks, "COUNTS", (1, 3))
    monkeypatch.setattr(networks, "EPOCHS", (2,))
    monkeypatch.setattr(search, "LAYERS", [(5,)])
    monkeypatch.setattr(search, "RATES", [0.01])
    monkeypatch.setattr(search, "EPOCHS", 2)
    monkeypatch.setattr(memory, "COUNT", 8)


def run(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    monkeypatch.setattr(sys, "argv", ["many", "--repeats", "1", "--megabytes", "4", "--only", table])
    many.main()


def changed(parameters: Any) -> Any:
    """The last bit of one number is another."""
    found = parameters.copy()
    found[-1, 0] = np.nextafter(found[-1, 0], np.float32(1))
    return found


@pytest.mark.parametrize(("table", "rows"), [("networks", 2), ("search", 8), ("memory", 3)])
def test_every_row_has_its_figures(
    table: str, rows: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if table == "networks":
        monkeypatch.setattr(networks, "WAYS", {name: networks.WAYS[name] for name in (*OURS, networks.ONE)})
    run(monkeypatch, table)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) - 1 == rows
    assert not any(" - " in line for line in lines)


@pytest.mark.parametrize("name", [name for name in networks.WAYS if name != networks.ONE])
def test_other_networks_are_not_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = networks.WAYS[name]
    for package in ("jax", "torch"):
        if name.startswith(package):
            pytest.importorskip(package)

    def wrong(task: Task) -> Any:
        way = make(task)

        def trained() -> Outcome:
            losses, parameters = way()
            return Outcome(losses * 1.01) if parameters is None else Outcome(losses, changed(parameters))

        return trained

    chosen = {networks.ONE: networks.WAYS[networks.ONE], name: wrong}
    monkeypatch.setattr(networks, "WAYS", chosen)
    with pytest.raises(SystemExit, match=f"{name} gives other networks than nnfast alone"):
        run(monkeypatch, "networks")


def test_a_library_that_is_missing_is_a_dash_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(task: Task) -> Any:
        raise ImportError("No module named 'jaks'")

    ours = (networks.MANY, networks.ONE)
    monkeypatch.setattr(networks, "WAYS", {**{name: networks.WAYS[name] for name in ours}, "jax.vmap": missing})
    run(monkeypatch, "networks")
    out = capsys.readouterr().out
    assert out.count("- jax.vmap: No module named 'jaks'.") == 1
    assert sum(" | - | " in line for line in out.splitlines()) == 2


def test_memory_is_not_measured_of_other_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(X: Any, y: Any) -> Any:
        return memory.folded(X, y)[::-1]

    monkeypatch.setitem(memory.WAYS, "folded", wrong)
    with pytest.raises(SystemExit, match="folds: network 0 differs from what train alone gives"):
        run(monkeypatch, "memory")


def test_a_search_with_other_scores_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = nnfast.MLPClassifier.score
    # In this process alone, so that those of joblib give others
    monkeypatch.setattr(nnfast.MLPClassifier, "score", lambda self, X, y, weights=None: right(self, X, y) - 0.1)
    with pytest.raises(SystemExit, match="nnfast, loky: other scores than in sequence"):
        run(monkeypatch, "search")
