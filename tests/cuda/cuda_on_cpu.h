// cuda_on_cpu.h - runs a CUDA C kernel as ordinary C++17, one CUDA thread after another, to test that it is correct.
//
// It knows what our kernels use: the four built-in index variables, plain arithmetic, the mathematical functions.
// A kernel that names anything else (a barrier, shared memory, an atomic) does not compile, which is the refusal.
#pragma once
#include <math.h>
#include <stddef.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
    unsigned int x, y, z;
};
struct dim3 {
    unsigned int x, y, z;
};

// CUDA declares these at global scope; ours, like CUDA's, take two arguments of one type.
using std::max;
using std::min;
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
[[maybe_unused]] static inline float rsqrt(float x) { return rsqrtf(x); }
[[maybe_unused]] static inline double rsqrt(double x) { return 1.0 / sqrt(x); }

namespace cuda_on_cpu {

static uint3 thread_index, block_index;
static dim3 block_size, grid_size;

enum class Order : int { forward = 0, reverse = 1, random = 2 };

// Steele, Lea & Flood 2014 (SplitMix64): a whole generator in five lines, the same on every machine.
struct SplitMix64 {
    unsigned long long state;
    unsigned long long operator()() {
        unsigned long long z = state += 0x9E3779B97F4A7C15ULL;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
        return z ^ (z >> 31);
    }
};

// CUDA promises no order among threads or blocks, so a right kernel gives the same in each of these.
static void arrange(std::vector<size_t>& sequence, size_t count, Order order, SplitMix64& random) {
    sequence.resize(count);
    for (size_t i = 0; i < count; ++i) sequence[i] = order == Order::reverse ? count - 1 - i : i;
    if (order == Order::random)
        for (size_t i = count; i > 1; --i) std::swap(sequence[i - 1], sequence[random() % i]);
}

static uint3 unravel(size_t linear, dim3 size) {
    return {static_cast<unsigned>(linear % size.x), static_cast<unsigned>(linear / size.x % size.y),
            static_cast<unsigned>(linear / size.x / size.y)};
}

// Threads run to their end one by one. Kernels whose threads wait for each other need another run_block.
template <class Thread>
void run_block(const Thread& thread, const std::vector<size_t>& sequence) {
    for (size_t linear : sequence) {
        thread_index = unravel(linear, block_size);
        thread();
    }
}

template <class... Parameter, size_t... I>
void run_grid(void (*kernel)(Parameter...), void** arguments, std::index_sequence<I...>, Order order,
              unsigned long long seed) {
    auto thread = [&] { kernel(*static_cast<Parameter*>(arguments[I])...); };
    SplitMix64 random{seed};
    std::vector<size_t> blocks, threads;
    arrange(blocks, size_t(grid_size.x) * grid_size.y * grid_size.z, order, random);
    for (size_t linear : blocks) {
        block_index = unravel(linear, grid_size);
        arrange(threads, size_t(block_size.x) * block_size.y * block_size.z, order, random);
        run_block(thread, threads);
    }
}

// `sizes` is the grid's x, y, z, then the block's; the caller has checked them and the arguments' types.
template <class... Parameter>
void launch(void (*kernel)(Parameter...), const unsigned int* sizes, void** arguments, int order,
            unsigned long long seed) {
    grid_size = {sizes[0], sizes[1], sizes[2]};
    block_size = {sizes[3], sizes[4], sizes[5]};
    run_grid(kernel, arguments, std::index_sequence_for<Parameter...>{}, static_cast<Order>(order), seed);
}

// One parameter as NumPy names it, "f4" or "*f4": a wrong width is then found by the caller, not read as garbage.
template <class Parameter>
std::string type_code() {
    using Value = std::remove_cv_t<std::remove_pointer_t<Parameter>>;
    static_assert(std::is_arithmetic<Value>::value && sizeof(Value) <= 8,
                  "a kernel parameter is a number, or a pointer to numbers");
    const char kind = std::is_same<Value, bool>::value  ? 'b'
                      : std::is_floating_point<Value>::value ? 'f'
                      : std::is_signed<Value>::value         ? 'i'
                                                             : 'u';
    return std::string(std::is_pointer<Parameter>::value ? "*" : "") + kind + char('0' + sizeof(Value)) + " ";
}

template <class... Parameter>
const char* signature(void (*)(Parameter...)) {
    static const std::string codes = (std::string() + ... + type_code<Parameter>());
    return codes.c_str();
}

}  // namespace cuda_on_cpu

[[maybe_unused]] static const uint3& threadIdx = cuda_on_cpu::thread_index;
[[maybe_unused]] static const uint3& blockIdx = cuda_on_cpu::block_index;
[[maybe_unused]] static const dim3& blockDim = cuda_on_cpu::block_size;
[[maybe_unused]] static const dim3& gridDim = cuda_on_cpu::grid_size;

// The two entry points of a kernel that the emulator calls.
#define CUDA_ON_CPU_EXPORT(name)                                                                                  \
    extern "C" const char* cuda_on_cpu_signature_##name() { return cuda_on_cpu::signature(name); }                \
    extern "C" void cuda_on_cpu_launch_##name(const unsigned int* sizes, void** arguments, int order,             \
                                              unsigned long long seed) {                                          \
        cuda_on_cpu::launch(name, sizes, arguments, order, seed);                                                 \
    }

// NVRTC brings no C++ library, so it knows none of these (tried with NVRTC 13.5); here the headers above would lend
// them. The names of stdint.h are spelt in a kernel as `unsigned int`, `long long`.
#undef INFINITY
#undef NAN
#undef HUGE_VAL
#undef HUGE_VALF
#undef M_PI
#undef M_E
#pragma GCC poison std int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t
#pragma GCC poison uint ulong ushort u_int
