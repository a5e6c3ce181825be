"""estimator_calls.py: every call is timed, and no figure is given of estimators that differ."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import estimator_calls, estimators


def test_every_call_is_timed() -> None:
    lines = estimators.in_a_process("small_calls(1)", one_thread=True).splitlines()
    assert len(lines) == 4 + len(estimator_calls.cases())
    assert all(float(line.split("|")[-2]) > 0 for line in lines[4:])


def test_what_fits_another_model_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = estimator_calls.cases()["fit(max_iter=1), 20, float64"]

    def other(library: Any) -> Any:
        call = made(library)
        return call if library is not estimator_calls.nnfast else lambda: call().set_params(max_iter=2).fit(*DATA)

    DATA = estimator_calls.load_digits(return_X_y=True)
    monkeypatch.setattr(estimator_calls, "cases", lambda: {"another fit, float64": other})
    with pytest.raises(SystemExit, match="another fit, float64: different models"):
        estimator_calls.table(calls=1)
