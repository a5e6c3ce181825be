"""The CPU backend: kernels compiled by Numba, called in threads."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import Any

import numpy as np

from ...plans.plan import Plan
from ...plans.recipe import Recipe
from ...support.threads import is_chosen, thread_count
from ..base import Backend, Program, no_options
from .passes import NumbaPasses
from .program import NumbaProgram
from .table import Areas

FORMS = ()
PACKAGES = (("numba",),)
parse_options = no_options


class NumbaBackend(Backend):
    """Kernels compiled by Numba for this machine's processor. threads: None: see support.threads."""

    name = "numba"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = self.programs_at_once = thread_count(threads)
        self.measures = self.threads > 1 and not is_chosen(threads)  # how many of them are the fastest

    @property
    def description(self) -> str:
        import llvmlite.binding

        threads = f"{'up to ' * self.measures}{self.threads} thread{'s' * (self.threads > 1)}"
        version = metadata.version("numba")
        return f"Numba {version} on {llvmlite.binding.get_host_cpu_name()}, {threads}"

    def workspace_size(self, plan: Plan, dtype: np.dtype[Any]) -> int:
        return Areas(plan, dtype).size

    def _compile(self, plan: Plan, recipe: Recipe) -> NumbaProgram:
        return NumbaProgram(plan, recipe, self.threads, self.measures)

    def passes(self, program: Program) -> NumbaPasses:
        assert isinstance(program, NumbaProgram)
        return NumbaPasses(program, self.threads, self.measures)


def unavailable_reason() -> str | None:
    """Numba is a requirement of nnfast; without it the reference backend still runs."""
    importlib.util.find_spec("nnfast.kernels.cpu")  # ModuleNotFoundError, which backends.unavailable() explains
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed; install numba"
    return None


def slow_reason() -> str | None:
    """Why numpy is faster here on all but tiny networks, or None where it is not."""
    from ...kernels.cpu.registers import fuses_multiply_add

    if fuses_multiply_add():
        return None
    return "the processor has no instruction for fused multiply-add (FMA), so each one is a call of the C library"


def create(threads: int | None) -> NumbaBackend:
    return NumbaBackend(threads)
