// Counts values: each block in its dynamic shared memory, one int a bin, then all together in `counts`.
extern "C" __global__ void histogram(const unsigned char* __restrict__ values, int* __restrict__ counts, int n, int bins)
{
    extern __shared__ int block_counts[];
    for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) block_counts[bin] = 0;
    __syncthreads();
    const int stride = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) atomicAdd(&block_counts[values[i]], 1);
    __syncthreads();
    for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) atomicAdd(&counts[bin], block_counts[bin]);
}
