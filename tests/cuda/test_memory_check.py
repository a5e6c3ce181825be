"""What the emulator's watch over memory promises: every overrun, race and undefined step is found, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda import emulator, gxx
from tests.cuda.snippets import kernel

pytestmark = pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))

every_order = pytest.mark.parametrize("order", emulator.ORDERS)


def launch(
    body: str, parameters: str, *args: Any, grid: int = 1, block: tuple[int, ...] = (64,), table: Iterable[str] = (),
    **options: Any,
) -> None:  # fmt: skip
    """Runs a kernel of these statements, which begin in line 2; `t` is threadIdx.x and `b` blockIdx.x."""
    kernel(body, parameters, table)((grid,), block, args, **options)


def floats(n: int) -> np.ndarray:
    return np.zeros(n, np.float32)


# Bounds

OVERRUNS = {
    "y[t] = 1.0f;": "writes 4 bytes at offset 252 of argument 0 (float32), which has 252 bytes",
    "y[t - 1] = 1.0f;": "writes 4 bytes at offset -4 of argument 0 (float32)",
    "if (t == 3) y[100000000] = 1.0f;": "writes 4 bytes at offset 400000000 of argument 0 (float32)",
    "if (t < 63) y[t] += x[t + 1];": "reads 4 bytes at offset 252 of argument 1 (float32)",
    "atomicAdd(y + t, 1.0f);": "atomically updates 4 bytes at offset 252 of argument 0 (float32)",
    "if (t < 16) reinterpret_cast<float4*>(y)[t] = make_float4(1, 2, 3, 4);": "writes 16 bytes at offset 240 of",
    "float* far = y; far += 1ll << 40; if (t == 1) *far = 0.0f;": "of no array",
}


@every_order
@pytest.mark.parametrize("statement", OVERRUNS)
def test_an_overrun_is_found_with_its_line_thread_and_place(statement: str, order: str) -> None:
    y, x = floats(64)[:63], floats(64)[:63]
    with pytest.raises(emulator.OutOfBoundsError) as failure:
        launch(statement, "float* y, const float* x", y, x, order=order, table=OVERRUNS)
    assert OVERRUNS[statement] in str(failure.value)
    assert re.match(r"kernel 'f\d', line 2: thread \(", str(failure.value))
    assert ") of block (0, 0, 0): " in str(failure.value)


def test_neighbours_in_one_vector_are_arrays_of_their_own() -> None:
    vector = floats(12)
    launch("y[t] = x[t] = 1.0f;", "float* x, float* y", vector[:4], vector[4:], block=(4,))
    with pytest.raises(emulator.OutOfBoundsError, match="offset 16 of argument 0"):
        launch("y[t] = x[t] = 1.0f;", "float* x, float* y", vector[:4], vector[4:], block=(8,))
    with pytest.raises(emulator.OutOfBoundsError, match="offset -4 of argument 1"):
        launch("if (t == 0) y[t - 1] = x[t];", "float* x, float* y", vector[:4], vector[4:])


def test_arrays_that_overlap_stay_one() -> None:
    x = np.arange(8, dtype=np.float32)
    launch("y[t] = 2 * x[t + 1];", "const float* x, float* y", x, x[1:], block=(7,))
    assert x.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    with pytest.raises(emulator.OutOfBoundsError, match=r"argument 0 \(float32\) and argument 1 \(float32\)"):
        launch("y[t] = 2 * x[t + 1];", "const float* x, float* y", x, x[1:], block=(8,))


def test_an_array_without_elements_has_none() -> None:
    launch("if (t < n) y[t] = 1.0f;", "float* y, int n", floats(0), np.int32(0))
    with pytest.raises(emulator.OutOfBoundsError, match="which has 0 bytes"):
        launch("if (t <= n) y[t] = 1.0f;", "float* y, int n", floats(0), np.int32(0))


def test_a_launch_that_fails_leaves_the_arrays_as_they_were() -> None:
    y = floats(8)
    with pytest.raises(emulator.OutOfBoundsError):
        launch("y[t] = 1.0f;", "float* y", y, block=(9,))
    assert not y.any()


def test_an_array_larger_than_what_is_kept_for_the_next_launch() -> None:
    y = floats(3 << 19)
    for _ in range(2):
        launch("y[65536 * b + t] += 1.0f;", "float* y", y, grid=24, block=(32,))
    assert y.sum() == 2 * 24 * 32
    with pytest.raises(emulator.RaceError):
        launch("y[t] += 1.0f;", "float* y", y, grid=2)


def test_what_is_remembered_of_a_large_array_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    y = floats(2 << 20)
    launch("for (int i = t; i < n; i += 64) y[i] = 1.0f;", "float* y, int n", y, np.int32(y.size))
    before = resident()
    launch("y[t] = 1.0f;", "float* y", floats(64))
    assert before - resident() > 16 * y.nbytes


@pytest.mark.parametrize(("index", "size", "found"), [("t", 256, None), ("t + 1", 256, "256"), ("t", 252, "252")])
def test_dynamic_shared_memory_ends_where_the_launch_says(index: str, size: int, found: str | None) -> None:
    body = f"extern __shared__ float values[]; values[{index}] = 1.0f; __syncthreads(); y[t] = values[{index}];"
    if found is None:
        return launch(body, "float* y", floats(64), shared_mem=size)
    with pytest.raises(emulator.OutOfBoundsError, match=f"offset {found} of dynamic shared memory, which has {size}"):
        launch(body, "float* y", floats(64), shared_mem=size)


@pytest.mark.parametrize(("index", "found"), [("t < 32 ? t : t + 4", None), ("t", "128"), ("t + 1", "128")])
def test_what_lies_between_the_parts_of_dynamic_shared_memory_is_nobody_s(index: str, found: str | None) -> None:
    body = f"extern __shared__ float values[]; values[{index}] = 1.0f; __syncthreads(); y[t] = values[{index}];"
    options = {"shared_mem": 272, "shared_parts": [(0, 128), (144, 128)]}
    if found is None:
        return launch(body, "float* y", floats(64), **options)
    with pytest.raises(emulator.OutOfBoundsError, match=f"offset {found} of dynamic shared memory, in none of its"):
        launch(body, "float* y", floats(64), **options)


# Races

ORDERED = {
    "one element a thread": "y[t] = 1.0f; y[t] += 1.0f;",
    "reads by all": "y[t] = x[0] + x[1];",
    "atomics by all": "atomicAdd(y, 1.0f);",
    "a barrier": "__shared__ int s[64]; s[t] = t; __syncthreads(); y[t] = s[63 - t];",
    "a barrier that counts": "__shared__ int s[64]; s[t] = t; __syncthreads_count(1); y[t] = s[63 - t];",
    "a warp's barrier": "__shared__ int s[64]; s[t] = t; __syncwarp(); y[t] = s[t ^ 31];",
    "a part of a warp": (
        "__shared__ int s[64]; s[t] = t; if (t % 32 < 8) { __syncwarp(0xff); y[t] = s[t ^ 7]; } else y[t] = 0.0f;"
    ),
    "by way of another lane": (
        "__shared__ int s[2]; if (t == 0) s[0] = 1; if (t < 2) __syncwarp(3); if (t == 1) s[1] = s[0];"
        "if (t == 1 || t == 2) __syncwarp(6); if (t == 2) y[0] = s[0] + s[1];"
    ),
    "read, barrier, write": "const float v = y[63 - t]; __syncthreads(); y[t] = v;",
    "many reads, barrier, write": "const float v = y[0] + y[1]; __syncthreads(); if (t < 2) y[t] = v;",
    "atomics, barrier, read": "atomicAdd(y, 1.0f); __syncthreads(); y[t + 1] = y[0];",
    "bytes beside each other": "reinterpret_cast<unsigned char*>(y)[t] = t;",
}

RACES = {
    "one element for all": "y[0] = 1.0f;",
    "sum without atomics": "y[0] += x[t];",
    "a neighbour's element": "y[t] = y[(t + 1) % 64];",
    "no barrier": "__shared__ int s[64]; s[t] = t; y[t] = s[63 - t];",
    "a barrier of the warp only": "__shared__ int s[64]; s[t] = t; __syncwarp(); y[t] = s[63 - t];",
    "a shuffle is no barrier": "__shared__ int s[64]; s[t] = t; y[t] = __shfl_sync(~0u, t, 0) + s[t ^ 1];",
    "a vote is no barrier": "__shared__ int s[64]; s[t] = t; y[t] = __any_sync(~0u, t) + s[t ^ 1];",
    "lanes outside the mask": (
        "__shared__ int s[64]; s[t] = t; if (t % 32 < 8) { __syncwarp(0xff); y[t] = s[t + 8]; } else y[t] = 0.0f;"
    ),
    "no barrier before the next round": (
        "__shared__ int s[64]; for (int k = 0; k < 2; ++k) { s[t] = t; __syncthreads(); y[t] = s[63 - t]; }"
    ),
    "read, then write by another": "if (t == 1) y[1] = y[0]; if (t == 0) y[0] = 1.0f;",
    "two reads, then write by one of them": "__shared__ int s[1]; if (t < 2) y[t] = s[0]; if (t == 1) s[0] = 1;",
    "a write beside atomics": "if (t) atomicAdd(y, 1.0f); else y[0] = 1.0f;",
    "a read beside atomics": "atomicAdd(y, 1.0f); y[t + 1] = y[0];",
    "atomics after a write": "if (t == 0) y[0] = 0.0f; atomicAdd(y, 1.0f);",
    "one byte of a word": "if (t == 0) y[0] = 1.0f; if (t == 1) reinterpret_cast<unsigned char*>(y)[2] = 1;",
    "bytes read one by one": (
        "unsigned char* c = reinterpret_cast<unsigned char*>(y);"
        "if (t == 1) { float v = c[0]; v += c[1]; y[8] = v; } if (t == 0) c[1] = 1;"
    ),
    "a part of a vector": "if (t == 0) reinterpret_cast<float4*>(y)[0] = float4{1, 2, 3, 4}; if (t == 1) y[3] = 1;",
}


@every_order
@pytest.mark.parametrize("what", ORDERED)
def test_what_is_ordered_is_no_race(what: str, order: str) -> None:
    launch(ORDERED[what], "float* y, const float* x", floats(65), floats(64), order=order, table=ORDERED.values())


@every_order
@pytest.mark.parametrize("what", RACES)
def test_a_race_is_found_in_every_order(what: str, order: str) -> None:
    with pytest.raises(emulator.RaceError) as failure:
        launch(RACES[what], "float* y, const float* x", floats(65), floats(64), order=order, table=RACES.values())
    assert str(failure.value).count("in line 2 ") == 1
    assert "with nothing in between to order the two" in str(failure.value)


def test_of_many_reads_none_hides_another_warp_s() -> None:
    body = "__shared__ int s[1]; y[t] = s[0]; __syncwarp(); if (t == 2) s[0] = 1;"
    for seed in range(10):
        with pytest.raises(emulator.RaceError, match=r"which thread \((3[2-9]|[456]\d), 0, 0\) .* read"):
            launch(body, "float* y", floats(64), order="random", seed=seed)


@every_order
def test_blocks_race_for_what_they_share(order: str) -> None:
    launch("y[b] = x[0];", "float* y, const float* x", floats(3), floats(1), grid=3, block=(1,), order=order)
    launch("atomicAdd(y, 1.0f);", "float* y", floats(1), grid=3, order=order)
    for body in ("y[0] = b;", "__syncthreads(); if (b == 1) y[1] = y[0]; else if (b == 2) y[0] = 1.0f;"):
        with pytest.raises(emulator.RaceError, match=r"thread .0, 0, 0. of block .\d, 0, 0. (wrote|read) in line 2"):
            launch(body, "float* y", floats(3), grid=3, block=(1,), order=order)


def test_blocks_do_not_share_shared_memory() -> None:
    body = "__shared__ int s[64]; extern __shared__ int d[]; s[t] = d[t] = t; y[64 * b + t] = s[t] + d[t];"
    launch(body, "float* y", floats(192), grid=3, shared_mem=256)


def test_launches_are_ordered() -> None:
    y = floats(1)
    for k in range(3):
        launch("if (t == k) y[0] += 1.0f;", "float* y, int k", y, np.int32(k))
    assert y[0] == 3


def test_a_race_names_both_lines() -> None:
    body = "__shared__ int s[64];\nif (t < 2) s[t] = t;\n\nif (t < 2) y[t] = s[1 - t];"
    with pytest.raises(emulator.RaceError) as failure:
        launch(body, "float* y", floats(64))
    assert str(failure.value) == (
        "kernel 'f0', line 3: thread (1, 0, 0) of block (0, 0, 0): writes offset 4 of static shared memory, which "
        "thread (0, 0, 0) of block (0, 0, 0) read in line 5 with nothing in between to order the two"
    )


# What C++ leaves undefined

UNDEFINED = {
    "int n = 2147483647; n += (int)y[0] + 1; y[1] = n;": "signed integer overflow in an addition",
    "int n = -2147483647; n -= (int)y[0] + 2; y[1] = n;": "signed integer overflow in a subtraction",
    "int n = 65536; n *= (int)y[0] + 65536; y[1] = n;": "signed integer overflow in a multiplication",
    "int n = (int)y[0]; y[1] = 1 / n;": "an integer division by zero",
    "int n = (int)y[0] + 32; y[1] = 1 << n;": "a shift by",
    "float part[4] = {1, 2, 3, 4}; y[1] = part[(int)y[0] + 4];": "an index outside the bounds of an array",
    "__shared__ float s[4][4]; s[0][(int)y[0] + 4] = 1; y[1] = s[1][0];": "an index outside the bounds of an array",
    "float4* v = reinterpret_cast<float4*>(y + 1); *v = make_float4(1, 2, 3, 4);": "no multiple of 16",
    "double* v = reinterpret_cast<double*>(y + 1); *v = 1;": "no multiple of 8",
    "float* v = y[0] ? y : nullptr; *v = 1;": "a null pointer",
}


@pytest.mark.parametrize("statement", UNDEFINED)
def test_what_is_undefined_is_found(statement: str) -> None:
    with pytest.raises(emulator.UndefinedBehaviorError) as failure:
        launch(statement, "float* y", floats(8), block=(1,), table=UNDEFINED)
    assert UNDEFINED[statement] in str(failure.value)
    assert re.match(r"kernel 'f\d', line 2: thread \(0, 0, 0\)", str(failure.value))


def test_vectors_keep_the_alignment_that_their_array_has() -> None:
    vector = np.zeros(1024 // 4 + 8, np.float32)
    aligned = vector[(-vector.ctypes.data // 4) % 4 :]
    body = "reinterpret_cast<float4*>(y)[0] = make_float4(1, 2, 3, 4);"
    launch(body, "float* y", aligned, block=(1,))
    for shift in (1, 2, 3):
        with pytest.raises(emulator.UndefinedBehaviorError, match="no multiple of 16"):
            launch(body, "float* y", aligned[shift:], block=(1,))


def test_wrapping_is_what_unsigned_numbers_and_atomics_do() -> None:
    y = np.array([2**31 - 1], np.int32)
    launch("unsigned n = 4294967295u; n += t + 1; if (n == 0) atomicAdd(y, 1);", "int* y", y)
    assert y[0] == -(2**31)
