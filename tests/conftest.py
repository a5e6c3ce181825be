"""Backends as fixtures: a test that takes `backend` runs on all of them. And what is done where a tool is missing."""

from __future__ import annotations

import ast
import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nnfast.backends import NAMES, Backend, get_backend, unavailable
from nnfast.backends.cuda import CudaBackend
from tests.cuda import gate, gxx
from tests.cuda.twin import make_twin

# A backend that is tested under other names than its own. The twin runs the CUDA backend's own code on the CPU;
# "cuda" runs it on a GPU, where there is one. The narrow path is for dense networks alone.
VARIANTS = {"cuda": ("cuda-twin-wide", "cuda-twin-narrow", "cuda:wide", "cuda:narrow")}


def faster_backends(names: Iterable[str]) -> list[str]:
    """What is held to the NumPy backend, where there are backends of these names."""
    return [variant for name in names if name != "numpy" for variant in VARIANTS.get(name, (name,))]


FASTER_BACKENDS = [
    pytest.param(name, marks=pytest.mark.cuda if name.startswith("cuda:") else ()) for name in faster_backends(NAMES)
]
FASTER_IMAGE_BACKENDS = [parameter for parameter in FASTER_BACKENDS if not parameter.values[0].endswith("narrow")]

# A machine with a GPU runs the tests marked cuda with CuPy, numpy, scipy, numba, scikit-learn, safetensors and pytest
# alone (test_bare_machine.py). Without hypothesis, the files that import it are not collected.
if find_spec("hypothesis"):
    import hypothesis

    # No test asserts a time: how long an example takes says more of the machine than of the code.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("ci" if "CI" in os.environ else "untimed")


# What `-m "not slow"` leaves out, beside all that runs on the CUDA twin: where three quarters of the time go.
SLOW = (
    "tests/cuda/test_backend.py", "tests/cuda/test_gate.py", "tests/cuda/test_mutants.py", "tests/test_bare_machine.py",
    "tests/test_compilation.py", "tests/test_estimators_dask.py", "tests/test_estimators_ecosystem.py",
    "tests/test_estimators_same_model.py", "tests/test_register_widths.py",
    "tests/test_same_results.py::test_every_pair", "tests/test_same_results_at_any_size.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW) or "cuda-twin" in item.name:
            item.add_marker("slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With -n, whole files go to the processes: a file's fixtures and what it compiled are made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="fail, instead of skipping, tests of a backend that cannot run here",
    )
    parser.addoption(
        "--require-tools",
        action="store_true",
        help="fail, instead of leaving tests out, where a compiler or a package that they need is missing",
    )


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores Ctrl-C, which tests press
    for name in config.getoption("--require-backend"):
        if reason := reason_to_skip(name):
            raise pytest.UsageError(f"--require-backend {name}: {reason}")
    if config.getoption("--require-tools") and (reasons := [*missing_tools()]):
        raise pytest.UsageError("\n".join(f"--require-tools: {reason}" for reason in reasons))


def missing_tools() -> Iterator[str]:
    """Why tests are left out on this machine, GPUs apart."""
    yield from filter(None, (gxx.available(), gate.unavailable_reason()))
    left_out: dict[str, list[str]] = {}
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        if names := missing_packages(path):
            left_out.setdefault(" and ".join(names), []).append(path.name)
    for names, files in left_out.items():
        yield f"{names} is not installed; not collected: {', '.join(files)}"


@functools.cache
def missing_packages(path: Path) -> list[str]:
    """The packages that a test file imports at its top and that are not installed."""
    statements = ast.parse(path.read_text()).body
    modules = [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in statements if isinstance(node, ast.ImportFrom) and node.module]
    packages = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    return sorted(name for name in packages if find_spec(name) is None)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and missing_packages(collection_path) else None


def pytest_report_header() -> list[str]:
    return [*missing_tools()]


def reason_to_skip(name: str) -> str | None:
    return gxx.available() if name.startswith("cuda-twin") else unavailable(name.partition(":")[0])


def open_backend(name: str) -> Backend:
    if reason := reason_to_skip(name):
        pytest.skip(f"backend {name}: {reason}")
    if name.startswith("cuda-twin"):
        return CudaBackend(path=name.removeprefix("cuda-twin-"), xp=make_twin())
    return get_backend(name)


@pytest.fixture(autouse=True)
def _calls_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of a compiled CPU kernel is checked, as under NNFAST_DEBUG=1."""
    monkeypatch.setattr("nnfast.backends.numba.program.is_debugging", lambda: True)


@pytest.fixture(params=["numpy", *FASTER_BACKENDS])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend."""
    return open_backend(request.param)


@pytest.fixture(params=FASTER_BACKENDS)
def faster_backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that is held to the results of the NumPy one."""
    return open_backend(request.param)


@pytest.fixture(params=["numpy", *FASTER_IMAGE_BACKENDS])
def image_backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that takes convolutions, pools and BatchNorm."""
    return open_backend(request.param)


@pytest.fixture(params=FASTER_IMAGE_BACKENDS)
def faster_image_backend(request: pytest.FixtureRequest) -> Backend:
    """Those of them that are held to the results of the NumPy one."""
    return open_backend(request.param)
