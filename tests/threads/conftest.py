"""Threads for small networks too, and how many every stretch asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nnfast.backends.numba import program as backend_module
from nnfast.backends.numba import team as team_module
from nnfast.support.threads import VARIABLES, run_in_threads


@pytest.fixture(autouse=True)
def teams(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads every stretch asked for; small networks use threads as large ones do."""
    seen: list[int] = []

    def noted(function: Callable[[int, int], Any], count: int, *limit: Any) -> None:
        seen.append(count)
        run_in_threads(function, count, *limit)

    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(backend_module, "FLOPS_PER_THREAD", 1)
    monkeypatch.setattr(team_module, "run_in_threads", noted)
    return seen
