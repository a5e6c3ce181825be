"""Fills formulas into the CUDA sources of this folder; the texts are compiled at run time by CuPy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nnfast.formulas.activations import Activation
from nnfast.formulas.formula import Code
from nnfast.formulas.losses import Loss, canonical_pair, is_softmax_cross_entropy
from nnfast.formulas.optimizers import Optimizer
from nnfast.plans.plan import Plan
from nnfast.plans.recipe import Recipe

C_TYPES = {"float32": "float", "float64": "double", "uint8": "unsigned char"}


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


def text(dtype: np.dtype[Any], *parts: str) -> str:
    """A compilable text: the type of its arithmetic, what all kernels share, and the parts.

    A part that ends in .cu is a file of this folder.
    """
    contents = (_file(part) if part.endswith(".cu") else part for part in ("common.cu", *parts))
    return "\n".join([f"typedef {C_TYPES[dtype.name]} T;", *contents])


def define(**macros: object) -> str:
    return "\n".join(f"#define {name} {value}" for name, value in macros.items())


def _function(signature: str, code: Code, result: str | None = None) -> str:
    """A device function of a formula's statements."""
    statements = [*code.statements, *([] if result is None else [f"return {result};"])]
    return "\n    ".join([f"__device__ __forceinline__ {signature}", "{", *statements]) + "\n}"


def constants(plan: Plan, recipe: Recipe) -> tuple[list[float], dict[int, int]]:
    """The constants of all formulas one behind the other, and where those of a layer begin: kernels' k.

    The last layer's are followed by the loss's.
    """
    values: list[float] = []
    offsets = {}
    for op in plan.operations:
        if op.layer.function:
            offsets[op.layer_index] = len(values)
            values += op.layer.function.constant_values
    return [*values, *recipe.loss.constant_values], offsets


def _read_constants(code: Code, variables: Iterable[str], *results: str) -> None:
    """Put the reads of those constants that are used before the statements: const T k0 = k[0]."""
    used = " ".join([*code.statements, *results])
    code.statements[:0] = [
        f"const T {variable} = {variable[0]}[{variable[1:]}];"
        for variable in variables
        if re.search(rf"\b{variable}\b", used)  # nvcc and g++ both warn of what is not
    ]


def activation_struct(activation: Activation, name: str) -> str:
    """A struct with an elementwise activation's value(x, k) and derivative(x, out, k)."""
    variables = {name: f"k{index}" for index, name in enumerate(activation.constant_names)}
    functions = []
    for signature, text in (
        ("value(T x, const T* k)", activation.value),
        ("derivative(T x, T out, const T* k)", activation.derivative),
    ):
        code = Code("cuda")
        result = code.add(text, variables | {"z": "x", "a": "out"})
        _read_constants(code, variables.values(), result)
        functions.append(f"static {_function(f'T {signature}', code, result)}")
    return "\n".join([f"struct {name} {{", *functions, "};"])


def loss_macros(activation: Activation, loss: Loss) -> str:
    """The macros that row_loss.cu is made of. k: the activation's constants, then the loss's."""
    if is_softmax_cross_entropy(activation, loss):
        return define(SOFTMAX=2)
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
    return define(
        SOFTMAX=int(activation.is_row_operation),
        FORMULA=" ".join(code.statements),
        ACTIVATION=output,
        LOSS=result,
        DELTA=delta,
    )


def update_function(optimizer: Optimizer) -> str:
    """update_element and STEP_VALUES of an optimizer. s: a row of Optimizer.step_values."""
    code = Code("cuda")
    places = {"p": "p[i]"} | {name: f"slots[{index} * n + i]" for index, name in enumerate(optimizer.slots)}
    scalars = {name: f"s{index}" for index, name in enumerate(optimizer.step_names)}
    code.statements.extend(f"const T x_{name} = {place};" for name, place in places.items())
    state = {name: f"x_{name}" for name in places}
    for target, text in dict(optimizer.updates).items():
        state[target] = code.add(text, {**state, "g": "g", **scalars})
    code.statements.extend(f"{place} = {state[name]};" for name, place in places.items())
    _read_constants(code, scalars.values())
    function = _function("void update_element(T* p, T* slots, T g, const T* s, long long i, long long n)", code)
    return f"{define(STEP_VALUES=len(optimizer.step_names))}\n{function}"


def gather_source(source: np.dtype[Any], dtype: np.dtype[Any]) -> str:
    """Kernels `gather` and `gather_csr` from a source of one element type."""
    return text(dtype, f"typedef {C_TYPES[source.name]} S;", "gather.cu")


def activation_source(activation: Activation, dtype: np.dtype[Any]) -> str:
    """Kernels `value` and `derivative` of an elementwise activation."""
    return text(dtype, activation_struct(activation, "F"), "activation.cu", "derivative.cu")


def convolution_source(activation: Activation, side: int, dtype: np.dtype[Any]) -> str:
    """Kernel `convolve` with an elementwise activation; side: how many columns of a tile a thread sums, 2 or 4."""
    return text(dtype, activation_struct(activation, "F"), define(SIDE=side), "correlation.cu", "convolution.cu")


def convolution_gradient_source(side: int, dtype: np.dtype[Any]) -> str:
    """Kernels `convolution_gradient` and `add_chunks`."""
    return text(dtype, define(SIDE=side), "correlation.cu", "convolution_gradient.cu")


def pooling_source(dtype: np.dtype[Any]) -> str:
    """Kernels `max_pool` and `average_pool`, each with its `_gradient`."""
    return text(dtype, "pooling.cu")


def batch_norm_source(activation: Activation, dtype: np.dtype[Any]) -> str:
    """Kernels `statistics`, `normalise`, `normalised_sums` and `normalised_gradient` with an elementwise activation."""
    return text(dtype, activation_struct(activation, "F"), "batch_norm.cu")


def layer_norm_source(activation: Activation, dtype: np.dtype[Any]) -> str:
    """Kernels `layer_norm`, `layer_norm_sums` and `layer_norm_gradient` with an elementwise activation."""
    return text(dtype, activation_struct(activation, "F"), "layer_norm.cu")


def dropout_source(dtype: np.dtype[Any]) -> str:
    """Kernel `dropout`."""
    return text(dtype, "philox.cu", "dropout.cu")


def loss_source(activation: Activation, loss: Loss, dtype: np.dtype[Any]) -> str:
    """Kernel `loss` of a pair."""
    return text(dtype, loss_macros(activation, loss), "row_loss.cu", "loss.cu")


def update_source(optimizer: Optimizer, dtype: np.dtype[Any]) -> str:
    """Kernels `penalize` and `update`."""
    return text(dtype, update_function(optimizer), "penalty.cu", "update.cu", "wide_update.cu")
