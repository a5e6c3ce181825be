// A row's targets: class labels, whose class alone counts 1, or numbers; or none, where only outputs are asked for.
struct Targets {
    const long long* labels;
    const T* numbers;
    int kind;  // 0: none, 1: labels, 2: numbers
    int columns;

    __device__ __forceinline__ T operator()(long long row, int j) const
    {
        if (kind == 1) return labels[row] == j ? T(1.0) : T(0.0);
        return kind == 2 ? numbers[row * columns + j] : T(0.0);
    }
};

// The last layer's activation, loss and dLoss/dz of one row, by one warp: a = f(z + bias), delta = dLoss/dz * factor;
// the loss, not weighted, comes back to all lanes. Neighbours in z, a and delta are STRIDE apart; a lane takes every
// 32nd column.
//
// With SOFTMAX = 0, FORMULA (statements in x = z + bias, target and k) gives ACTIVATION, LOSS and DELTA.
// With SOFTMAX = 1, a = softmax(z + bias) first, FORMULA starts from out = a, and DELTA is dLoss/da, taken back
// through softmax: da_k/dz_j = a_k ([k = j] - a_j), so dLoss/dz = a (g - sum(a g)).
// With SOFTMAX = 2, softmax and cross-entropy together: sum y (log sum exp(x) - x), and dLoss/dz = a - y.
template <int STRIDE>
__device__ __forceinline__ T row_loss(const T* z, const T* bias, int has_bias, T* a, T* delta, T factor, const T* k,
                                      const Targets& targets, long long row)
{
    const int lane = threadIdx.x % 32, columns = targets.columns;
    T loss = T(0.0);
#if SOFTMAX
    T top = z[0] + (has_bias ? bias[0] : T(0.0));  // whatever is in the row does for a lane without columns
    for (int j = lane; j < columns; j += 32) {
        const T x = z[j * STRIDE] + (has_bias ? bias[j] : T(0.0));
        if (x > top || x != x) top = x;  // a NaN stays to be seen
    }
    for (int distance = 16; distance; distance /= 2) {
        const T other = __shfl_xor_sync(~0u, top, distance);
        if (other > top || other != other) top = other;
    }
    T total = T(0.0);
    for (int j = lane; j < columns; j += 32) {
        const T power = exp(z[j * STRIDE] + (has_bias ? bias[j] : T(0.0)) - top);
        a[j * STRIDE] = power;
        total += power;
    }
    total = warp_sum(total);
#if SOFTMAX == 2
    const T log_total = log(total);
#endif
#endif
    for (int j = lane; j < columns; j += 32) {
        const T target = targets(row, j);
#if SOFTMAX
        const T out = a[j * STRIDE] / total;
#endif
#if SOFTMAX != 1
        const T x = z[j * STRIDE] + (has_bias ? bias[j] : T(0.0));
#endif
#if SOFTMAX == 2
        a[j * STRIDE] = out;
        loss += target * (log_total - (x - top));
        delta[j * STRIDE] = factor * (out - target);
#else
        FORMULA
        a[j * STRIDE] = ACTIVATION;
        loss += LOSS;
        delta[j * STRIDE] = factor * DELTA;
#endif
    }
#if SOFTMAX == 1
    T inner = T(0.0);
    for (int j = lane; j < columns; j += 32) inner += a[j * STRIDE] * delta[j * STRIDE];
    inner = warp_sum(inner);
    for (int j = lane; j < columns; j += 32) delta[j * STRIDE] = a[j * STRIDE] * (delta[j * STRIDE] - inner);
#endif
    return warp_sum(loss);
}
