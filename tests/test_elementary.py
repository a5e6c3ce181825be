"""The CPU kernels' own exp, expm1, log, log1p and tanh: at most 2 units in the last place in float32, 4 in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

numba = pytest.importorskip("numba")

from nnfast.kernels.cpu import elementary  # noqa: E402
from nnfast.kernels.cpu.options import OPTIONS  # noqa: E402
from tests.tolerances import UNITS_IN_THE_LAST_PLACE  # noqa: E402

NAMES = ("exp", "expm1", "log", "log1p", "tanh")
TYPES = ("float32", "float64")


def apply(name: str, x: NDArray[Any]) -> NDArray[Any]:
    """The kernel function in a loop, as the kernels use it: vectorised."""
    function: Callable[[Any], Any] = getattr(elementary, name)

    @numba.njit(**OPTIONS)
    def loop(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = function(x[i])

    out = np.empty_like(x)
    loop(x, out)
    return out


def arguments(name: str, dtype: str) -> NDArray[Any]:
    """Where the function does something, evenly and by magnitude, the ends of its range included."""
    random = np.random.default_rng(0)
    info = np.finfo(dtype)
    magnitudes = 10.0 ** random.uniform(np.log10(info.smallest_subnormal), np.log10(info.max), 100_000)
    if name == "log":
        return np.concatenate([magnitudes, random.uniform(0.5, 2, 100_000)]).astype(dtype)
    if name == "log1p":
        near_zero = random.choice([-1, 1], 100_000) * 10.0 ** random.uniform(-30, -0.01, 100_000)
        return np.concatenate([magnitudes, near_zero]).astype(dtype)
    end = np.log(info.max) * 1.01
    small = random.choice([-1, 1], 100_000) * 10.0 ** random.uniform(-30, 0, 100_000)
    return np.concatenate([random.uniform(-1.2 * end, end, 200_000), random.uniform(-10, 10, 200_000), small]).astype(
        dtype
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_last_digits_are_right_over_the_whole_range(name: str, dtype: str) -> None:
    if np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("this platform's long double is no more precise than float64")
    x = arguments(name, dtype)
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(np.longdouble))
        rounded = exact.astype(dtype)
        unit = np.spacing(np.maximum(abs(rounded), np.finfo(dtype).tiny)).astype(np.longdouble)
        values = apply(name, x)
        errors = np.where(values == rounded, 0, abs(values - exact) / unit)
    worst = int(np.argmax(errors))
    assert errors[worst] <= UNITS_IN_THE_LAST_PLACE[dtype], (x[worst], values[worst], exact[worst])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_infinities_nan_and_zero_go_through_as_in_c(name: str, dtype: str) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0, -1, 1e-40, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(x)
    values = apply(name, x)
    assert values.dtype == x.dtype
    np.testing.assert_allclose(values, expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("name", NAMES)
def test_loops_over_them_become_vector_instructions(name: str) -> None:
    function = getattr(elementary, name)

    @numba.njit(numba.void(numba.float32[::1], numba.float32[::1]), **OPTIONS)
    def loop(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = function(x[i])

    (code,) = loop.inspect_llvm().values()
    assert " x float>" in code
