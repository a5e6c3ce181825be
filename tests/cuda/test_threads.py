"""What the emulator promises of threads that work together: barriers, warps, shared memory, atomics, and misuse."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pytest

from tests.cuda import emulator, gxx
from tests.cuda.architectures import ARCHITECTURES
from tests.cuda.snippets import kernel

pytestmark = pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))

every_order = pytest.mark.parametrize("order", emulator.ORDERS)


C_TYPES = {
    "i4": "int",
    "u4": "unsigned",
    "f4": "float",
    "f8": "double",
    "u8": "unsigned long long",
    "i8": "long long",
}


def run(
    body: str, out: np.ndarray, block: tuple[int, ...], order: str = "forward", seed: int = 0, table: Iterable[str] = ()
) -> np.ndarray:
    """One block of such statements over `T* out`, T being out's type."""
    function = kernel(body, f"{C_TYPES[out.dtype.str[1:]]}* out", table)
    function((1,), block, (out,), order=order, seed=seed)
    return out


# Barriers


@every_order
@pytest.mark.parametrize("block", [(7,), (64,), (8, 5), (4, 3, 2), (1024,)])
def test_after_a_barrier_every_thread_sees_what_all_wrote_before(block: tuple[int, ...], order: str) -> None:
    body = """
        __shared__ int values[1024];
        const int n = blockDim.x * blockDim.y * blockDim.z;
        for (int round = 0; round < 3; ++round) {
            values[t] = 100 * round + t;
            __syncthreads();
            out[round * n + t] = values[n - 1 - t];
            __syncthreads();
        }"""
    n = int(np.prod(block))
    out = run(body, np.zeros(3 * n, np.int32), block, order)
    np.testing.assert_array_equal(out, np.concatenate([100 * k + np.arange(n)[::-1] for k in range(3)]))


@every_order
def test_a_barrier_counts_and_combines_a_predicate(order: str) -> None:
    body = """
        out[4 * t] = __syncthreads_count(t % 3 == 0);
        out[4 * t + 1] = __syncthreads_and(t < 39) + 2 * __syncthreads_and(t < 40);
        out[4 * t + 2] = __syncthreads_or(t == 40) + 2 * __syncthreads_or(t == 39);
        out[4 * t + 3] = __syncthreads_count(0);"""
    out = run(body, np.zeros((40, 4), np.int32), (40,), order)
    assert (out == [14, 2, 2, 0]).all()


def trace_after_barriers(order: str, seed: int = 0) -> np.ndarray:
    body = """
        for (int round = 0; round < 3; ++round) {
            out[1 + 8 * round + atomicAdd(out, 1) % 8] = t;
            __syncthreads();
        }"""
    return run(body, np.zeros(25, np.int32), (8,), order, seed=seed)[1:].reshape(3, 8)


def test_between_barriers_threads_run_in_the_order_asked_for_and_a_random_one_is_drawn_anew() -> None:
    assert (trace_after_barriers("forward") == np.arange(8)).all()
    assert (trace_after_barriers("reverse") == np.arange(8)[::-1]).all()
    random = trace_after_barriers("random", seed=5)
    assert (np.sort(random) == np.arange(8)).all()
    assert len({tuple(row) for row in random.tolist()}) == 3
    assert (random == trace_after_barriers("random", seed=5)).all()
    assert (random != trace_after_barriers("random", seed=6)).any()


APART = {
    "if (t < 40) __syncthreads();": ("of 64 threads 40 wait for ever (40 at __syncthreads in line 2) and 24 have"),
    "if (t == 5) return;\n__syncthreads();": ("63 wait for ever (63 at __syncthreads in line 3) and 1 have left"),
    "if (t < 8) __syncthreads();\nelse\n__syncthreads();": ("8 at __syncthreads in line 2, 56 at __syncthreads in"),
    "if (t % 2) __syncthreads(); else __syncwarp();": ("32 at __syncwarp in line 2 with mask 0xffffffff, 32 at __sync"),
    "if (t < 32) __syncthreads_or(1); else __syncthreads_and(1);": ("32 at __syncthreads_or in line 2, 32 at"),
    "for (int i = 0; i < t; ++i) __syncthreads();": ("63 wait for ever (63 at __syncthreads in line 2) and 1 have"),
    "if (t % 2) __syncwarp();\n__syncwarp();": (
        "16 at __syncwarp in line 3 with mask 0xffffffff, 16 at __syncwarp in line 2"
    ),
    "__syncwarp(t < 8 ? 0xffu : ~0u);\n__syncwarp();": (
        "8 at __syncwarp in line 3 with mask 0xffffffff, 24 at __syncwarp in line 2"
    ),
    "if (t % 2) __syncwarp(); else out[0] = __any_sync(0xffffffffu, 1);\n__syncwarp();": ("16 at __any_sync"),
    "__syncwarp(0xfffffffe);\n__syncwarp();": ("lane 0 is not in its own mask 0xfffffffe"),
}


@pytest.mark.parametrize("body", APART)
def test_threads_that_do_not_meet_are_an_error_and_no_hang(body: str) -> None:
    block = (64,) if "__syncthreads" in body else (32,)
    with pytest.raises(emulator.BarrierError) as failure:
        kernel(body, "int* out", APART)((3,), block, (np.zeros(1, np.int32),), order="reverse")
    assert APART[body] in str(failure.value)
    assert re.match(r"kernel 'f\d+', line [23]: ", str(failure.value))
    assert "block (2, 0, 0)" in str(failure.value)


def test_after_a_failure_the_emulator_runs_the_next_kernel() -> None:
    for _ in range(3):
        with pytest.raises(emulator.BarrierError):
            kernel("if (t) __syncthreads();", "int* out")((1,), (1024,), (np.zeros(1, np.int32),))
    assert run("__syncthreads(); atomicAdd(out, 1);", np.zeros(1, np.int32), (1024,))[0] == 1024


# Warps


SHUFFLES = {
    "__shfl_sync(0xffffffffu, t, 5)": lambda t: t // 32 * 32 + 5,
    "__shfl_sync(0xffffffffu, t, t + 1)": lambda t: t // 32 * 32 + (t + 1) % 32,
    "__shfl_sync(0xffffffffu, t, 9, 8)": lambda t: t // 8 * 8 + 1,
    "__shfl_up_sync(0xffffffffu, t, 3)": lambda t: np.where(t % 32 < 3, t, t - 3),
    "__shfl_up_sync(0xffffffffu, t, 1, 4)": lambda t: np.where(t % 4 < 1, t, t - 1),
    "__shfl_down_sync(0xffffffffu, t, 3)": lambda t: np.where(t % 32 > 28, t, t + 3),
    "__shfl_down_sync(0xffffffffu, t, 2, 16)": lambda t: np.where(t % 16 > 13, t, t + 2),
    "__shfl_xor_sync(0xffffffffu, t, 1)": lambda t: t ^ 1,
    "__shfl_xor_sync(0xffffffffu, t, 16)": lambda t: t ^ 16,
    "(int)__shfl_down_sync(0xffffffffu, (float)t, 1)": lambda t: np.where(t % 32 > 30, t, t + 1),
    "(int)(__shfl_xor_sync(0xffffffffu, t + 1e9, 7) - 1e9)": lambda t: t ^ 7,
    "(int)__shfl_sync(0xffffffffu, t + 0x100000000ull, 3)": lambda t: t // 32 * 32 + 3,
}


@every_order
@pytest.mark.parametrize("expression", SHUFFLES)
@pytest.mark.parametrize("block", [(64,), (16, 4)])
def test_a_shuffle_gives_each_lane_its_source_s_value(expression: str, block: tuple[int, ...], order: str) -> None:
    table = [f"out[t] = {each};" for each in SHUFFLES]
    out = run(f"out[t] = {expression};", np.zeros(64, np.int32), block, order, table=table)
    np.testing.assert_array_equal(out, SHUFFLES[expression](np.arange(64)))


@every_order
def test_votes_are_of_the_lanes_in_the_mask(order: str) -> None:
    body = """
        out[4 * t] = __ballot_sync(0xffffffffu, t % 3 == 0);
        out[4 * t + 1] = __any_sync(0xffffffffu, t == 40) + 2 * __all_sync(0xffffffffu, t < 40);
        if (t % 2) out[4 * t + 2] = __ballot_sync(0xaaaaaaaau, t % 32 < 8);
        else out[4 * t + 2] = __ballot_sync(0x55555555u, t % 32 < 8);
        out[4 * t + 3] = __popc(__ballot_sync(0xffffffffu, 1));"""
    out = run(body, np.zeros((64, 4), np.uint32), (64,), order)
    bits = 1 << (np.arange(64) % 32)
    thirds = [int(bits[w : w + 32][np.arange(w, w + 32) % 3 == 0].sum()) for w in (0, 32)]
    assert out[:, 0].tolist() == [thirds[0]] * 32 + [thirds[1]] * 32
    assert out[:, 1].tolist() == [2] * 32 + [1] * 32
    assert out[:, 2].tolist() == [0x55, 0xAA] * 32
    assert (out[:, 3] == 32).all()


@every_order
def test_lanes_that_have_left_are_not_waited_for_and_give_nothing_to_a_shuffle(order: str) -> None:
    body = """
        if (t % 32 >= 8) return;
        out[t] = __shfl_down_sync(0xffffffffu, 1.0f, 4);
        __syncwarp();"""
    out = run(body, np.zeros(8, np.float32), (32,), order)
    assert (out[:4] == 1).all()
    assert np.isnan(out[4:]).all()


@every_order
def test_the_last_warp_may_be_a_part_of_one(order: str) -> None:
    body = """
        float sum = 1.0f;
        for (int by = 16; by > 0; by /= 2) {
            sum += __shfl_xor_sync(t < 32 ? 0xffffffffu : 0xffu, sum, by, t < 32 ? 32 : 8);
        }
        out[t] = sum;"""
    out = run(body, np.zeros(40, np.float32), (40,), order)
    assert (out[:32] == 32).all()
    assert (out[32:] == 32).all()  # 16 and 8 are beyond the eight lanes: each adds its own value


# Shared memory


def test_two_texts_do_not_share_the_static_memory_of_an_inline_function() -> None:
    for length in (40, 50):  # the second text's function has the first one's name, and more to keep
        code = f"""
            __device__ __forceinline__ int turned(int t) {{
                __shared__ int values[{length}];
                values[t] = t;
                __syncthreads();
                return values[{length} - 1 - t];
            }}
            extern "C" __global__ void f(int* out) {{ out[threadIdx.x] = turned(threadIdx.x); }}"""
        out = np.zeros(length, np.int32)
        emulator.load(code).get_function("f")((1,), (length,), (out,))
        np.testing.assert_array_equal(out, np.arange(length)[::-1])


@every_order
def test_shared_memory_is_poisoned_before_every_block(order: str) -> None:
    code = """
    extern "C" __global__ void f(float* out) {
        __shared__ float fixed[32];
        extern __shared__ float sized[];
        out[64 * blockIdx.x + threadIdx.x] = fixed[threadIdx.x];
        out[64 * blockIdx.x + 32 + threadIdx.x] = sized[threadIdx.x];
        fixed[threadIdx.x] = sized[threadIdx.x] = 1.0f;
    }"""
    out = np.zeros(3 * 64, np.float32)
    emulator.load(code).get_function("f")((3,), (32,), (out,), shared_mem=128, order=order)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    "declaration",
    [
        "extern __shared__ T sized[];",
        "extern __shared__  unsigned char  sized [ ] ;",
        "extern __shared__ __align__(16) float sized[];",
        "extern __shared__ long long sized[];",
    ],
)
def test_dynamic_shared_memory_is_declared_as_in_cuda(declaration: str) -> None:
    code = f"""typedef float T;
    extern "C" __global__ void f(float* out) {{
        {declaration}
        float* values = reinterpret_cast<float*>(sized);
        values[threadIdx.x] = threadIdx.x;
        __syncthreads();
        out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
    }}"""
    out = np.zeros(8, np.float32)
    emulator.load(code).get_function("f")((1,), (8,), (out,), shared_mem=32)
    assert out.tolist() == [*range(7, -1, -1)]


def test_too_much_shared_memory_is_refused() -> None:
    code = """extern "C" __global__ void f(float* out) {
        __shared__ float fixed[1024];
        extern __shared__ float sized[];
        out[0] = fixed[blockIdx.x] + sized[blockIdx.x];
    }"""
    out = (np.zeros(1, np.float32),)
    for name, most in (("sm_75", 64), ("sm_80", 163), ("sm_86", 99), ("sm_90", 227), ("sm_120", 99)):
        f = emulator.load(code).get_function("f", ARCHITECTURES[name])
        assert (f.shared_size_bytes, f.max_dynamic_shared_size_bytes) == (4096, 44 << 10)
        f((1,), (1,), out, shared_mem=44 << 10)
        with pytest.raises(emulator.LaunchError, match=r"45057 bytes of dynamic .* limit is 45056, beside 4096 static"):
            f((1,), (1,), out, shared_mem=(44 << 10) + 1)
        f.max_dynamic_shared_size_bytes = (most - 4) << 10
        f((1,), (1,), out, shared_mem=(most - 4) << 10)
        with pytest.raises(emulator.LaunchError, match=f"{name} has"):
            f.max_dynamic_shared_size_bytes = ((most - 4) << 10) + 1
    with pytest.raises(gxx.CompileError, match="49156 bytes of static shared memory"):
        emulator.load('extern "C" __global__ void f(int* y) { __shared__ int x[12289]; y[0] = x[threadIdx.x]; }')


# Atomics

ATOMICS = {
    ("atomicAdd(out, (int)t)", "i4"): (7, 7 + 499500),
    ("atomicAdd(out, 0xffffffffu)", "u4"): (7, 2**32 - 993),
    ("atomicAdd(out, 1ull << 40)", "u8"): (7, 7 + 1000 * 2**40),
    ("atomicAdd(out, 0.5f)", "f4"): (7, 507),
    ("atomicAdd(out, 0.5)", "f8"): (7, 507),
    ("atomicMax(out, t)", "i4"): (-7, 999),
    ("atomicMin(out, -t)", "i4"): (7, -999),
    ("atomicMax(out, (unsigned)t)", "u4"): (7, 999),
    ("atomicMin(out, (long long)-t)", "i8"): (7, -999),
    ("atomicExch(out, 3)", "i4"): (7, 3),
    ("int old = 0, seen; while ((seen = atomicCAS(out, old, old + 2)) != old) old = seen", "i4"): (0, 2000),
}


@every_order
@pytest.mark.parametrize(("statement", "dtype"), ATOMICS)
def test_an_atomic_is_lost_by_no_thread(statement: str, dtype: str, order: str) -> None:
    start, expected = ATOMICS[statement, dtype]
    table = [f"{each};" for each, of in ATOMICS if of == dtype]
    assert run(f"{statement};", np.full(1, start, dtype), (1000,), order, table=table)[0] == expected


@pytest.mark.parametrize(
    "call", ["atomicAdd(x, 1ll)", "atomicMax(y, 1.0f)", "atomicCAS(y, 0.0f, 1.0f)", "atomicInc(x)"]
)
def test_an_atomic_that_cuda_has_not_does_not_compile(call: str) -> None:
    with pytest.raises(gxx.CompileError):
        kernel(f"{call};", "long long* x, float* y")


# The language


def test_vector_types_and_intrinsics_are_cuda_s() -> None:
    body = """
        const float4 v = reinterpret_cast<const float4*>(x)[t];
        const float2 w = make_float2(__fmaf_rn(v.x, 2.0f, v.y), fmaf(v.z, 3.0f, v.w));
        reinterpret_cast<float2*>(y)[t] = w;
        y[16 + t] = __ldg(x + t) + rsqrtf(4.0f) + max(v.x, v.y) + min(2.0f, (float)warpSize);
        y[24 + t] = __int_as_float(__float_as_int(v.w)) + __popc(7u) + __ffs(8) + __clz(1);
        __threadfence();"""
    x, y = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    kernel(body, "const float* __restrict__ x, float* __restrict__ y")((1,), (8,), (x, y))
    v = x.reshape(8, 4)
    np.testing.assert_array_equal(y[:16].reshape(8, 2), np.stack([v[:, 0] * 2 + v[:, 1], v[:, 2] * 3 + v[:, 3]], 1))
    np.testing.assert_array_equal(y[16:24], x[:8] + 0.5 + v[:, 1] + 2)
    np.testing.assert_array_equal(y[24:], v[:, 3] + 3 + 4 + 31)


def test_max_and_min_of_floating_point_drop_a_nan_as_cuda_s_do() -> None:
    body = "out[0] = max(out[2], 1.0f); out[1] = min(1.0f, out[2]);"
    assert run(body, np.full(3, np.nan, np.float32), (1,))[:2].tolist() == [1, 1]


def test_launch_bounds_are_a_limit() -> None:
    code = """
    constexpr int THREADS = 64;
    extern "C" __global__ void __launch_bounds__(THREADS, 2) f(int* out) { atomicAdd(out, 1); }
    extern "C" __global__ __launch_bounds__(2 * THREADS) void g(int* out) { atomicAdd(out, 1); }
    extern "C" __global__ void h(int* out) { atomicAdd(out, 1); }"""
    out = np.zeros(1, np.int32)
    for name, most in (("f", 64), ("g", 128), ("h", 1024)):
        bounded = emulator.load(code).get_function(name)
        assert bounded.max_threads_per_block == most
        bounded((1,), (most,), (out,))
        with pytest.raises(emulator.LaunchError, match=f"has {most + 2} threads; the limit is {most}"):
            bounded((1,), (most // 2 + 1, 2), (out,))
    assert out[0] == 64 + 128 + 1024
