// cuda_on_cpu.h - what a CUDA C kernel sees when g++ compiles its text as C++17.
//
// Declarations only: threads, barriers and warps are run by execution.cpp, and every access to memory is judged by
// memory_check.cpp. A kernel that names anything else of CUDA (textures, cooperative groups, asynchronous copies,
// tensor cores) does not compile, which is the refusal.
#pragma once
#include <stddef.h>

#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// One object for all threads, poisoned before each block. emulator.py writes `extern __shared__` another way.
#define __shared__ static __attribute__((section("cuda_shared")))

struct uint3 { unsigned int x, y, z; };
struct dim3 { unsigned int x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned int x, y; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };

static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern "C" {
// Constant within a thread; execution.cpp, where they are not const, sets them for each.
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
extern char* const cuda_on_cpu_dynamic_shared;

int cuda_on_cpu_lane();
int cuda_on_cpu_meet_block(int meeting, int predicate, int line);
unsigned long long cuda_on_cpu_meet_warp(int meeting, unsigned mask, unsigned long long value, int lane, int line);
void cuda_on_cpu_atomic(void* address, size_t size, void* code);
}
[[maybe_unused]] static const int warpSize = 32;

// For what is no part of a kernel.
#define CUDA_ON_CPU_UNCHECKED __attribute__((no_sanitize("thread,undefined")))

// Mathematical functions: C's, under one name for both types. The headers that declare them take longer to compile than
// most kernels.

#define CUDA_ON_CPU_MATH(name, parameters, parameters_f, arguments)       \
    extern "C" double name parameters;                                    \
    extern "C" float name##f parameters_f;                                \
    static inline float name parameters_f { return name##f arguments; }
#define CUDA_ON_CPU_MATH_1(name) CUDA_ON_CPU_MATH(name, (double x), (float x), (x))
#define CUDA_ON_CPU_MATH_2(name) CUDA_ON_CPU_MATH(name, (double x, double y), (float x, float y), (x, y))
CUDA_ON_CPU_MATH_1(exp)
CUDA_ON_CPU_MATH_1(exp2)
CUDA_ON_CPU_MATH_1(expm1)
CUDA_ON_CPU_MATH_1(log)
CUDA_ON_CPU_MATH_1(log2)
CUDA_ON_CPU_MATH_1(log1p)
CUDA_ON_CPU_MATH_1(sqrt)
CUDA_ON_CPU_MATH_1(sin)
CUDA_ON_CPU_MATH_1(cos)
CUDA_ON_CPU_MATH_1(tanh)
CUDA_ON_CPU_MATH_1(erf)
CUDA_ON_CPU_MATH_1(floor)
CUDA_ON_CPU_MATH_1(ceil)
CUDA_ON_CPU_MATH_1(round)
CUDA_ON_CPU_MATH_1(trunc)
CUDA_ON_CPU_MATH_1(fabs)
CUDA_ON_CPU_MATH_2(pow)
CUDA_ON_CPU_MATH_2(fmod)
CUDA_ON_CPU_MATH_2(fmax)
CUDA_ON_CPU_MATH_2(fmin)
CUDA_ON_CPU_MATH(fma, (double x, double y, double z), (float x, float y, float z), (x, y, z))
#undef CUDA_ON_CPU_MATH_2
#undef CUDA_ON_CPU_MATH_1
#undef CUDA_ON_CPU_MATH
extern "C" int abs(int x);
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
template <class T> static inline bool isnan(T x) { return __builtin_isnan(x); }
template <class T> static inline bool isinf(T x) { return __builtin_isinf(x) != 0; }
template <class T> static inline bool isfinite(T x) { return __builtin_isfinite(x); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
// Two arguments of one type; for floating point they are fmax and fmin, which drop a NaN.
template <class T> static inline T max(T a, T b) {
    if constexpr (std::is_floating_point<T>::value) return fmax(a, b);
    return a > b ? a : b;
}
template <class T> static inline T min(T a, T b) {
    if constexpr (std::is_floating_point<T>::value) return fmin(a, b);
    return a < b ? a : b;
}

template <class To, class From> static inline To cuda_on_cpu_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "the same bits under another type");
    To result;
    __builtin_memcpy(&result, &value, sizeof result);
    return result;
}
static inline int __float_as_int(float x) { return cuda_on_cpu_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return cuda_on_cpu_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return cuda_on_cpu_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return cuda_on_cpu_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return cuda_on_cpu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return cuda_on_cpu_bits<double>(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
#define __ldg(address) (*(address))

// Barriers. The numbers are execution.cpp's Meeting.

#define __syncthreads() ((void)cuda_on_cpu_meet_block(0, 0, __LINE__))
#define __syncthreads_count(predicate) cuda_on_cpu_meet_block(1, (predicate) != 0, __LINE__)
#define __syncthreads_and(predicate) cuda_on_cpu_meet_block(2, (predicate) != 0, __LINE__)
#define __syncthreads_or(predicate) cuda_on_cpu_meet_block(3, (predicate) != 0, __LINE__)
// They order memory accesses of one thread as others see them; blocks run one by one, so nothing is left to order.
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)

// Warps

#define __syncwarp(...) cuda_on_cpu_syncwarp(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
static inline void cuda_on_cpu_syncwarp(int line, unsigned mask = ~0u) { cuda_on_cpu_meet_warp(4, mask, 0, 0, line); }

template <class T>
static inline T cuda_on_cpu_shuffle(int meeting, int line, unsigned mask, T value, int source) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles 4 or 8 bytes");
    unsigned long long word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    word = cuda_on_cpu_meet_warp(meeting, mask, word, source, line);
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
}
#define __shfl_sync(...) cuda_on_cpu_shfl(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) cuda_on_cpu_shfl_up(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) cuda_on_cpu_shfl_down(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) cuda_on_cpu_shfl_xor(__LINE__, __VA_ARGS__)
// A source outside the lane's segment of `width` lanes is the lane itself.
template <class T>
static inline T cuda_on_cpu_shfl(int line, unsigned mask, T value, int source, int width = 32) {
    const int lane = cuda_on_cpu_lane();
    return cuda_on_cpu_shuffle(5, line, mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
static inline T cuda_on_cpu_shfl_up(int line, unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = cuda_on_cpu_lane(), source = lane - static_cast<int>(by);
    return cuda_on_cpu_shuffle(6, line, mask, value, source < (lane & ~(width - 1)) ? lane : source);
}
template <class T>
static inline T cuda_on_cpu_shfl_down(int line, unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = cuda_on_cpu_lane(), source = lane + static_cast<int>(by);
    return cuda_on_cpu_shuffle(7, line, mask, value, source >= (lane & ~(width - 1)) + width ? lane : source);
}
template <class T>
static inline T cuda_on_cpu_shfl_xor(int line, unsigned mask, T value, int by, int width = 32) {
    const int lane = cuda_on_cpu_lane(), source = lane ^ by;
    return cuda_on_cpu_shuffle(8, line, mask, value, source >= (lane & ~(width - 1)) + width ? lane : source);
}
static inline unsigned cuda_on_cpu_vote(int meeting, int line, unsigned mask, bool predicate) {
    return static_cast<unsigned>(cuda_on_cpu_meet_warp(meeting, mask, predicate, 0, line));
}
#define __ballot_sync(mask, predicate) cuda_on_cpu_vote(9, __LINE__, mask, (predicate) != 0)
#define __any_sync(mask, predicate) int(cuda_on_cpu_vote(10, __LINE__, mask, (predicate) != 0))
#define __all_sync(mask, predicate) int(cuda_on_cpu_vote(11, __LINE__, mask, (predicate) != 0))

// Atomics, for the types that CUDA has them for. The check is told of one access and whence; the arithmetic wraps.

#define CUDA_ON_CPU_ATOMIC(name, T, result)                                                         \
    CUDA_ON_CPU_UNCHECKED __attribute__((noinline, unused))                                         \
    static T name(T* address, T value) {                                                            \
        cuda_on_cpu_atomic(address, sizeof(T), __builtin_return_address(0));                        \
        const T old = *address;                                                                     \
        *address = result;                                                                          \
        return old;                                                                                 \
    }
CUDA_ON_CPU_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
CUDA_ON_CPU_ATOMIC(atomicAdd, unsigned int, old + value)
CUDA_ON_CPU_ATOMIC(atomicAdd, unsigned long long, old + value)
CUDA_ON_CPU_ATOMIC(atomicAdd, float, old + value)
CUDA_ON_CPU_ATOMIC(atomicAdd, double, old + value)
CUDA_ON_CPU_ATOMIC(atomicMax, int, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMax, unsigned int, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMax, long long, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, int, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, unsigned int, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, long long, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicExch, int, value)
CUDA_ON_CPU_ATOMIC(atomicExch, unsigned int, value)
CUDA_ON_CPU_ATOMIC(atomicExch, unsigned long long, value)
CUDA_ON_CPU_ATOMIC(atomicExch, float, value)
#undef CUDA_ON_CPU_ATOMIC
#define CUDA_ON_CPU_ATOMIC_CAS(T)                                                                   \
    CUDA_ON_CPU_UNCHECKED __attribute__((noinline, unused))                                         \
    static T atomicCAS(T* address, T compare, T value) {                                            \
        cuda_on_cpu_atomic(address, sizeof(T), __builtin_return_address(0));                        \
        const T old = *address;                                                                     \
        if (old == compare) *address = value;                                                       \
        return old;                                                                                 \
    }
CUDA_ON_CPU_ATOMIC_CAS(int)
CUDA_ON_CPU_ATOMIC_CAS(unsigned int)
CUDA_ON_CPU_ATOMIC_CAS(unsigned long long)
#undef CUDA_ON_CPU_ATOMIC_CAS

// The entry points of a compiled text that emulator.py calls

namespace cuda_on_cpu {

// One parameter as NumPy names it, "f4" or "*f4": a wrong width is then found by the caller, not read as garbage. A
// pointer to const is "@f4": what it points to cannot have changed after a launch.
template <class Parameter>
CUDA_ON_CPU_UNCHECKED static char* write_type(char* end) {
    using Target = std::remove_pointer_t<Parameter>;
    using Value = std::remove_cv_t<Target>;
    constexpr bool is_number = std::is_arithmetic<Value>::value && sizeof(Value) <= 8;
    constexpr bool is_vector = std::is_class<Value>::value && std::is_pointer<Parameter>::value;
    static_assert(is_number || is_vector,
                  "a kernel parameter is a number, or a pointer to numbers or to a vector type");
    if (std::is_pointer<Parameter>::value) *end++ = std::is_const<Target>::value ? '@' : '*';
    if constexpr (is_vector) {
        using Element = std::remove_reference_t<decltype(Value::x)>;
        return write_type<Element>(end);
    }
    *end++ = std::is_same<Value, bool>::value            ? 'b'
             : std::is_floating_point<Value>::value ? 'f'
             : std::is_signed<Value>::value         ? 'i'
                                                    : 'u';
    *end++ = '0' + sizeof(Value);
    *end++ = ' ';
    return end;
}

template <class... Parameter>
CUDA_ON_CPU_UNCHECKED static const char* signature(void (*)(Parameter...)) {
    static char codes[4 * sizeof...(Parameter) + 1];
    [[maybe_unused]] char* end = codes;
    ((end = write_type<Parameter>(end)), ...);
    return codes;
}

// The arguments' places are the interpreter's memory, of which a kernel's checks know nothing.
template <class... Parameter, size_t... I>
CUDA_ON_CPU_UNCHECKED static void call(void (*kernel)(Parameter...), [[maybe_unused]] void** arguments,
                                       std::integer_sequence<size_t, I...>) {
    kernel(*static_cast<Parameter*>(arguments[I])...);
}
template <class... Parameter>
CUDA_ON_CPU_UNCHECKED static void call(void (*kernel)(Parameter...), void** arguments) {
    call(kernel, arguments, std::make_integer_sequence<size_t, sizeof...(Parameter)>{});
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_EXPORT(name, bound)                                                                     \
    extern "C" const char* cuda_on_cpu_signature_##name() { return cuda_on_cpu::signature(name); }          \
    extern "C" int cuda_on_cpu_bound_##name() { return bound; }                                             \
    extern "C" void cuda_on_cpu_thread_##name(void** arguments) { cuda_on_cpu::call(name, arguments); }

// Where this text's code and data lie: a kernel may use its own constants and static shared memory.
#define CUDA_ON_CPU_IMAGE                                                                                  \
    extern "C" char __ehdr_start[] __attribute__((visibility("hidden")));                                  \
    extern "C" char _end[] __attribute__((visibility("hidden")));                                          \
    extern "C" char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));                     \
    extern "C" char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));                      \
    extern "C" CUDA_ON_CPU_UNCHECKED void cuda_on_cpu_image(char** range) {                                \
        range[0] = __ehdr_start, range[1] = _end;                                                          \
        range[2] = __start_cuda_shared, range[3] = __stop_cuda_shared;                                     \
    }

// NVRTC brings no C++ library (tried with NVRTC 13.5); here the headers above would lend a kernel theirs.
#pragma GCC poison std
