// The last layer's activation, loss and dLoss/dz, one thread a row, in strides: a = f(z + bias); row_losses = weight * loss;
// delta = dLoss/dz * weight * scale.
//
// With SOFTMAX = 0, FORMULA (statements in x = z + bias, target and k) gives ACTIVATION, LOSS and DELTA.
// With SOFTMAX = 1, a = softmax(z + bias) first, FORMULA starts from out = a, and DELTA is dLoss/da, taken back
// through softmax: da_k/dz_j = a_k ([k = j] - a_j), so dLoss/dz = a (g - sum(a g)).
// With SOFTMAX = 2, softmax and cross-entropy together: sum y (log sum exp(x) - x), and dLoss/dz = a - y.
extern "C" __global__ void loss(const T* z, const T* bias, T* a, const T* y, const T* weights, T* delta, const T* k,
                                T scale, double* row_losses, int rows, int columns)
{
    const int stride = gridDim.x * blockDim.x;
    for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += stride) {
        const long long start = (long long)row * columns;
        const T factor = weights[row] * scale;
        T row_loss = T(0.0);
#if SOFTMAX
        T top = z[start] + bias[0];
        for (int j = 1; j < columns; ++j) {
            const T x = z[start + j] + bias[j];
            if (x > top || x != x) top = x;  // a NaN stays to be seen
        }
        T total = T(0.0);
        for (int j = 0; j < columns; ++j) {
            a[start + j] = exp(z[start + j] + bias[j] - top);
            total += a[start + j];
        }
        for (int j = 0; j < columns; ++j) a[start + j] /= total;
#endif
#if SOFTMAX == 2
        const T log_total = log(total);
        for (int j = 0; j < columns; ++j) {
            const long long i = start + j;
            row_loss += y[i] * (log_total - (z[i] + bias[j] - top));
            delta[i] = factor * (a[i] - y[i]);
        }
#else
        for (int j = 0; j < columns; ++j) {
            const long long i = start + j;
            const T target = y[i];
#if SOFTMAX
            const T out = a[i];
#else
            const T x = z[i] + bias[j];
#endif
            FORMULA
            a[i] = ACTIVATION;
            row_loss += LOSS;
            delta[i] = factor * DELTA;
        }
#if SOFTMAX
        T inner = T(0.0);
        for (int j = 0; j < columns; ++j) inner += a[start + j] * delta[start + j];
        for (int j = 0; j < columns; ++j) delta[start + j] = a[start + j] * (delta[start + j] - inner);
#endif
#endif
        row_losses[row] = double(weights[row]) * double(row_loss);
    }
}
