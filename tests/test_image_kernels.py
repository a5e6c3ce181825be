"""The CPU engine's kernels of images, against plain loops in float64, and to the bit under any division of the work."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("numba")

from nnfast.backends.numba.program import aligned_zeros
from nnfast.kernels.cpu import batch_norm, convolution, convolution_gradient, pooling, tables
from nnfast.kernels.cpu.registers import group_size
from nnfast.networks.windows import Window, make_window
from tests.programs import run_kernel
from tests.tolerances import ONE_STEP, difference

Array = NDArray[Any]
DTYPES = ("float32", "float64")
GUARD = 64  # numbers of NaN between all arrays: what is written beside them shows
PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


class Workspace:
    """Arrays in one vector, as the engine has them, with NaN between them."""

    def __init__(self, dtype: str, *arrays: Array) -> None:
        self.offsets = [GUARD]
        for array in arrays:
            self.offsets.append(self.offsets[-1] + array.size + GUARD)
        self.vector = np.full(self.offsets[-1], np.nan, dtype)
        self.shapes = [array.shape for array in arrays]
        for index, array in enumerate(arrays):
            self[index][...] = array

    def __getitem__(self, index: int) -> Array:
        shape = self.shapes[index]
        return self.vector[self.offsets[index] :][: np.prod(shape, dtype=int)].reshape(shape)

    def assert_only_inside(self) -> None:
        outside = np.ones(len(self.vector), bool)
        for offset, shape in zip(self.offsets, self.shapes, strict=False):
            outside[offset : offset + np.prod(shape, dtype=int)] = False
        assert np.isnan(self.vector[outside]).all()


def grouped(rows: Array, missing: float = 0.0) -> Array:
    """Images (n, h, w, c) as (groups, h, w, c, lanes)."""
    lanes = group_size(rows.dtype)
    count = -(-len(rows) // lanes)
    full = np.full((count * lanes, *rows.shape[1:]), missing, rows.dtype)
    full[: len(rows)] = rows
    return np.moveaxis(full.reshape(count, lanes, *rows.shape[1:]), 1, -1)


def ungrouped(groups: Array, n: int) -> Array:
    return np.moveaxis(groups, -1, 1).reshape(-1, *groups.shape[1:-1])[:n]


def pieces(count: int, cuts: list[int]) -> list[tuple[int, int]]:
    """0..count cut at some of its numbers."""
    ends = sorted({0, count, *(cut % (count + 1) for cut in cuts)})
    return list(pairwise(ends))


@st.composite
def windows(draw: Any, pool: bool = False) -> Window:
    groups = 1 if pool else draw(st.sampled_from([1, 1, 1, 2, 3, 5, 14]))
    many = 1 if groups > 3 else 13  # more groups are depthwise
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)), groups * draw(st.integers(1, min(many, 4))))
    padding = draw(st.one_of(st.sampled_from(["valid", "same"]), st.tuples(st.integers(0, 4), st.integers(0, 4))))
    options = (
        {} if pool else {"dilation": draw(PAIRS), "filters": groups * draw(st.integers(1, many)), "groups": groups}
    )
    try:
        return make_window(shape, draw(PAIRS), draw(PAIRS), padding, **options)
    except ValueError:
        assume(False)
        raise


def meetings(window: Window) -> list[tuple[int, int, int, int, int, int]]:
    """(y, x, i, j, v, u): output (y, x) meets pixel (v, u) through kernel position (i, j)."""
    w = window
    return [
        (y, x, i, j, v, u)
        for y in range(w.output_height)
        for x in range(w.output_width)
        for i in range(w.kernel_height)
        for j in range(w.kernel_width)
        if 0 <= (v := y * w.stride_y + i * w.dilation_y - w.pad_top) < w.height
        and 0 <= (u := x * w.stride_x + j * w.dilation_x - w.pad_left) < w.width
    ]


def error(result: Array, expected: Array, terms: Array) -> float:
    """The largest error beside the largest sum of what was added up, without signs: sums may cancel."""
    return difference(terms + result, terms + expected)


class Convolution(NamedTuple):
    z: Array
    dx: Array
    weights_gradient: Array
    bias_gradient: Array


def convolve(window: Window, x: Array, W: Array, b: Array, delta: Array) -> Convolution:
    """A convolution and its gradients, product by product."""
    channels, filters = window.channels // window.groups, window.filters // window.groups
    z, dx, dW = np.zeros(delta.shape) + b, np.zeros(x.shape), np.zeros(W.shape)
    for y, u, i, j, pixel_y, pixel_x in meetings(window):
        for part in range(window.groups):
            c, f = slice(part * channels, (part + 1) * channels), slice(part * filters, (part + 1) * filters)
            z[:, y, u, f] += x[:, pixel_y, pixel_x, c] @ W[i, j, :, f]
            dx[:, pixel_y, pixel_x, c] += delta[:, y, u, f] @ W[i, j, :, f].T
            dW[i, j, :, f] += x[:, pixel_y, pixel_x, c].T @ delta[:, y, u, f]
    return Convolution(z, dx, dW, delta.sum(axis=(0, 1, 2)))


def run_convolution(
    window: Window, dtype: str, x: Array, W: Array, b: Array | None, delta: Array, cuts: list[int]
) -> Convolution:
    """The same by the kernels, with groups and rows of W cut into pieces."""
    kind, n = np.dtype(dtype), len(x)
    parameters = np.concatenate([W.ravel(), [] if b is None else b]).astype(kind)
    gradient = np.zeros_like(parameters)
    # A missing image may hold anything, as long as its delta is 0
    x, delta = grouped(x.astype(kind), missing=7.0), grouped(delta.astype(kind))
    workspace = Workspace(dtype, x, delta, delta * np.nan, x * np.nan)
    at_x, at_delta, at_z, at_dx = workspace.offsets[:4]
    bias = -1 if b is None else W.size
    forward = convolution.forward_row(window, kind, x=at_x, z=at_z, weights=0, bias=bias)
    backward = convolution.backward_row(window, kind, delta=at_delta, dx=at_dx, weights=0)
    weights = convolution_gradient.gradient_row(window, kind, x=at_x, delta=at_delta, weights=0, bias=bias)
    for first, last in pieces(len(x), cuts):
        for row in (forward, backward):
            run_kernel("correlate", kind, row, parameters, gradient, workspace.vector, n, first, last)
        for start, stop in pieces(W.size // window.filters, cuts):
            run_kernel("add_gradient", kind, weights, gradient, workspace.vector, first, last, start, stop)
    workspace.assert_only_inside()
    assert not workspace[3][-1][..., n - (len(x) - 1) * x.shape[-1] :].any()
    z, dx = ungrouped(workspace[2], n), ungrouped(workspace[3], n)
    return Convolution(z, dx, gradient[: W.size].reshape(W.shape), gradient[W.size :])


def draw_arrays(window: Window, dtype: str, n: int) -> tuple[Array, Array, Array, Array]:
    """x, W, b and delta, in float64 but exact in dtype."""
    random = np.random.default_rng(n)
    shapes = (
        (n, window.height, window.width, window.channels),
        (window.kernel_height, window.kernel_width, window.channels // window.groups, window.filters),
        (window.filters,),
        (n, *window.output_shape),
    )
    x, W, b, delta = (random.normal(size=shape).astype(dtype).astype(float) for shape in shapes)
    return x, W, b, delta


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=120)
@given(window=windows(), n=st.integers(1, 40), has_bias=st.booleans())
def test_convolutions_and_their_gradients_are_right_for_any_window(
    dtype: str, window: Window, n: int, has_bias: bool
) -> None:
    x, W, b, delta = draw_arrays(window, dtype, n)
    exact = convolve(window, x, W, b if has_bias else b * 0, delta)
    terms = convolve(window, abs(x), abs(W), abs(b), abs(delta))
    results = run_convolution(window, dtype, x, W, b if has_bias else None, delta, cuts=[])
    for name, result, expected, size in zip(Convolution._fields, results, exact, terms, strict=True):
        if name != "bias_gradient" or has_bias:
            assert error(result, expected, size) < ONE_STEP[dtype], name


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(window=windows(), n=st.integers(1, 60), cuts=st.lists(st.integers(0, 100), min_size=1, max_size=3))
def test_a_convolution_s_bits_do_not_depend_on_how_its_work_is_divided(
    dtype: str, window: Window, n: int, cuts: list[int]
) -> None:
    arrays = draw_arrays(window, dtype, n)
    whole, divided = (run_convolution(window, dtype, *arrays, cuts=c) for c in ([], cuts))
    for result, expected in zip(divided, whole, strict=True):
        np.testing.assert_array_equal(result, expected)


def test_a_nan_in_an_image_reaches_the_outputs_that_meet_it_and_no_other() -> None:
    window = make_window((6, 6, 2), (3, 3), (1, 1), "same", filters=5)
    x, W, b, delta = draw_arrays(window, "float32", 3)
    x[1, 0, 2, 1] = np.nan
    z = run_convolution(window, "float32", x, W, b, delta, cuts=[]).z
    met = np.zeros(z.shape, bool)
    met[1, 0:2, 1:4] = True
    np.testing.assert_array_equal(np.isnan(z), met)


def pool(window: Window, kind: str, x: Array, delta: Array) -> tuple[Array, Array]:
    """Pooling and its gradient, window by window."""
    z, dx = np.zeros(delta.shape), np.zeros(x.shape)
    w = window
    for y in range(w.output_height):
        for u in range(w.output_width):
            rows = slice(max(0, y * w.stride_y - w.pad_top), y * w.stride_y - w.pad_top + w.kernel_height)
            columns = slice(max(0, u * w.stride_x - w.pad_left), u * w.stride_x - w.pad_left + w.kernel_width)
            pixels = x[:, rows, columns].reshape(len(x), -1, w.channels)
            if kind == "max":
                z[:, y, u] = pixels.max(axis=1)
                share = np.arange(pixels.shape[1])[:, np.newaxis] == pixels.argmax(axis=1)[:, np.newaxis]
            else:
                z[:, y, u] = pixels.mean(axis=1)
                share = np.full(pixels.shape, 1 / pixels.shape[1])
            dx[:, rows, columns] += (share * delta[:, y, u][:, np.newaxis]).reshape(dx[:, rows, columns].shape)
    return z, dx


def run_pooling(window: Window, kind: Any, dtype: str, x: Array, delta: Array, cuts: list[int]) -> tuple[Array, Array]:
    n, T = len(x), np.dtype(dtype)
    x, delta = grouped(x.astype(T)), grouped(delta.astype(T))
    workspace = Workspace(dtype, x, delta, delta * np.nan, x * np.nan)
    inputs, gradient, outputs, input_gradient = workspace.offsets[:4]
    row = pooling.pooling_row(
        window, T, inputs=inputs, outputs=outputs, gradient=gradient, input_gradient=input_gradient
    )
    nothing = np.zeros(0, T)
    for way in ("forward", "backward"):
        for first, last in pieces(len(x), cuts):
            run_kernel(f"{kind}_{way}", T, row, nothing, nothing, workspace.vector, n, first, last)
    workspace.assert_only_inside()
    return ungrouped(workspace[2], n), ungrouped(workspace[3], n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["max", "average"])
@settings(max_examples=60)
@given(window=windows(pool=True), n=st.integers(1, 40), cuts=st.lists(st.integers(0, 100), max_size=2))
def test_pooling_and_its_gradient_are_right_for_any_window(
    dtype: str, kind: str, window: Window, n: int, cuts: list[int]
) -> None:
    """Of equal pixels the first one is the maximum: there are many of them here."""
    random = np.random.default_rng(n)
    x = random.integers(-2, 3, size=(n, window.height, window.width, window.channels)).astype(float)
    delta = random.normal(size=(n, *window.output_shape)).astype(dtype).astype(float)
    z, dx = run_pooling(window, kind, dtype, x, delta, cuts)
    exact_z, exact_dx = pool(window, kind, x, delta)
    _, terms = pool(window, kind, x, abs(delta))
    assert error(z, exact_z, np.ones(1)) < ONE_STEP[dtype]
    assert error(dx, exact_dx, terms) < ONE_STEP[dtype]


def test_a_nan_is_the_maximum_of_its_window() -> None:
    window = make_window((4, 4, 1), (2, 2), (2, 2), "valid")
    x = np.arange(64.0).reshape(4, 4, 4, 1)
    for n, (y, u) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        x[n, y, u] = np.nan
    z, _ = run_pooling(window, "max", "float32", x, np.ones((4, 2, 2, 1)), cuts=[])
    assert np.isnan(z[:, 0, 0]).all()
    assert not np.isnan(z[:, 1]).any()


class BatchNorm(NamedTuple):
    z: Array
    dx: Array
    dgamma: Array
    dbeta: Array
    mean: Array
    inverse_deviation: Array
    running_mean: Array
    running_variance: Array


EPSILON, MOMENTUM = 0.1, 0.25


def normalise(x: Array, delta: Array, gamma: Array, beta: Array) -> BatchNorm:
    """Batch normalisation in training from running statistics 0 and 1, and its gradients. x: (..., channels)."""
    axes = tuple(range(x.ndim - 1))
    n = x[..., 0].size
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    r = 1 / np.sqrt(variance + EPSILON)
    u, g = (x - mean) * r, gamma * delta
    dx = r * (g - g.mean(axis=axes) - u * (g * u).mean(axis=axes))
    running = MOMENTUM * mean, 1 - MOMENTUM + MOMENTUM * variance * n / max(n - 1, 1)
    return BatchNorm(gamma * u + beta, dx, (delta * u).sum(axis=axes), delta.sum(axis=axes), mean, r, *running)


def run_batch_norm(
    layout: Any, dtype: str, x: Array, delta: Array, gamma: Array, beta: Array, cuts: list[int], mode: int
) -> BatchNorm:
    """The same by the kernels. x: (n, height, width, channels), or (n, features)."""
    n, channels, T = len(x), x.shape[-1], np.dtype(dtype)
    x, delta = x.astype(T), delta.astype(T)
    if layout == "image":
        x, delta = grouped(x, missing=100.0), grouped(delta)
    blank = np.full(channels, np.nan)
    workspace = Workspace(dtype, x, delta, x * np.nan, x * np.nan, blank, blank)
    at_x, at_delta, z, dx, mean, inverse_deviation = workspace.offsets[:6]
    pixels = x.size // len(x) // channels // (group_size(T) if layout == "image" else 1)
    row = batch_norm.batch_norm_row(
        x=at_x, z=z, delta=at_delta, dx=dx, mean=mean, inverse_deviation=inverse_deviation, gamma=0, beta=channels,
        running_mean=0, running_variance=channels, pixels=pixels, channels=channels,
    )  # fmt: skip
    parameters, gradient = np.concatenate([gamma, beta]).astype(T), np.full(2 * channels, np.nan, T)
    state = np.repeat([0, 1], channels).astype(T)
    vector, constants = workspace.vector, np.array([MOMENTUM, EPSILON], T)
    by_channel, by_row = pieces(channels, cuts), pieces(len(x), cuts)
    for part in by_channel:
        run_kernel(f"{layout}_statistics", T, row, constants, vector, state, n, mode, *part)
    for part in by_row:
        run_kernel(f"{layout}_forward", T, row, parameters, gradient, vector, n, *part)
    for part in by_channel:
        run_kernel(f"{layout}_sums", T, row, gradient, vector, n, *part)
    for part in by_row:
        run_kernel(f"{layout}_backward", T, row, parameters, gradient, vector, n, *part)
    workspace.assert_only_inside()
    outputs, slopes = workspace[2], workspace[3]
    if layout == "image":
        assert not slopes[-1][..., n - (len(x) - 1) * x.shape[-1] :].any()
        outputs, slopes = ungrouped(outputs, n), ungrouped(slopes, n)
    return BatchNorm(
        outputs, slopes, gradient[:channels], gradient[channels:], workspace[4], workspace[5], state[:channels],
        state[channels:],
    )  # fmt: skip


def draw_rows(layout: str, dtype: str, n: int, channels: int) -> tuple[Array, Array, Array, Array]:
    """x, off 0 by several deviations, delta, gamma and beta; in float64, but exact in dtype."""
    random = np.random.default_rng(n)
    shape = (n, 3, 5, channels) if layout == "image" else (n, channels)
    x = random.normal(size=shape) + 5
    rest = (random.normal(size=size) for size in (shape, channels, channels))
    x, delta, gamma, beta = (array.astype(dtype).astype(float) for array in (x, *rest))
    return x, delta, gamma, beta


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["image", "flat"])
@settings(max_examples=40)
@given(n=st.integers(3, 40), channels=st.integers(1, 40), cuts=st.lists(st.integers(0, 100), max_size=3))
def test_batch_norm_and_its_gradients_are_right(
    dtype: str, layout: str, n: int, channels: int, cuts: list[int]
) -> None:
    arrays = draw_rows(layout, dtype, n, channels)
    results = run_batch_norm(layout, dtype, *arrays, cuts=cuts, mode=tables.TRAINING)
    whole = run_batch_norm(layout, dtype, *arrays, cuts=[], mode=tables.TRAINING)
    x, delta, gamma, _ = arrays
    exact = normalise(*arrays)
    u, axes = (x - exact.mean) * exact.inverse_deviation, tuple(range(x.ndim - 1))
    terms = {
        "dx": abs(gamma * exact.inverse_deviation * delta),
        "dgamma": abs(delta * u).sum(axis=axes),
        "dbeta": abs(delta).sum(axis=axes),
    }
    for name, result, same, expected in zip(BatchNorm._fields, results, whole, exact, strict=True):
        np.testing.assert_array_equal(result, same)
        assert error(result, expected, terms.get(name, np.zeros(1))) < ONE_STEP[dtype], name


@pytest.mark.parametrize("layout", ["image", "flat"])
def test_batch_norm_takes_and_moves_the_statistics_that_its_mode_says(layout: str) -> None:
    arrays = draw_rows(layout, "float64", 21, 9)
    exact = normalise(*arrays)
    by_batch = run_batch_norm(layout, "float64", *arrays, cuts=[], mode=tables.BATCH)
    running = run_batch_norm(layout, "float64", *arrays, cuts=[], mode=tables.RUNNING)
    assert difference(by_batch.z, exact.z) < ONE_STEP["float64"]
    for result in (by_batch, running):
        np.testing.assert_array_equal(result.running_mean, np.zeros(9))
        np.testing.assert_array_equal(result.running_variance, np.ones(9))
    x, _, gamma, beta = arrays
    assert difference(running.z, gamma * x / np.sqrt(1 + EPSILON) + beta) < ONE_STEP["float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_gradient", [False, True])
@settings(max_examples=60)
@given(n=st.integers(1, 70), size=st.integers(1, 70), cuts=st.lists(st.integers(0, 100), max_size=2))
def test_interleaving_and_back_is_exact(dtype: str, is_gradient: bool, n: int, size: int, cuts: list[int]) -> None:
    T = np.dtype(dtype)
    rows = np.random.default_rng(n).normal(size=(n, size)).astype(T)
    groups = grouped(rows.reshape(n, 1, 1, size))
    if not is_gradient:
        groups[-1] = np.where(np.arange(groups.shape[-1]) < (n - 1) % groups.shape[-1] + 1, groups[-1],
                              groups[-1][..., [(n - 1) % groups.shape[-1]]])  # fmt: skip
    workspace = Workspace(dtype, groups * np.nan, rows * np.nan)
    to, back = workspace.vector[workspace.offsets[0] :], workspace.vector[workspace.offsets[1] :]
    for part in pieces(len(groups), cuts):
        run_kernel("interleave", T, rows, to, n, size, int(is_gradient), *part)
        run_kernel("deinterleave", T, to, back, n, size, *part)
    np.testing.assert_array_equal(workspace[0], groups)
    np.testing.assert_array_equal(workspace[1], rows)
    workspace.assert_only_inside()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (1000,), (3, 8192), (100_000,)])
def test_what_registers_are_loaded_from_begins_with_a_cache_line(dtype: str, shape: tuple[int, ...]) -> None:
    array = aligned_zeros(shape, np.dtype(dtype))
    assert array.ctypes.data % 64 == 0
    np.testing.assert_array_equal(array, np.zeros(shape, dtype), strict=True)
