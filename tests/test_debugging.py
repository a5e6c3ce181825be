"""NNFAST_DEBUG=1: what would make compiled code read or write past an array is refused, by the parameter's name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("numba")

from nnfast.backends import Source, get_backend
from nnfast.backends.numba import checks, listing
from nnfast.backends.numba import program as program_module
from nnfast.backends.numba.program import NumbaProgram
from nnfast.backends.numba.table import Table
from nnfast.kernels.cpu import tables
from nnfast.networks.layers import BatchNorm, Dense, Dropout
from nnfast.networks.network import Network
from nnfast.plans.plan import Plan, make_plan
from nnfast.support.debugging import is_debugging
from tests.image_networks import IMAGE_NETWORKS
from tests.programs import recipe

ROOT = Path(__file__).resolve().parents[1]
ROWS = 32  # whole groups of images in either dtype
DENSE = Network(
    6, [Dense(20, "gelu"), BatchNorm(activation="tanh"), Dropout(0.2), Dense(2, "relu"), Dense(3, "softmax")]
)


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_the_variable_says_whether(value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNFAST_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("NNFAST_DEBUG", value)
    assert is_debugging() is expected


def make_program(network: Network = DENSE) -> NumbaProgram:
    program = get_backend("numba").compile(make_plan(network, ROWS), recipe("cross_entropy", dtype="float32"))
    assert isinstance(program, NumbaProgram)
    return program


def source(**changes: Any) -> Source:
    arrays: dict[str, Any] = {"inputs": np.ones((13, 6), "float32"), "targets": np.arange(13) % 3}
    return Source(**arrays | changes)


def run(program: NumbaProgram, rows: Source) -> None:
    program.bind(rows)
    program.run(np.arange(13), np.array([0, 5, 13]), np.full(2, 0.1), 0)


def check(program: NumbaProgram, rows: Source, order: Any = range(13), bounds: Any = (0, 5, 13)) -> None:
    checks.check_call(program.plan, program.recipe.dtype, rows, np.array(order, np.int64), np.array(bounds, np.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": [0, 1, 2, 3, 13, *range(8)]}, "order: 13 at place 4 is none of the 13 rows of the source"),
        ({"order": [-1, *range(12)]}, "order: -1 at place 0 is none of the 13 rows"),
        ({"bounds": (0, 5, 14)}, "bounds: must rise within 0..13"),
        ({"bounds": (0, 5, 4)}, "bounds: must rise within 0..13"),
        ({"bounds": (-1, 5, 13)}, "bounds: must rise within 0..13"),
        ({"order": np.zeros(40), "bounds": (0, 40)}, "bounds: a batch has 40 rows, but the plan is for at most 32"),
    ],
)
def test_batches_outside_the_source_are_refused(arguments: dict[str, Any], message: str) -> None:
    program = make_program()
    check(program, source())
    with pytest.raises(AssertionError) as raised:
        check(program, source(), **arguments)
    assert str(raised.value).startswith(f"kernel run_steps, parameter {message}")


def csr(change: Callable[[Any], None]) -> Any:
    matrix = scipy.sparse.csr_matrix(np.eye(13, 6, dtype="float32"))
    change(matrix)
    return matrix


def far_column(matrix: Any) -> None:
    matrix.indices[3] = 6


def falling_rows(matrix: Any) -> None:
    matrix.indptr[2] = 0


def numbers_that_are_not_there(matrix: Any) -> None:
    matrix.indptr[-1] += 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": np.full(13, 3)}, "targets: 3 at place 0 is none of the 3 outputs"),
        ({"targets": np.arange(13) - 12}, "targets: -12 at place 0 is none of the 3 outputs"),
        ({"targets": np.zeros(12, np.int64)}, "targets: must have shape (13,) in C order of int64, got (12,)"),
        ({"targets": np.zeros((13, 3))}, "targets: must have shape (13, 3) in C order of float32, got (13, 3)"),
        ({"inputs": np.ones((13, 5), "float32")}, "inputs: must have shape (13, 6) in C order"),
        ({"inputs": np.ones((6, 13), "float32").T}, "inputs: must have shape (13, 6) in C order of float32 or float64"),
        ({"inputs": np.ones((13, 6), "int16")}, "inputs: must have shape (13, 6) in C order of float32 or float64"),
        ({"sample_weight": np.ones(13)}, "sample_weight: must have shape (13,) in C order of float32"),
        ({"inputs": csr(far_column)}, "inputs.indices: 6 at place 3 is none of the 6 inputs of the network"),
        ({"inputs": csr(falling_rows)}, "inputs.indptr: must rise within 0..6"),
        ({"inputs": csr(numbers_that_are_not_there)}, "inputs.indptr: must rise within 0..6"),
    ],
)
def test_a_source_that_a_kernel_would_read_beyond_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check(make_program(), source(**changes))
    assert str(raised.value).startswith(f"kernel run_steps, parameter {message}")


@pytest.mark.parametrize("changes", [{}, {"targets": np.eye(13, 3, dtype="float32")}, {"inputs": csr(lambda _: None)}])
def test_a_right_source_passes(changes: dict[str, Any]) -> None:
    check(make_program(), source(**changes))


@pytest.mark.parametrize("network", [DENSE, IMAGE_NETWORKS["all of them"][0]], ids=["dense", "images"])
def test_every_offset_that_is_wrong_by_one_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Table.rows
    right = make_program(network).operations
    found = set()
    for index, row in enumerate(right):
        for column in listing.OFFSETS.keys() & listing.columns(row).keys():
            found.add(column)

            def wrong(table: Table, place: tuple[int, int] = (index, getattr(tables, column))) -> Any:
                operations = rows(table)
                operations[place] += 1
                return operations

            with monkeypatch.context() as planted:
                planted.setattr(Table, "rows", wrong)
                with pytest.raises(AssertionError, match=rf"parameter operations: {column} of operation {index} is "):
                    make_program(network)
    assert found >= {"WEIGHTS", "BIAS", "INPUTS", "OUTPUTS", "Z", "GRADIENT", "INPUT_GRADIENT"}
    assert network is not DENSE or found == listing.OFFSETS.keys()


def test_a_workspace_that_is_too_small_for_the_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def for_fewer_rows(plan: Plan, *rest: Any) -> Any:
        return Table(make_plan(plan.network, 1), *rest)

    monkeypatch.setattr(program_module, "Table", for_fewer_rows)
    with pytest.raises(AssertionError, match=r"of operation 0 is workspace.* but workspace has"):
        make_program()


SCRIPT = """
import numpy as np
import nnfast
import nnfast.training.job as job

job.encode_targets = lambda *arguments: np.zeros((4, 2))  # float64 in a run in float32
nnfast.train(nnfast.Network(3, [nnfast.Dense(2, "softmax")]), np.zeros((4, 3)), [0, 1, 0, 1], epochs=1, backend="numba")
"""


def test_the_variable_has_a_training_checked() -> None:
    """In a process of its own, since all tests run with checks."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NNFAST_DEBUG": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    message = "AssertionError: kernel run_steps, parameter targets: must have shape (4, 2) in C order of float32"
    assert done.stderr.splitlines()[-1].startswith(message)


def test_without_the_variable_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise AssertionError("this is for NNFAST_DEBUG=1")

    monkeypatch.setattr(program_module, "is_debugging", lambda: False)
    for name in ("check_call", "check_table"):
        monkeypatch.setattr(checks, name, fail)
    monkeypatch.setattr("nnfast.kernels.cpu.signatures.check_call", fail)
    run(make_program(), source())
