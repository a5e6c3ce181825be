"""What a kernel takes: its parameters by name, in their order, with the type and, for an array, the shape. No Numba.

A signature is written once, in catalogue.py. From it are made the C function (compiler.py), its callable for Python
(backends/numba/program.py), the checks of a call below, and the listing kernels/signatures.md. The names are those of
the Python function's own parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import panels, tables
from .registers import group_size

RANGES = {"int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}


class Parameter(NamedTuple):
    """A parameter of a kernel: a number, or an array, of which a kernel takes the address of the first element.

    dtype: "T", the kernel's own, or "int64", "uint64", "float64". shape: None for a number. Of an array, its shape in
    words; words that are a tuple, such as "(steps, value_size)", also say how long the array must be at least, and
    otherwise `least` may say it. Both count in the other parameters and the numbers of tables.py.
    """

    name: str
    dtype: str
    shape: str | None = None
    least: str = ""

    @property
    def c_type(self) -> str:
        """ "T*" for an array of T."""
        return self.dtype if self.shape is None else f"{self.dtype}*"


Signature = tuple[Parameter, ...]


def array(name: str, dtype: str, shape: str, least: str = "") -> Parameter:
    """An array."""
    if not least and shape.startswith("(") and shape.endswith(")"):
        least = f"product({shape})"
    return Parameter(name, dtype, shape, least)


def numbers(names: str, dtype: str = "int64") -> Signature:
    """Numbers of one type, by their names with spaces between."""
    return tuple(Parameter(name, dtype) for name in names.split())


def declaration(name: str, signature: Signature) -> str:
    """ "transpose(A: T*, a_row: int64, ...)"."""
    return f"{name}({', '.join(f'{parameter.name}: {parameter.c_type}' for parameter in signature)})"


def check_names(name: str, signature: Signature, function_names: Iterable[str]) -> None:
    """Raise AssertionError unless the parameters of the Python function are those of the signature, in order."""
    names, own = [parameter.name for parameter in signature], list(function_names)
    if own != names:
        raise AssertionError(f"kernel {name} has the parameters {', '.join(own)}; its signature: {', '.join(names)}")


def check_call(name: str, signature: Signature, dtype: np.dtype[Any], arguments: Sequence[Any]) -> None:
    """Raise AssertionError, naming kernel and parameter, for arrays and numbers that the kernel cannot be called with.

    Arrays must be in C order, of their type, and as long as the signature says, as far as it can.
    """
    if len(arguments) != len(signature):
        raise AssertionError(f"kernel {name} takes {len(signature)} arguments, got {len(arguments)}")
    for parameter, argument in zip(signature, arguments, strict=True):
        if mistake := _mistake(parameter, argument, dtype):
            raise AssertionError(f"kernel {name}, parameter {parameter.name}: {mistake}")
    values = _KNOWN | {"lanes": group_size(dtype)}
    values |= {parameter.name: argument for parameter, argument in zip(signature, arguments, strict=True)}
    for parameter in sorted(signature, key=lambda parameter: "[" in parameter.least):  # those that read others last
        if parameter.least and values[parameter.name].size < (least := _evaluate(parameter.least, values)):
            raise AssertionError(
                f"kernel {name}, parameter {parameter.name}: must have at least {least} elements, "
                f"{parameter.shape}, got {values[parameter.name].size}"
            )


def _mistake(parameter: Parameter, argument: Any, dtype: np.dtype[Any]) -> str | None:
    """What is wrong with the type of an argument, or its order in memory."""
    wanted = dtype if parameter.dtype == "T" else np.dtype(parameter.dtype)
    if parameter.shape is not None:
        if not isinstance(argument, np.ndarray):
            return f"must be an array of {wanted}, got {argument!r}"
        if argument.dtype != wanted:
            return f"must be an array of {wanted}, got one of {argument.dtype}"
        return None if argument.flags.c_contiguous else "must be an array in C order, got one that is not"
    if parameter.dtype == "float64":
        return (
            None
            if isinstance(argument, (int, float, np.integer, np.floating))
            else f"must be a number, got {argument!r}"
        )
    if not isinstance(argument, (int, np.integer)):
        return f"must be an integer, got {argument!r}"
    low, high = RANGES[parameter.dtype]
    return None if low <= argument <= high else f"must be of {parameter.dtype}, got {argument}"


def _product(shape: Sequence[int]) -> int:
    return math.prod(max(0, int(size)) for size in shape)


def _reach(*steps: tuple[int, int]) -> int:
    """The elements up to the last one that is reached by (count, step) in each direction; 0 where there is none."""
    if any(count < 1 for count, _ in steps):
        return 0
    return 1 + sum((count - 1) * step for count, step in steps)


_KNOWN: dict[str, Any] = {
    **{name: value for name, value in vars(tables).items() if isinstance(value, int)},
    "PACK_SIZE": panels.PACK_SIZE,
    "product": _product,
    "reach": _reach,
}


def _evaluate(expression: str, values: Mapping[str, Any]) -> int:
    """An expression of a signature: our own text, never a user's."""
    return int(eval(expression, {"__builtins__": {}}, values))
