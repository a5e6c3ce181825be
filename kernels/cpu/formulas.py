"""Writes the kernels that come from formulas: activations, losses and optimizers, each a loop around a formula.

`value_kernel` and its like return a compiled kernel, whose `address` goes into the tables that the epoch reads, and
`value_text` and its like the text that it is compiled from. catalogue.py has the types of the parameters; `k` points to
the formulas' constants.

    value(z, a, k, size)                             a = f(z)
    derivative(z, a, delta, k, size)                 delta *= f'(z)
    loss(z, a, y, weights, delta, losses, k, scale, rows, columns)
                                                     a = f(z); delta = dLoss/dz * weight * scale; z is used up;
                                                     losses (rows,) float64 = the rows' weighted losses
    update(p, g, slots, values, n, start, stop)      one optimizer step for the parameters start..stop-1 of n;
                                                     values: a row of Optimizer.step_values

An element's formula is computed for whole registers at a time. What is left of an array, less than a register, is
copied into one, goes through the same loop and is copied back: else it would be computed number by number, which for a
small network is all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from textwrap import indent
from typing import Any

import numpy as np

from nnfast.formulas.activations import Activation
from nnfast.formulas.formula import Code
from nnfast.formulas.losses import Loss, canonical_pair, is_softmax_cross_entropy
from nnfast.formulas.optimizers import Optimizer

from .catalogue import written
from .compilation import Kernel

KEPT = 64  # kernels of each kind, so that a formula is not written anew for every program

_HEADER = """from math import sqrt
import numpy as np
from nnfast.kernels.cpu.calls import at
from nnfast.kernels.cpu.elementary import exp, expm1, log, log1p, tanh
from nnfast.kernels.cpu.rows import cross_entropy, softmax, softmax_backward
from nnfast.kernels.cpu.vectors import lane_count, load, load_some, rest_of, store, store_some

T = np.{dtype}

"""

# A loop over `size` elements of some arrays, whose body sees x_<name>, at [i]: reads and writes say what of them is
# copied for the rest.
_ELEMENTS = """
    lanes, size, done = lane_count({first}), {size}, 0
{rooms}
    while done < size:
        count = size - done
        n = count // lanes * lanes
{parts}
        if count < lanes:
            n = lanes
{rests}
{loads}
        for i in range(n):
{body}
        if count < lanes:
            n = count
{stores}
        done += n
"""

_VALUE = """def kernel(z, a, k, size):
{constants}{elements}"""

_DERIVATIVE = """def kernel(z, a, delta, k, size):
{constants}{elements}"""

_LOSS = """def kernel(z, a, y, weights, delta, losses, k, scale, rows, columns):
    scale = T(scale)
{constants}
    {before}
{elements}
    # Now delta holds dLoss/d{of} of each element alone, and z its loss
    if columns == 1:
        for row in range(rows):
            delta[row] *= weights[row] * scale
            losses[row] = np.float64(weights[row]) * np.float64(z[row])
    else:
        for row in range(rows):
            start = row * columns
            factor = weights[row] * scale
            row_loss = z[start]
            for j in range(1, columns):
                row_loss += z[start + j]
            for j in range(columns):
                delta[start + j] *= factor
            losses[row] = np.float64(weights[row]) * np.float64(row_loss)
    {after}
"""

_CROSS_ENTROPY = """def kernel(z, a, y, weights, delta, losses, k, scale, rows, columns):
    cross_entropy(z, a, y, weights, delta, losses, T(scale), rows, columns, T({least}), T({most}))
"""

_UPDATE = """def kernel(p, g, slots, values, n, start, stop):
{constants}
{places}{elements}"""


@lru_cache(KEPT)
def value_kernel(activation: Activation, dtype: np.dtype[Any]) -> Kernel:
    """The hidden layers' activation. Where its derivative does not name z, a is z itself and z is overwritten."""
    return written("value", value_text(activation, dtype), dtype)


@lru_cache(KEPT)
def derivative_kernel(activation: Activation, dtype: np.dtype[Any]) -> Kernel:
    """The hidden layers' derivative, applied to dLoss/da."""
    return written("derivative", derivative_text(activation, dtype), dtype)


def loss_kernel(activation: Activation, loss: Loss, dtype: np.dtype[Any]) -> Kernel:
    """Output activation, loss and dLoss/dz in one pass. k: the activation's constants, then the loss's."""
    return _loss_kernel(activation, loss, dtype, loss.reported, loss.reported_within)


@lru_cache(KEPT)
def _loss_kernel(activation: Activation, loss: Loss, dtype: np.dtype[Any], *reported: Any) -> Kernel:
    """reported: what the text depends on besides, though losses are not compared by it."""
    return written("loss", loss_text(activation, loss, dtype), dtype)


@lru_cache(KEPT)
def update_kernel(optimizer: Optimizer, dtype: np.dtype[Any]) -> Kernel:
    """One step of the optimizer over the flat vectors. slots: all state vectors, one behind the other."""
    return written("update", update_text(optimizer, dtype), dtype)


def value_text(activation: Activation, dtype: np.dtype[Any]) -> str:
    code, variables, constants = _begin(activation.constant_names)
    result = code.add(activation.value, variables | {"z": "x_z"})
    # Two pointers to one array would look like an overlap to the vectoriser, so a is not touched where it is z.
    target = "a" if activation.derivative_uses_z else "z"
    elements = _elements("size", code, reads="z", writes=target, results={target: result})
    return _text(dtype, _VALUE, constants, elements=elements)


def derivative_text(activation: Activation, dtype: np.dtype[Any]) -> str:
    code, variables, constants = _begin(activation.constant_names)
    inputs = {"z": "x_z", "a": "x_a"} if activation.derivative_uses_z else {"z": "x_a", "a": "x_a"}
    result = code.add(activation.derivative, variables | inputs)
    elements = _elements(
        "size", code, reads=["z", "a", "delta"] if activation.derivative_uses_z else ["a", "delta"], writes=["delta"],
        results={"delta": f"x_delta * {result}"},
    )  # fmt: skip
    return _text(dtype, _DERIVATIVE, constants, elements=elements)


def loss_text(activation: Activation, loss: Loss, dtype: np.dtype[Any]) -> str:
    if is_softmax_cross_entropy(activation, loss):
        least, most = map(repr, loss.reported_within) if loss.reported_within else ("0.0", "np.inf")
        return _text(dtype, _CROSS_ENTROPY, "", least=least, most=most)
    code = Code("numba")
    constants = [f"k{index} = k[{index}]" for index in range(len(activation.constants) + len(loss.constants))]
    own = {name: f"k{index}" for index, name in enumerate(activation.constant_names)}
    other = {name: f"k{index + len(own)}" for index, name in enumerate(loss.constant_names)}
    fields = {"before": "", "after": "", "of": "z"}
    reads, writes = ["z", "y"], ["a", "delta", "z"]
    if activation.is_row_operation:
        fields = {
            "before": "softmax(z, a, delta, rows, columns)",
            "after": "softmax_backward(a, delta, rows, columns)",
            "of": "a",
        }
        reads, writes = ["a", "y"], ["delta", "z"]
        output, slope = "x_a", "T(1.0)"
    else:
        output = code.add(activation.value, own | {"z": "x_z"})
        slope = ""
    variables = {"a": output, "y": "x_y"}
    if pair := canonical_pair(activation, loss):
        result = code.add(pair.value, variables | {"z": "x_z"})
        delta = code.add(pair.delta, variables | {"z": "x_z"})
    else:
        result = code.add(loss.value, variables | other)
        slope = slope or code.add(activation.derivative, own | {"z": "x_z", "a": output})
        delta = f"{code.add(loss.derivative, variables | other)} * {slope}"
    results = {"a": output, "delta": delta, "z": result}
    elements = _elements("rows * columns", code, reads, writes, {name: results[name] for name in writes})
    return _text(dtype, _LOSS, "\n".join(constants), elements=elements, **fields)


def update_text(optimizer: Optimizer, dtype: np.dtype[Any]) -> str:
    code = Code("numba")
    scalars = {name: f"s{index}" for index, name in enumerate(optimizer.step_names)}
    constants = "\n".join(f"s{index} = values[{index}]" for index in range(len(scalars)))
    slots = {name: f"slot{index}" for index, name in enumerate(optimizer.slots)}
    places = ["p, g = at(p, start), at(g, start)"]
    places += [f"{place} = at(slots, {index} * n + start)" for index, place in enumerate(slots.values())]
    arrays = {"p": "p", **slots}
    state = {name: f"x_{array}" for name, array in arrays.items()}
    for target, text in dict(optimizer.updates).items():
        state[target] = code.add(text, {**state, "g": "x_g", **scalars})
    results = {array: state[name] for name, array in arrays.items()}
    elements = _elements("stop - start", code, ["g", *results], [*results], results)
    return _text(dtype, _UPDATE, constants, places=indent("\n".join(places), "    "), elements=elements)


def _begin(names: tuple[str, ...]) -> tuple[Code, dict[str, str], str]:
    variables = {name: f"k{index}" for index, name in enumerate(names)}
    constants = "\n".join(f"k{index} = k[{index}]" for index in range(len(names)))
    return Code("numba"), variables, constants


def _elements(size: str, code: Code, reads: Iterable[str], writes: Iterable[str], results: Mapping[str, str]) -> str:
    """The loop over the elements of some arrays. code: computes the results from x_<array> for each array it reads."""
    reads, writes = list(reads), list(writes)
    arrays = list(dict.fromkeys([*reads, *writes]))
    body = [*(f"x_{name} = {name}_part[i]" for name in reads), *code.statements]
    body += [f"{name}_part[i] = {results[name]}" for name in writes]
    return _ELEMENTS.format(
        first=arrays[0],
        size=size,
        rooms=_lines(4, (f"{name}_rest = rest_of({name})" for name in arrays)),
        parts=_lines(8, (f"{name}_part = at({name}, done)" for name in arrays)),
        rests=_lines(12, (f"{name}_part = {name}_rest" for name in arrays)),
        loads=_lines(12, (f"store(load_some({name}, done, count), {name}_rest, 0)" for name in reads)),
        body=_lines(12, body),
        stores=_lines(12, (f"store_some(load({name}_rest, 0), {name}, done, count)" for name in writes)),
    )


def _lines(depth: int, lines: Iterable[str]) -> str:
    return indent("\n".join(lines), " " * depth)


def _text(dtype: np.dtype[Any], template: str, constants: str, **fields: str) -> str:
    """Fill in the template."""
    return _HEADER.format(dtype=dtype.name) + template.format(constants=indent(constants, "    "), **fields)
