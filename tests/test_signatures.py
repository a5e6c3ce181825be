"""Signatures of the CPU kernels: the functions have them, calls keep to them, and what is written about them is so."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from nnfast.formulas.activations import ACTIVATIONS
from nnfast.formulas.intervals import lies_within
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import OPTIMIZERS
from nnfast.kernels.cpu import formulas, gather, sparse
from nnfast.kernels.cpu.catalogue import KERNELS, WRITTEN, listing
from nnfast.kernels.cpu.compiler import object_code
from nnfast.kernels.cpu.panels import PACK_SIZE
from nnfast.kernels.cpu.signatures import array, check_call, check_names, numbers

ROOT = Path(__file__).resolve().parents[1]
T = np.dtype(np.float32)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_has_the_parameters_of_its_signature(name: str) -> None:
    module, signature = KERNELS[name]
    function = getattr(importlib.import_module(f"nnfast.kernels.cpu.{module}"), name)
    check_names(name, signature, inspect.signature(function).parameters)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Kernels as they are written, instead of compiled: the kind, and the function's parameters."""
    found: list[tuple[str, list[str]]] = []

    def record(kind: str, text: str, dtype: Any) -> None:
        (function,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
        found.append((kind, [argument.arg for argument in function.args.args]))

    for module in (formulas, gather, sparse):
        monkeypatch.setattr(module, "written", record)
    return found


def write_every_kind() -> None:
    """All that users can ask for, as each kind of formula has a text of its own."""
    for activation in ACTIVATIONS.values():
        if not activation.is_row_operation:
            formulas.value_kernel.__wrapped__(activation, T)
            formulas.derivative_kernel.__wrapped__(activation, T)
        for loss in LOSSES.values():
            if lies_within(activation.range, loss.domain):
                formulas._loss_kernel.__wrapped__(activation, loss, T)
    for make in OPTIMIZERS.values():
        formulas.update_kernel.__wrapped__(make(), T)
    for source in map(np.dtype, ("uint8", "float32", "float64")):
        gather.gather_kernel.__wrapped__(source, T, labels=False)
        gather.copy_kernel.__wrapped__(source, T)
    gather.gather_kernel.__wrapped__(np.dtype(np.int64), T, labels=True)
    for index in map(np.dtype, ("int32", "int64")):
        gather.sparse_kernel.__wrapped__(T, index, T)
        sparse.kernels.__wrapped__(T, index, T)


def test_a_written_kernel_has_the_parameters_of_its_signature(written: list[tuple[str, list[str]]]) -> None:
    write_every_kind()
    assert {kind for kind, _ in written} == WRITTEN.keys()
    assert len(written) > 80
    for kind, names in written:
        check_names(kind, WRITTEN[kind][1], names)


@pytest.mark.parametrize("name", [*KERNELS, *WRITTEN])
def test_two_parameters_exchanged_in_a_signature_are_found(name: str) -> None:
    signature = {**KERNELS, **WRITTEN}[name][1]
    names = [parameter.name for parameter in signature]
    assert len({*names}) == len(names)
    for i in range(len(names)):
        for j in range(i):
            exchanged = [*names]
            exchanged[i], exchanged[j] = names[j], names[i]
            with pytest.raises(AssertionError, match=f"kernel {name} has the parameters {exchanged[0]}"):
                check_names(name, signature, exchanged)


def test_the_compiler_refuses_a_function_with_other_parameters() -> None:
    def kernel(a: Any, z: Any) -> None:
        a[0] = z[0]

    with pytest.raises(AssertionError, match="kernel probe has the parameters a, z; its signature: z, a"):
        object_code(kernel, "probe", (array("z", "T", "(1,)"), array("a", "T", "(1,)")), T)


SIGNATURE = (
    *numbers("rows columns"), array("A", "T", "(rows, columns)"), array("places", "int64", "(rows + 1,)"),
    *numbers("rate", "float64"), *numbers("seed", "uint64"), array("row", "int64", "as made elsewhere"),
)  # fmt: skip


def arguments() -> dict[str, Any]:
    return {
        "rows": 2, "columns": 3, "A": np.zeros((2, 3), T), "places": np.zeros(3, np.int64), "rate": 0.5,
        "seed": 2**64 - 1, "row": np.zeros(0, np.int64),
    }  # fmt: skip


def test_a_call_by_its_signature_passes() -> None:
    check_call("probe", SIGNATURE, T, [*arguments().values()])
    longer = arguments() | {"A": np.zeros(7, T), "rate": 1, "columns": np.int64(3)}
    check_call("probe", SIGNATURE, T, [*longer.values()])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows", 2.0, "must be an integer, got 2.0"),
        ("rows", 2**63, "must be of int64, got 9223372036854775808"),
        ("seed", -1, "must be of uint64, got -1"),
        ("rate", "high", "must be a number, got 'high'"),
        ("A", [0.0] * 6, "must be an array of float32, got"),
        ("A", np.zeros((2, 3)), "must be an array of float32, got one of float64"),
        ("A", np.zeros((3, 2), T).T, "must be an array in C order, got one that is not"),
        ("A", np.zeros(5, T), "must have at least 6 elements, (rows, columns), got 5"),
        ("places", np.zeros(2, np.int64), "must have at least 3 elements, (rows + 1,), got 2"),
        ("row", np.zeros(3, np.int32), "must be an array of int64, got one of int32"),
    ],
)
def test_a_call_is_refused_with_kernel_and_parameter(name: str, value: Any, message: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check_call("probe", SIGNATURE, T, [*(arguments() | {name: value}).values()])
    assert str(raised.value).startswith(f"kernel probe, parameter {name}: {message}")


def test_a_call_with_too_few_arguments_is_refused() -> None:
    with pytest.raises(AssertionError, match="kernel probe takes 7 arguments, got 6"):
        check_call("probe", SIGNATURE, T, [*arguments().values()][1:])


def test_every_length_that_a_signature_tells_can_be_computed() -> None:
    """Of arrays with all that is asked for the call passes, of any that is one shorter it does not."""
    for name, (_, signature) in {**KERNELS, **WRITTEN}.items():
        made: dict[str, Any] = {}
        for parameter in signature:
            kind = T if parameter.dtype == "T" else np.dtype(parameter.dtype)
            size = PACK_SIZE if parameter.name == "pack" else 300
            made[parameter.name] = kind.type(2) if parameter.shape is None else np.full(size, 2, kind)
        check_call(name, signature, T, [*made.values()])
        for parameter in signature:
            if parameter.least:
                with pytest.raises(AssertionError, match=rf"kernel {name}, parameter {parameter.name}: must have at"):
                    check_call(name, signature, T, [*(made | {parameter.name: made[parameter.name][:0]}).values()])


def test_the_listing_is_that_of_the_tables() -> None:
    """Else: python -m nnfast.kernels.cpu.catalogue > kernels/signatures.md"""
    assert (ROOT / "kernels" / "signatures.md").read_text() == "".join(f"{line}\n" for line in listing())
