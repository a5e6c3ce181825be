"""The calls of CPU kernels by their addresses pass what their signatures say, in that order.

Such a call has no names, and a compiler takes any pointer for another of its type. So what stands in the call is read
here: an argument must speak of its parameter by the parameter's name, or by the word that CALLS has for it.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("numba")

from nnfast.kernels.cpu.catalogue import KERNELS, WRITTEN
from nnfast.kernels.cpu.signatures import Parameter

ROOT = Path(__file__).resolve().parents[1]
Words = dict[str, str]  # for a parameter: an identifier of the expression that is passed

_GROUPS = {"first": "begin", "last": "rows"}
_DRAWN = {"outputs": "z", "scale": "constants"}
_MATRIX = {"a_row": "", "a_depth": "", "b_row": "", "c_row": "", "rows": "", "columns": "", "depth": "", "s_row": ""}
_PASS = {"row": "forward_row", "gradient": "parameters", **_GROUPS}  # on the way forward no gradient is looked at
_ELEMENTS = {"a": "outputs", "k": "constants", "size": "rows"}

# What every function calls, in the order of its text: the kernel, or one of those that the address may be of, and the
# words for what is not called as its parameter is. No word: anything may be passed.
CALLS: dict[str, list[tuple[str, Words]]] = {
    "epoch.run_steps": [
        ("image_sums", {"row": "forward_row"}),
        ("add_penalties", {}),
        ("clip", {"size": "parameters"}),
    ],
    "epoch.gather": [
        ("gather", {"address": "source_inputs", "columns": "input_size", "out": "inputs"}),
        ("one_hot", {"address": "source_targets", "columns": "output_size", "scale": "", "out": "targets"}),
        ("gather", {"address": "source_weights", "columns": "", "scale": "", "out": "weights"}),
    ],
    "epoch.statistics": [("image_statistics", {"row": "forward_row", "mode": "whose"})],
    "epoch.normalisation_backward": [("image_backward", {"row": "forward_row", **_GROUPS})],
    "epoch.forward": [
        ("sparse_outputs", {"row": "forward_row"}),
        ("correlate", _PASS),
        ("image_forward", _PASS),
        ("interleave", {"rows": "inputs", "groups": "outputs", "is_gradient": "", **_GROUPS}),
        ("deinterleave", {"groups": "inputs", "rows": "outputs", **_GROUPS}),
        ("value", _ELEMENTS),
    ],
    "epoch.drop": [
        ("dropout", {"count": "rows", "first": "e", **_DRAWN}),
        ("dropout_in_groups", {"end": "rows", **_DRAWN}),
    ],
    "epoch.output_loss": [
        ("loss", {
            "a": "outputs", "y": "batch_targets", "weights": "batch_weights", "delta": "gradient",
            "losses": "row_losses", "k": "loss_constants", "scale": "divisor", "rows": "last", "columns": "size",
        }),
    ],
    "epoch.backward": [
        ("derivative", _ELEMENTS),
        ("dropout_backward", {"count": "rows"}),
        ("correlate", {"row": "backward_row", **_GROUPS}),
        ("interleave", {"rows": "whole", "groups": "target", "is_gradient": "", **_GROUPS}),
        ("deinterleave", {"groups": "whole", "rows": "target", **_GROUPS}),
    ],
    "epoch.add_pass_gradients": [("add_gradient", {"row": "weight_gradient_row"})],
    "epoch.add_dense_gradients": [
        ("sparse_gradient", {"row": "weight_gradient_row"}),
        ("transpose", {"A": "transposed", "out": "w_gradient", "a_row": "rows", "out_row": "columns",
                       "rows": "columns", "columns": "stop"}),
    ],
    "epoch.update": [
        ("update", {"p": "parameters", "g": "gradient", "start": "", "stop": "n"}),
        ("update", {"p": "parameters", "g": "gradient"}),
        ("update", {"p": "parameters", "g": "gradient"}),
    ],
    "epoch.transpose_weights": [
        ("transpose", {"A": "w", "out": "transposed", "a_row": "columns", "out_row": "rows", "rows": "stop"}),
    ],
    "products.outputs_product": [("multiply", {**_MATRIX, "A": "x", "B": "w", "C": "z", "S": "bias"})],
    "products.weights_product": [("multiply", {**_MATRIX, "A": "x", "B": "delta", "C": "target", "S": "begin"})],
    "products.narrow_weights_product": [("multiply", {**_MATRIX, "A": "delta", "B": "x", "C": "target", "S": "begin"})],
    "products.inputs_product": [
        ("multiply", {**_MATRIX, "A": "delta", "B": "w_transposed", "C": "dx", "S": "zeros"}),
    ],
    "products.sum_of_rows": [("multiply", {**_MATRIX, "A": "one", "B": "block", "C": "sums", "S": "begin"})],
}  # fmt: skip
FROM_PYTHON = ("run_steps", {"pack": "packs", "steps": "losses", "value_size": "values"})
_FRAME = {parameter.name: f"at_{parameter.name}" for parameter in KERNELS["run_steps"][1]}
CALLS["frame.run_frames"] = [("run_steps", _FRAME | {name: name for name in ("pack", "thread", "threads")})]


class Site(NamedTuple):
    """A call of a kernel: where it stands, the arguments, and which parameters they are for."""

    where: str
    arguments: list[ast.expr]
    parameters: tuple[Parameter, ...]
    words: Words


def spread(arguments: list[ast.expr], function: ast.AST, line: int) -> Iterator[ast.expr]:
    """The arguments, with *name replaced by the tuple that was last assigned to the name."""
    for argument in arguments:
        if not isinstance(argument, ast.Starred):
            yield argument
            continue
        assigned = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and node.lineno < line
            and ast.unparse(node.targets[0]) == ast.unparse(argument.value)
        ]
        last = max(assigned, key=lambda value: value.lineno)
        assert isinstance(last, ast.Tuple), ast.unparse(argument)
        yield from last.elts


def calls(module: str) -> dict[str, list[list[ast.expr]]]:
    """The arguments of every call by address, by "module.function"."""
    found: dict[str, list[list[ast.expr]]] = {}
    tree = ast.parse((ROOT / "kernels" / "cpu" / f"{module}.py").read_text())
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        nodes = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        for call in sorted(nodes, key=lambda node: node.lineno):
            if ast.unparse(call.func) == "call_void":
                _, passed = call.args
                assert isinstance(passed, ast.Tuple)
                found.setdefault(f"{module}.{function.name}", []).append([*spread(passed.elts, function, call.lineno)])
    return found


def all_calls() -> dict[str, list[list[ast.expr]]]:
    modules = sorted(path.stem for path in (ROOT / "kernels" / "cpu").glob("*.py"))
    return {where: found for module in modules for where, found in calls(module).items()}


def identifiers(expression: ast.expr) -> set[str]:
    """The names and attributes of an expression, in small letters."""
    nodes = [*ast.walk(expression)]
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    names += [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    return {name.lower().lstrip("_") for name in names}


def mistakes(site: Site) -> list[str]:
    """The parameters of a call whose argument does not speak of them."""
    found = []
    for parameter, argument in zip(site.parameters, site.arguments, strict=True):
        word = site.words.get(parameter.name, parameter.name.lower())
        if word and word not in identifiers(argument):
            found.append(f"{site.where}: {parameter.name} is passed {ast.unparse(argument)}, without {word!r}")
    return found


def sites() -> list[Site]:
    signatures = {name: signature for name, (_, signature) in {**KERNELS, **WRITTEN}.items()}
    return [
        Site(f"{where}, call {number} ({kernel})", arguments, signatures[kernel], words)
        for where, found in all_calls().items()
        for number, (arguments, (kernel, words)) in enumerate(zip(found, CALLS.get(where, []), strict=False), 1)
    ]


def site_from_python() -> Site:
    """The arguments that the program gives its frame, by the names of run_steps' parameters."""
    tree = ast.parse((ROOT / "nnfast" / "backends" / "numba" / "program.py").read_text())
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Frame")
    kernel, words = FROM_PYTHON
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    parameters = KERNELS[kernel][1][:-2]  # without thread and threads
    return Site("the program's frame", [given[p.name] for p in parameters], parameters, words)


def test_calls_are_those_that_are_known_here() -> None:
    """A new call needs an entry in CALLS."""
    assert {where: len(found) for where, found in all_calls().items()} == {
        where: len(known) for where, known in CALLS.items()
    }


@pytest.mark.parametrize("site", [*sites(), site_from_python()], ids=lambda site: site.where)
def test_a_call_passes_what_the_signature_says(site: Site) -> None:
    assert len(site.arguments) == len(site.parameters)
    assert mistakes(site) == []


@pytest.mark.parametrize("site", [*sites(), site_from_python()], ids=lambda site: site.where)
def test_two_pointers_exchanged_in_a_call_are_found(site: Site) -> None:
    pointers = [index for index, parameter in enumerate(site.parameters) if parameter.shape is not None]
    for i, j in itertools.combinations(pointers, 2):
        exchanged = [*site.arguments]
        exchanged[i], exchanged[j] = exchanged[j], exchanged[i]
        if ast.dump(exchanged[i]) != ast.dump(exchanged[j]):
            assert mistakes(site._replace(arguments=exchanged)), (site.parameters[i].name, site.parameters[j].name)
