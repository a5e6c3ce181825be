"""The package's imports lead downwards, and never in a circle; imports inside functions count, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "nnfast"

# From the ground up: a room imports from itself and from those before it. Kernels import no backend.
ROOMS = (
    "support",
    "formulas",
    "networks",
    "plans",
    "kernels",
    "backends",
    "data",
    "models",
    "training",
    "torch",
    "estimators",
    "reports",
    "benchmarking",
    "cli",
)


def module_files(package: Path) -> dict[str, Path]:
    """Every module's file by its dotted name below nnfast; packages by theirs."""
    found = {}
    for path in [*package.rglob("*.py"), *(package / "kernels").resolve().rglob("*.py")]:
        below = path.relative_to(package if path.is_relative_to(package) else package.parent)
        found[".".join(below.with_suffix("").parts).removesuffix("__init__").rstrip(".")] = path
    return found


def imported(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of nnfast that a module imports anywhere, but not those that only a type checker imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for statement in ast.walk(tree):
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            statement.body.clear()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            own = (alias.name for alias in statement.names if alias.name.startswith("nnfast."))
            yield from (below for name in own if (below := name.removeprefix("nnfast.")) in modules)
        if not isinstance(statement, ast.ImportFrom):
            continue
        if statement.level:
            base = package[: len(package) - (statement.level - 1)]
        elif (statement.module or "").split(".")[0] == "nnfast":
            base = []
        else:
            continue
        named = (statement.module or "").split(".")
        base = [part for part in [*base, *(named if statement.level else named[1:])] if part]
        for alias in statement.names:
            whole = ".".join([*base, alias.name])
            target = whole if whole in modules else ".".join(base)
            if target in modules and target != name:
                yield target


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    modules = module_files(PACKAGE)
    return {name: set(imported(name, path, modules)) for name, path in modules.items()}


def circles(imports: dict[str, set[str]]) -> list[str]:
    """The modules that lead back to themselves."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(imports[start])
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(imports[name])
        return found

    return sorted(name for name in imports if name in reached(name))


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Imports from a room that stands above."""
    height = {room: index for index, room in enumerate(ROOMS)}
    found = []
    for name, targets in imports.items():
        for target in targets:
            rooms = name.partition(".")[0], target.partition(".")[0]
            if all(room in height for room in rooms) and height[rooms[0]] < height[rooms[1]]:
                found.append(f"{name} imports {target}")
    return sorted(found)


def test_every_module_stands_in_a_room(imports: dict[str, set[str]]) -> None:
    assert {name.partition(".")[0] for name in imports} == {"", "__main__", *ROOMS}
    assert len(imports) > 100


def test_no_import_leads_in_a_circle(imports: dict[str, set[str]]) -> None:
    assert circles(imports) == []


def test_rooms_import_downwards(imports: dict[str, set[str]]) -> None:
    assert upward(imports) == []


def test_a_circle_and_an_upward_import_are_found(imports: dict[str, set[str]]) -> None:
    planted = imports | {"networks.network": imports["networks.network"] | {"training.memory"}}
    assert "networks.network" in circles(planted)
    assert upward(planted) == ["networks.network imports training.memory"]
