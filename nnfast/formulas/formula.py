"""One formula, three compilers: an expression text becomes NumPy, Numba or CUDA C statements.

The grammar is small and capped: numbers, the names a caller allows, `+ - * / **`, unary minus, and the functions of
FUNCTIONS. A comparison stands only as the condition of `where`. A formula may come from a stranger's model file, so
its text is parsed, checked node by node and written anew in the target language; it never runs as Python itself.

Statements are in single-assignment form and equal subexpressions are written once, so that the three targets compute
the same operations in the same order. Both branches of `where` are computed and must be finite everywhere.
"""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

MAX_LENGTH = 1000  # characters
MAX_OPERATIONS = 250
MAX_DEPTH = 40
MAX_UNROLLED_POWER = 8  # an integer power up to this becomes products

FUNCTIONS = {  # name: number of arguments
    "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "sqrt": 1, "tanh": 1, "abs": 1, "min": 2, "max": 2, "where": 3,
}  # fmt: skip
OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
    ast.Gt: ">", ast.Lt: "<", ast.GtE: ">=", ast.LtE: "<=",
}  # fmt: skip
COMPARISONS = (">", "<", ">=", "<=")

# How an operation is written in each language, where that differs from `x + y` and `f(x)`. In the scalar languages
# max(x, y) is spelled so that a NaN in x stays one (CUDA's fmax would drop it), and `nan` gives back one in y: NaN must
# reach the loss to be seen.
SPELLINGS: dict[str, dict[str, str]] = {
    "numpy": {
        **{name: f"np.{name}({{0}})" for name in ("exp", "expm1", "log", "log1p", "sqrt", "tanh", "abs")},
        "min": "np.minimum({0}, {1})",
        "max": "np.maximum({0}, {1})",
        "where": "np.where({0}, {1}, {2})",
    },
    "numba": {
        "min": "{1} if {0} > {1} else {0}",
        "max": "{1} if {0} < {1} else {0}",
        "where": "{1} if {0} else {2}",
        "nan": "{0} if {0} != {0} else {1}",
    },
    "cuda": {
        "abs": "fabs({0})",
        "min": "{0} > {1} ? {1} : {0}",
        "max": "{0} < {1} ? {1} : {0}",
        "where": "{0} ? {1} : {2}",
        "nan": "{0} != {0} ? {0} : {1}",
        "**": "pow({0}, {1})",
    },
}


class FormulaError(ValueError):
    """A formula outside the grammar or its limits, or one that contradicts its stated derivative."""


class NameTakenError(FormulaError):
    """A row of the user's own under the name of another row of the tables."""


def check(text: str, names: Iterable[str]) -> frozenset[str]:
    """Parse `text`, raise FormulaError if it is outside the grammar, and return the names it uses."""
    if not isinstance(text, str):
        raise FormulaError(f"a formula is a text, got {text!r}")
    return _names_used(text, tuple(names))


@functools.lru_cache(256)
def _names_used(text: str, names: tuple[str, ...]) -> frozenset[str]:
    code = Code("numpy")
    code.add(text, {name: name for name in names})
    return frozenset(code.used)


class Code:
    """Statements of one kernel body in one language, built formula by formula.

    Every number is written `T(number)`, and every result has type `T`: the kernel around the body says what T is.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.statements: list[str] = []
        self.used: set[str] = set()
        self._known: dict[str, str] = {}
        self._operations = 0

    def add(self, text: str, variables: Mapping[str, str]) -> str:
        """Append the statements of `text` and return the name of its result.

        variables: for every name the formula may use, the variable that holds it in the kernel.
        """
        if len(text) > MAX_LENGTH:
            raise FormulaError(
                f"formula has {len(text)} characters; at most {MAX_LENGTH} are allowed: {text[:60]!r}..."
            )
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise FormulaError(f"formula {text!r} cannot be read: {error}") from None
        self._operations = 0
        return self._number(tree, text, variables, 0)

    def _number(self, node: ast.expr, text: str, variables: Mapping[str, str], depth: int) -> str:
        """The variable that holds a numeric subexpression."""
        self._operations += 1
        if self._operations > MAX_OPERATIONS or depth > MAX_DEPTH:
            raise FormulaError(
                f"formula {text[:60]!r}... is too long: at most {MAX_OPERATIONS} operations, nested {MAX_DEPTH} deep"
            )

        def number(child: ast.expr) -> str:
            return self._number(child, text, variables, depth + 1)

        match node:
            case ast.Constant(value=bool() | str() | bytes() | complex() | None):
                raise FormulaError(f"formula {text!r}: {node.value!r} is not a real number")
            case ast.Constant(value=int() | float() as value):
                return self._literal(value, text)
            case ast.Name(id=name):
                if name not in variables:
                    allowed = ", ".join(sorted(variables))
                    raise FormulaError(f"formula {text!r}: unknown name {name!r}; known here: {allowed}")
                self.used.add(name)
                return variables[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._assign(f"-{number(operand)}")
            case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int() as power)) if (
                2 <= power <= MAX_UNROLLED_POWER
            ):
                return self._power(number(base), power)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
                return self._operation(OPERATORS[type(operator)], number(left), number(right))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                if len(arguments) != FUNCTIONS[name]:
                    raise FormulaError(
                        f"formula {text!r}: {name} takes {FUNCTIONS[name]} arguments, got {len(arguments)}"
                    )
                if name == "where":
                    condition = self._condition(arguments[0], text, variables, depth)
                    return self._operation(name, condition, *map(number, arguments[1:]))
                return self._operation(name, *map(number, arguments))
            case ast.Call(func=ast.Name(id=name)):
                raise FormulaError(f"formula {text!r}: unknown function {name!r}; known: {', '.join(FUNCTIONS)}")
            case ast.Compare():
                raise FormulaError(f"formula {text!r}: a comparison may only be the first argument of where")
        raise FormulaError(f"formula {text!r}: {ast.unparse(node)!r} is not allowed in a formula")

    def _condition(self, node: ast.expr, text: str, variables: Mapping[str, str], depth: int) -> str:
        match node:
            case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in OPERATORS:
                operands = (self._number(side, text, variables, depth + 1) for side in (left, right))
                return self._operation(OPERATORS[type(operator)], *operands)
        raise FormulaError(f"formula {text!r}: the condition of where must be one of {' '.join(COMPARISONS)}")

    def _literal(self, value: float, text: str) -> str:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise FormulaError(f"formula {text!r}: the number {value!r} is too large")
        return f"T({number!r})"

    def _power(self, base: str, power: int) -> str:
        product = base
        for _ in range(power - 1):
            product = self._operation("*", product, base)
        return product

    def _operation(self, name: str, *operands: str) -> str:
        if name in ("min", "max") and operands[0].startswith("T("):
            operands = operands[::-1]  # the variable first: it is the one that can be NaN
        default = f"{{0}} {name} {{1}}" if name not in FUNCTIONS else f"{name}({', '.join(['{}'] * len(operands))})"
        spelling = SPELLINGS[self.language].get(name, default)
        result = self._assign(spelling.format(*operands), boolean=name in COMPARISONS)
        if name in ("min", "max") and self.language != "numpy" and not operands[1].startswith("T("):
            result = self._assign(SPELLINGS[self.language]["nan"].format(operands[1], result))
        return result

    def _assign(self, expression: str, *, boolean: bool = False) -> str:
        if expression not in self._known:
            name = f"t{len(self._known)}"
            self._known[expression] = name
            if self.language == "cuda":
                self.statements.append(f"const {'bool' if boolean else 'T'} {name} = {expression};")
            else:
                self.statements.append(f"{name} = {expression}")
        return self._known[expression]


@functools.cache
def numpy_function(texts: tuple[str, ...] | str, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """The formula as a function of NumPy arrays, elementwise; several texts give a tuple of results.

    The arithmetic is done in the dtype of the first argument, which must be an array.
    """
    namespace: dict[str, Any] = {"np": np}
    # The text was written from a checked tree: nothing of the formula's author is in it.
    exec(numpy_text(texts, arguments), namespace)
    function: Callable[..., Any] = namespace["function"]
    return function


def numpy_text(texts: tuple[str, ...] | str, arguments: tuple[str, ...]) -> str:
    """The Python text of that function."""
    code = Code("numpy")
    variables = {name: f"x_{name}" for name in arguments}
    single = isinstance(texts, str)
    results = [code.add(text, variables) for text in ((texts,) if isinstance(texts, str) else texts)]
    lines = [
        f"def function({', '.join(variables.values())}):",
        f"    T = x_{arguments[0]}.dtype.type",
        *(f"    {statement}" for statement in code.statements),
        f"    return {results[0] if single else '(' + ', '.join(results) + ',)'}",
    ]
    return "\n".join(lines)


class NamedConstants:
    """What rows of the tables with a field `constants` share: its names and values, in one order."""

    name: str
    constants: tuple[tuple[str, float], ...] | Mapping[str, float]

    @property
    def constant_names(self) -> tuple[str, ...]:
        return tuple(dict(self.constants))

    @property
    def constant_values(self) -> tuple[float, ...]:
        return tuple(dict(self.constants).values())

    def _check_name(self, row: Any) -> None:
        """Raise NameTakenError unless `row`, the table's of this name, differs in its constants alone.

        Files, reports and scikit-learn know a row by its name: under it there is one formula.
        """
        compared = [item.name for item in fields(row) if item.compare and item.name != "constants"]
        if different := [name for name in compared if getattr(self, name) != getattr(row, name)]:
            kind = type(self).__name__.lower()
            raise NameTakenError(
                f"{kind} {self.name!r} differs from nnfast's own {row.name!r} in {', '.join(different)}: "
                "give it a name of its own"
            )

    def _evaluate(self, text: str, names: tuple[str, ...], *arrays: Any) -> Any:
        """The formula in NumPy, with the constants in the dtype of the first array."""
        constants = (arrays[0].dtype.type(value) for value in self.constant_values)
        result = numpy_function(text, (*names, *self.constant_names))(*arrays, *constants)
        return result if np.ndim(result) else np.broadcast_to(result, arrays[0].shape)


Row = TypeVar("Row")


def read_row(make: Callable[..., Row], data: Mapping[str, Any]) -> Row:
    """make(**data) of a row that a file holds; it becomes "NAME (own)" where the tables have another row of its name.

    Files hold such rows from before the name stood in the tables, or before NameTakenError refused them.
    """
    try:
        return make(**data)
    except NameTakenError:
        return make(**{**data, "name": f"{data['name']} (own)"})


def check_name(name: str, what: str) -> str:
    """Return `name` if it can name a constant or a state in a formula, or raise FormulaError."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", name) or name in FUNCTIONS:
        raise FormulaError(f"{what} {name!r} must be a letter followed by at most 31 letters, digits or _")
    return name


def check_constants(constants: Mapping[str, float] | Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Named constants as a sorted, hashable tuple of (name, finite float)."""
    pairs = []
    try:
        named = dict(constants)
    except (TypeError, ValueError):
        raise FormulaError(f"constants must be numbers by name, such as {{'slope': 0.1}}, got {constants!r}") from None
    for name, value in sorted(named.items()):
        check_name(name, "constant")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise FormulaError(f"constant {name} must be a finite number, got {value!r}")
        pairs.append((name, float(value)))
    return tuple(pairs)
