// A hidden layer's activation: z += bias; a = f(z). a may be z itself. One thread an element, in strides.
// T, FORMULA (statements in x and k) and RESULT come from the formula; see nnfast/backends/cuda.py.
extern "C" __global__ void value(T* z, const T* bias, T* a, const T* k, long long n, int columns)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        const T x = z[i] + bias[i % columns];
        FORMULA
        z[i] = x;
        a[i] = RESULT;
    }
}
