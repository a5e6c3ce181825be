"""Writes the kernels that come from formulas: activations, losses and optimizers, each a loop around a formula.

Every function here returns a compiled kernel; its `address` goes into the tables that the epoch reads. All take
pointers to dtype T and int64 sizes; `k` points to the formula's constants. `scale` is a float64.

    value(z, bias, a, k, rows, columns)              z += bias; a = f(z)
    derivative(z, a, delta, k, rows, columns)        delta *= f'(z)
    loss(z, bias, a, y, weights, delta, losses, k, scale, rows, columns)
                                                     a = f(z + bias); delta = dLoss/dz * weight * scale;
                                                     losses (rows,) float64 = the rows' weighted losses
    update(p, g, slots, values, n, start, stop)      one optimizer step for the parameters start..stop-1 of n;
                                                     values: a row of Optimizer.step_values
"""

from __future__ import annotations

from textwrap import indent
from typing import Any

import numpy as np

from nnfast.activations import Activation
from nnfast.formula import Code
from nnfast.losses import Loss, canonical_pair, is_softmax_cross_entropy
from nnfast.optimizers import Optimizer

from .compilation import Kernel, written_kernel

_HEADER = """from math import sqrt
import numpy as np
from nnfast.kernels.cpu.elementary import exp, expm1, log, log1p, tanh
from nnfast.kernels.cpu.rows import cross_entropy, softmax, softmax_backward

T = np.{dtype}

"""

_VALUE = """def kernel(z, bias, a, k, rows, columns):
{constants}
    for row in range(rows):
        for j in range(columns):
            i = row * columns + j
            x = z[i] + bias[j]
{statements}
{stores}
"""

_DERIVATIVE = """def kernel(z, a, delta, k, rows, columns):
{constants}
    for i in range(rows * columns):
        x, out = {reads}
{statements}
        delta[i] *= {result}
"""

_LOSS = """def kernel(z, bias, a, y, weights, delta, losses, k, scale, rows, columns):
    scale = T(scale)
{constants}
    {before}
    for row in range(rows):
        start = row * columns
        factor = weights[row] * scale
        row_loss = T(0.0)
        for j in range(columns):
            i = start + j
            {element}
            target = y[i]
{statements}
            a[i] = {output}
            row_loss += {loss}
            delta[i] = factor * {delta}
        losses[row] = np.float64(weights[row]) * np.float64(row_loss)
    {after}
"""

_CROSS_ENTROPY = """def kernel(z, bias, a, y, weights, delta, losses, k, scale, rows, columns):
    cross_entropy(z, bias, a, y, weights, delta, losses, T(scale), rows, columns)
"""

_UPDATE = """def kernel(p, g, slots, values, n, start, stop):
{constants}
    for i in range(start, stop):
{reads}
{statements}
{stores}
"""

_ARGUMENTS = {"value": "ppppnn", "derivative": "ppppnn", "loss": "ppppppDpdnn", "update": "ppppnnn"}


def value_kernel(activation: Activation, dtype: np.dtype[Any]) -> Kernel:
    """The hidden layers' activation. Where its derivative does not name z, a is z itself and z is overwritten."""
    code, variables, constants = _begin(activation.constant_names)
    result = code.add(activation.value, variables | {"z": "x"})
    # Two pointers to one array would look like an overlap to the vectoriser, so a is not touched where it is z.
    stores = f"z[i] = x\na[i] = {result}" if activation.derivative_uses_z else f"z[i] = {result}"
    return _compile("value", dtype, _VALUE, constants, code, 12, stores=indent(stores, " " * 12))


def derivative_kernel(activation: Activation, dtype: np.dtype[Any]) -> Kernel:
    """The hidden layers' derivative, applied to dLoss/da."""
    code, variables, constants = _begin(activation.constant_names)
    result = code.add(activation.derivative, variables | {"z": "x", "a": "out"})
    reads = "z[i], a[i]" if activation.derivative_uses_z else "a[i], a[i]"
    return _compile("derivative", dtype, _DERIVATIVE, constants, code, 8, result=result, reads=reads)


def loss_kernel(activation: Activation, loss: Loss, dtype: np.dtype[Any]) -> Kernel:
    """Output activation, loss and dLoss/dz in one pass. k: the activation's constants, then the loss's."""
    if is_softmax_cross_entropy(activation, loss):
        return _compile("loss", dtype, _CROSS_ENTROPY, "", Code("numba"), 0)
    code = Code("numba")
    constants = [f"k{index} = k[{index}]" for index in range(len(activation.constants) + len(loss.constants))]
    own = {name: f"k{index}" for index, name in enumerate(activation.constant_names)}
    other = {name: f"k{index + len(own)}" for index, name in enumerate(loss.constant_names)}
    fields = {"before": "", "after": "", "element": "x = z[i] + bias[j]"}
    if activation.is_row_operation:
        fields["before"] = "softmax(z, bias, a, delta, rows, columns)"
        fields["element"] = "out = a[i]"
        fields["after"] = "softmax_backward(a, delta, rows, columns)"
        output, slope = "out", "T(1.0)"
    else:
        output = code.add(activation.value, own | {"z": "x"})
        slope = ""
    variables = {"a": output, "y": "target"}
    if pair := canonical_pair(activation, loss):
        result = code.add(pair.value, variables | {"z": "x"})
        delta = code.add(pair.delta, variables | {"z": "x"})
    else:
        result = code.add(loss.value, variables | other)
        slope = slope or code.add(activation.derivative, own | {"z": "x", "a": output})
        delta = f"{code.add(loss.derivative, variables | other)} * {slope}"
    return _compile(
        "loss", dtype, _LOSS, "\n".join(constants), code, 12, output=output, loss=result, delta=f"({delta})", **fields
    )


def update_kernel(optimizer: Optimizer, dtype: np.dtype[Any]) -> Kernel:
    """One step of the optimizer over the flat vectors. slots: all state vectors, one behind the other."""
    code = Code("numba")
    scalars = {name: f"s{index}" for index, name in enumerate(optimizer.step_names)}
    constants = "\n".join(f"s{index} = values[{index}]" for index in range(len(scalars)))
    places = {"p": "p[i]"} | {name: f"slots[{index} * n + i]" for index, name in enumerate(optimizer.slots)}
    state = {name: f"x_{name}" for name in places}
    reads = "\n".join(["x_g = g[i]", *(f"x_{name} = {place}" for name, place in places.items())])
    for target, text in dict(optimizer.updates).items():
        state[target] = code.add(text, {**state, "g": "x_g", **scalars})
    stores = "\n".join(f"{place} = {state[name]}" for name, place in places.items())
    return _compile(
        "update", dtype, _UPDATE, constants, code, 8, reads=indent(reads, " " * 8), stores=indent(stores, " " * 8)
    )


def _begin(names: tuple[str, ...]) -> tuple[Code, dict[str, str], str]:
    variables = {name: f"k{index}" for index, name in enumerate(names)}
    constants = "\n".join(f"k{index} = k[{index}]" for index in range(len(names)))
    return Code("numba"), variables, constants


def _compile(
    kind: str, dtype: np.dtype[Any], template: str, constants: str, code: Code, depth: int, **fields: str
) -> Kernel:
    """Fill in the template and compile it."""
    body = template.format(
        constants=indent(constants, "    "), statements=indent("\n".join(code.statements), " " * depth), **fields
    )
    return written_kernel(kind, _HEADER.format(dtype=dtype.name) + body, _ARGUMENTS[kind], dtype)
