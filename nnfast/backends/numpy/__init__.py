"""The reference backend: the mathematics as one would write it on paper, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...plans.plan import Plan
from ...plans.recipe import Recipe
from ..base import Backend, Program, never_slow, no_options
from .passes import NumpyPasses
from .program import NumpyProgram

FORMS = ()
PACKAGES = (("numpy",),)
parse_options = no_options
slow_reason = never_slow


class NumpyBackend(Backend):
    """Runs everywhere NumPy does."""

    name = "numpy"

    @property
    def description(self) -> str:
        return f"NumPy {np.__version__}"

    def workspace_size(self, plan: Plan, dtype: np.dtype[Any]) -> int:
        return 0  # arrays are made where they are needed

    def _compile(self, plan: Plan, recipe: Recipe) -> NumpyProgram:
        return NumpyProgram(plan, recipe)

    def passes(self, program: Program) -> NumpyPasses:
        assert isinstance(program, NumpyProgram)
        return NumpyPasses(program)


def unavailable_reason() -> str | None:
    """NumPy is a requirement of nnfast: always available."""
    return None


def create(threads: int | None) -> NumpyBackend:
    """threads: of no meaning here, where the products are in the threads of NumPy's BLAS."""
    return NumpyBackend()
