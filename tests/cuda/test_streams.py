"""Streams, captured graphs and kernels with shared memory: what the twin promises of them, and a GPU must keep too.

A test that takes `xp` runs on the twin and, where there is a GPU, on CuPy; one that takes `twin` is of what the twin
alone refuses.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnfast.backends import unavailable
from tests.cuda import gxx
from tests.cuda.exercises import RUNS
from tests.cuda.twin import make_twin

HOST = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
STEP = """
extern "C" __global__ void step(const float* x, float* y, float a, int* count, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
    if (i == 0) count[0] += 1;
}
"""


@pytest.fixture
def twin() -> Any:
    if reason := gxx.available():
        pytest.skip(reason)
    return make_twin()


@pytest.fixture(params=["twin", pytest.param("cupy", marks=pytest.mark.cuda)])
def xp(request: pytest.FixtureRequest) -> Any:
    if request.param == "twin":
        return request.getfixturevalue("twin")
    if reason := unavailable("cuda"):
        pytest.skip(reason)
    import cupy

    return cupy


def refusal(error: type[Exception], words: str, attempt: Callable[[], object]) -> None:
    with pytest.raises(error) as refused:
        attempt()
    assert words in str(refused.value)


# Capture


def test_what_is_captured_runs_when_the_graph_is_launched_and_as_often(xp: Any) -> None:
    kernel = xp.RawModule(code=STEP, options=("--std=c++17",)).get_function("step")
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        x, y, count = xp.asarray(HOST), xp.zeros((3, 4), np.float32), xp.zeros(1, np.int32)
        stream.begin_capture()
        assert stream.is_capturing()
        kernel((1,), (32,), (x, y, np.float32(0.5), count, np.int32(12)))
        xp.multiply(y, np.float32(2), out=y)
        y += x
        y[0, 0] = 7
        graph = stream.end_capture()
        assert not stream.is_capturing()
        assert not y.get().any()
        expected = np.zeros((3, 4), np.float32)
        for _ in range(3):
            graph.launch()
            expected = 2 * (expected + np.float32(0.5) * HOST) + HOST
            expected[0, 0] = 7
        np.testing.assert_array_equal(y.get(), expected)
        assert int(count[0]) == 3
        other = 10 * HOST
        x.set(other)  # the graph has the array's address and not its values
        y.fill(0)
        graph.launch(stream)
        expected = 2 * (np.float32(5) * HOST) + 10 * HOST
        expected[0, 0] = 7
        np.testing.assert_array_equal(y.get(), expected)


def test_a_graph_runs_on_whatever_stream_it_is_launched(xp: Any) -> None:
    kernel = xp.RawModule(code=STEP).get_function("step")
    x, y, count = xp.ones(32, np.float32), xp.zeros(32, np.float32), xp.zeros(1, np.int32)
    capturing, other = xp.cuda.Stream(non_blocking=True), xp.cuda.Stream(non_blocking=True)
    xp.cuda.Device().synchronize()
    capturing.begin_capture()
    kernel((1,), (32,), (x, y, np.float32(1), count, np.int32(32)), stream=capturing)
    graph = capturing.end_capture()
    graph.upload(other)
    graph.launch(other)
    graph.launch(other)
    other.synchronize()
    assert float(y.sum()) == 64
    with capturing:
        graph.launch()
    capturing.synchronize()
    assert float(y.sum()) == 96


REFUSED_IN_A_CAPTURE = {
    "a product": (lambda m, a: m.matmul(a, a, out=m.b), NotImplementedError, "cuBLAS API during stream capture"),
    "a copy to the host": (lambda m, a: a.get(), RuntimeError, "D2H transfers are disallowed"),
    "an element to the host": (lambda m, a: float(a[0, 0]), RuntimeError, "D2H transfers are disallowed"),
    "a truth value": (lambda m, a: bool(a[0, 0]), RuntimeError, "D2H transfers are disallowed"),
    "a copy from the host": (lambda m, a: a.set(HOST[:, :3].copy()), RuntimeError, "H2D transfers are disallowed"),
}


@pytest.mark.parametrize("what", REFUSED_IN_A_CAPTURE)
def test_a_capture_refuses(xp: Any, what: str) -> None:
    attempt, error, words = REFUSED_IN_A_CAPTURE[what]
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        a = xp.asarray(HOST[:, :3].copy())
        module = _With(xp, b=xp.empty((3, 3), np.float32))
        xp.matmul(a, a, out=module.b)  # makes cuBLAS' handle, which is not what is asked about
        stream.begin_capture()
        refusal(error, words, lambda: attempt(module, a))
        xp.add(a, 1, out=a)  # CuPy asks before it calls CUDA, so the capture goes on
        stream.end_capture().launch()
        np.testing.assert_array_equal(a.get(), HOST[:, :3] + 1)


class _With:
    """A module and an array made before the capture."""

    def __init__(self, module: Any, b: Any) -> None:
        self.matmul, self.b = module.matmul, b


WAITS = {
    "for the stream": lambda m, stream: stream.synchronize(),
    "for the device": lambda m, stream: m.cuda.runtime.deviceSynchronize(),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_spoils_a_capture(xp: Any, what: str) -> None:
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        a = xp.zeros(3, np.float32)
        stream.begin_capture()
        xp.add(a, 1, out=a)
        refusal(xp.cuda.runtime.CUDARuntimeError, "aptur", lambda: WAITS[what](xp, stream))
        refusal(xp.cuda.runtime.CUDARuntimeError, "StreamCaptureInvalidated", stream.end_capture)
        assert not a.get().any()
        stream.synchronize()


def test_the_default_stream_does_not_capture(xp: Any) -> None:
    refusal(RuntimeError, "cannot capture on the default (legacy) stream", xp.cuda.Stream.null.begin_capture)


def test_events_tell_the_time_between_them(xp: Any) -> None:
    start, end, untimed = xp.cuda.Event(), xp.cuda.Event(), xp.cuda.Event(disable_timing=True)
    refusal(xp.cuda.runtime.CUDARuntimeError, "InvalidResourceHandle", lambda: xp.cuda.get_elapsed_time(start, end))
    for event in (start, end, untimed):
        event.record()
        event.synchronize()
    assert 0 <= xp.cuda.get_elapsed_time(start, end) < 60_000
    refusal(xp.cuda.runtime.CUDARuntimeError, "InvalidResourceHandle", lambda: xp.cuda.get_elapsed_time(start, untimed))


def test_a_stream_is_the_current_one_within_its_context(xp: Any) -> None:
    outer, inner = xp.cuda.Stream(non_blocking=True), xp.cuda.Stream()
    assert xp.cuda.get_current_stream() == xp.cuda.Stream.null
    with outer:
        assert xp.cuda.get_current_stream() == outer
        with inner:
            assert xp.cuda.get_current_stream() == inner
        assert xp.cuda.get_current_stream() == outer
    assert xp.cuda.get_current_stream() == xp.cuda.Stream.null


# What only the twin refuses, since a GPU would give wrong numbers in silence

NOT_IN_A_GRAPH = {
    "an allocation": (lambda m, a: a + 1, "allocated in a capture"),
    "empty memory": (lambda m, a: m.empty(3), "allocated in a capture"),
    "an upload": (lambda m, a: m.asarray(HOST), "allocated in a capture"),
    "a reduction": (lambda m, a: m.sum(a, axis=0, out=a[0]), "sum may take memory"),
    "a copy of rows": (lambda m, a: a.T.ravel(), "allocated in a capture"),
}


@pytest.mark.parametrize("what", NOT_IN_A_GRAPH)
def test_the_twin_lets_a_capture_take_no_memory(twin: Any, what: str) -> None:
    attempt, words = NOT_IN_A_GRAPH[what]
    stream = twin.cuda.Stream(non_blocking=True)
    with stream:
        a = twin.asarray(HOST)
        stream.begin_capture()
        refusal(RuntimeError, f"twin: {'memory ' if 'allocated' in words else ''}{words}", lambda: attempt(twin, a))


def test_a_graph_whose_array_is_gone_is_refused(twin: Any) -> None:
    kernel = twin.RawModule(code=STEP).get_function("step")
    stream = twin.cuda.Stream(non_blocking=True)
    with stream:
        x, y, count = twin.ones(12, np.float32), twin.zeros(24, np.float32), twin.zeros(1, np.int32)
        stream.begin_capture()
        kernel((1,), (32,), (x, y[12:], np.float32(1), count, np.int32(12)))
        graph = stream.end_capture()
        graph.launch()
        view = y[:3]
        del y
        gc.collect()
        graph.launch()  # a view keeps the memory
        del view
        gc.collect()
        refusal(RuntimeError, "twin: a graph runs kernel 'step' on an array that is gone", graph.launch)


def test_work_of_two_streams_on_one_array_needs_an_order(twin: Any) -> None:
    one, two = twin.cuda.Stream(non_blocking=True), twin.cuda.Stream(non_blocking=True)
    with one:
        a = twin.zeros(3, np.float32)

    def add() -> None:
        with two:
            twin.add(a, 1, out=a)

    refusal(RuntimeError, "an array operation uses memory that work of another stream writes", add)
    one.synchronize()
    add()
    with one:
        refusal(RuntimeError, "a copy to the host uses memory that work of another stream writes", a.get)
        early = two.record()
        one.wait_event(early)
        assert a.get().tolist() == [1, 1, 1]
    add()
    ones = np.ones(1, np.float32)
    with one:
        a_later = a[:1]
        refusal(RuntimeError, "a copy from the host uses memory", lambda: a_later.set(ones))
        one.wait_event(two.record())
        one.wait_event(early)  # an older order takes nothing back
        a_later.set(ones)
    refusal(RuntimeError, "nothing orders the two", add)
    one.record().synchronize()
    add()


@pytest.mark.parametrize("wait", [True, False])
def test_host_memory_lives_until_the_copy_from_it_was_waited_for(twin: Any, wait: bool) -> None:
    stream, a = twin.cuda.Stream(), twin.zeros(3, np.float32)
    with stream:
        host = np.ones(4, np.float32)[1:]
        a.set(host)
        if wait:
            stream.synchronize()
        del host
        if wait:
            a.get()
        else:
            refusal(RuntimeError, "twin: host memory was given up while a copy to the device", a.get)
        refusal(ValueError, "twin: CuPy would send a copy of a strided array", lambda: a.set(HOST[:, 0]))


def test_reading_in_two_streams_needs_none_but_writing_after_it_does(twin: Any) -> None:
    one, two = twin.cuda.Stream(non_blocking=True), twin.cuda.Stream(non_blocking=True)
    a, b, c = (twin.zeros(3, np.float32) for _ in range(3))
    twin.cuda.Device().synchronize()
    with one:
        twin.add(a, 1, out=b)
    with two:
        twin.add(a, 1, out=c)
        refusal(RuntimeError, "memory that work of another stream reads", lambda: a.fill(0))
    twin.cuda.Device().synchronize()
    a.fill(0)


def test_the_default_stream_waits_for_blocking_streams_and_they_for_it(twin: Any) -> None:
    blocking, free = twin.cuda.Stream(), twin.cuda.Stream(non_blocking=True)
    a = twin.zeros(3, np.float32)
    with blocking:
        a += 1
    a += 1
    with free:
        refusal(RuntimeError, "nothing orders the two", lambda: a.fill(0))
    with blocking:
        blocking.begin_capture()
        a += 1
    with pytest.raises(twin.cuda.runtime.CUDARuntimeError, match="CaptureImplicit"):
        a.get()


def test_a_graph_s_work_is_ordered_as_any_other(twin: Any) -> None:
    kernel = twin.RawModule(code=STEP).get_function("step")
    stream = twin.cuda.Stream(non_blocking=True)
    x, y, count = twin.ones(12, np.float32), twin.zeros(12, np.float32), twin.zeros(1, np.int32)
    stream.begin_capture()
    kernel((1,), (32,), (x, y, np.float32(1), count, np.int32(12)), stream=stream)
    graph = stream.end_capture()
    refusal(RuntimeError, "kernel 'step' uses memory that work of another stream writes", lambda: graph.launch(stream))
    twin.cuda.Device().synchronize()
    graph.launch(stream)
    refusal(RuntimeError, "nothing orders the two", y.get)
    stream.synchronize()
    assert y.get().sum() == 12


def test_waiting_for_a_capture_or_joining_one_is_refused(twin: Any) -> None:
    one, two = twin.cuda.Stream(non_blocking=True), twin.cuda.Stream(non_blocking=True)
    before = two.record()
    one.begin_capture()
    captured = one.record()
    refusal(RuntimeError, "goes over to another stream", lambda: two.wait_event(captured))
    one.end_capture()
    spoiling = {
        "cudaErrorCapturedEvent": [lambda: one.record().synchronize(), lambda: one.record().done],
        "cudaErrorStreamCaptureIsolation": [lambda: one.wait_event(before)],
        "cudaErrorStreamCaptureUnsupported": [one.begin_capture, lambda: one.done],
    }
    for words, attempts in spoiling.items():
        for attempt in attempts:
            one.begin_capture()
            refusal(twin.cuda.runtime.CUDARuntimeError, words, attempt)
            refusal(RuntimeError, "has invalidated the capture sequence", one.is_capturing)
            refusal(twin.cuda.runtime.CUDARuntimeError, "CaptureInvalidated", one.end_capture)
    one.begin_capture()
    one.end_capture()
    refusal(RuntimeError, "without begin_capture", one.end_capture)
    refusal(ValueError, "use Stream.null", lambda: twin.cuda.Stream(null=True))


def test_captured_work_is_counted_when_it_runs(twin: Any) -> None:
    kernel = twin.RawModule(code=STEP).get_function("step")
    stream = twin.cuda.Stream(non_blocking=True)
    with stream:
        x, y, count = twin.ones(12, np.float32), twin.zeros(12, np.float32), twin.zeros(1, np.int32)
        twin.counters.reset()
        stream.begin_capture()
        kernel((1,), (32,), (x, y, np.float32(1), count, np.int32(12)))
        y *= np.float32(2)
        graph = stream.end_capture()
        assert twin.counters == type(twin.counters)()
        for _ in range(5):
            graph.launch()
        assert twin.counters == type(twin.counters)(graph_launches=5, graph_nodes=10)
        kernel((1,), (32,), (x, y, np.float32(1), count, np.int32(12)))
        assert twin.counters.kernel_launches == 1


# Kernels with shared memory


@pytest.mark.parametrize("name", RUNS)
def test_a_kernel_whose_threads_work_together_gives_numpy_s_numbers(xp: Any, name: str) -> None:
    code = (Path(__file__).with_name("kernels") / f"{name}.cu").read_text()
    module = xp.RawModule(code=code, options=("--std=c++17",))

    def launch(kernel: str, grid: Any, block: Any, args: Any, **options: Any) -> None:
        values = [xp.asarray(value) if isinstance(value, np.ndarray) else value for value in args]
        module.get_function(kernel)(grid, block, tuple(values), **options)
        for host, value in zip(args, values, strict=True):
            if isinstance(host, np.ndarray):
                host[...] = value.get()

    RUNS[name](launch)


def test_more_shared_memory_than_48_kib_must_be_asked_for(xp: Any) -> None:
    code = """extern "C" __global__ void last(float* y, int n) {
        extern __shared__ float values[];
        __shared__ float fixed[16];
        for (int i = threadIdx.x; i < n; i += blockDim.x) values[i] = i;
        fixed[threadIdx.x % 16] = 0.0f;
        __syncthreads();
        if (threadIdx.x == 0) y[0] = values[n - 1] + fixed[0];
    }"""
    kernel, y = xp.RawModule(code=code).get_function("last"), xp.zeros(1, np.float32)
    n = 15 << 10

    def launch() -> None:
        kernel((1,), (16,), (y, np.int32(n)), shared_mem=4 * n)

    refusal(RuntimeError, "", launch)
    assert kernel.attributes["shared_size_bytes"] == kernel.shared_size_bytes
    kernel.max_dynamic_shared_size_bytes = 4 * n
    assert kernel.max_dynamic_shared_size_bytes == 4 * n
    launch()
    assert float(y[0]) == n - 1
    with pytest.raises(RuntimeError):
        kernel.max_dynamic_shared_size_bytes = 300 << 10


def test_what_the_twin_does_not_know_of_a_kernel_is_minus_one(twin: Any) -> None:
    code = 'extern "C" __global__ void __launch_bounds__(128) f(int* y) { y[threadIdx.x] = 1; }'
    attributes = twin.RawModule(code=code).get_function("f").attributes
    assert attributes["max_dynamic_shared_size_bytes"] == 48 << 10
    assert attributes["max_threads_per_block"] == 128
    assert attributes["num_regs"] == -1
    assert len(attributes) == 10


def test_the_twin_s_shared_memory_is_its_architecture_s() -> None:
    for name, most in (("sm_75", 64 << 10), ("sm_90", 227 << 10)):
        properties = make_twin(architecture=name).cuda.runtime.getDeviceProperties(0)
        assert properties["sharedMemPerBlockOptin"] == most
        assert f"sm_{properties['major']}{properties['minor']}" == name


# Devices and their memory


def test_the_runtime_answers_for_its_devices() -> None:
    cuda = make_twin(devices=2).cuda
    assert cuda.runtime.getDeviceCount() == 2
    assert cuda.runtime.getDeviceProperties(1)["name"] == b"Emulated GPU"
    with cuda.Device(1) as selected:
        assert cuda.runtime.getDevice() == cuda.Device().id == 1
        selected.synchronize()
    assert cuda.runtime.getDevice() == 0
    cuda.Device(1).use()
    assert cuda.runtime.getDevice() == 1
    for ask in (cuda.runtime.getDeviceProperties, lambda n: cuda.Device(n).use()):
        with pytest.raises(cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidDevice"):
            ask(2)
    absent = make_twin(devices=0).cuda
    for attempt in (absent.runtime.getDeviceCount, absent.Stream):
        with pytest.raises(RuntimeError, match="cudaErrorNoDevice"):
            attempt()


def test_memory_is_finite_and_given_back() -> None:
    twin = make_twin(memory=8192)
    assert twin.cuda.Device().mem_info == (8192, 8192)
    a = twin.zeros(1000, np.float32)
    view = a[:3]
    assert twin.cuda.Device().mem_info == (8192 - 4096, 8192)
    with pytest.raises(twin.cuda.memory.OutOfMemoryError, match=r"allocating 4,608 bytes \(allocated so far: 4,096"):
        twin.zeros(1025, np.float32)
    b = twin.zeros(1024, np.float32)
    del a, b
    gc.collect()
    assert twin.cuda.Device().mem_info == (8192 - 4096, 8192)
    assert view.get().tolist() == [0, 0, 0]
    del view
    gc.collect()
    assert twin.cuda.Device().mem_info == (8192, 8192)
