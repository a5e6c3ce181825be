"""A new row of a table meets every test that the others passed, and fails where it has no counterpart to be held to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda import gate
from tests.planted import ROWS

ROOT = Path(__file__).resolve().parents[1]

# Of each test that walks a table, the ids that a new row gives.
WALKED = {
    "activation": (
        "test_activations.py::test_values_are_the_textbook_s_to_the_last_digits_and_nothing_overflows[planted-float32]",
        "test_activations.py::test_derivatives_lose_no_digits_and_nothing_overflows[planted-float64]",
        "test_same_results.py::test_every_hidden_activation_gives_the_same_gradient[cuda-twin-narrow-float32-planted]",
        "test_same_results.py::test_every_hidden_activation_gives_the_same_gradient[numba-float64-planted]",
        "threads/test_bits.py::test_every_formula_gives_the_same_bits[float32-activation planted]",
    ),
    "loss": (
        "test_losses.py::test_losses_are_the_textbook_s[planted]",
        "test_same_results.py::test_the_gradient_of_every_pair_is_that_of_finite_differences[relu-planted]",
        "test_same_results.py::test_every_pair_gives_the_same_loss_and_gradient[cuda-twin-wide-relu-planted]",
        "threads/test_bits.py::test_every_formula_gives_the_same_bits[float64-loss planted]",
    ),
    "optimizer": (
        "test_optimizers.py::test_an_optimizer_is_its_paper_s[planted]",
        "test_same_results.py::test_ten_steps_of_every_optimizer_give_the_same_parameters[cuda-twin-wide-float32-planted]",
        "test_same_results.py::test_ten_steps_of_every_optimizer_give_the_same_parameters[numba-float64-planted]",
        "threads/test_bits.py::test_every_formula_gives_the_same_bits[float64-optimizer planted]",
    ),
    "schedule": ("test_schedules.py::test_a_schedule_is_the_textbook_s_wherever_a_stretch_begins[planted]",),
    "initializer": ("test_initializers.py::test_weights_have_the_stated_spread[planted]",),
}

# What the failures of a row say that nothing else was written for.
SAID = {
    "activation": "'planted' has no counterpart to be held to: add 'planted' to TEXTBOOK in tests/test_activations.py",
    "loss": "add 'planted' to TEXTBOOK in tests/test_losses.py",
    "optimizer": "add 'planted' to PAPERS in tests/test_optimizers.py",
    "schedule": "add 'planted' to TEXTBOOK in tests/test_schedules.py",
    "initializer": "add 'planted' to DEVIATIONS in tests/test_initializers.py",
}


def pytest_with_planted_rows(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "tests.planted", "-k", "planted", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def collected() -> str:
    """All tests of the new rows, by their ids."""
    files = sorted({f"tests/{test.partition('::')[0]}" for tests in WALKED.values() for test in tests})
    return pytest_with_planted_rows("--collect-only", *files)


@pytest.mark.parametrize("table", ROWS)
def test_a_new_row_is_met_by_every_test_that_walks_its_table(table: str, collected: str) -> None:
    assert [test for test in WALKED[table] if f"tests/{test}\n" not in collected] == []


@pytest.fixture(scope="module")
def failures() -> str:
    """What the tests of the new rows say, backends apart."""
    return pytest_with_planted_rows(*(f"tests/{tests[0].partition('[')[0]}" for tests in WALKED.values()))


@pytest.mark.parametrize("table", ROWS)
def test_a_new_row_without_its_counterpart_fails_and_says_what_to_add(table: str, failures: str) -> None:
    assert SAID[table] in failures
    assert " passed" not in failures


@pytest.mark.parametrize(("table", "kind"), [("activation", "activation"), ("loss", "loss"), ("optimizer", "update")])
def test_a_new_row_meets_the_gate_of_the_cuda_compiler(table: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, row = ROWS[table]
    monkeypatch.setitem(rows, "planted", row)  # type: ignore[arg-type]
    met = {text.dtype for text in gate.texts() if text.kind == kind and text.formula.endswith("planted")}
    assert met == {"float32", "float64"}
