"""The door: what importing nnfast costs, what the package holds, and that the README's commands are CI's."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import nnfast

ROOT = Path(__file__).resolve().parents[1]


def test_importing_nnfast_loads_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import nnfast; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == ["nnfast"]


@pytest.fixture
def checkout_without_links(tmp_path: Path) -> Path:
    """The package as Git leaves it where it makes no symbolic links: the link is a file that holds its target."""
    shutil.copytree(ROOT / "nnfast", tmp_path / "nnfast", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "nnfast" / "kernels").write_text("../kernels")
    return tmp_path


def test_a_checkout_without_links_is_not_built(checkout_without_links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []
    monkeypatch.setitem(sys.modules, "setuptools", SimpleNamespace(setup=lambda: built.append(Path.cwd())))
    with pytest.raises(SystemExit, match=r"git config core\.symlinks true\n *git checkout -- nnfast/kernels"):
        runpy.run_path(str(checkout_without_links / "setup.py"))
    assert not built
    runpy.run_path(str(ROOT / "setup.py"))
    assert built


def test_a_checkout_without_links_does_without_kernels_and_says_so(checkout_without_links: Path) -> None:
    code = """
import sys
from importlib.machinery import PathFinder

sys.meta_path = [finder for finder in sys.meta_path if finder is PathFinder or "frozen" in finder.__module__]
from nnfast.cli import main

assert main(["info"]) == 0
sys.exit(main(["train", "digits", "--epochs", "2"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout_without_links, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(checkout_without_links)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reason = "nnfast/kernels is missing: this checkout was made without symbolic links; restore it with git config "
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    told = {line[0]: line[1] for line in lines}
    assert told["cuda"].startswith(f"no: {reason}")
    assert told["numba"].startswith(f"no: {reason}")
    assert told["auto"].startswith(f"chose numpy (no numba: {reason}")
    assert "samples/s on numpy" in done.stdout


def test_every_public_name_is_there() -> None:
    for name in nnfast.__all__:
        assert getattr(nnfast, name) is not None
    assert sorted(dir(nnfast)) == sorted([*nnfast.__all__, "__version__"]), "and nothing else is offered"
    with pytest.raises(AttributeError, match="no attribute 'Conv9D'"):
        _ = nnfast.Conv9D  # type: ignore[attr-defined]


def test_the_version_is_the_project_s() -> None:
    assert f'\nversion = "{nnfast.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_ci_runs_the_readme_s_second_command() -> None:
    commands = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    second = commands[1].strip().splitlines()[-1]
    assert "pytest" in second
    assert second in (ROOT / ".ci" / "run").read_text()
