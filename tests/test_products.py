"""The CPU engine's own matrix products, against NumPy's in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("numba")

from nnfast.kernels.cpu.panels import DIRECT_BYTES, PACK_SIZE
from tests.programs import run_kernel
from tests.tolerances import ONE_STEP, difference

DTYPES = ("float32", "float64")
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 47, 48, 63, 64, 65, 100]))


def guarded(rows: int, columns: int, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A matrix of NaN to be written, inside a longer vector of NaN: what is written outside it shows."""
    vector = np.full(rows * columns + 128, np.nan, dtype)
    return vector, vector[64 : 64 + rows * columns].reshape(rows, columns)


def assert_only_inside(vector: NDArray[Any], size: int) -> None:
    assert np.isnan(vector[:64]).all()
    assert np.isnan(vector[64 + size :]).all()


def flat(matrix: NDArray[Any]) -> NDArray[Any]:
    """The memory from a matrix's first element to its last; of a part of a wider matrix, with what is between."""
    reach = (
        matrix.size
        and 1 + sum((n - 1) * step for n, step in zip(matrix.shape, matrix.strides, strict=True)) // matrix.itemsize
    )
    return np.lib.stride_tricks.as_strided(matrix, (reach,), (matrix.itemsize,))


def product(
    A: NDArray[Any], B: NDArray[Any], C: NDArray[Any], *, is_transposed: bool = False, adds: bool = False
) -> None:
    """C = A B by the kernel, or C += A B. A: (depth, rows) if is_transposed. B and C may be parts of wider matrices."""
    (depth, columns), rows = B.shape, len(C)
    strides = (1, A.shape[1]) if is_transposed else (A.shape[1], 1)
    b_row, c_row = B.strides[0] // B.itemsize, C.strides[0] // C.itemsize
    pack = np.empty(PACK_SIZE, A.dtype)
    zeros = np.zeros(max(1, columns), A.dtype)
    start = (flat(C), c_row) if adds else (zeros, 0)
    run_kernel(
        "multiply", A.dtype, flat(A), *strides, flat(B), b_row, flat(C), c_row, rows, columns, depth, *start, pack
    )


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
    product(A, B, C, is_transposed=is_transposed)
    exact = (A.T if is_transposed else A).astype(np.float64) @ B
    assert difference(C, exact) < ONE_STEP[dtype]
    assert_only_inside(vector, C.size)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(rows=SIZES, columns=SIZES, depth=SIZES, data=st.data())
def test_a_product_cut_into_parts_has_the_same_bits(
    dtype: str, rows: int, columns: int, depth: int, data: st.DataObject
) -> None:
    """What threads and blocks of a batch rest on: parts of the rows, of the columns, and of the depth."""
    random = np.random.default_rng(rows * 10_000 + columns * 100 + depth)
    A, B = random.normal(size=(rows, depth)).astype(dtype), random.normal(size=(depth, columns)).astype(dtype)
    whole, parts = np.empty((rows, columns), dtype), np.empty((rows, columns), dtype)
    product(A, B, whole)
    i, j, k = (data.draw(st.integers(0, size)) for size in (rows, columns, depth))
    for part in (slice(0, i), slice(i, rows)):
        for side in (slice(0, j), slice(j, columns)):
            product(A[part], B[:, side], parts[part, side])
    np.testing.assert_array_equal(parts, whole)
    product(np.ascontiguousarray(A[:, :k]), B[:k], parts)
    product(np.ascontiguousarray(A[:, k:]), B[k:], parts, adds=True)
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_product_too_large_for_the_cache_has_the_same_bits_as_its_parts(dtype: str, is_transposed: bool) -> None:
    columns, depth = 3 * 64 + 5, DIRECT_BYTES // 700
    random = np.random.default_rng(1)
    A = random.normal(size=(depth, 30) if is_transposed else (30, depth)).astype(dtype)
    B = random.normal(size=(depth, columns)).astype(dtype)
    assert B.nbytes > DIRECT_BYTES
    vector, C = guarded(30, columns, dtype)
    product(A, B, C, is_transposed=is_transposed)
    exact = (A.T if is_transposed else A).astype(np.float64) @ B
    assert difference(C, exact) < ONE_STEP[dtype]
    assert_only_inside(vector, C.size)
    narrow = np.empty((30, 7), dtype)
    product(A, np.ascontiguousarray(B[:, 90:97]), narrow, is_transposed=is_transposed)
    np.testing.assert_array_equal(narrow, C[:, 90:97])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(rows=SIZES, columns=SIZES)
def test_transposing_is_exact_and_stays_inside(dtype: str, rows: int, columns: int) -> None:
    A = np.arange(rows * columns).astype(dtype).reshape(rows, columns)
    vector, out = guarded(columns, rows, dtype)
    run_kernel("transpose", np.dtype(dtype), A, columns, out, rows, rows, columns)
    np.testing.assert_array_equal(out, A.T)
    assert_only_inside(vector, A.size)


def test_a_nan_in_the_operands_reaches_the_product() -> None:
    A, B = np.ones((7, 5), np.float32), np.ones((5, 9), np.float32)
    A[3, 2] = np.nan
    _, C = guarded(7, 9, "float32")
    product(A, B, C)
    assert np.isnan(C[3]).all()
    assert not np.isnan(np.delete(C, 3, axis=0)).any()
