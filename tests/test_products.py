"""The CPU engine's own matrix products, against NumPy's in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

numba = pytest.importorskip("numba")

from nnfast.kernels.cpu import products  # noqa: E402
from nnfast.kernels.cpu.calls import call_void  # noqa: E402
from nnfast.kernels.cpu.compilation import OPTIONS  # noqa: E402
from tests.tolerances import ONE_STEP, difference  # noqa: E402

DTYPES = ("float32", "float64")
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 47, 48, 63, 64, 65, 100]))


@numba.njit(**OPTIONS)
def run(address: int, arguments: Any) -> None:
    call_void(address, arguments)


def guarded(rows: int, columns: int, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A matrix of NaN to be written, inside a longer vector of NaN: what is written outside it shows."""
    vector = np.full(rows * columns + 128, np.nan, dtype)
    return vector, vector[64 : 64 + rows * columns].reshape(rows, columns)


def assert_only_inside(vector: NDArray[Any], size: int) -> None:
    assert np.isnan(vector[:64]).all()
    assert np.isnan(vector[64 + size :]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=150, deadline=None)
@given(rows=SIZES, columns=SIZES, depth=SIZES, is_transposed=st.booleans())
def test_products_of_any_size_are_right_and_stay_inside(
    dtype: str, rows: int, columns: int, depth: int, is_transposed: bool
) -> None:
    random = np.random.default_rng(rows * 10_000 + columns * 100 + depth)
    A = random.normal(size=(depth, rows) if is_transposed else (rows, depth)).astype(dtype)
    B = random.normal(size=(depth, columns)).astype(dtype)
    vector, C = guarded(rows, columns, dtype)
    strides = (1, rows) if is_transposed else (depth, 1)
    kernel = products.multiply_kernel(np.dtype(dtype))
    run(kernel.address, (A.reshape(-1), *strides, B.reshape(-1), C.reshape(-1), rows, columns, depth))
    exact = (A.T if is_transposed else A).astype(np.float64) @ B
    assert difference(C, exact) < ONE_STEP[dtype]
    assert_only_inside(vector, C.size)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(rows=SIZES, columns=SIZES)
def test_transposing_is_exact_and_stays_inside(dtype: str, rows: int, columns: int) -> None:
    A = np.arange(rows * columns).astype(dtype).reshape(rows, columns)
    vector, out = guarded(columns, rows, dtype)
    kernel = products.transpose_kernel(np.dtype(dtype))
    run(kernel.address, (A.reshape(-1), out.reshape(-1), rows, columns))
    np.testing.assert_array_equal(out, A.T)
    assert_only_inside(vector, A.size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_element_s_bits_do_not_depend_on_its_place_in_a_tile(dtype: str) -> None:
    """What the overlapping last tiles rest on: they compute some elements a second time."""
    random = np.random.default_rng(0)
    row, column = random.normal(size=37).astype(dtype), random.normal(size=37).astype(dtype)
    kernel = products.multiply_kernel(np.dtype(dtype))
    A, B = np.tile(row, (23, 1)), np.tile(column[:, np.newaxis], (1, 43))
    _, C = guarded(23, 43, dtype)
    run(kernel.address, (A.reshape(-1), 37, 1, B.reshape(-1), C.reshape(-1), 23, 43, 37))
    assert len(np.unique(C)) == 1


def test_a_nan_in_the_operands_reaches_the_product() -> None:
    A, B = np.ones((7, 5), np.float32), np.ones((5, 9), np.float32)
    A[3, 2] = np.nan
    _, C = guarded(7, 9, "float32")
    kernel = products.multiply_kernel(np.dtype(np.float32))
    run(kernel.address, (A.reshape(-1), 5, 1, B.reshape(-1), C.reshape(-1), 7, 9, 5))
    assert np.isnan(C[3]).all()
    assert not np.isnan(np.delete(C, 3, axis=0)).any()
