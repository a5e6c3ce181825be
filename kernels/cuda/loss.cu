// The last layer of a batch, a warp a row: outputs, deltas and, for each block, its rows' weighted losses.
extern "C" __global__ void loss(const T* __restrict__ z, const T* __restrict__ bias, int has_bias, T* __restrict__ a,
                                T* __restrict__ delta, const T* __restrict__ k, const long long* __restrict__ labels,
                                const T* __restrict__ numbers, int kind, const T* __restrict__ sample_weight,
                                int weighted, int columns, const long long* __restrict__ stretch,
                                const double* __restrict__ values, int width, double* __restrict__ losses)
{
    const Step step(stretch, 0);
    const Targets targets = {labels, numbers, kind, columns};
    const T divisor = T(values[step.index * width]);
    double sum = 0.0;
    for (int i = blockIdx.x * 8 + threadIdx.x / 32; i < step.rows; i += gridDim.x * 8) {
        const long long row = step.row(i), start = (long long)i * columns;
        const T weight = weighted ? sample_weight[row] : T(1.0);
        const T loss = row_loss<1>(z + start, bias, has_bias, a + start, delta + start, weight / divisor, k, targets, row);
        if (threadIdx.x % 32 == 0) sum += double(weight) * double(loss);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}
