"""Measures the CPU kernels of images on one thread, each held to NumPy's result first: tables of kernels/README.md.

taskset -c 0 python benchmarks/image_kernel_rates.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from kernel_rates import Case, T, check, random, repeat_void, seconds_of
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from nnfast.backends.environment import gather
from nnfast.backends.numpy import layers as numpy_layers
from nnfast.kernels.cpu import batch_norm, convolution, convolution_gradient, layer_norm, pooling
from nnfast.kernels.cpu.catalogue import kernel
from nnfast.kernels.cpu.options import OPTIONS
from nnfast.kernels.cpu.registers import group_size
from nnfast.kernels.cpu.tables import BATCH
from nnfast.kernels.cpu.tiles import INDEX
from nnfast.kernels.cpu.vectors import load_vector, multiply_add, register_of, store_vector
from nnfast.networks.windows import Window, make_window

LANES = group_size(T)
NOTHING = np.zeros(0, T)
SUMS = 12  # chains of multiply-adds that do not wait for each other
LAYERS = {
    "lenet5: 28 x 28 x 1, 6 of 5 x 5": make_window((28, 28, 1), (5, 5), (1, 1), "valid", filters=6),
    "lenet5: 12 x 12 x 6, 16 of 5 x 5": make_window((12, 12, 6), (5, 5), (1, 1), "valid", filters=16),
    "16 x 16 x 32, 64 of 3 x 3, same": make_window((16, 16, 32), (3, 3), (1, 1), "same", filters=64),
    "8 x 8 x 128, 128 of 3 x 3, same": make_window((8, 8, 128), (3, 3), (1, 1), "same", filters=128),
    "16 x 16 x 64, depthwise 3 x 3, same": make_window((16, 16, 64), (3, 3), (1, 1), "same", filters=64, groups=64),
}


def workspace_of(*arrays: Any) -> tuple[Any, list[int]]:
    """One vector with these arrays in it, each on a 64-byte boundary, and their offsets."""
    offsets = [0]
    for array in arrays:
        offsets.append(offsets[-1] + -(-array.size // 16) * 16)
    memory = np.zeros(offsets[-1] + 16, T)
    start = -memory.ctypes.data % 64 // T.itemsize
    vector = memory[start : start + offsets[-1]]
    for offset, array in zip(offsets, arrays, strict=False):
        vector[offset : offset + array.size] = array.ravel()
    return vector, offsets


def grouped(rows: Any) -> Any:
    """One group of images, (LANES, numbers) as (numbers, LANES)."""
    return rows.reshape(LANES, -1).T


def rows_of(vector: Any, offset: int, size: int) -> Any:
    return vector[offset : offset + LANES * size].reshape(size, LANES).T


def draw(*shape: int) -> Any:
    return random.standard_normal(shape, dtype=T)


def multiplications(window: Window) -> int:
    """How many a convolution needs for one image, without those by the zeros of the padding."""
    taps = len(list(_meetings(window)))
    return taps * window.channels // window.groups * window.filters


def _meetings(w: Window) -> Iterator[None]:
    for y in range(w.output_height):
        for i in range(w.kernel_height):
            for x in range(w.output_width):
                for j in range(w.kernel_width):
                    v, u = y * w.stride_y + i * w.dilation_y - w.pad_top, x * w.stride_x + j * w.dilation_x - w.pad_left
                    if 0 <= v < w.height and 0 <= u < w.width:
                        yield


def convolutions() -> Iterator[Case]:
    """Forward and both gradients of a group of images."""
    for name, window in LAYERS.items():
        size, output_size = window.height * window.width * window.channels, math.prod(window.output_shape)
        x, delta = draw(LANES, size), draw(LANES, output_size)
        shape = (window.kernel_height, window.kernel_width, window.channels // window.groups, window.filters)
        W = draw(*shape)
        rows = W.size // window.filters
        vector, (at_x, at_delta, z, dx, *_) = workspace_of(grouped(x), grouped(delta), grouped(delta), grouped(x))
        gradient = np.zeros(W.size, T)
        correlate, add = kernel("correlate", T).address, kernel("add_gradient", T).address
        passes = [
            convolution.forward_row(window, T, x=at_x, z=z, weights=0),
            convolution.backward_row(window, T, delta=at_delta, dx=dx, weights=0),
        ]
        forward, backward = ((row, W.reshape(-1), NOTHING, vector, LANES, 0, 1) for row in passes)
        weights = (
            convolution_gradient.gradient_row(window, T, x=at_x, delta=at_delta, weights=0), gradient, vector, 0, 1, 0,
            rows,
        )  # fmt: skip
        for address, arguments in ((correlate, forward), (correlate, backward), (add, weights)):
            repeat_void(address, arguments, 1)
        exact = [array.astype(float) for array in (x, W, delta)]
        check(f"z of {name}", rows_of(vector, z, output_size), numpy_layers.convolution(exact[0], exact[1], window))
        dx_exact = numpy_layers.convolution_inputs_gradient(exact[1], exact[2], window)
        check(f"dx of {name}", rows_of(vector, dx, size), dx_exact)
        numpy_layers.convolution_weights_gradient(exact[0], exact[2], window, out=exact[1])
        check(f"dW of {name}", gradient.reshape(shape), exact[1])
        flops = 2 * multiplications(window) * LANES
        vector[at_delta : at_delta + delta.size] *= 1e-6  # dW grows with every call
        yield Case("x * W", name, partial(repeat_void, correlate, forward), 0, 0, flops)
        yield Case("dL/dx", name, partial(repeat_void, correlate, backward), 0, 0, flops)
        yield Case("dL/dW", name, partial(repeat_void, add, weights), 0, 0, flops)


def pools() -> Iterator[Case]:
    for shape in ((24, 24, 6), (8, 8, 16)):
        window = make_window(shape, (2, 2), (2, 2), "valid")
        size, output_size = math.prod(shape), math.prod(window.output_shape)
        x, delta = draw(LANES, size), draw(LANES, output_size)
        vector, (inputs, gradient, outputs, target, *_) = workspace_of(
            grouped(x), grouped(delta), grouped(delta), grouped(x)
        )
        row = pooling.pooling_row(window, T, inputs=inputs, outputs=outputs, gradient=gradient, input_gradient=target)
        z = numpy_layers.max_pooling(x, window)
        expected = {
            "max": (z, numpy_layers.max_pooling_gradient(x, z, delta, window)),
            "average": (numpy_layers.average_pooling(x, window), numpy_layers.average_pooling_gradient(delta, window)),
        }
        for kind, (forward, backward) in expected.items():
            for name, way, offset, numbers, result in (
                (f"{kind} pool, 2 x 2", "forward", outputs, output_size, forward),
                (f"its gradient, {kind}", "backward", target, size, backward),
            ):
                address = kernel(f"{kind}_{way}", T).address
                repeat = partial(repeat_void, address, (row, NOTHING, NOTHING, vector, LANES, 0, 1))
                repeat(1)
                check(name, rows_of(vector, offset, numbers), result)
                reads = size if kind == "max" or offset == outputs else 0
                rest = output_size * (2 if kind == "max" and offset == target else 1)
                writes = size if offset == target else 0
                yield Case(name, " x ".join(map(str, shape)), repeat, size * LANES, 4 * LANES * (reads + rest + writes))


def batch_norms() -> Iterator[Case]:
    """The four phases over one group of images, and over a batch of flat rows."""
    layouts = [
        ("image", "24 x 24 x 6", LANES, 576, 6),
        ("flat", "200 x 100", 200, 1, 100),
    ]
    for layout, shape, n, pixels, channels in layouts:
        x, delta = draw(n, pixels * channels), draw(n, pixels * channels)
        stored = (grouped(x), grouped(delta)) if layout == "image" else (x, delta)
        rest = np.zeros(channels)
        vector, at = workspace_of(*stored, *stored, rest, rest)
        row = batch_norm.batch_norm_row(
            x=at[0], delta=at[1], z=at[2], dx=at[3], mean=at[4], inverse_deviation=at[5], gamma=0, beta=channels,
            running_mean=0, running_variance=channels, pixels=pixels, channels=channels,
        )  # fmt: skip
        parameters, gradient, state = draw(2 * channels), draw(2 * channels), np.zeros(2 * channels, T)
        constants, last = np.array([0.1, 1e-5], T), 1 if layout == "image" else n
        statistics = (row, constants, vector, state, n, BATCH, 0, channels)
        one_pass = (row, parameters, gradient, vector, n, 0, last)
        phases = {
            "statistics": ("statistics", statistics, 2),
            "BatchNorm": ("forward", one_pass, 2),
            "sums": ("sums", (row, gradient, vector, n, 0, channels), 2),
            "its gradient": ("backward", one_pass, 3),
        }
        cases = []
        for name, (phase, arguments, arrays) in phases.items():
            repeat = partial(repeat_void, kernel(f"{layout}_{phase}", T).address, arguments)
            repeat(1)
            cases.append(Case(f"{name}, {layout}", shape, repeat, x.size, 4 * arrays * x.size))
        mean, variance = numpy_layers.batch_statistics(x, channels)
        u = numpy_layers.normalise(x, mean, 1 / np.sqrt(variance + 1e-5))
        slopes = delta.reshape(-1, channels)
        dx = numpy_layers.normalisation_gradient(u, 1 / np.sqrt(variance + 1e-5), parameters[:channels], slopes)
        for name, offset, expected in (
            ("z", at[2], u * parameters[:channels] + parameters[channels:]),
            ("dx", at[3], dx),
        ):
            result = rows_of(vector, offset, x.size // n) if layout == "image" else vector[offset : offset + x.size]
            check(f"{name} of BatchNorm, {layout}", result.reshape(-1), expected.reshape(-1))
        yield from cases


def layer_norms(n: int, units: int) -> Iterator[Case]:
    x, delta = draw(n, units), draw(n, units)
    vector, at = workspace_of(x, delta, x, x, np.zeros(n), np.zeros(n))
    epsilon = np.array([1e-5])
    row = layer_norm.layer_norm_row(
        x=at[0], delta=at[1], z=at[2], dx=at[3], mean=at[4], inverse_deviation=at[5], gamma=0, beta=units,
        features=units, epsilon=epsilon.ctypes.data,
    )  # fmt: skip
    parameters, gradient = draw(2 * units), np.zeros(2 * units, T)
    one_pass = (row, parameters, gradient, vector, n, 0, n)
    calls = {
        "LayerNorm": ("forward", one_pass, 2),
        "its sums": ("sums", (row, gradient, vector, 0, n, 0, 2 * units), 2),
        "its gradient": ("backward", one_pass, 3),
    }
    repeats = {}
    for name, (way, arguments, arrays) in calls.items():
        repeat = partial(repeat_void, kernel(f"layer_norm_{way}", T).address, arguments)
        repeat(1)
        repeats[name] = Case(name, f"{n} x {units}", repeat, x.size, 4 * arrays * x.size)
    mean, inverse_deviation = numpy_layers.row_statistics(x, T.type(1e-5))
    u, gamma = (x - mean) * inverse_deviation, parameters[:units]
    for name, result, expected in (
        ("z", vector[at[2] :], u * gamma + parameters[units:]),
        ("sums", gradient, np.concatenate([(delta * u).sum(axis=0), delta.sum(axis=0)])),
        ("dx", vector[at[3] :], numpy_layers.row_normalisation_gradient(u, inverse_deviation, gamma, delta)),
    ):
        check(f"{name} of LayerNorm", result[: expected.size], expected.ravel())
    vector[at[1] : at[1] + delta.size] *= 1e-6  # the sums grow with every call
    yield from repeats.values()


def conversions(n: int, size: int) -> Iterator[Case]:
    x = draw(n, size)
    groups, back = np.zeros(-(-n // LANES) * LANES * size, T), np.zeros_like(x)
    count = len(groups) // LANES // size
    to = (kernel("interleave", T).address, (x.reshape(-1), groups, n, size, 0, 0, count))
    from_ = (kernel("deinterleave", T).address, (groups, back.reshape(-1), n, size, 0, count))
    for name, call in (("interleave", to), ("deinterleave", from_)):
        repeat_void(*call, 1)
        yield Case(name, f"{n} x {size}", partial(repeat_void, *call), x.size, 8 * x.size)
    check("interleaving and back", back, x)


@intrinsic
def multiply_adds(typing_context, numbers, count):
    """numbers[k] += count * numbers[0] * numbers[0], for SUMS registers of numbers."""

    def generate(context, builder, signature, arguments):
        pointer = context.make_array(numbers)(context, builder, value=arguments[0]).data
        vector = register_of(context.get_value_type(numbers.dtype))
        places = [builder.gep(pointer, [INDEX(i * vector.count)]) for i in range(SUMS)]
        sums = [cgutils.alloca_once_value(builder, load_vector(builder, place, vector)) for place in places]
        factor = load_vector(builder, places[0], vector)
        with cgutils.for_range(builder, arguments[1]):
            for total in sums:
                builder.store(multiply_add(builder, factor, factor, builder.load(total)), total)
        for total, place in zip(sums, places, strict=True):
            store_vector(builder, builder.load(total), place)
        return context.get_dummy_value()

    return types.void(numbers, types.intp), generate


@njit(**OPTIONS)
def repeat_multiply_adds(numbers, count):
    multiply_adds(numbers, count)


def peak(dtype: np.dtype[Any] = T) -> float:
    """The floating-point operations that this core does in a second, as long as it need not load or store."""
    numbers = np.full(SUMS * group_size(dtype), 2**-10, dtype)
    repeat_multiply_adds(numbers, 2**10)
    check("multiply-adds", numbers, np.full(len(numbers), 2**-9), dtype)
    numbers[:] = 0
    flops = 2 * len(numbers)
    return flops / seconds_of(Case("", "", partial(repeat_multiply_adds, numbers), 0, 0, flops))


def main() -> None:
    facts = gather()
    packages = ", ".join(f"{name} {facts['packages'][name]}" for name in ("numpy", "numba"))
    print(f"{facts['cpu']} ({facts['backends']['numba']['description']}), {packages}, Python {facts['python']}\n")
    most = peak()
    print(f"Groups of {LANES} images. Peak: {most / 1e9:.1f} GFLOP/s.\n")
    print("| convolution | of a group | us | GFLOP/s | of the peak |\n|---|---|--:|--:|--:|")
    for case in convolutions():
        seconds = seconds_of(case)
        rate = case.flops / seconds
        rates = f"{rate / 1e9:.1f} | {rate / most:.0%}"
        print(f"| {case.kernel} | {case.shape} | {1e6 * seconds:.1f} | {rates} |", flush=True)
    print("\n| kernel | shape | us | ns / element | GB/s |\n|---|---|--:|--:|--:|")
    for case in (*pools(), *batch_norms(), *layer_norms(200, 100), *conversions(64, 784), *conversions(64, 256)):
        seconds = seconds_of(case)
        rates = f"{1e9 * seconds / case.elements:.2f} | {case.bytes / seconds / 1e9:.1f}"
        print(f"| {case.kernel} | {case.shape} | {1e6 * seconds:.2f} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
