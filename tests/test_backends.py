"""Choosing a backend: names, reasons, and no silent substitutes."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnfast import Dense, Dropout, Network, backends, train
from nnfast.backends import BackendUnavailableError, get_backend
from nnfast.backends import cuda as cuda_module
from nnfast.backends.base import lacking
from nnfast.backends.cuda.images import ImageProgram
from nnfast.backends.numpy import NumpyBackend
from nnfast.cli import main
from nnfast.kernels.cpu import registers
from nnfast.kernels.cpu.registers import fuses_multiply_add
from nnfast.plans.operations import DenseOperation, DropoutOperation
from nnfast.plans.plan import Plan, make_plan
from tests.conftest import faster_backends
from tests.cuda.twin import make_twin
from tests.programs import recipe

ROOT = Path(__file__).resolve().parents[1]


def test_a_name_gives_that_backend() -> None:
    assert get_backend("numpy").name == "numpy"
    assert get_backend("numba").name == "numba"
    assert "NumPy" in get_backend("numpy").description


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:", "numpy:1", "", "cuda:-1"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown backend '.*'; known: auto, cuda, numba, numpy, cuda:N"):
        get_backend(name)


class ToyBackend(NumpyBackend):
    name = "toy"

    @property
    def description(self) -> str:
        return "a toy"


def test_a_backend_is_one_package_and_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found by name, chosen by "auto", in `nnfast info`, in help and errors, and in the tests' own lists."""
    toy = ModuleType("nnfast.backends.toy")
    toy.FORMS, toy.PACKAGES = ("toy:big",), (("no-toys", "pytest"),)  # type: ignore[attr-defined]
    toy.parse_options = lambda words: {"big": True} if words == ["big"] else None if words else {}  # type: ignore
    toy.unavailable_reason = lambda: None  # type: ignore[attr-defined]
    toy.slow_reason = lambda: None  # type: ignore[attr-defined]
    toy.create = lambda threads, big=False: ToyBackend()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nnfast.backends.toy", toy)
    for module in ("nnfast.backends.environment", "nnfast.backends"):  # the line of NAMES, where it was imported
        monkeypatch.setattr(f"{module}.NAMES", ("toy", *backends.NAMES))

    assert get_backend("toy:big").name == get_backend("auto").name == "toy"
    assert train(Network(2, [Dense(1)]), np.eye(2), np.eye(2)[0], epochs=1, backend="toy").history.epochs == 1
    with pytest.raises(ValueError, match=r"known: auto, toy, .*, toy:big"):
        get_backend("toy:small")
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    assert "no-toys " + pytest.__version__ in told
    assert "available: a toy" in told
    assert main(["train", "--help"]) == 0
    assert "backends: auto, toy" in capsys.readouterr().out
    assert {"toy", "numba"} <= set(faster_backends(backends.NAMES))


@pytest.mark.usefixtures("find_spec")
def test_an_explicit_backend_never_becomes_another() -> None:
    with pytest.raises(
        BackendUnavailableError,
        match=r"backend 'cuda' is not available: CuPy is not installed; install nnfast\[cuda12\] or nnfast\[cuda13\]\. "
        r"Available: numba, numpy",
    ):
        get_backend("cuda")


@pytest.fixture
def find_spec(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What importlib.util.find_spec finds: CuPy is not installed here, and a test may add to that."""
    found: dict[str, Any] = {"cupy": None}
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found[name] if name in found else original(name))
    return found


def test_auto_says_what_it_chose_and_why(monkeypatch: pytest.MonkeyPatch, find_spec: dict[str, Any]) -> None:
    features = {"fma": True}
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: features)
    monkeypatch.setattr(registers, "_fuses", registers._fuses.__wrapped__)  # which would remember this processor
    assert get_backend("auto").choice == "auto chose numba"
    features["fma"] = False
    choice = get_backend("auto").choice
    assert choice is not None
    assert choice.startswith("auto chose numpy (numba would be slower: the processor has no instruction for")
    assert get_backend("numba").name == "numba"
    find_spec["numba"] = None
    assert get_backend("auto").choice == "auto chose numpy (no numba: Numba is not installed; install numba)"
    assert get_backend("numpy").choice is None


def test_auto_does_not_look_for_a_gpu(tmp_path: Path) -> None:
    """That imports CuPy and starts the driver; a driver's library is not loaded either."""
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text("raise SystemExit('CuPy is imported')")
    code = """
import ctypes, sys
load = ctypes.CDLL.__init__

def refusing(self, name, *arguments, **options):
    assert "cuda" not in str(name), name
    load(self, name, *arguments, **options)

ctypes.CDLL.__init__ = refusing
from nnfast.backends import get_backend

backend = get_backend("auto")
assert backend.name in ("numba", "numpy")
assert "CuPy is installed, but only --backend cuda or backend='cuda' uses a GPU" in backend.choice, backend.choice
assert "nnfast.backends.cuda" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_processor_that_numba_s_settings_name_is_asked_for_its_fma(monkeypatch: pytest.MonkeyPatch) -> None:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the processors are x86")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    for name, fuses in (("nehalem", False), ("sandybridge", False), ("haswell", True)):
        monkeypatch.setenv("NUMBA_CPU_NAME", name)
        assert fuses_multiply_add() is fuses, name
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "-fma")
    assert not fuses_multiply_add()
    monkeypatch.delenv("NUMBA_CPU_FEATURES")
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert not fuses_multiply_add()


DROPPING = Network(3, [Dense(4), Dropout(0.5), Dense(2)])


class DenseBackend(NumpyBackend):
    """A backend for dense layers alone."""

    name = "dense"

    def refusal(self, plan: Plan) -> str | None:
        return lacking(plan, {DenseOperation})


def test_a_backend_that_lacks_a_kind_of_layer_refuses_the_network_in_one_line() -> None:
    message = (
        r"^backend 'dense' cannot run this network: it has nothing for layer 1 \(Dropout\); "
        r"use backend='numpy', which has all kinds$"
    )
    with pytest.raises(ValueError, match=message):
        train(DROPPING, np.zeros((4, 3)), np.zeros((4, 2)), backend=DenseBackend())
    dense_alone = Network(3, [Dense(4), Dropout(0), Dense(2)])
    assert train(dense_alone, np.zeros((4, 3)), np.zeros((4, 2)), epochs=1, backend=DenseBackend())


def test_so_does_cuda_where_no_passes_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {kind: passes for kind, passes in ImageProgram.passes.items() if kind is not DropoutOperation}
    monkeypatch.setattr(ImageProgram, "passes", others)
    with pytest.raises(ValueError, match=r"backend 'cuda' cannot run .* nothing for layer 1 \(Dropout\); use backend="):
        cuda_module.CudaBackend(xp=make_twin()).compile(make_plan(DROPPING, 4), recipe("squared_error"))


@pytest.mark.parametrize("missing", ["compiler", "cuBLAS", None])
def test_a_device_without_cuda_s_libraries_is_not_available(
    monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    """CuPy can be imported, and finds devices, where it can compile no kernel and multiply no matrices."""

    def get_function(name: str) -> None:
        if missing == "compiler":
            raise RuntimeError("Failed to find CUDA headers.\nMore")

    xp = make_twin()
    xp.RawModule = lambda code, options: SimpleNamespace(get_function=get_function)  # type: ignore[assignment]
    monkeypatch.setattr(cuda_module.ctypes, "CDLL", lambda name: None)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    monkeypatch.setitem(sys.modules, "cupy.cublas", None if missing == "cuBLAS" else xp)
    cuda_module._missing_library.cache_clear()
    try:
        reason = cuda_module.unavailable_reason()
    finally:
        cuda_module._missing_library.cache_clear()
    if missing is None:
        assert reason is None
        return
    assert reason is not None
    assert ("Failed to find CUDA headers.);" if missing == "compiler" else "cupy.cublas") in reason
    assert reason.endswith("; install nnfast[cuda12], nnfast[cuda13] or the CUDA toolkit")


def test_a_driver_that_is_missing_is_said_without_importing_cupy() -> None:
    """Where there is no NVIDIA driver, asking for a backend must not cost the import of CuPy."""
    code = (
        "import sys; from nnfast.backends import unavailable; reason = unavailable('cuda'); "
        "sys.exit(0 if reason is None or 'cupy' not in sys.modules else 1)"
    )
    if cuda_module.unavailable_reason() is None:
        pytest.skip("this machine has a CUDA device")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_device_that_is_not_there_is_refused_by_number() -> None:
    if reason := cuda_module.unavailable_reason():
        with pytest.raises(BackendUnavailableError, match=r"backend 'cuda:7' is not available"):
            get_backend("cuda:7")
        assert reason
    else:
        with pytest.raises(BackendUnavailableError, match=r"backend 'cuda:99' is not available: there are \d+ devices"):
            get_backend("cuda:99")


def test_the_names_the_cuda_backend_uses_exist_in_cupy() -> None:
    """Level 5: real CuPy, imported without a device."""
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    names = "RawModule asarray ascontiguousarray concatenate copyto empty get_default_memory_pool matmul multiply zeros"
    for name in names.split():
        assert callable(getattr(cupy, name)), name
    for name in ("Device", "Stream", "Graph", "runtime.getDeviceCount", "runtime.getDeviceProperties"):
        assert callable(attrgetter(name)(cupy.cuda)), name
    for name in ("begin_capture", "end_capture"):
        assert callable(getattr(cupy.cuda.Stream, name))
    assert callable(cupy.cuda.Graph.launch)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert hasattr(cupy.RawKernel, "max_dynamic_shared_size_bytes")
    # Not public; the public way, the environment variable CUPY_TF32, is read once and for the whole process.
    for name in ("get_compute_type", "set_compute_type"):
        assert callable(getattr(cupy._core, name)), name
    assert cupy._core._routines_linalg.COMPUTE_TYPE_TF32 != cupy._core._routines_linalg.COMPUTE_TYPE_DEFAULT
    module = cupy.RawModule(code='extern "C" __global__ void f() {}', options=("--std=c++17",))
    assert callable(module.get_function)
