// Sums the rows of a matrix, one block a row: threads add strided elements, warps their threads' sums by shuffles, and
// the first warp what the warps left in shared memory. The order of additions is fixed. blockDim.x is a multiple of 32.
extern "C" __global__ void __launch_bounds__(256) sum_rows(const float* __restrict__ x, float* __restrict__ sums,
                                                           int columns)
{
    __shared__ float parts[8];
    const float* row = x + (long long)blockIdx.x * columns;
    float sum = 0.0f;
    for (int j = threadIdx.x; j < columns; j += blockDim.x) sum += row[j];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(0xffffffffu, sum, by);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = lane < (int)(blockDim.x / 32) ? parts[lane] : 0.0f;
        for (int by = 4; by > 0; by /= 2) sum += __shfl_down_sync(0xffffffffu, sum, by);
        if (lane == 0) sums[blockIdx.x] = sum;
    }
}
