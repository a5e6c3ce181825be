// A hidden layer's activation. F::value and F::derivative come from its formulas; k are its constants.

// z += bias; a = f(z). a may be z itself. Threads of a block: 32 columns x 8 rows.
extern "C" __global__ void value(T* z, const T* __restrict__ bias, int has_bias, T* a, const T* __restrict__ k, int rows,
                                 int columns)
{
    for (int j = blockIdx.y * 32 + threadIdx.x; j < columns; j += gridDim.y * 32) {
        const T b = has_bias ? bias[j] : T(0.0);
        for (int i = blockIdx.x * 8 + threadIdx.y; i < rows; i += gridDim.x * 8) {
            const long long e = (long long)i * columns + j;
            const T x = z[e] + b;
            z[e] = x;
            a[e] = F::value(x, k);
        }
    }
}
