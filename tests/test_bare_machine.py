"""The tests marked cuda run where a GPU is: with few packages, and without a network to fetch more from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from tests.cuda import gxx

ROOT = Path(__file__).resolve().parents[1]
ON_A_GPU_S_MACHINE = ("numpy", "scipy", "numba", "scikit-learn", "safetensors", "pytest")

# Runs pytest in a process that does not find some of the packages installed.
GUARD = """
import json, sys
from importlib.machinery import PathFinder

hidden = {*json.loads(sys.argv.pop(1))}

class Guard(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Guard
import pytest

sys.exit(pytest.main(sys.argv[1:]))
"""


def bare_pytest(*arguments: str, status: int = 0, **environment: str) -> str:
    """The output of pytest where only those packages, what they require, and this project are installed."""
    wanted, found = [*ON_A_GPU_S_MACHINE], set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            requirements = requires(name) or []
        except PackageNotFoundError:  # for another platform or version of Python
            continue
        found.add(name)
        wanted += [re.match(r"[\w.-]+", text)[0] for text in requirements if "extra ==" not in text]  # type: ignore[index]
    hidden = {
        module
        for module, distributions in packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", distribution).lower() in found for distribution in distributions)
    } - {"nnfast"}
    assert "numpy" not in hidden
    done = subprocess.run(
        [sys.executable, "-c", GUARD, json.dumps(sorted(hidden)), "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_tests_marked_cuda_are_collected_with_few_packages() -> None:
    output = bare_pytest("-m", "cuda", "--collect-only", "-q")
    files = re.findall(r"^tests/([\w/]+)\.py::", output, re.MULTILINE)
    expected = {
        "test_same_results",
        "test_training",
        "test_tutorial",
        "test_estimators_same_model",
        "cuda/test_streams",
    }
    assert expected <= {*files}
    assert len(files) > 150
    assert "test_every_image_network_gives_the_same_gradient[cuda:wide-all of them-float32]" in output


def test_what_is_not_collected_is_named_with_the_package_it_needs() -> None:
    output = bare_pytest("tests/test_random.py", "--collect-only")
    (told,) = re.findall(r"^hypothesis is not installed; not collected: (.*)$", output, re.MULTILINE)
    assert "test_same_results_at_any_size.py" in told
    assert "test_same_results.py" not in told.split(", ")


def test_where_tools_are_required_a_missing_one_is_an_error(tmp_path: Path) -> None:
    output = bare_pytest(
        "tests/test_random.py", "--require-tools", status=pytest.ExitCode.USAGE_ERROR, PATH=str(tmp_path)
    )
    for reason in ("g++ is not installed", "NVRTC is not installed", "hypothesis is not installed; not collected"):
        assert f"--require-tools: {reason}" in output


@pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))
def test_the_twin_needs_no_more_packages_than_a_gpu() -> None:
    output = bare_pytest("tests/test_same_results.py", "-k", "cuda-twin and every_shape", "-q")
    assert re.search(r"^28 passed", output, re.MULTILINE)
