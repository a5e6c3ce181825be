"""Choosing a backend: names, reasons, and no silent substitutes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from operator import attrgetter
from types import SimpleNamespace

import numpy as np
import pytest

from nnfast import Dense, Dropout, Network, backends, train
from nnfast.backends import BackendUnavailableError, get_backend
from nnfast.backends import cuda as cuda_module
from nnfast.backends.base import lacking
from nnfast.backends.cuda.images import ImageProgram
from nnfast.backends.numpy import NumpyBackend
from nnfast.plans.operations import DenseOperation, DropoutOperation
from nnfast.plans.plan import Plan, make_plan
from tests.cuda.twin import make_twin
from tests.programs import recipe


def test_a_name_gives_that_backend() -> None:
    assert get_backend("numpy").name == "numpy"
    assert get_backend("numba").name == "numba"
    assert "NumPy" in get_backend("numpy").description


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:", "numpy:1", "", "cuda:-1"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown backend '.*'; known: auto, cuda, numba, numpy, cuda:N"):
        get_backend(name)


def test_an_explicit_backend_never_becomes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cupy" else find_spec(name))
    with pytest.raises(
        BackendUnavailableError,
        match=r"backend 'cuda' is not available: CuPy is not installed; install nnfast\[cuda12\] or nnfast\[cuda13\]\. "
        r"Available: numba, numpy",
    ):
        get_backend("cuda")


def test_auto_says_what_it_chose_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"cuda": "no GPU today", "numba": None, "numpy": None}
    monkeypatch.setattr(backends, "unavailable", reasons.__getitem__)
    assert get_backend("auto").choice == "auto chose numba (no cuda: no GPU today)"
    monkeypatch.setitem(reasons, "numba", "no LLVM")
    assert get_backend("auto").choice == "auto chose numpy (no cuda: no GPU today; no numba: no LLVM)"
    assert get_backend("numpy").choice is None


DROPPING = Network(3, [Dense(4), Dropout(0.5), Dense(2)])


class DenseBackend(NumpyBackend):
    """A backend that somebody wrote for dense layers alone."""

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
