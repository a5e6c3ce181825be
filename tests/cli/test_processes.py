"""The command as a process, what it imports, and the commands about the installation."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nnfast.cli import main
from nnfast.cli.options import DATA_SETTINGS, as_options
from nnfast.data import EMBEDDED
from tests.cli.results import assert_refused


def test_info_names_every_backend_and_why_not(nnfast, monkeypatch):
    monkeypatch.setattr("nnfast.backends.cuda.unavailable_reason", lambda: "there is no GPU")
    _, out, _ = nnfast("info", "--json")
    facts = json.loads(out)
    assert facts["backends"]["numpy"]["available"]
    assert facts["backends"]["cuda"] == {"available": False, "reason": "there is no GPU", "description": None}
    assert facts["cores"] >= 1
    monkeypatch.setenv("NNFAST_NUM_THREADS", "7")
    assert json.loads(nnfast("info", "--json")[1])["threads"] == 7
    assert facts["packages"]["numpy"] == np.__version__
    code, out, err = nnfast("info")
    assert (code, err) == (0, "")
    assert "no: there is no GPU" in out
    assert "threads   7 for numba" in out


def test_info_says_how_to_ask_for_a_gpu(nnfast, monkeypatch):
    monkeypatch.setattr("nnfast.backends.cuda.unavailable_reason", lambda: None)
    monkeypatch.setattr("nnfast.backends.cuda.create", lambda threads: SimpleNamespace(description="a GPU"))
    monkeypatch.setattr("nnfast.backends.environment._gpus", lambda: ["a GPU"])
    code, out, err = nnfast("info")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["cuda"] == (
        "available: a GPU; only used where it is named: --backend cuda, or backend='cuda' in Python"
    )
    assert lines["gpus"] == "a GPU"
    assert lines["auto"].startswith("chose numba")
    facts = json.loads(nnfast("info", "--json")[1])
    assert facts["auto"] == "numba"
    assert facts["choice"].startswith("auto chose numba")


@pytest.mark.parametrize(
    ("line", "name"), [("model name\t: Zen 9", "Zen 9"), ("CPU part\t: 0xd0c", "aarch64 neoverse-n1")]
)
def test_info_names_the_processor(nnfast, monkeypatch, tmp_path, line, name):
    """Linux on ARM knows numbers only; LLVM has the name that belongs to them."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    monkeypatch.setattr("nnfast.backends.environment.CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: "neoverse-n1")
    assert json.loads(nnfast("info", "--json")[1])["cpu"] == name


@pytest.mark.parametrize("name", EMBEDDED)
def test_info_tells_an_embedded_set_s_rows_and_settings(nnfast, name):
    data = EMBEDDED[name]()
    code, out, err = nnfast("info", name)
    assert (code, err) == (0, "")
    first, last = out.splitlines()
    assert first.startswith(f"{name}: {len(data.y_train):,} rows")
    assert last.startswith(f"nnfast train {name} begins with {' '.join(as_options(DATA_SETTINGS[name]))};")
    facts = json.loads(nnfast("info", name, "--json")[1])
    assert facts["settings"] == DATA_SETTINGS[name]
    assert (facts["training_rows"], facts["test_rows"] > 0) == (len(data.y_train), data.x_test is not None)


def test_bench_hands_its_options_on(nnfast, monkeypatch):
    calls = []
    module = ModuleType("nnfast.benchmarking.bench")
    module.bench_command = lambda backends, workloads, repeats, as_json, threads, dtype: (
        calls.append((backends, workloads, repeats, as_json, threads, dtype)) or 0
    )
    monkeypatch.setitem(sys.modules, "nnfast.benchmarking.bench", module)
    options = (
        "--backend",
        "numba,numpy",
        "--workload",
        "xor",
        "--repeats",
        2,
        "--threads",
        3,
        "--dtype",
        "float64",
        "--json",
    )
    assert nnfast("bench", *options)[0] == 0
    assert nnfast("bench")[0] == 0
    assert calls == [(["numba", "numpy"], ["xor"], 2, True, 3, "float64"), (None, None, 3, False, None, "float32")]
    assert_refused(nnfast("bench", "--repeats", 0), "--repeats", command="bench")


def run_python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def test_help_and_version_import_nothing_heavy():
    code = "import sys; from nnfast.cli import main; main(['--help']); main(['--version']); print(*sys.modules)"
    result = run_python("-c", code)
    assert "nnfast 0." in result.stdout
    heavy = {"numpy", "numba", "scipy", "rich", "matplotlib", "sklearn", "safetensors"}
    assert heavy.isdisjoint(result.stdout.splitlines()[-1].split())


def test_train_in_a_pipe_imports_neither_rich_nor_matplotlib_nor_scikit_learn():
    code = (
        "import sys; from nnfast.cli import main; main('train digits --epochs 1 --backend numpy'.split());"
        "print(*sys.modules)"
    )
    result = run_python("-c", code)
    assert {"rich", "matplotlib", "sklearn", "numba"}.isdisjoint(result.stdout.splitlines()[-1].split())


def test_python_m_nnfast_is_the_command():
    result = run_python("-m", "nnfast", "train", "digits", "--backend", "nope")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("nnfast train: error: unknown backend 'nope'")


def test_a_reader_who_leaves_is_no_error():
    main(["train", "xor", "--backend", "numpy", "--epochs", "1", "--out", "a", "--quiet"])
    command = [sys.executable, "-m", "nnfast", "predict", "a", "xor", "--backend", "numpy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141
