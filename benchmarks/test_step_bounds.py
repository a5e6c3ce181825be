"""step_bounds.py: a line for every workload in both dtypes, whatever becomes of the others."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from nnfast.benchmarking.bench import DifferentResultsError, verify


@pytest.fixture
def step_bounds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, set to measure nothing well. As a script it finds its neighbours beside it."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    module = importlib.import_module("step_bounds")
    monkeypatch.setattr(sys.modules["kernel_rates"], "SECONDS", 1e-4)
    monkeypatch.setattr(module, "SECONDS", 1e-3)
    return module


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_workload_that_differs_is_reported_and_the_others_are_timed(
    dtype: str, step_bounds: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_on_xor(runner: Any, reference: Any) -> None:
        assert runner.workload.dtype == dtype
        if runner.workload.name == "xor":
            raise DifferentResultsError("xor: wrong")
        verify(runner, reference)

    monkeypatch.setattr(step_bounds, "verify", fail_on_xor)
    monkeypatch.setattr(sys, "argv", ["step_bounds.py", "--dtype", dtype, "--workload", "xor,tab64,lenet5"])
    assert step_bounds.main() == 1
    output, error = capsys.readouterr()
    assert error == "step_bounds: xor: wrong\n"
    assert f" GFLOP/s in {dtype}. " in output
    assert [line.split()[1] for line in output.splitlines() if line.startswith("| ")][1:] == ["tab64", "lenet5"]
