"""nnfast bench: a well-formed table of workloads, and no figure before the results agree."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import numpy as np
import pytest

from nnfast.backends import BackendUnavailableError, Source, get_backend, unavailable
from nnfast.backends.numba.program import NumbaProgram
from nnfast.benchmarking import bench
from nnfast.benchmarking.bench import (
    TOLERANCES,
    DifferentResultsError,
    Reference,
    Runner,
    bench_command,
    rows_of,
    verify,
)
from nnfast.benchmarking.workloads import WORKLOADS, Workload, get_workload
from nnfast.formulas.losses import check_pair, check_target_values, get_loss
from nnfast.formulas.optimizers import adam
from nnfast.models.validation import choose_targets
from nnfast.plans.recipe import Recipe

each_workload = pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
each_dtype = pytest.mark.parametrize("dtype", TOLERANCES)


@functools.cache
def source_of(workload: Workload) -> Source:
    return workload.source()


@functools.cache
def reference_of(workload: Workload) -> Reference:
    return Reference(workload, source_of(workload))


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MEASURED_SECONDS", (0.001, 0.01))


@each_dtype
@each_workload
def test_a_workload_can_be_trained(workload: Any, dtype: str) -> None:
    workload = dataclasses.replace(workload, dtype=dtype)
    network, loss = workload.network(), get_loss(workload.loss)
    check_pair(network.output_layer.function, loss)
    inputs, targets = workload.arrays()
    assert inputs.dtype == workload.recipe().dtype == workload.initial_parameters().dtype == dtype
    assert inputs.shape == (workload.rows, workload.inputs)
    assert 1 <= workload.batch_size <= workload.rows
    assert choose_targets(targets, network, loss) is not None
    if targets.ndim == 1:
        assert set(np.unique(targets)) == set(range(workload.outputs))
    else:
        assert targets.dtype == dtype
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


@each_dtype
def test_json_has_every_figure_and_what_it_depends_on(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_command(["numba"], ["xor", "digits"], 2, as_json=True, threads=3, dtype=dtype) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dtype"] == dtype
    assert report["tolerances"] == TOLERANCES[dtype]
    assert report["failures"] == {}
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
            assert set(figures["differences"]) == set(TOLERANCES[dtype])
        assert workload["results"]["numpy"]["speedup"] == 1
        rates = {name: figures["samples_per_second"] for name, figures in workload["results"].items()}
        assert workload["results"]["numba"]["speedup"] == pytest.approx(rates["numba"] / rates["numpy"])


def test_the_table_has_a_line_for_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_command(None, ["xor"], 1, as_json=False, dtype="float64") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("training in float64.")
    (heading,) = [index for index, line in enumerate(lines) if line.startswith("workload")]
    rows = lines[heading + 1 :]
    assert rows[0].split()[:4] == ["xor", "3-4-1", "4", "numpy"]
    assert [row.split()[-5] for row in rows] == [
        name for name in ("numpy", "numba", "cuda") if unavailable(name) is None
    ]


class Planted(Workload):
    """A workload with a ReLU's z of the first row within rounding of 0, on one side of it or on the other."""

    side: float

    @classmethod
    def of(cls, workload: Workload, side: float) -> Planted:
        planted = cls(**vars(workload))
        object.__setattr__(planted, "side", side)
        return planted

    def initial_parameters(self) -> Any:
        parameters = super().initial_parameters().astype(np.float64)
        spans = self.plan().named_parameters
        first_row = self.arrays()[0][self.stretch(1)[0][0]]
        bias, z = spans["layers.0.bias"].view(parameters), first_row @ spans["layers.0.weights"].view(parameters)
        bias[1] = self.side * np.finfo(self.dtype).eps - z[1]
        return parameters.astype(self.dtype)


@each_dtype
@pytest.mark.parametrize("side", [-4, 4])
def test_a_kink_within_rounding_is_no_mistake(side: float, dtype: str) -> None:
    workload = dataclasses.replace(get_workload("tab64"), dtype=dtype)
    reference = Reference(Planted.of(workload, 4))
    verify(Runner(Planted.of(workload, side), "numba"), reference)


class Perturbed(Workload):
    """A workload whose first weights are off by up to sixty roundings each."""

    def initial_parameters(self) -> Any:
        parameters = super().initial_parameters()
        noise = np.random.default_rng(1).uniform(-60, 60, parameters.shape) * np.finfo(self.dtype).eps
        return parameters * (1 + noise).astype(self.dtype)


@each_workload
def test_sixty_roundings_are_no_mistake(workload: Workload) -> None:
    verify(Runner(Perturbed(**vars(workload)), "numpy", source_of(workload)), reference_of(workload))


@each_workload
def test_rounding_moves_nothing_near_a_kink(workload: Workload) -> None:
    """In float32, after all verified steps; another processor's rounding may be thirty times as large."""
    reference, source = reference_of(workload), source_of(workload)
    assert reference.margin > 1e-4
    runner = Runner(workload, "numpy", source)
    runner.outcome(reference)
    precise = get_backend("numpy").compile(
        workload.plan(), dataclasses.replace(workload.recipe(), dtype=np.dtype(float))
    )
    precise.parameters = workload.initial_parameters() + reference.outcome.change
    last = rows_of(source, reference.order[reference.bounds[-2] :])
    for (_, passed), (_, exact) in zip(runner.program.trace(last), precise.trace(last), strict=True):
        scale = np.sqrt(np.square(exact.z).mean())
        assert abs(passed.z - exact.z).max() < reference.margin / 30 * scale


def spoil(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Let the numba backend give wrong results."""
    run, loss_and_gradient = NumbaProgram.run, NumbaProgram.loss_and_gradient

    def wrong_run(self: Any, order: Any, bounds: Any, rates: Any, first_step: int) -> Any:
        if what == "row" and len(bounds) > 1:
            order = np.delete(order, bounds[1] - 1)
            bounds = np.append(bounds[:1], bounds[1:] - 1)
        losses = run(self, order, bounds, rates * (1.01 if what == "rate" else 1), first_step)
        if what == "change":
            self.parameters = self.parameters * 1.01
        return losses * {"losses": 1.01, "nan": np.nan}.get(what, 1)

    def wrong_gradient(self: Any, source: Any) -> Any:
        loss, gradient = loss_and_gradient(self, source)
        spans = self.plan.named_parameters
        if what in spans:
            spans[what].view(gradient)[...] *= 1.01
        elif what == "one bias":
            bias = spans["layers.0.bias"].view(gradient)
            bias[np.argsort(abs(bias))[len(bias) // 2]] *= 1.01
        return loss, gradient * (1.01 if what == "gradient" else 1)

    monkeypatch.setattr(NumbaProgram, "run", wrong_run)
    monkeypatch.setattr(NumbaProgram, "loss_and_gradient", wrong_gradient)


MISTAKES = {
    "one bias": "gradient",
    **{f"layers.{layer}.{role}": "gradient" for layer in range(3) for role in ("weights", "bias")},
    "row": "losses",
    "rate": "losses",
    "nan": "losses",
    "change": "change",
}


@each_dtype
@pytest.mark.parametrize(("what", "found_in"), MISTAKES.items())
def test_a_planted_mistake_is_found(what: str, found_in: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one percent in a part of the gradient or in the learning rate, or of one row."""
    workload = dataclasses.replace(get_workload("tab64"), dtype=dtype)
    runner, reference = Runner(workload, "numba", source_of(workload)), reference_of(workload)
    verify(runner, reference)
    spoil(monkeypatch, what)
    with pytest.raises(
        DifferentResultsError, match=f"tab64: numba in {dtype} and numpy in float64 differ .* {found_in}"
    ):
        verify(runner, reference)


@each_dtype
@pytest.mark.parametrize("wrong", [{"beta_1": 0.91}, {"beta_2": 0.998}, {"epsilon": 1e-5}], ids=str)
def test_a_wrong_constant_of_the_optimizer_is_found(wrong: dict[str, float], dtype: str) -> None:
    class Wrong(Workload):
        def recipe(self) -> Recipe:
            return dataclasses.replace(super().recipe(), optimizer=adam(**wrong))

    workload = dataclasses.replace(get_workload("tab64"), dtype=dtype)
    runner = Runner(Wrong(**vars(workload)), "numba", source_of(workload))
    with pytest.raises(DifferentResultsError, match="differ in their"):
        verify(runner, reference_of(workload))


@pytest.mark.parametrize("what", ["gradient", "losses", "change", "nan"])
def test_backends_that_differ_are_not_timed(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, what)
    monkeypatch.setattr(Runner, "seconds", lambda self: pytest.fail("timed"))
    assert bench_command(["numba"], ["xor"], 1, as_json=False) == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert error.count("\n") == 1
    named = "losses" if what == "nan" else what
    assert f"xor: numba in float32 and numpy in float64 differ in their {named}" in error


@pytest.mark.parametrize("as_json", [False, True])
def test_a_workload_that_differs_is_reported_and_the_others_are_timed(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_on_digits(runner: Runner, reference: Any) -> dict[str, float]:
        with monkeypatch.context() as patch:
            if runner.workload.name == "digits":
                spoil(patch, "losses")
            return verify(runner, reference)

    monkeypatch.setattr(bench, "verify", fail_on_digits)
    assert bench_command(["numba"], ["digits", "xor"], 1, as_json) == 1
    output, error = capsys.readouterr()
    assert error.startswith("nnfast: digits: numba in float32 and numpy in float64 differ in their losses by")
    assert error.count("\n") == 1
    if as_json:
        report = json.loads(output)
        assert [workload["name"] for workload in report["workloads"]] == ["xor"]
        assert report["failures"] == {"digits": error.removeprefix("nnfast: ").strip()}
    else:
        assert "\nxor " in output
        assert "digits" not in output


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
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, got 'float16'"):
        bench_command(None, ["xor"], 1, False, dtype="float16")
    if unavailable("cuda"):
        with pytest.raises(BackendUnavailableError, match="backend 'cuda' is not available"):
            bench_command(["cuda"], ["xor"], 1, False)
