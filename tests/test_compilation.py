"""Where the CPU engine's machine code comes from and is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from nnfast.kernels.cpu import compilation
from nnfast.kernels.cpu.signatures import array

ROOT = Path(__file__).resolve().parents[1]

# Compiles or loads a kernel that writes 42, calls it, and says whether Numba had to be imported for that.
PROBE = """
import ctypes, sys
import numpy as np
from nnfast.kernels.cpu.compilation import written_kernel
from nnfast.kernels.cpu.signatures import array

signature = (array("out", "T", "(1,)"),)
kernel = written_kernel("probe", "def kernel(out):\\n    out[0] = 42\\n", signature, np.dtype(np.float64))
out = np.zeros(1)
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address)(out.ctypes.data)
print(out[0], "compiled" if "numba" in sys.modules else "loaded")
"""

TRAINING = """
import sys
import numpy as np
import nnfast

X = np.random.default_rng(0).random((20, 3))
network = nnfast.Network(3, [nnfast.Dense(4, "tanh"), nnfast.Dense(2, "softmax")])
nnfast.train(network, X, np.arange(20) % 2, epochs=2, backend="numba")
print("compiled" if "numba" in sys.modules else "loaded")
"""


def start(program: str, cache: Path | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if cache:
        environment["NNFAST_CACHE_DIR"] = str(cache)
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0
    return output.strip()


def test_what_one_process_compiled_the_next_one_loads_without_numba(tmp_path: Path) -> None:
    assert output_of(start(PROBE, tmp_path)) == "42.0 compiled"
    assert output_of(start(PROBE, tmp_path)) == "42.0 loaded"


def test_a_training_whose_kernels_are_compiled_does_without_numba() -> None:
    output_of(start(TRAINING))
    assert output_of(start(TRAINING)) == "loaded"


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    processes = [start(PROBE, tmp_path) for _ in range(3)]
    for process in processes:
        assert output_of(process).startswith("42.0")
    assert [file.suffix for file in tmp_path.rglob("*") if file.is_file()] == [".o"]


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "another kernel's"])
def test_a_damaged_file_is_compiled_anew(tmp_path: Path, damage: str) -> None:
    output_of(start(PROBE, tmp_path))
    (file,) = tmp_path.rglob("*.o")
    if damage == "another kernel's":
        output_of(start(PROBE.replace("probe", "other"), tmp_path))
        (other,) = {*tmp_path.rglob("*.o")} - {file}
        other.replace(file)
        assert output_of(start(PROBE, tmp_path)) == "42.0 compiled"
        return
    content = file.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    file.write_bytes({"cut": content[:-1], "empty": b"", "changed": changed}[damage])
    assert output_of(start(PROBE, tmp_path)) == "42.0 compiled"
    assert output_of(start(PROBE, tmp_path)) == "42.0 loaded"


def test_a_worker_with_threads_of_its_own_loads_what_its_parent_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_of(start(PROBE, tmp_path))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert output_of(start(PROBE, tmp_path)) == "42.0 loaded"
    monkeypatch.setenv("NUMBA_OPT", "0")
    assert output_of(start(PROBE, tmp_path)) == "42.0 compiled"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert output_of(start(PROBE, tmp_path / "file" / "below")) == "42.0 compiled"


def test_a_user_without_a_home_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("NNFAST_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert compilation.cache_directory.__wrapped__() is None


def test_a_cache_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    output_of(start(PROBE, tmp_path))
    refusing = """
import os, tempfile

def refuse(*_, **__):
    raise PermissionError

tempfile.mkstemp = os.open = refuse
"""
    assert output_of(start(refusing + PROBE, tmp_path)) == "42.0 loaded"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_cache_may_be_shared_by_users(tmp_path: Path) -> None:
    output_of(start(PROBE, tmp_path))
    (file,) = tmp_path.rglob("*.o")
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_loaded_kernel_is_there_while_another_is_compiled() -> None:
    probe = "probe", "def kernel(out):\n    out[0] = 42\n", (array("out", "T", "(1,)"),), np.dtype(np.float64)
    kernel = compilation.written_kernel(*probe)
    with compilation._lock:  # as the thread holds it that compiles
        assert compilation.written_kernel(*probe) == kernel


def test_kernels_are_compiled_where_the_user_s_own_functions_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("NNFAST_CACHE_DIR", str(tmp_path))
    own = "import numba\n\nassert not hasattr(numba.njit(lambda x: x), 'compile')\n"
    assert output_of(start(TRAINING + own)) == "compiled"


def test_an_edited_kernel_gets_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = compilation.cache_directory.__wrapped__
    monkeypatch.setenv("NNFAST_CACHE_DIR", str(tmp_path / "cache"))
    kernels = tmp_path / "kernels"
    shutil.copytree(compilation.KERNELS, kernels)
    monkeypatch.setattr(compilation, "KERNELS", kernels)
    before = directory()
    assert directory() == before
    with (kernels / "rows.py").open("a") as file:
        file.write("# edited\n")
    assert directory() != before


def test_so_does_a_constant_that_kernels_take_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = compilation.cache_directory.__wrapped__
    monkeypatch.setenv("NNFAST_CACHE_DIR", str(tmp_path))
    before = directory()
    monkeypatch.setattr(compilation, "ROW_GROUP", 32)
    assert directory() != before
