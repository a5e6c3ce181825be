"""Backends as fixtures: a test that takes `backend` runs on all of them."""

from __future__ import annotations

import os

import hypothesis
import pytest

from nnfast.backends import Backend, get_backend, unavailable
from nnfast.backends.cuda import CudaBackend
from tests.cuda import gxx
from tests.cuda.twin import make_twin

# The twin runs the CUDA backend's own code on the CPU; "cuda" runs it on a GPU, where there is one.
FASTER_BACKENDS = ("numba", "cuda-twin", pytest.param("cuda", marks=pytest.mark.cuda))


# No test asserts a time: how long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="fail, instead of skipping, tests of a backend that cannot run here",
    )


def pytest_configure(config: pytest.Config) -> None:
    for name in config.getoption("--require-backend"):
        if reason := reason_to_skip(name):
            raise pytest.UsageError(f"--require-backend {name}: {reason}")


def reason_to_skip(name: str) -> str | None:
    return gxx.available() if name == "cuda-twin" else unavailable(name)


def open_backend(name: str) -> Backend:
    if reason := reason_to_skip(name):
        pytest.skip(f"backend {name}: {reason}")
    return CudaBackend(make_twin()) if name == "cuda-twin" else get_backend(name)


@pytest.fixture(params=["numpy", *FASTER_BACKENDS])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend."""
    return open_backend(request.param)


@pytest.fixture(params=FASTER_BACKENDS)
def faster_backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that is held to the results of the NumPy one."""
    return open_backend(request.param)
