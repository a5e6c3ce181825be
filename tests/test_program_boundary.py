"""What a caller hands to a program stays within its memory, or is refused, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.backends import Backend, Program, Source, get_backend
from nnfast.formulas.losses import LOSSES
from nnfast.networks.layers import Dense
from nnfast.networks.network import Network
from tests.programs import make_program, make_source, recipe

NETWORK = Network(3, [Dense(4, "tanh"), Dense(2)])
ROWS = 5  # of the plan


def source(rows: int) -> Source:
    return make_source(NETWORK, LOSSES["squared_error"], rows)


def bound(backend: Backend) -> Program:
    """A program that reads 13 rows."""
    program = make_program(backend, NETWORK, recipe("squared_error"), ROWS)
    program.bind(source(13))
    return program


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


def run(program: Program, order: Any, bounds: Any) -> Any:
    return program.run(order, bounds, np.full(len(bounds) - 1, 0.01), first_step=0)


def labelled(*labels: int) -> Source:
    return replace(source(len(labels)), targets=integers(*labels), sample_weight=None)


CALLS: dict[str, tuple[Callable[[Program], Any], str]] = {
    "more rows than the plan has": (
        lambda program: program.loss_and_gradient(source(6)), "6 rows in one batch, but the plan has room for 5"
    ),
    "far more rows": (lambda program: program.loss_and_gradient(source(5000)), "5000 rows in one batch"),
    "a step of too many rows": (
        lambda program: run(program, np.arange(13), integers(0, 6)), "a step takes 1 to 5 rows of this plan, got 6"
    ),
    "a step without rows": (
        lambda program: run(program, np.arange(13), integers(0, 2, 2)), "a step takes 1 to 5 rows of this plan, got 0"
    ),
    "a step backwards": (
        lambda program: run(program, np.arange(13), integers(0, 5, 3, 8)), "1 to 5 rows of this plan, got -2 to 5"
    ),
    "bounds beyond the order": (
        lambda program: run(program, np.arange(4), integers(0, 5)), r"bounds must lie in \[0, 4\], got 0 to 5"
    ),
    "bounds before the order": (
        lambda program: run(program, np.arange(4), integers(-1, 3)), r"bounds must lie in \[0, 4\], got -1 to 3"
    ),
    "too few bounds": (
        lambda program: program.run(np.arange(4), integers(0, 4), np.ones(2), 0), "2 steps need 3 bounds, got 2"
    ),
    "a row beyond the source": (
        lambda program: run(program, integers(1, 13), integers(0, 2)), r"rows in \[0, 13\), got 1 to 13"
    ),
    "a row before the source": (
        lambda program: run(program, integers(1, -1), integers(0, 2)), r"rows in \[0, 13\), got -1 to 1"
    ),
    "inputs of another width": (
        lambda program: program.predict(Source(np.zeros((4, 2)))), r"inputs has shape \(4, 2\), but .* takes \(4, 3\)"
    ),
    "numbers out of line": (
        lambda program: program.predict(Source(np.zeros(97, np.uint8)[1:].view(float).reshape(3, 4).T)),
        r"inputs must be in C order, or aligned in memory on the host"
    ),
    "a measured row beyond the source": (
        lambda program: program.evaluate(source(5), np.array([0, 5])), r"rows must lie in \[0, 5\), got 0 to 5"
    ),
    "fewer targets than rows": (
        lambda program: program.evaluate(replace(source(5), targets=np.zeros((4, 2)))), r"targets has shape \(4, 2\)"
    ),
    "fewer weights than rows": (
        lambda program: program.bind(replace(source(5), sample_weight=np.ones(4))), r"sample_weight has shape \(4,\)"
    ),
    "a label beyond the outputs": (
        lambda program: program.loss_and_gradient(labelled(0, 2)), r"labels must lie in \[0, 2\), got 0 to 2"
    ),
    "a negative label": (lambda program: program.bind(labelled(-1, 1)), r"labels must lie in \[0, 2\), got -1 to 1"),
    "several vectors of another size": (
        lambda program: program.predict_each(Source(np.zeros((4, 3))), np.zeros((2, 1)), np.zeros((2, 0))),
        r"\(2, 1\)|\(1,\)",
    ),
    "a vector of one number": (lambda program: setattr(program, "parameters", np.zeros(1)), r"\(1,\)"),
    "slots of another shape": (lambda program: setattr(program, "slots", np.zeros((1, 26))), r"\(1, 26\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", CALLS)
def test_what_would_leave_a_program_s_memory_is_refused(backend: Backend, what: str) -> None:
    call, message = CALLS[what]
    program = bound(backend)
    before = program.parameters
    with pytest.raises(ValueError, match=message):
        call(program)
    np.testing.assert_array_equal(program.parameters, before)
    run(program, np.arange(13), integers(0, 5, 10, 13))  # it goes on as if nothing had happened


@cache
def shared(name: str) -> Program:
    return bound(get_backend(name))


small = st.integers(-2, 15)


@pytest.mark.parametrize("name", ["numpy", "numba"])
@given(order=st.lists(small, max_size=15), bounds=st.lists(small, min_size=1, max_size=5))
def test_a_stretch_runs_exactly_where_it_lies_within_the_plan_and_the_source(
    name: str, order: list[int], bounds: list[int]
) -> None:
    fits = (
        all(0 <= row < 13 for row in order)
        and bounds[0] >= 0
        and bounds[-1] <= len(order)
        and all(1 <= after - before <= ROWS for before, after in pairwise(bounds))
    )
    try:
        losses = run(shared(name), integers(*order), integers(*bounds))
    except ValueError:
        assert not fits
    else:
        assert fits
        assert len(losses) == len(bounds) - 1
