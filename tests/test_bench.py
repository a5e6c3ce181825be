"""nnfast bench: a well-formed table of workloads, and no figure before the results agree."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nnfast.backends import BackendUnavailableError, unavailable
from nnfast.backends.numba.program import NumbaProgram
from nnfast.benchmarking import bench
from nnfast.benchmarking.bench import TOLERANCES, Runner, bench_command, verify
from nnfast.benchmarking.workloads import WORKLOADS, get_workload
from nnfast.formulas.losses import check_pair, check_target_values, get_loss
from nnfast.models.validation import choose_targets

each_workload = pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MEASURED_SECONDS", (0.001, 0.01))


@each_workload
def test_a_workload_can_be_trained(workload: Any) -> None:
    network, loss = workload.network(), get_loss(workload.loss)
    check_pair(network.output_layer.function, loss)
    inputs, targets = workload.arrays()
    assert inputs.dtype == np.float32
    assert inputs.shape == (workload.rows, workload.inputs)
    assert 1 <= workload.batch_size <= workload.rows
    assert choose_targets(targets, network, loss) is not None
    if targets.ndim == 1:
        assert set(np.unique(targets)) == set(range(workload.outputs))
    else:
        assert targets.dtype == np.float32
        check_target_values(loss, targets)
    assert np.array_equal(inputs, workload.arrays()[0]), "another call gives other data"


@each_workload
def test_a_stretch_visits_every_row_once_an_epoch(workload: Any) -> None:
    order, bounds = workload.stretch()
    assert len(bounds) == workload.steps + 1
    epochs = order.reshape(workload.epochs, workload.rows)
    for epoch in epochs[:3]:
        assert np.array_equal(np.sort(epoch), np.arange(workload.rows))
    sizes = np.diff(bounds).reshape(workload.epochs, workload.steps_per_epoch)
    assert (sizes[:, :-1] == workload.batch_size).all()
    assert (sizes.sum(axis=1) == workload.rows).all()
    part, part_bounds = workload.stretch(3)
    assert np.array_equal(part_bounds, bounds[:4]) or workload.steps < 3
    assert np.array_equal(part, order[: part_bounds[-1]])


def test_flops_count_the_products_of_a_step() -> None:
    # Forward and weight gradient in both layers, gradient of the inputs in the second
    assert get_workload("digits").flops_per_row() == 2 * (2 * 64 * 100 + 3 * 100 * 10)
    assert get_workload("digits").flops_per_epoch() == 1797 * get_workload("digits").flops_per_row()


def test_json_has_every_figure_and_what_it_depends_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_command(["numba"], ["xor", "digits"], 2, as_json=True, threads=3) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"numpy", "numba"} <= set(report["environment"]["packages"])
    assert report["environment"]["cpu"]
    assert report["environment"]["cores"] >= 1
    assert report["environment"]["blas_threads"] >= 1
    assert report["environment"]["threads"] == 3
    assert report["backends"]["numba"].endswith("3 threads")
    assert list(report["backends"]) == ["numpy", "numba"], "the numpy backend is what others are compared with"
    assert report["repeats"] == 2
    assert [workload["name"] for workload in report["workloads"]] == ["xor", "digits"]
    for workload in report["workloads"]:
        assert workload["flops_per_epoch"] > 0
        for figures in workload["results"].values():
            low, high = figures["spread"]
            assert 0 < low <= figures["samples_per_second"] <= high
            assert figures["gflops"] > 0
            assert set(figures["differences"]) == set(TOLERANCES)
        assert workload["results"]["numpy"]["speedup"] == 1
        rates = {name: figures["samples_per_second"] for name, figures in workload["results"].items()}
        assert workload["results"]["numba"]["speedup"] == pytest.approx(rates["numba"] / rates["numpy"])


def test_the_table_has_a_line_for_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_command(None, ["xor"], 1, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    (heading,) = [index for index, line in enumerate(lines) if line.startswith("workload")]
    rows = lines[heading + 1 :]
    assert rows[0].split()[:4] == ["xor", "3-4-1", "4", "numpy"]
    assert [row.split()[-5] for row in rows] == [
        name for name in ("numpy", "numba", "cuda") if unavailable(name) is None
    ]


def spoil(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Let the numba backend give wrong results."""
    run, loss_and_gradient = NumbaProgram.run, NumbaProgram.loss_and_gradient

    def wrong_run(self: Any, *arguments: Any) -> Any:
        losses = run(self, *arguments)
        if what == "change":
            self.parameters = self.parameters * 1.01
        return losses * {"losses": 1.01, "nan": np.nan}.get(what, 1)

    def wrong_gradient(self: Any, source: Any) -> Any:
        loss, gradient = loss_and_gradient(self, source)
        return loss, gradient * (1.01 if what == "gradient" else 1)

    monkeypatch.setattr(NumbaProgram, "run", wrong_run)
    monkeypatch.setattr(NumbaProgram, "loss_and_gradient", wrong_gradient)


@pytest.mark.parametrize("what", ["gradient", "losses", "change", "nan"])
def test_backends_that_differ_are_not_timed(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, what)
    monkeypatch.setattr(Runner, "seconds", lambda self: pytest.fail("timed"))
    for as_json in (False, True):
        assert bench_command(["numba"], ["xor"], 1, as_json) == 1
        output, error = capsys.readouterr()
        assert output == ""
        assert error.count("\n") == 1
        named = "losses" if what == "nan" else what
        assert f"xor: numba and numpy differ in their {named}" in error


def test_one_workload_that_differs_keeps_all_from_being_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_on_digits(runner: Runner, reference: Any) -> dict[str, float]:
        if runner.workload.name == "digits":
            spoil(monkeypatch, "losses")
        return verify(runner, reference)

    monkeypatch.setattr(bench, "verify", fail_on_digits)
    monkeypatch.setattr(Runner, "seconds", lambda self: pytest.fail("timed"))
    assert bench_command(["numba"], ["xor", "digits"], 1, as_json=False) == 1
    assert capsys.readouterr().err.startswith("nnfast: digits: ")


def test_every_run_starts_from_the_same_state() -> None:
    runner = Runner(get_workload("xor"), "numpy")
    runner.prepare(10)
    results = []
    for _ in range(2):
        runner.reset()
        results.append((runner.run(), runner.program.parameters))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
    assert results[0][0][0] != results[0][0][-1], "nothing was trained"


def test_unknown_and_unavailable_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown workload 'mnist'; known: xor, digits"):
        bench_command(None, ["mnist"], 1, False)
    with pytest.raises(ValueError, match="unknown backend 'torch'"):
        bench_command(["torch"], ["xor"], 1, False)
    with pytest.raises(ValueError, match="repeats"):
        bench_command(None, ["xor"], 0, False)
    if unavailable("cuda"):
        with pytest.raises(BackendUnavailableError, match="backend 'cuda' is not available"):
            bench_command(["cuda"], ["xor"], 1, False)
