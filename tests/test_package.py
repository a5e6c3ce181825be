"""The door: what importing nnfast costs, what the package holds, and that the README's commands are CI's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
