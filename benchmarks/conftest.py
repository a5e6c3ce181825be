"""What the benchmarks share: backends that can run here, and the machine's facts beside every figure.

python -m pytest benchmarks                        measures
python -m pytest benchmarks --benchmark-disable    runs everything once, briefly: nothing is measured
"""

from __future__ import annotations

from typing import Any

import pytest

from nnfast.backends import NAMES, unavailable
from nnfast.benchmarking.bench import environment


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """Versions, processor, cores and threads, for extra_info."""
    facts = environment()
    kept = ("nnfast", "python", "packages", "platform", "cpu", "cores", "threads", "blas", "blas_threads", "gpus")
    return {name: facts[name] for name in kept}


@pytest.fixture(params=list(reversed(NAMES)))
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend's name; one that cannot run here is skipped with the reason."""
    if reason := unavailable(request.param):
        pytest.skip(f"backend {request.param}: {reason}")
    name: str = request.param
    return name
