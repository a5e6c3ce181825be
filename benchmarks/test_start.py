"""The door: how long it takes from a shell to the first result, cold and warm, each in a process of its own.

The promise: a whole warm `nnfast train digits --epochs 1` takes no longer than `import numpy, numba`, which it does not
need. Read it off the table, where both stand: a loaded machine would make a test of it fail now and then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROUNDS = 5
COLD_ROUNDS = 2
TRAIN = ("-m", "nnfast", "train", "digits", "--epochs", "1", "--backend", "numba", "--seed", "0", "--json")

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python with these arguments in a new process, with kernels cached in the folder `cache`."""

    def call(*arguments: str, cache: Path = tmp_path / "cache") -> str:
        environment = {**os.environ, "NNFAST_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def check_training(output: str) -> None:
    """That what was timed did what it should."""
    result = json.loads(output.splitlines()[-1])
    assert result["backend"] == "numba"
    assert result["epochs"] == 1
    assert result["test_accuracy"] > 0.5


@pytest.mark.benchmark(group="imports, in a new process")
@pytest.mark.parametrize("statement", ["pass", "import nnfast", "import numpy", "import numpy, numba"])
def test_import(statement: str, run: Run, benchmark: Any, machine: dict[str, Any]) -> None:
    benchmark.pedantic(run, args=("-c", statement), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info |= machine


def test_import_nnfast_imports_the_standard_library_only(run: Run) -> None:
    # What the interpreter loads before the first statement (site, editable installs) is not nnfast's
    script = "import sys; before = set(sys.modules); import nnfast; print(*sorted(set(sys.modules) - before))"
    loaded = {name.partition(".")[0] for name in run("-c", script).split()}
    assert "nnfast" in loaded
    assert loaded - {"nnfast"} <= set(sys.stdlib_module_names)


@pytest.mark.benchmark(group="nnfast train digits --epochs 1, in a new process")
def test_cold_first_call(run: Run, tmp_path: Path, benchmark: Any, machine: dict[str, Any]) -> None:
    caches = iter([tmp_path / str(index) for index in range(COLD_ROUNDS)])

    def call() -> str:
        cache = next(caches)
        output = run(*TRAIN, cache=cache)
        assert any(cache.rglob("*.o")), "nothing was compiled into the empty folder"
        return output

    check_training(benchmark.pedantic(call, rounds=COLD_ROUNDS))
    benchmark.extra_info |= machine


@pytest.mark.benchmark(group="nnfast train digits --epochs 1, in a new process")
def test_warm_start(run: Run, tmp_path: Path, benchmark: Any, machine: dict[str, Any]) -> None:
    cache = tmp_path / "warm"
    check_training(run(*TRAIN, cache=cache))  # fills the cache
    compiled = sorted(cache.rglob("*.o"))

    output = benchmark.pedantic(run, args=TRAIN, kwargs={"cache": cache}, rounds=ROUNDS)

    check_training(output)
    assert sorted(cache.rglob("*.o")) == compiled, "a warm start compiled something"
    benchmark.extra_info |= machine
