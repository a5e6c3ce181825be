"""What the kernel emulator promises, and that its checks can fail."""

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cuda import emulator, gxx

pytestmark = pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))

SCALE = """
extern "C" __global__ void scale(const {T}* __restrict__ x, {T}* __restrict__ y, {T} factor, int n) {{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = factor * x[i];
}}
"""
TRACE = """
extern "C" __global__ void trace(int* seen, int* next, int width) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    seen[atomicAdd(next, 1)] = block * width + thread;
}
"""
TYPES = """
extern "C" __global__ void types(const float* x, long long n, unsigned bits, bool flag, double rate, int m) {}
"""


def trace(order: str, grid: tuple[int, ...], block: tuple[int, ...], seed: int = 0) -> list[int]:
    """The threads of a launch by linear number, in the order in which they ran."""
    width = int(np.prod(block))
    seen = np.full(int(np.prod(grid)) * width, -1, np.int32)
    kernel = emulator.load(TRACE).get_function("trace")
    kernel(grid, block, (seen, np.zeros(1, np.int32), np.int32(width)), order=order, seed=seed)
    return seen.tolist()


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("n", [1, 31, 257, 1003])
@pytest.mark.parametrize(("name", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_a_kernel_gives_numpys_result_in_every_order(name, dtype, n, order):
    x = np.random.default_rng(n).standard_normal(n).astype(dtype)
    y = np.full(n + 1, np.nan, dtype)
    kernel = emulator.load(SCALE.format(T=name)).get_function("scale")
    kernel(((n + 63) // 64,), (64,), (x, y, dtype(1.7), np.int32(n)), order=order)
    np.testing.assert_array_equal(y, np.append(dtype(1.7) * x, dtype(np.nan)))


@pytest.mark.parametrize("function", ["exp", "expm1", "log", "log1p", "sqrt", "tanh", "fabs"])
@pytest.mark.parametrize(("name", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_mathematical_functions_keep_their_arguments_precision(name, dtype, function):
    code = f'extern "C" __global__ void f({name}* x) {{ x[threadIdx.x] = {function}(x[threadIdx.x]); }}'
    x = np.linspace(0.1, 3, 101, dtype=dtype)
    expected = getattr(np, function)(x)
    emulator.load(code).get_function("f")((1,), (x.size,), (x,))
    np.testing.assert_allclose(x, expected, rtol=4 * np.finfo(dtype).eps)


def test_each_thread_of_a_three_dimensional_launch_runs_once():
    for order in emulator.ORDERS:
        assert sorted(trace(order, (3, 2, 5), (4, 3, 2))) == list(range(30 * 24))


def test_threads_and_blocks_run_in_the_order_asked_for():
    forward = list(range(7 * 5))
    assert trace("forward", (7,), (5,)) == forward
    assert trace("reverse", (7,), (5,)) == forward[::-1]
    first = trace("random", (7,), (5,), seed=1)
    assert first == trace("random", (7,), (5,), seed=1)
    blocks = [i // 5 for i in first[::5]]
    assert blocks != sorted(blocks)
    assert first[:5] != sorted(first[:5])
    assert first != trace("random", (7,), (5,), seed=2)


GOOD = [np.zeros(3, np.float32), 5, np.uint32(1), True, 0.5, np.int32(2)]


def test_python_scalars_have_cupys_widths():
    emulator.load(TYPES).get_function("types")((1,), (1,), GOOD)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros(3), "argument 0 is float64*, but the kernel takes float32*"),
        (0, np.zeros(3, ">f4"), "argument 0 is float32*, but the kernel takes float32*"),
        (0, np.zeros((4, 4), np.float32).T[1:], "argument 0 is not C-contiguous"),
        (0, np.zeros(6, np.float32)[::2], "argument 0 is not C-contiguous"),
        (0, np.float32(1), "argument 0 is float32, but the kernel takes float32*"),
        (0, [1.0, 2.0], "argument 0 has the unsupported type"),
        (0, None, "argument 0 has the unsupported type"),
        (1, np.int32(5), "argument 1 is int32, but the kernel takes int64"),
        (1, np.zeros(1, np.int64), "argument 1 is int64*, but the kernel takes int64"),
        (2, np.int32(5), "argument 2 is int32, but the kernel takes uint32"),
        (3, 1, "argument 3 is int64, but the kernel takes bool"),
        (4, np.float32(0.5), "argument 4 is float32, but the kernel takes float64"),
        (4, 1, "argument 4 is int64, but the kernel takes float64"),
        (5, 2, "argument 5 is int64, but the kernel takes int32"),
    ],
)
def test_an_argument_of_another_type_is_refused(position, value, message):
    args = [*GOOD]
    args[position] = value
    with pytest.raises(TypeError) as refusal:
        emulator.load(TYPES).get_function("types")((1,), (1,), args)
    assert message in str(refusal.value)


def test_a_missing_or_surplus_argument_is_refused():
    kernel = emulator.load(TYPES).get_function("types")
    for args in (GOOD[:-1], [*GOOD, 1]):
        with pytest.raises(TypeError, match="takes 6 arguments"):
            kernel((1,), (1,), args)


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((0,), (1,)),
        ((1, 0), (1,)),
        ((-1,), (1,)),
        ((1, 65536), (1,)),
        ((), (1,)),
        ((1, 1, 1, 1), (1,)),
        ((1,), (0,)),
        ((1,), (1025,)),
        ((1,), (33, 32)),
        ((1,), (1, 1, 65)),
    ],
)
def test_a_launch_that_cuda_refuses_is_refused(grid, block):
    with pytest.raises(emulator.LaunchError):
        emulator.load(TYPES).get_function("types")(grid, block, GOOD)


def test_grid_and_block_are_tuples_and_the_order_is_known():
    kernel = emulator.load(TYPES).get_function("types")
    with pytest.raises(TypeError, match="grid must be a tuple"):
        kernel([1], (1,), GOOD)
    with pytest.raises(TypeError, match="block must be a tuple"):
        kernel((1,), 32, GOOD)
    with pytest.raises(ValueError, match="order is 'backward'"):
        kernel((1,), (1,), GOOD, order="backward")


@pytest.mark.parametrize(
    "statement",
    [
        "x[0] = y[0];",
        "x[0] = INFINITY;",
        "x[0] = std::exp(x[0]);",
        "uint32_t n = 1; x[0] = (float)n;",
        "x[0] = x[1] * 2.0;",
        "int unused = 1;",
        "threadIdx.x = 1;",
        "__nanosleep(1);",
        "wmma::fragment a;",
        "x[0] = __activemask();",
    ],
)
def test_what_nvrtc_or_the_emulator_does_not_know_does_not_compile(statement):
    code = f'extern "C" __global__ void f(float* x) {{ {statement} }}'
    with pytest.raises(gxx.CompileError, match=r"kernel\.cu:1"):
        emulator.load(code)


def test_a_parameter_that_is_no_number_does_not_compile():
    with pytest.raises(gxx.CompileError, match="a kernel parameter is a number"):
        emulator.load('extern "C" __global__ void f(float** x) { x[0][0] = 1.0f; }')


def test_only_extern_c_kernels_are_found():
    module = emulator.load("""
        #define DECLARE(name) extern "C" __global__ void __launch_bounds__(64) name(float* x) { x[0] = 1.0f; }
        DECLARE(by_macro)
        extern "C" __global__ __launch_bounds__(64, 2) void bounded(float* x) { x[0] = 1.0f; }
        extern "C" __device__ float helper(float x) { return x; }
        __global__ void mangled(float* x) { x[0] = helper(1.0f); }
        template <typename T> __global__ void generic(T* x) { x[0] = T(1); }
        // extern "C" __global__ void in_a_comment(float* x) {}
    """)
    for name in ("by_macro", "bounded"):
        assert [str(p) for p in module.get_function(name).parameters] == ["float32*"]
    for name in ("helper", "mangled", "generic", "in_a_comment", "exp"):
        with pytest.raises(LookupError, match=name):
            module.get_function(name)


def test_a_kernel_named_as_a_library_function_is_our_own():
    code = 'extern "C" __global__ void flock(int* x) { x[0] = 7; }'
    x = np.zeros(1, np.int32)
    emulator.load(code).get_function("flock")((1,), (1,), (x,))
    assert x[0] == 7


def test_options_define_macros_and_unknown_ones_are_refused():
    code = 'extern "C" __global__ void f(int* x) { x[0] = WIDTH; }'
    x = np.zeros(1, np.int32)
    emulator.load(code, ("-std=c++17", "-DWIDTH=12", "--fmad=false")).get_function("f")((1,), (1,), (x,))
    assert x[0] == 12
    with pytest.raises(ValueError, match="-Ifolder"):
        emulator.load(code, ("-Ifolder",))


def test_denormal_numbers_are_flushed_in_single_precision_where_the_option_says():
    code = """extern "C" __global__ void twice(const T* x, T* y) { y[0] = T(2) * x[0]; y[1] = T(0.125) * x[1]; }"""
    for dtype, name in ((np.float32, "float"), (np.float64, "double")):
        smallest = np.finfo(dtype).tiny
        x = np.array([smallest / 8, smallest], dtype)
        for flush in (False, True):
            y = np.full(2, np.nan, dtype)
            options = ("-ftz=true",) if flush else ()
            emulator.load(code.replace("T", name), options).get_function("twice")((1,), (1,), (x, y))
            expected = [0, 0] if flush and dtype == np.float32 else [smallest / 4, smallest / 8]
            np.testing.assert_array_equal(y, np.array(expected, dtype))
        assert np.multiply(x[0], dtype(2)) == smallest / 4, "the processor's mode is as before"


def test_a_compiled_text_is_kept_on_disk_by_everything_it_depends_on(tmp_path, monkeypatch):
    monkeypatch.setenv("NNFAST_CACHE_DIR", str(tmp_path))
    code = SCALE.format(T="float")
    forget = emulator.load.cache_clear

    def libraries() -> set[Path]:
        return set(tmp_path.rglob("*.so"))

    forget()
    emulator.load(code)
    assert len(libraries()) == 2  # the kernel's, and the one that runs it
    assert {path.parent for path in libraries()} == {tmp_path / "cuda_on_cpu"}

    with monkeypatch.context() as patch:
        patch.setattr(gxx, "run", lambda *arguments, **options: pytest.fail(f"g++ {arguments}"))
        forget()
        emulator.load(code).get_function("scale")

    emulator.load(code, ("-DOTHER",))
    assert len(libraries()) == 3
    folder = tmp_path / "edited"
    shutil.copytree(emulator._FOLDER, folder)
    monkeypatch.setattr(emulator, "_FOLDER", folder)
    for edited, more in (("cuda_on_cpu.h", 1), ("memory_check.cpp", 2)):  # kernels are linked against the latter
        before = len(libraries())
        with (folder / edited).open("a") as text:
            text.write("// edited\n")
        forget()
        emulator.load(code)
        assert len(libraries()) == before + more
    forget()


def test_a_missing_compiler_is_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "g++ is not installed" in str(gxx.available())


def test_launches_hold_the_interpreters_lock():
    # threadIdx and its like exist once per library, so two launches at the same time would mix them up.
    assert isinstance(emulator.load(TYPES).library, ctypes.PyDLL)
