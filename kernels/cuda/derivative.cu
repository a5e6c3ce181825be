// The chain rule through a hidden layer's activation: delta = dLoss/da becomes dLoss/dz = dLoss/da f'(z).
// T, FORMULA (statements in x = z, out = a and k) and RESULT come from the formula.
extern "C" __global__ void derivative(const T* z, const T* a, T* delta, const T* k, long long n)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        const T x = z[i];
        const T out = a[i];
        (void)x;  // most derivatives use only one of the two
        (void)out;
        FORMULA
        delta[i] *= RESULT;
    }
}
