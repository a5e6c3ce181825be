"""What the README, the tutorial and the guides tell a reader to do, done."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nnfast import MLPClassifier, MLPRegressor
from nnfast.cli import main
from nnfast.cli.exit_codes import OK

ROOT = Path(__file__).resolve().parents[1]
GUIDE = "docs/guides/replace-sklearn-mlp.md"
CALLS = "docs/guides/one-call-at-a-time.md"
MANY = "docs/guides/many-networks.md"
SEARCHES = "docs/guides/searches-with-sklearn.md"


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def imports(program: str, package: str) -> bool:
    return re.search(rf"^(?:import|from) {package}\b", program, re.MULTILINE) is not None


def run(document: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run a document's programs from its top to its end, but for those that import these packages."""
    names: dict[str, Any] = {}
    programs = [block for block in blocks(document, "python") if ">>>" not in block]
    assert len(programs) >= 2
    for program in programs:
        if not any(imports(program, package) for package in without):
            exec(compile(program, document, "exec"), names)
    return names


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md", GUIDE, MANY, SEARCHES])
def test_the_python_of_a_document_runs_from_its_top_to_its_end(document: str) -> None:
    run(document, without=("mlflow", "dask") if find_spec("skl2onnx") else ("mlflow", "dask", "skl2onnx"))


def test_the_guide_s_dask_program_finds_the_best_candidate(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra nnfast[dask] is not installed")
    (program,) = (block for block in blocks(SEARCHES, "python") if imports(block, "dask"))
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "program.py"], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert not done.returncode, done.stderr
    assert done.stdout == "{'hidden_layer_sizes': (64,), 'learning_rate_init': 0.01}\n"


def test_the_guide_s_compiled_loop_keeps_the_pendulum_up() -> None:
    names = run(CALLS)
    assert names["steps_up"] == 100_000
    assert names["balance"](names["frame"], 0.2, 0.0, 100_000) == 100_000
    names["frame"].parameters[:] = 0
    assert names["balance"](names["frame"], 0.2, 0.0, 100_000) < 100


@pytest.mark.filterwarnings("ignore")  # MLflow's own, and those of the packages that it brings
def test_the_guide_s_mlflow_call_saves_a_model_that_loads(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    names = run(GUIDE, without=("skl2onnx",))
    loaded = names["mlflow"].sklearn.load_model(str(tmp_path / "model"))
    given, expected = (model.predict_proba(names["X_test"]) for model in (loaded, names["pipeline"]))
    assert (given == expected).all()


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_the_guide_names_every_type_that_mlflow_s_format_asks_about(kind: Any, solver: str) -> None:
    skops = pytest.importorskip("skops.io", reason="skops, which MLflow saves with, is not installed")
    fitted = kind(hidden_layer_sizes=(3,), solver=solver, max_iter=500, tol=1e9)
    fitted.fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1])
    asked = skops.get_untrusted_types(data=skops.dumps(fitted))
    assert f"{kind.__module__}.{kind.__name__}" in asked
    text = (ROOT / GUIDE).read_text()
    assert [name for name in asked if name.rpartition(".")[2] not in text] == []


def test_a_type_checker_has_nothing_against_the_python_of_the_documents() -> None:
    pytest.importorskip("mypy")
    for name in ("README", "docs/tutorial"):
        programs = [block for block in blocks(f"{name}.md", "python") if ">>>" not in block]
        Path(f"{Path(name).name.lower()}.py").write_text("\n".join(programs))
    options = ["--strict", "--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "readme.py", "tutorial.py"],
        env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_session_in_the_readme_ends_as_it_shows() -> None:
    sessions = [block for block in blocks("README.md", "python") if ">>>" in block]
    assert sessions
    for session in sessions:
        *lines, shown = session.splitlines()
        error, message = shown.split(": ", 1)
        with pytest.raises(ValueError) as raised:
            exec("\n".join(line.removeprefix(">>> ") for line in lines), {})
        assert (type(raised.value).__name__, str(raised.value)) == (error, message)


def table(target: bool) -> str:
    rows = [
        f"{50 + row % 97},{('Bonn', 'Kiel')[row % 2]},{500 * (50 + row % 97) + 7000.5 * (row % 2)}"
        for row in range(120)
    ]
    lines = ["area,town,price", *rows]
    return "".join(f"{line if target else line.rpartition(',')[0]}\n" for line in lines)


def test_the_documents_commands_run_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the benchmark, which takes its time, and the installation, which is what CI does."""
    for name in ("houses", "more", "new"):
        Path(f"{name}.csv").write_text(table(target=name != "new"))
    commands = [
        shlex.split(line, comments=True)
        for block in (*blocks("README.md", "sh"), *blocks("docs/tutorial.md", "sh"), *blocks(MANY, "sh"))
        for line in block.splitlines()
        if line.startswith("nnfast ") and not line.startswith("nnfast bench")
    ]
    for number, description in enumerate(blocks("README.md", "toml")):
        Path(f"{number}.toml").write_text(description)
        commands.append(["nnfast", "train", "--config", f"{number}.toml"])
    assert len(commands) >= 9
    for _, *arguments in commands:
        assert main(arguments) == OK, arguments
    assert len(Path("predictions.csv").read_text().splitlines()) == 121
