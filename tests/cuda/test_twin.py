"""What the array twin promises: NumPy's numbers, CuPy's refusals and honest counts."""

import inspect
import operator
import sys

import numpy as np
import pytest

from tests.cuda import emulator, gxx
from tests.cuda.twin import Counters, make_twin

needs_compiler = pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))

HOST = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
AXPY = """
extern "C" __global__ void axpy(const float* x, float* y, float a, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] += a * x[i];
}
extern "C" __global__ void long_count(float* y, long long n, double a) {
    if (threadIdx.x < n) y[threadIdx.x] = static_cast<float>(a);
}
"""


@pytest.fixture
def xp():
    return make_twin()


@pytest.fixture
def dev(xp):
    array = xp.asarray(HOST)
    xp.counters.reset()
    return array


def offered(thing):
    return sorted(name for name in {*dir(type(thing)), *dir(thing)} if not name.startswith("_"))


# The same numbers as NumPy


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, a: a + a * 2 - 1 / (a + 0.5),
        lambda m, a: 1 - a,
        lambda m, a: -(abs(a) ** 2),
        lambda m, a: np.float32(2) * a,
        lambda m, a: a @ a.T,
        lambda m, a: m.dot(a.T, a),
        lambda m, a: m.where(a > 0, a, 0.1 * a),
        lambda m, a: (a >= 1) == (a <= 1),
        lambda m, a: np.float32(1) < a,
        lambda m, a: m.exp(m.minimum(a, 0)) + m.log(m.maximum(a, 1)) + m.sqrt(m.square(a)) + m.tanh(a),
        lambda m, a: m.subtract(m.add(m.multiply(a, 2), m.divide(a, 3)), m.abs(a)) * m.sign(a),
        lambda m, a: m.isfinite(m.log(a)),
        lambda m, a: m.clip(a, -1, 2) + a.clip(None, 0),
        lambda m, a: m.sum(a, axis=1, keepdims=True) + a.max(axis=0) - m.mean(a) + m.min(a, axis=0),
        lambda m, a: m.argmax(a, axis=1),
        lambda m, a: m.concatenate([a, 1 - a], axis=1),
        lambda m, a: m.take(a, m.asarray(np.array([2, 0])), axis=0),
        lambda m, a: a[m.asarray(np.array([True, False, True]))],
        lambda m, a: a[1:, ::2].ravel().astype(m.float64).reshape(2, 2).copy(),
        lambda m, a: m.ascontiguousarray(a.T) + m.ones((4, 1), m.float32),
        lambda m, a: m.zeros_like(a) + m.full(4, 7, m.float32) + m.arange(4, dtype=m.float32),
    ],
)
def test_an_expression_gives_numpys_values_and_dtype(xp, dev, compute):
    with np.errstate(all="ignore"):
        expected = compute(np, HOST)
    got = compute(xp, dev)
    assert isinstance(got, xp.ndarray)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got.get(), expected)


def test_no_numpy_warning_comes_from_the_device(xp, dev):
    assert bool(xp.isfinite(xp.log(dev * 0)).sum() == 0)
    dev /= 0
    dev[0] = 1e300
    assert xp.full(2, np.nan).astype(np.int32).shape == (2,)


def test_reductions_and_elements_are_0d_device_arrays(xp, dev):
    for value in (dev.sum(), xp.max(dev), dev.mean(), dev.argmax(), dev[1, 2], dev.ravel()[3]):
        assert isinstance(value, xp.ndarray)
        assert value.shape == ()
    assert float(dev[1, 2]) == 1.0
    assert int(dev.argmax()) == 11
    assert dev.min().item() == -5.0


# Memory


def test_device_memory_is_not_the_hosts(xp):
    host = HOST.copy()
    dev = xp.asarray(host)
    host[:] = 0
    dev.get()[:] = 0
    xp.asnumpy(dev)[:] = 0
    np.testing.assert_array_equal(dev.get(), HOST)


def test_slices_elements_and_transposes_are_views(xp, dev):
    dev[1][2] = 10
    dev[0, 0].fill(20)
    dev.T[3:, 2] = 30
    dev.reshape(-1)[1:3] += 1
    forty = np.array([40], np.float32)
    dev.ravel()[4:5].set(forty)
    xp.copyto(dev[2, :2], dev[0, :2])
    xp.multiply(dev[1, 3:], 2, out=dev[1, 3:])
    expected = [[20, -3, -2, -2], [40, 0, 10, 4], [20, -3, 5, 30]]
    np.testing.assert_array_equal(dev.get(), expected)
    assert dev[1:].data.ptr == dev.data.ptr + 16


def test_asarray_of_a_device_array_is_itself_and_array_is_a_copy(xp, dev):
    assert xp.asarray(dev) is dev
    assert xp.asarray(dev, xp.float32) is dev
    copies = [
        xp.array(dev),
        dev.copy(),
        dev.astype(np.float32),
        dev[xp.asarray(np.array([0, 1, 2]))],
        dev.T.ravel(),
    ]
    dev.fill(0)
    assert all(copy.get().any() for copy in copies)


def test_fresh_memory_is_not_zero(xp, dev):
    for array in (xp.empty((2, 3), np.float32), xp.empty((), np.float64), xp.empty_like(dev)):
        assert np.isnan(array.get()).all()
    assert xp.empty(3, np.int32).get().min() == 2**31 - 1


def test_layout_is_told_as_cupy_tells_it(dev):
    assert dev.flags == (True, False, True)
    assert dev.T.flags.f_contiguous
    assert not dev.T.flags.c_contiguous
    assert not dev[:, 1:].flags.c_contiguous
    assert (dev.shape, dev.size, dev.ndim, dev.nbytes, dev.strides, len(dev)) == (
        (3, 4),
        12,
        2,
        48,
        (16, 4),
        3,
    )


# Refusals

REFUSED = {
    "np.asarray": (lambda m, a: np.asarray(a), TypeError, "Implicit conversion"),
    "np.exp": (lambda m, a: np.exp(a), TypeError, "does not support ufuncs"),
    "np.sum": (lambda m, a: np.sum(a), TypeError, "numpy.sum was called"),
    "assignment to the host": (lambda m, a: operator.setitem(HOST.copy(), 0, a[0]), TypeError, "Implicit"),
    "iteration": (lambda m, a: list(a), TypeError, "iteration"),
    "dev + host": (lambda m, a: a + HOST, TypeError, "Unsupported type <class 'numpy.ndarray'>"),
    "host + dev": (lambda m, a: HOST + a, TypeError, "Unsupported type <class 'numpy.ndarray'>"),
    "dev += host": (lambda m, a: operator.iadd(a, HOST), TypeError, "Unsupported type"),
    "dev == host": (lambda m, a: a == HOST, TypeError, "Unsupported type"),
    "dev == None": (lambda m, a: a == None, TypeError, "Unsupported type"),  # noqa: E711
    "dev @ host": (lambda m, a: a @ HOST.T, TypeError, "Unsupported type"),
    "host @ dev": (lambda m, a: HOST.T @ a, TypeError, "Unsupported type"),
    "function of a host array": (lambda m, a: m.exp(HOST), TypeError, "Unsupported type"),
    "function of a list": (lambda m, a: m.maximum(a, [1.0] * 4), TypeError, "Unsupported type"),
    "sum of a host array": (lambda m, a: m.sum(HOST), TypeError, "Unsupported type"),
    "where by a host array": (lambda m, a: m.where(HOST > 0, a, a), TypeError, "Unsupported type"),
    "clip by a host array": (lambda m, a: m.clip(a, HOST, 1), TypeError, "Unsupported type"),
    "take by a host array": (lambda m, a: m.take(a, np.array([0])), TypeError, "Unsupported type"),
    "copyto from a host array": (lambda m, a: m.copyto(a, HOST), TypeError, "Unsupported type"),
    "zeros_like of a host array": (lambda m, a: m.zeros_like(HOST), TypeError, "Unsupported type"),
    "assignment from the host": (lambda m, a: operator.setitem(a, ..., HOST), TypeError, "Unsupported type"),
    "fill by a host array": (lambda m, a: a.fill(HOST[0]), TypeError, "Unsupported type"),
    "index by a host array": (lambda m, a: a[np.array([0])], TypeError, "hidden transfer"),
    "index by a list": (lambda m, a: a[[0, 1]], TypeError, "hidden transfer"),
    "slice bound on the device": (lambda m, a: a[: m.argmax(a)], TypeError, "__index__"),
    "take out of bounds": (lambda m, a: m.take(a, m.asarray(np.array([12]))), IndexError, "12"),
    "array of another twin": (lambda m, a: make_twin().asarray(HOST) + a, TypeError, "another twin"),
    "positional out": (lambda m, a: m.exp(a, a), TypeError, "as out="),
    "out of another shape": (lambda m, a: m.add(a[0], 1, out=a), ValueError, "Out shape is mismatched"),
    "out of another dtype": (lambda m, a: m.exp(a, out=m.empty(a.shape)), TypeError, "out= is float64"),
    "out on the host": (lambda m, a: m.exp(a, out=HOST.copy()), TypeError, "Unsupported type"),
    "sum's out of another shape": (lambda m, a: m.sum(a, axis=0, out=a[0, :1]), ValueError, "mismatched"),
    "sum's unknown option": (lambda m, a: m.sum(a, where=True), TypeError, "where"),
    "float64 into float32": (lambda m, a: operator.imul(a, np.float64(2)), TypeError, "as float64"),
    "matmul's out of another shape": (lambda m, a: m.matmul(a, a.T, out=a.copy()), ValueError, "mismatched"),
    "matmul's out of another dtype": (lambda m, a: m.matmul(a, a.T, out=m.empty((3, 3))), TypeError, "out="),
    "matmul's out strided": (
        lambda m, a: m.matmul(a, a.T, out=m.empty((3, 6), m.float32)[:, ::2]),
        ValueError,
        "C-contiguous",
    ),
    "matmul's out over a factor": (
        lambda m, a: m.matmul(a[:, :3], a[:, :3], out=a.ravel()[:9].reshape(3, 3)),
        ValueError,
        "overlaps",
    ),
    "product of two dtypes": (lambda m, a: a @ a.T.astype(m.float64), TypeError, "hidden copy"),
    "product with a scalar": (lambda m, a: a @ 2, TypeError, "device array is needed"),
    "object dtype": (lambda m, a: m.asarray(np.array([None])), ValueError, "Unsupported dtype"),
    "swapped bytes": (lambda m, a: m.asarray(HOST.astype(">f4")), ValueError, "Unsupported dtype"),
    "set of another dtype": (lambda m, a: a.set(HOST.astype(float)), TypeError, "cannot be set"),
    "set of another shape": (lambda m, a: a.set(HOST[:2]), ValueError, "Shape mismatch"),
    "set of a strided array": (lambda m, a: a[:, 1:].set(HOST[:, 1:]), RuntimeError, "non-contiguous"),
    "set from the device": (lambda m, a: a.set(a), TypeError, "Only numpy.ndarray"),
    "get into another dtype": (lambda m, a: a.get(out=np.empty((3, 4))), TypeError, "cannot be obtained"),
    "get into a strided array": (
        lambda m, a: a.get(out=np.empty((3, 8), np.float32)[:, ::2]),
        RuntimeError,
        "non-contiguous",
    ),
    "truth of many elements": (lambda m, a: bool(a > 0), ValueError, "ambiguous"),
    "a hash": (lambda m, a: hash(a), TypeError, "unhashable"),
    "a name it does not offer": (lambda m, a: m.einsum, AttributeError, "'einsum' is not offered"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_is_refused(xp, dev, what):
    attempt, error, message = REFUSED[what]
    with pytest.raises(error) as refusal:
        attempt(xp, dev)
    assert message in str(refusal.value)


# Kernels


@needs_compiler
@pytest.mark.parametrize("order", emulator.ORDERS)
def test_a_kernel_works_on_device_arrays_and_their_views(order):
    xp = make_twin(order)
    kernel = xp.RawModule(code=AXPY, options=("-std=c++17",)).get_function("axpy")
    x, y = xp.arange(1001, dtype=np.float32), xp.ones(1003, np.float32)
    kernel((3,), (128,), (x, y[1:], np.float32(0.5), np.int32(1001)))
    expected = np.ones(1003, np.float32)
    expected[1:-1] += np.float32(0.5) * np.arange(1001, dtype=np.float32)
    np.testing.assert_array_equal(y.get(), expected)
    assert xp.counters.kernel_launches == 1


@needs_compiler
def test_a_kernel_runs_in_the_twins_order_and_a_random_one_varies_by_launch():
    code = 'extern "C" __global__ void last(int* x) { atomicExch(x, (int)threadIdx.x); }'
    last = {}
    for order in emulator.ORDERS:
        xp = make_twin(order)
        kernel, x = xp.RawModule(code=code).get_function("last"), xp.zeros(1, np.int32)
        last[order] = [(kernel((1,), (1000,), (x,)), int(x[0]))[1] for _ in range(3)]
    assert last["forward"] == [999, 999, 999]
    assert last["reverse"] == [0, 0, 0]
    assert len({*last["random"], 0, 999}) == 5


@needs_compiler
def test_python_scalars_given_to_a_kernel_have_cupys_widths(xp):
    y = xp.zeros(3, np.float32)
    xp.RawModule(code=AXPY).get_function("long_count")((1,), (4,), (y, 3, 0.5))
    assert float(y.sum()) == 1.5


@needs_compiler
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, lambda xp: HOST.ravel(), "Unsupported type <class 'numpy.ndarray'>"),
        (0, lambda xp: xp.asarray(HOST.astype(float)), "float64*, but the kernel takes float32*"),
        (0, lambda xp: xp.asarray(HOST).T, "not C-contiguous"),
        (0, lambda xp: None, "Unsupported type"),
        (2, lambda xp: 0.5, "float64, but the kernel takes float32"),
        (2, lambda xp: xp.asarray(np.float32(0.5)), "float32*, but the kernel takes float32"),
        (3, lambda xp: 12, "int64, but the kernel takes int32"),
    ],
)
def test_a_wrong_kernel_argument_is_refused(xp, position, value, message):
    args = [xp.asarray(HOST), xp.asarray(HOST), np.float32(1), np.int32(12)]
    args[position] = value(xp)
    with pytest.raises(TypeError) as refusal:
        xp.RawModule(code=AXPY).get_function("axpy")((1,), (32,), args)
    assert message in str(refusal.value)
    assert xp.counters.kernel_launches == 0


@needs_compiler
def test_a_module_refuses_a_list_of_options_and_an_unknown_kernel(xp):
    with pytest.raises(TypeError, match="options must be a tuple"):
        xp.RawModule(code=AXPY, options=["-std=c++17"])
    with pytest.raises(LookupError, match="named symbol not found"):
        xp.RawModule(code=AXPY).get_function("axpyy")


# Counts and devices


@pytest.mark.parametrize(
    ("work", "counted"),
    [
        (lambda m, a: m.asarray(HOST), {"host_to_device": 1, "bytes_to_device": 48, "allocations": 1}),
        (lambda m, a: a.set(HOST), {"host_to_device": 1, "bytes_to_device": 48}),
        (lambda m, a: a.get(), {"device_to_host": 1, "bytes_to_host": 48, "synchronizations": 1}),
        (lambda m, a: m.asnumpy(a), {"device_to_host": 1, "bytes_to_host": 48, "synchronizations": 1}),
        (lambda m, a: float(a[0, 0]), {"device_to_host": 1, "bytes_to_host": 4, "synchronizations": 1}),
        (lambda m, a: bool(a[0, 0]), {"device_to_host": 1, "bytes_to_host": 4, "synchronizations": 1}),
        (lambda m, a: m.cuda.get_current_stream().synchronize(), {"synchronizations": 1}),
        (lambda m, a: m.cuda.runtime.deviceSynchronize(), {"synchronizations": 1}),
        (lambda m, a: m.cuda.Device().synchronize(), {"synchronizations": 1}),
        (lambda m, a: (m.asnumpy(HOST), m.asarray(a), a.T, a[1:, 0], a.reshape(-1), a.ravel(), len(a)), {}),
        (lambda m, a: m.empty(3), {"allocations": 1}),
        (lambda m, a: m.zeros(3), {"allocations": 1, "array_operations": 1}),
        (lambda m, a: a + 1, {"allocations": 1, "array_operations": 1}),
        (lambda m, a: operator.iadd(a, 1), {"array_operations": 1}),
        (lambda m, a: m.exp(a, out=a), {"array_operations": 1}),
        (lambda m, a: a @ a.T, {"allocations": 1, "array_operations": 1}),
        (lambda m, a: a.T.ravel(), {"allocations": 1, "array_operations": 1}),
        (lambda m, a: m.ascontiguousarray(a.T), {"allocations": 1, "array_operations": 1}),
        (lambda m, a: m.ascontiguousarray(a), {}),
        (lambda m, a: a.fill(0), {"array_operations": 1}),
        (lambda m, a: m.copyto(a, 0), {"array_operations": 1}),
        (
            lambda m, a: a[a > 0],
            {
                "allocations": 2,
                "array_operations": 2,
                "device_to_host": 1,
                "bytes_to_host": 8,
                "synchronizations": 1,
            },
        ),
    ],
)
def test_every_transfer_operation_and_allocation_is_counted(xp, dev, work, counted):
    work(xp, dev)
    assert xp.counters == Counters(**counted)
    xp.counters.reset()
    assert xp.counters == Counters()


def test_without_a_device_nothing_is_allocated():
    xp = make_twin(devices=0)
    assert not xp.is_available()
    for attempt in (lambda: xp.asarray(HOST), lambda: xp.zeros(3), xp.cuda.runtime.getDeviceCount):
        with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="cudaErrorNoDevice"):
            attempt()


def test_it_stands_in_for_the_module_cupy(monkeypatch, xp):
    monkeypatch.setitem(sys.modules, "cupy", xp)
    import cupy

    assert cupy is xp
    assert cupy.is_available()


# Level 5: the real CuPy, imported where no GPU is


def captured_graph(xp):
    stream = xp.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    return stream.end_capture()


def test_every_name_it_offers_exists_in_cupy(xp, dev):
    cupy = pytest.importorskip("cupy")
    pairs = [
        (xp, cupy),
        (dev, cupy.ndarray),
        (dev.flags, cupy._core.flags.Flags),
        (xp.cuda, cupy.cuda),
        (xp.cuda.runtime, cupy.cuda.runtime),
        (xp.cuda.Device(), cupy.cuda.Device),
        (xp.cuda.Stream(), cupy.cuda.Stream),
        (xp.cuda.Event(), cupy.cuda.Event),
        (captured_graph(xp), cupy.cuda.Graph),
        (xp.cuda.memory, cupy.cuda.memory),
    ]
    ours_alone = {"counters", "shared_parts", "count", "index"}  # a named tuple has the last two
    checked = 0
    for ours, theirs in pairs:
        names = set(offered(ours)) - ours_alone
        checked += len(names)
        assert not {name for name in names if not hasattr(theirs, name)}
    assert checked > 100


@needs_compiler
def test_a_kernel_has_no_attribute_that_cupys_has_not(xp):
    cupy = pytest.importorskip("cupy")
    kernel = xp.RawModule(code=AXPY).get_function("axpy")
    assert {*offered(kernel)} <= {*dir(cupy.RawKernel)}
    assert {*kernel.attributes} <= {*dir(cupy.RawKernel)}


def test_parameters_are_named_and_placed_as_cupys(xp):
    cupy = pytest.importorskip("cupy")
    checked = 0
    for name in offered(xp):
        ours = getattr(xp, name)
        theirs = getattr(cupy, name, None)
        if not inspect.ismethod(ours) or not inspect.isfunction(theirs):
            continue
        given = list(inspect.signature(ours).parameters)
        known = list(inspect.signature(theirs).parameters)
        assert given == known[: len(given)], name
        checked += 1
    assert checked >= 10
