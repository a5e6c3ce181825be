"""Fills formulas into the CUDA sources of this folder; the texts are compiled at run time by CuPy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nnfast.activations import Activation
from nnfast.formula import Code
from nnfast.losses import Loss, canonical_pair, is_softmax_cross_entropy
from nnfast.optimizers import Optimizer

C_TYPES = {"float32": "float", "float64": "double", "uint8": "unsigned char", "int64": "long long"}


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / f"{name}.cu").read_text()


def _source(file: str, dtype: np.dtype[Any], code: Code | None = None, **definitions: object) -> str:
    """A .cu file behind its definitions: types, and the formula's statements and results as macros."""
    lines = [f"typedef {C_TYPES[dtype.name]} T;"]
    if code is not None:
        definitions["FORMULA"] = " ".join(code.statements)
    lines += [f"#define {name} {text}" for name, text in definitions.items()]
    return "\n".join([*lines, _file(file)])


def _read_constants(code: Code, variables: Iterable[str], *results: str) -> None:
    """Put the reads of those constants that are used before the statements: const T k0 = k[0]."""
    used = " ".join([*code.statements, *results])
    code.statements[:0] = [
        f"const T {variable} = {variable[0]}[{variable[1:]}];"
        for variable in variables
        if re.search(rf"\b{variable}\b", used)  # nvcc and g++ both warn of what is not
    ]


def value_source(activation: Activation, dtype: np.dtype[Any]) -> str:
    """Kernel `value` of an elementwise activation."""
    code = Code("cuda")
    variables = {name: f"k{index}" for index, name in enumerate(activation.constant_names)}
    result = code.add(activation.value, variables | {"z": "x"})
    _read_constants(code, variables.values(), result)
    return _source("value", dtype, code, RESULT=result)


def derivative_source(activation: Activation, dtype: np.dtype[Any]) -> str:
    """Kernel `derivative` of an elementwise activation."""
    code = Code("cuda")
    variables = {name: f"k{index}" for index, name in enumerate(activation.constant_names)}
    result = code.add(activation.derivative, variables | {"z": "x", "a": "out"})
    _read_constants(code, variables.values(), result)
    return _source("derivative", dtype, code, RESULT=result)


def loss_source(activation: Activation, loss: Loss, dtype: np.dtype[Any]) -> str:
    """Kernel `loss` of a pair. k: the activation's constants, then the loss's."""
    if is_softmax_cross_entropy(activation, loss):
        return _source("loss", dtype, SOFTMAX=2)
    code = Code("cuda")
    own = {name: f"k{index}" for index, name in enumerate(activation.constant_names)}
    other = {name: f"k{index + len(own)}" for index, name in enumerate(loss.constant_names)}
    output = "out" if activation.is_row_operation else code.add(activation.value, own | {"z": "x"})
    variables = {"a": output, "y": "target"}
    if pair := canonical_pair(activation, loss):
        result = code.add(pair.value, variables | {"z": "x"})
        delta = code.add(pair.delta, variables | {"z": "x"})
    else:
        result = code.add(loss.value, variables | other)
        delta = code.add(loss.derivative, variables | other)
        if not activation.is_row_operation:
            delta = f"({delta} * {code.add(activation.derivative, own | {'z': 'x', 'a': output})})"
    _read_constants(code, [*own.values(), *other.values()], output, result, delta)
    softmax = int(activation.is_row_operation)
    return _source("loss", dtype, code, SOFTMAX=softmax, ACTIVATION=output, LOSS=result, DELTA=delta)


def update_source(optimizer: Optimizer, dtype: np.dtype[Any]) -> str:
    """Kernel `update` of an optimizer. s: a row of Optimizer.step_values."""
    code = Code("cuda")
    places = {"p": "p[i]"} | {name: f"slots[{index} * n + i]" for index, name in enumerate(optimizer.slots)}
    scalars = {name: f"s{index}" for index, name in enumerate(optimizer.step_names)}
    code.statements.extend(f"const T x_{name} = {place};" for name, place in (places | {"g": "g[i]"}).items())
    state = {name: f"x_{name}" for name in places}
    for target, text in dict(optimizer.updates).items():
        state[target] = code.add(text, {**state, "g": "x_g", **scalars})
    code.statements.extend(f"{place} = {state[name]};" for name, place in places.items())
    _read_constants(code, scalars.values())
    return _source("update", dtype, code)


def gather_source(source: np.dtype[Any], dtype: np.dtype[Any]) -> str:
    """Kernels `gather`, `one_hot` and `gather_csr` from a source of one element type."""
    return f"typedef {C_TYPES[source.name]} S;\n" + _source("gather", dtype)


def dropout_source(dtype: np.dtype[Any]) -> str:
    """Kernel `dropout`."""
    return _source("dropout", dtype)
