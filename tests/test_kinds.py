"""Kinds of layers and operations are closed sets: what tells them apart knows all of them, or says that it does not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from nnfast.backends.cuda.geometry import ImageOperation
from nnfast.backends.cuda.images import ImageProgram
from nnfast.backends.cuda.wide import WideProgram
from nnfast.kernels.cuda.layout import NarrowOperation
from nnfast.networks.layers import LAYERS, BaseLayer, Layer
from nnfast.plans.operations import BaseOperation, Operation

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [*(ROOT / "nnfast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
KINDS = {kind.__name__ for kind in (*get_args(Operation), *get_args(Layer))}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


def test_every_public_kind_is_in_its_union() -> None:
    for base, union in ((BaseLayer, Layer), (BaseOperation, Operation)):
        public = {kind for kind in subclasses(base) if kind.__module__.startswith("nnfast") and kind.__name__[0] != "_"}
        assert public == {*get_args(union)}
    assert {kind: LAYERS[kind].__name__ for kind in LAYERS} == {kind: kind for kind in LAYERS}


def kinds_of_cases(match: ast.Match) -> set[str]:
    patterns = (node for case in match.cases for node in ast.walk(case.pattern) if isinstance(node, ast.MatchClass))
    return {ast.unparse(pattern.cls) for pattern in patterns} & KINDS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_match_over_kinds_ends_where_mypy_objects_to_a_new_one(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Match) and kinds_of_cases(node):
            last = node.cases[-1]
            assert ast.unparse(last.pattern) == "_", f"line {node.lineno} leaves a kind without a case"
            assert ast.unparse(last.body[0]).startswith("assert_never("), f"line {last.body[0].lineno}"


def test_the_plan_alone_asks_whether_an_operation_is_of_a_kind() -> None:
    """Everywhere else, an isinstance would leave the kinds that it does not name to chance."""
    operations = {kind.__name__ for kind in get_args(Operation)}
    for path in SOURCES:
        for call in ast.walk(parsed(path)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "isinstance":
                named = {node.id for node in ast.walk(call.args[1]) if isinstance(node, ast.Name)}
                assert path.name == "plan.py" or not named & operations, f"{path}, line {call.lineno}"


def test_the_cuda_backend_has_passes_for_every_kind_of_operation() -> None:
    assert WideProgram.passes.keys() | {*get_args(ImageOperation)} == {*get_args(Operation)}
    assert ImageProgram.passes.keys() == {*get_args(Operation)}
    assert {*get_args(NarrowOperation)} <= WideProgram.passes.keys()


# The compiled epoch knows kinds by number, and no type checker there: it must take no branch for a kind unnamed.


def comparisons(node: ast.AST) -> set[str]:
    """The names that the kind of an operation is compared with."""
    found = set()
    for compare in ast.walk(node):
        if isinstance(compare, ast.Compare) and ast.unparse(compare.left) in ("kind", "op[KIND]"):
            found |= {ast.unparse(right) for right in compare.comparators}
    return found


def test_the_epoch_names_every_kind_and_takes_no_branch_for_another() -> None:
    tables, epoch = (parsed(ROOT / f"kernels/cpu/{name}.py") for name in ("tables", "epoch"))
    rows = [node.targets[0] for node in tables.body if isinstance(node, ast.Assign)]
    (kinds,) = ({name.id for name in row.elts} for row in rows if ast.unparse(row).startswith("(DENSE, "))
    (forward,) = (node for node in epoch.body if isinstance(node, ast.FunctionDef) and node.name == "forward")
    assert comparisons(forward) == kinds
    for branch in ast.walk(epoch):
        if isinstance(branch, ast.If) and comparisons(branch.test) and branch.orelse:
            otherwise = branch.orelse[0]
            assert isinstance(otherwise, ast.If), f"line {otherwise.lineno}: an else for any other kind"
