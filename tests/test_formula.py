"""The grammar of formulas: what it refuses, and that its three languages say the same."""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.formulas.formula import MAX_LENGTH, Code, FormulaError, check, check_constants, numpy_function

REFUSED = {
    "__import__('os')": "unknown function '__import__'",
    "z.real": "not allowed",
    "z[0]": "not allowed",
    "lambda: z": "not allowed",
    "open": "unknown name 'open'",
    "sin(z)": "unknown function 'sin'",
    "exp(z, z)": "exp takes 1 arguments, got 2",
    "exp(x=z)": "unknown function 'exp'",
    "z > 0": "only be the first argument of where",
    "where(z, 1, 0)": "condition of where",
    "where(0 < z < 1, 1, 0)": "condition of where",
    "where(z == 0, 1, 0)": "condition of where",
    "z // 2": "not allowed",
    "z % 2": "not allowed",
    "z and 1": "not allowed",
    "True": "not a real number",
    "'a'": "not a real number",
    "1j": "not a real number",
    "1e999": "too large",
    "9" * 400: "too large",
    "z +": "cannot be read",
    "": "cannot be read",
    "z\n; z": "cannot be read",
    "[z for z in z]": "not allowed",
    "(y := z)": "not allowed",
    "z" + " + z" * MAX_LENGTH: "at most",
    "z" + " + z" * 240: "too long",
    "-" * 200 + "z": "too long",
    "(" * 300 + "z" + ")" * 300: "cannot be read",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_is_not_in_the_grammar_is_refused_by_name(text: str) -> None:
    with pytest.raises(FormulaError, match=REFUSED[text].replace("(", r"\(")):
        check(text, ("z", "a", "y"))


def test_a_formula_must_be_a_text() -> None:
    with pytest.raises(FormulaError, match="is a text, got 3"):
        check(3, ("z",))  # type: ignore[arg-type]


def test_the_names_a_formula_uses_are_known() -> None:
    assert check("a * (1 - a)", ("z", "a")) == {"a"}


def test_equal_subexpressions_are_computed_once() -> None:
    code = Code("numba")
    code.add("exp(z) / (1 + exp(z))", {"z": "x"})
    code.add("exp(z)", {"z": "x"})
    assert sum("exp" in statement for statement in code.statements) == 1


def test_float32_stays_float32() -> None:
    z = np.linspace(-2, 2, 5, dtype=np.float32)
    for text in ("where(z > 0, 1, 0)", "0.01 * z", "z ** 3", "max(z, 0.1)", "z ** 1.5 / 3", "1 / 3 + z"):
        with np.errstate(invalid="ignore"):
            assert numpy_function(text, ("z",))(z).dtype == np.float32


@pytest.mark.parametrize("language", ["numba", "cuda"])
def test_max_and_min_with_a_number_are_one_comparison_that_keeps_nan(language: str) -> None:
    for name, sign in (("max", "<"), ("min", ">")):
        for text in (f"{name}(z, 0)", f"{name}(0, z)"):
            code = Code(language)
            code.add(text, {"z": "x"})
            (statement,) = code.statements
            condition = f"x {sign} T(0.0)"
            expected = {
                "numba": f"t0 = T(0.0) if {condition} else x",
                "cuda": f"const T t0 = {condition} ? T(0.0) : x;",
            }
            assert statement == expected[language]


def test_constants_are_finite_numbers_with_plain_names() -> None:
    assert check_constants({"b": 1, "a": 2.5}) == (("a", 2.5), ("b", 1.0))
    for constants in ({"a b": 1.0}, {"exp": 1.0}, {"a": math.nan}, {"a": "1"}, {"a": True}, {"_a": 1.0}):
        with pytest.raises(FormulaError):
            check_constants(constants)


LEAVES = st.sampled_from(["z", "a", "0.5", "3", "1e-3"])


def _grow(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, children, st.sampled_from("+-*"), children),
        st.builds("(-{})".format, children),
        st.builds("({})**2".format, children),
        st.builds("({} / (1 + abs({})))".format, children, children),
        st.builds("{}({})".format, st.sampled_from(["tanh", "abs"]), children),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), children, children),
        st.builds(
            "where({} {} {}, {}, {})".format, children, st.sampled_from(["<", ">="]), children, children, children
        ),
    )


@given(text=st.recursive(LEAVES, _grow, max_leaves=12).filter(lambda text: len(text) < 400))
def test_every_language_computes_what_python_would(text: str) -> None:
    z, a = np.array([-1.5, 0.0, 0.7]), np.array([0.3, -2.0, 0.0])
    expected = [
        _evaluate(ast.parse(text, mode="eval").body, {"z": float(x), "a": float(y)}) for x, y in zip(z, a, strict=True)
    ]
    values = np.broadcast_to(numpy_function(text, ("z", "a"))(z, a), z.shape)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    code = Code("numba")
    result = code.add(text, {"z": "x", "a": "y"})
    for index in range(len(z)):
        scope: dict[str, Any] = {**vars(math), "T": float, "x": z[index], "y": a[index]}
        exec("\n".join(code.statements), scope)
        assert eval(result, scope) == pytest.approx(expected[index], rel=1e-12, abs=1e-12)


def _evaluate(node: ast.expr, names: dict[str, float]) -> float:
    """An independent reading of a formula, by plain recursion."""
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, names)
        case ast.BinOp(left=left, op=op, right=right):
            x, y = _evaluate(left, names), _evaluate(right, names)
            return (
                {ast.Add: x + y, ast.Sub: x - y, ast.Mult: x * y}[type(op)]
                if not isinstance(op, (ast.Div, ast.Pow))
                else (x / y if isinstance(op, ast.Div) else x**y)
            )
        case ast.Call(func=ast.Name(id="where"), args=[ast.Compare() as test, yes, no]):
            x, y = _evaluate(test.left, names), _evaluate(test.comparators[0], names)
            holds = x < y if isinstance(test.ops[0], ast.Lt) else x >= y
            return _evaluate(yes if holds else no, names)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return {"tanh": math.tanh, "abs": abs, "min": min, "max": max}[name](  # type: ignore[no-any-return]
                *(_evaluate(argument, names) for argument in arguments)
            )
    raise AssertionError(ast.dump(node))
