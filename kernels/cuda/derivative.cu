// The chain rule through an activation, and the bias gradient: delta = dLoss/da becomes dLoss/dz = dLoss/da f'(z), and
// dLoss/db is the sum of its rows. A block takes 8 columns, which is 32 or 64 bytes of every row, and all rows, 64 at a
// time; a column's sum is the sum of its 64 threads', in their order, so that it is the same in every run.
extern "C" __global__ void __launch_bounds__(512, 2)
    derivative(const T* __restrict__ z, const T* __restrict__ a, T* __restrict__ delta, const T* __restrict__ k,
               T* __restrict__ bias_gradient, int has_bias, int rows, int columns)
{
    __shared__ T sums[64][8];
    const int x = threadIdx.x, y = threadIdx.y;
    for (int first = blockIdx.x * 8; first < columns; first += gridDim.x * 8) {
        const int j = first + x;
        T sum = T(0.0);
        if (j < columns)
            for (int i = y; i < rows; i += 64) {
                const long long e = (long long)i * columns + j;
                const T d = delta[e] * F::derivative(z[e], a[e], k);
                delta[e] = d;
                sum += d;
            }
        sums[y][x] = sum;
        __syncthreads();
        for (int half = 32; half; half /= 2) {
            if (y < half) sums[y][x] += sums[y + half][x];
            __syncthreads();
        }
        if (has_bias && y == 0 && j < columns) bias_gradient[j] = sums[0][x];
    }
}
