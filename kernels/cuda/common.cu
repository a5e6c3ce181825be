// What every text of kernels begins with, after the definition of T, the type of the arithmetic.

// A stretch of steps, as the host uploads it in one vector of 64-bit words:
//   [0]  the step at which the stretch stands
//   [1]  the same, for the launch that moves [0] on: a launch never reads a word that it writes
//   [2]  where the order of rows begins, or 0: rows are taken as they stand
//   [3 + 3 k ...]  of step k: its first place in the order, the place after its last, its number in the run
// Of doubles there is a row a step: the divisor of loss and gradient, then the optimizer's values.
struct Step {
    long long index, first, rows, number;
    const long long* order;

    __device__ __forceinline__ Step(const long long* stretch, int counter)
    {
        index = stretch[counter];
        const long long* record = stretch + 3 + 3 * index;
        first = record[0];
        rows = record[1] - record[0];
        number = record[2];
        order = stretch[2] ? stretch + stretch[2] : nullptr;
    }

    // Where row i of the batch stands in the source.
    __device__ __forceinline__ long long row(long long i) const { return order ? order[first + i] : first + i; }
};

// The first launch of a step keeps the counter for the last one, which moves it on.
__device__ __forceinline__ void keep_step(long long* stretch)
{
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0 && threadIdx.y == 0) stretch[1] = stretch[0];
}
__device__ __forceinline__ void next_step(long long* stretch)
{
    if (blockIdx.x == 0 && threadIdx.x == 0) stretch[0] = stretch[1] + 1;
}

// The sum over a warp's lanes, the same bits in each of them: every pair adds the same two numbers.
template <class N>
__device__ __forceinline__ N warp_sum(N value)
{
    for (int distance = 16; distance; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
    return value;
}

// The sum over the threads of a one-dimensional block, in a fixed order, for all of them.
__device__ __forceinline__ double block_sum(double value)
{
    __shared__ double of_warps[32];
    __shared__ double total;
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0) {
        total = 0.0;
        for (int warp = 0; warp < int(blockDim.x / 32); ++warp) total += of_warps[warp];
    }
    __syncthreads();
    return total;
}
