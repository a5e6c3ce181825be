"""Compiled programs, kept with an estimator between calls of predict and partial_fit, and never pickled."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from ..backends import Backend, BackendUnavailableError, Program, get_backend

MAX_PROGRAMS = 8
IDLE_BYTES = 2**26  # of all idle programs but the last; each holds parameters, slots and a workspace


class Programs:
    """A pool of idle programs, keyed by what they were compiled from.

    A program has one workspace, so it is lent to one thread at a time; a second thread gets one of its own. A copy,
    as in pickles and clones, starts empty: programs hold addresses of compiled code and memory of a device.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[Hashable, Program]] = []

    @contextlib.contextmanager
    def lend(self, key: Hashable, compile_program: Callable[[], Program]) -> Iterator[Program]:
        """A program of this key; its parameters and slots are what the last user left."""
        program = self._take(key) or compile_program()
        yield program  # not taken back after an error: it may be half-way through something
        self._idle.append((key, program))
        del self._idle[: self._surplus()]  # in place: another thread may be taking one

    def _surplus(self) -> int:
        """How many of the oldest are too many."""
        sizes = [_bytes(program) for _, program in self._idle.copy()]
        surplus = max(0, len(sizes) - MAX_PROGRAMS)
        while surplus < len(sizes) - 1 and sum(sizes[surplus:]) > IDLE_BYTES:
            surplus += 1
        return surplus

    def _take(self, key: Hashable) -> Program | None:
        for entry in reversed(self._idle.copy()):
            if entry[0] == key:
                try:
                    self._idle.remove(entry)
                except ValueError:  # another thread was faster
                    continue
                return entry[1]
        return None

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return Programs, ()


def _bytes(program: Program) -> int:
    """About how much memory a program holds."""
    vectors = 2 + len(program.recipe.optimizer.slots)
    return (program.plan.workspace_size + vectors * program.plan.parameter_count) * program.recipe.dtype.itemsize


def backend_for_prediction(name: str | Backend, threads: int | None) -> Backend:
    """The backend, or, with a warning, what can run here: a model fitted on a GPU may be used on another machine."""
    try:
        return get_backend(name, threads)
    except BackendUnavailableError as error:
        other = get_backend("auto", threads)
        warnings.warn(f"{error}. Predicting on {other.name}.", stacklevel=2)
        return other
