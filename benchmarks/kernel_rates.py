"""Measures every CPU kernel on one thread, each held to NumPy's result first. Prints the tables of kernels/README.md.

OPENBLAS_NUM_THREADS=1 taskset -c 0 python benchmarks/kernel_rates.py
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nnfast.backends.environment import gather
from nnfast.backends.numpy.program import delta_of_outputs, loss_of_outputs
from nnfast.benchmarking.workloads import WORKLOADS
from nnfast.formulas.activations import ACTIVATIONS
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam, sgd
from nnfast.kernels.cpu.calls import call_void
from nnfast.kernels.cpu.catalogue import kernel as kernel_of
from nnfast.kernels.cpu.formulas import derivative_kernel, loss_kernel, update_kernel, value_kernel
from nnfast.kernels.cpu.gather import gather_kernel
from nnfast.kernels.cpu.options import OPTIONS
from nnfast.kernels.cpu.panels import PACK_SIZE, is_narrow
from nnfast.support.random import dropout_keep, dropout_threshold

REPEATS = 7
SECONDS = 0.03  # one repeat takes at least so long
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}  # max |a - b| / max |b|
T = np.dtype(np.float32)
random = np.random.default_rng(0)


class Case(NamedTuple):
    """A kernel on arrays of one size: `repeat(count)` calls it, and was called once to be checked."""

    kernel: str
    shape: str
    repeat: Callable[[int], Any]
    elements: int
    bytes: int = 0  # read and written
    flops: int = 0


@njit(**OPTIONS)
def repeat_void(address, arguments, count):
    for _ in range(count):
        call_void(address, arguments)


@njit(**OPTIONS)
def repeat_narrow(multiply, product, transpose, exchange, count):
    for _ in range(count):
        call_void(multiply, product)
        call_void(transpose, exchange)


@njit(**OPTIONS)
def repeat_blas(a, b, out, count):
    for _ in range(count):
        np.dot(a, b, out)


def normal(*shape: int, dtype: np.dtype[Any] = T) -> Any:
    return random.standard_normal(shape, dtype=dtype)


def check(what: str, result: Any, expected: Any, dtype: np.dtype[Any] = T) -> None:
    """End the program where a kernel is wrong: its speed would say nothing."""
    difference = abs(np.asarray(result, float) - expected).max() / abs(np.asarray(expected)).max()
    if not difference <= TOLERANCES[dtype.name]:
        sys.exit(f"{what} is wrong by {difference:.2g}; nothing more is timed")


def values(name: str, rows: int, columns: int, dtype: np.dtype[Any] = T) -> Case:
    activation = ACTIVATIONS[name]
    kernel = value_kernel(activation, dtype)
    z, k = normal(rows, columns, dtype=dtype), np.array([*activation.constant_values, 0], dtype)
    expected = activation.function(z)
    a = np.empty_like(z) if activation.derivative_uses_z else z
    size = rows * columns
    arguments = z, a, k, size
    repeat_void(kernel.address, arguments, 1)
    check(f"value of {name}", a, expected, dtype)
    return Case(
        f"value, {name}",
        f"{rows} x {columns}",
        lambda n: repeat_void(kernel.address, arguments, n),
        size,
        2 * dtype.itemsize * size,
    )


def derivatives(name: str, rows: int, columns: int, dtype: np.dtype[Any] = T) -> Case:
    activation = ACTIVATIONS[name]
    kernel = derivative_kernel(activation, dtype)
    z, delta = (normal(rows, columns, dtype=dtype) for _ in range(2))
    k = np.array([*activation.constant_values, 0], dtype)
    a = activation.function(z)
    expected = activation.backward(z, a, delta)
    size = rows * columns
    repeat_void(kernel.address, (z, a, delta, k, size), 1)
    check(f"derivative of {name}", delta, expected, dtype)
    # Many times a slope below 1 would end in numbers too small for the processor's fast path
    z[...], a[...] = (30, 30) if name != "tanh" else (0, 0)
    again = z, a, delta, k, size
    return Case(
        f"derivative, {name}", f"{rows} x {columns}", lambda n: repeat_void(kernel.address, again, n), size,
        3 * dtype.itemsize * size,
    )  # fmt: skip


def losses(output: str, name: str, rows: int, columns: int, dtype: np.dtype[Any] = T) -> Case:
    activation, loss = ACTIVATIONS[output], LOSSES[name]
    kernel = loss_kernel(activation, loss, dtype)
    z, weights = normal(rows, columns, dtype=dtype), random.random(rows, dtype=dtype)
    x = z.copy()  # the kernel uses z up
    y = np.eye(columns, dtype=dtype)[random.integers(0, columns, rows)]
    a, delta, k = np.empty_like(z), np.empty_like(z), np.array([*loss.constant_values, 0], dtype)
    row_losses = np.empty(rows)
    arguments = (z, a, y, weights, delta, row_losses, k, 1 / rows, rows, columns)
    repeat_void(kernel.address, arguments, 1)
    expected = weights * loss_of_outputs(activation, loss, x, activation.function(x), y)
    check(f"losses of {name}", row_losses, expected, dtype)
    slope = delta_of_outputs(activation, loss, x, activation.function(x), y)
    check(f"delta of {name}", delta, slope * weights[:, np.newaxis] / rows, dtype)
    size = rows * columns
    return Case(
        f"loss, {output} + {name}", f"{rows} x {columns}",
        lambda n: repeat_void(kernel.address, arguments, n), size, 4 * dtype.itemsize * size,
    )  # fmt: skip


def updates(optimizer: Any, size: int, dtype: np.dtype[Any] = T) -> Case:
    kernel = update_kernel(optimizer, dtype)
    p, g = (normal(size, dtype=dtype) for _ in range(2))
    slots = abs(normal(len(optimizer.slots), size, dtype=dtype))
    row = optimizer.step_values(np.array([0.001]), 0).astype(dtype)[0]
    p2, slots2 = p.copy(), slots.copy()
    optimizer.apply(p2, g, slots2, row)
    arguments = (p, g, slots.reshape(-1), row, size, 0, size)
    repeat_void(kernel.address, arguments, 1)
    check(f"update of {optimizer!r}", p, p2, dtype)
    arrays = 3 + 2 * len(slots)
    return Case(
        f"update, {optimizer.name}", f"{size:,}", lambda n: repeat_void(kernel.address, arguments, n), size,
        dtype.itemsize * arrays * size,
    )  # fmt: skip


def gathers(stored: str, rows: int, columns: int, dtype: np.dtype[Any] = T) -> Case:
    """From 20,000 rows, as the workloads do: more than the second-level cache holds."""
    labels = stored == "int64"
    kernel = gather_kernel(np.dtype(stored), dtype, labels)
    if labels:
        source: Any = random.integers(0, columns, 20_000)
    else:
        source = (random.random((20_000, columns)) * 255).astype(stored)
    order = random.permutation(20_000)[:rows]
    out = np.empty((rows, columns), dtype)
    arguments = (source.ctypes.data, order, rows, columns, 0.5, out)
    repeat_void(kernel.address, arguments, 1)
    taken = np.eye(columns)[source[order]] if labels else source[order] * (0.5 if stored == "uint8" else 1)
    check(f"gather from {stored}", out, taken, dtype)
    size = rows * columns
    read = 8 * rows if labels else source.itemsize * size
    kind = "one-hot" if labels else stored

    def repeat(count: int, kept: Any = source) -> None:  # the arguments know only its address
        repeat_void(kernel.address, arguments, count)

    return Case(f"gather, {kind}", f"{rows} x {columns}", repeat, size, out.nbytes + read)


def dropouts(rows: int, columns: int) -> Case:
    size, rate = rows * columns, 0.5
    x, out, mask = normal(size), np.empty(size, T), np.empty(size, T)
    seed, step, layer, scale = 7, 0, 1, np.array([1 / (1 - rate)], T)
    arguments = (x, out, mask, size, 0, seed, step, layer, dropout_threshold(rate), scale)
    address = kernel_of("dropout", T).address
    repeat_void(address, arguments, 1)
    check("dropout", out, x * dropout_keep(seed, layer, step, size, rate) / (1 - rate))
    return Case("dropout", f"{rows} x {columns}", lambda n: repeat_void(address, arguments, n), size, 12 * size)


def row_sums(rows: int, columns: int, dtype: np.dtype[Any] = T) -> Case:
    block, sums, one = normal(rows, columns, dtype=dtype), np.empty(columns, dtype), np.ones(1, dtype)
    zeros, pack = np.zeros(columns, dtype), np.empty(PACK_SIZE, dtype)
    arguments = (one, 0, 0, block.reshape(-1), columns, sums, columns, 1, columns, rows, zeros, 0, pack)
    address = kernel_of("multiply", dtype).address
    repeat_void(address, arguments, 1)
    check("sum of rows", sums, block.sum(axis=0), dtype)
    size = rows * columns
    return Case("sum of rows", f"{rows} x {columns}", lambda n: repeat_void(address, arguments, n), size, block.nbytes)


def transposes(rows: int, columns: int) -> Case:
    A, out = normal(rows, columns), np.empty((columns, rows), T)
    arguments = (A, columns, out, rows, rows, columns)
    address = kernel_of("transpose", T).address
    repeat_void(address, arguments, 1)
    check("transpose", out, A.T)
    size = rows * columns
    return Case("transpose", f"{rows} x {columns}", lambda n: repeat_void(address, arguments, n), size, 8 * size)


def products() -> Iterator[tuple[Case, Case]]:
    """The three products of every layer of the workloads, by nnfast.kernels.cpu.products and by SciPy's BLAS."""
    multiply, pack = kernel_of("multiply", T).address, np.empty(PACK_SIZE, T)
    seen = set()
    for workload in WORKLOADS.values():
        for op in workload.plan().dense_operations:
            n, (fan_in, fan_out) = workload.batch_size, op.weights.shape
            if (n, fan_in, fan_out) in seen:
                continue
            seen.add((n, fan_in, fan_out))
            x, W, delta = normal(n, fan_in), normal(fan_in, fan_out), normal(n, fan_out)
            rows: list[tuple[str, Any, Any]] = [("x W", x, W), ("x^T delta", x.T, delta)]
            if op.input_gradient:  # of the transposed weights, which a step makes as it updates them
                rows.append(("delta W^T", delta, np.ascontiguousarray(W.T)))
            shape = f"{workload.name}: {n} x {fan_in} x {fan_out}"
            for name, a, b in rows:
                ours, blas = (np.empty((len(a), b.shape[1]), T) for _ in range(2))
                if name == "x^T delta" and is_narrow(fan_in, fan_out, T):
                    transposed = np.empty((fan_out, fan_in), T)
                    repeat = partial(
                        repeat_narrow, multiply, product_arguments(b.T, x, transposed, pack),
                        kernel_of("transpose", T).address,
                        (transposed.reshape(-1), fan_in, ours.reshape(-1), fan_out, fan_out, fan_in),
                    )  # fmt: skip
                else:
                    repeat = partial(repeat_void, multiply, product_arguments(a, b, ours, pack))
                repeat(1)
                repeat_blas(a, b, blas, 1)
                expected = a.astype(float) @ b
                check(f"{name} of {shape}", ours, expected)
                check(f"{name} of {shape} by BLAS", blas, expected)
                flops = 2 * n * fan_in * fan_out
                yield (
                    Case(name, shape, repeat, 0, 0, flops),
                    Case(name, shape, partial(repeat_blas, a, b, blas), 0, 0, flops),
                )


def product_arguments(a: Any, b: Any, out: Any, pack: Any) -> tuple[Any, ...]:
    """What the kernel `multiply` takes for out = a b, where a may be a transposed view."""
    steps = [step // a.itemsize for step in a.strides]
    flat = a.T.reshape(-1) if steps[0] == 1 and a.shape[1] > 1 else a.reshape(-1)
    return (
        flat, *steps, b.reshape(-1), b.shape[1], out.reshape(-1), out.shape[1], *out.shape, len(b),
        np.zeros(b.shape[1], T), 0, pack,
    )  # fmt: skip


def elementwise() -> Iterator[Case]:
    for name in ("relu", "sigmoid", "tanh", "gelu"):
        yield values(name, 256, 64)
    for name in ("relu", "tanh", "gelu"):
        yield derivatives(name, 256, 64)
    yield losses("softmax", "cross_entropy", 200, 10)
    yield losses("softmax", "cross_entropy", 256, 2)
    yield losses("identity", "squared_error", 10_000, 4)
    yield losses("sigmoid", "binary_cross_entropy", 256, 1)
    yield updates(sgd(), 101_770)
    yield updates(adam(), 7_510)
    yield updates(adam(), 101_770)
    yield updates(adam(), 669_706)
    yield gathers("float32", 256, 28)
    yield gathers("float32", 64, 784)
    yield gathers("uint8", 64, 784)
    yield gathers("int64", 200, 10)
    yield dropouts(64, 128)
    yield row_sums(256, 64)
    yield row_sums(256, 512)
    yield transposes(64, 64)
    yield transposes(512, 512)


def seconds_of(case: Case) -> float:
    """Median processor time of one call: other processes on the core do not count."""
    count, taken = 1, 0.0
    while taken < SECONDS:
        count = max(2 * count, int(1.2 * count * SECONDS / max(taken, 1e-6)) if taken else 2)
        start = time.process_time()
        case.repeat(count)
        taken = time.process_time() - start
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        case.repeat(count)
        times.append((time.process_time() - start) / count)
    return statistics.median(times)


def main() -> None:
    from image_kernel_rates import peak  # which takes its cases and clock from here

    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        sys.exit(f"one thread is measured: run {__doc__.splitlines()[-1]}" if __doc__ else "set OPENBLAS_NUM_THREADS=1")
    facts = gather()
    packages = ", ".join(f"{name} {facts['packages'][name]}" for name in ("numpy", "scipy", "numba"))
    print(f"{facts['cpu']} ({facts['backends']['numba']['description']}), {packages}, Python {facts['python']}\n")
    print("| kernel | shape | us | ns / element | GB/s |\n|---|---|--:|--:|--:|")
    for case in elementwise():
        seconds = seconds_of(case)
        rate = f"{1e9 * seconds / case.elements:.2f} | {case.bytes / seconds / 1e9:.1f}"
        print(f"| {case.kernel} | {case.shape} | {1e6 * seconds:.2f} | {rate} |", flush=True)
    most = peak()
    print(f"\nPeak: {most / 1e9:.1f} GFLOP/s.\n")
    print(
        "| product | batch x inputs x outputs | us | GFLOP/s | of the peak | BLAS: GFLOP/s |\n|---|---|--:|--:|--:|--:|"
    )
    for ours, blas in products():
        seconds = seconds_of(ours)
        rate = ours.flops / seconds
        rates = f"{rate / 1e9:.1f} | {rate / most:.0%} | {blas.flops / seconds_of(blas) / 1e9:.1f}"
        print(f"| {ours.kernel} | {ours.shape} | {1e6 * seconds:.2f} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
