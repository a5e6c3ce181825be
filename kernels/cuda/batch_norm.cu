// Batch normalisation of a matrix, (count, channels): rows, or the pixels of all rows (docs/convolutions.md). For each
// channel, with m and v the mean and the biased variance of its `count` numbers and r = 1 / sqrt(v + epsilon):
//
//     u = (x - m) r,    z = gamma u + beta,    a = f(z)
//     delta = dLoss/da f'(z),    dLoss/dgamma = sum delta u,    dLoss/dbeta = sum delta
//     dLoss/dx = gamma r (delta - dLoss/dbeta / count - u dLoss/dgamma / count)
//
// Both ways take two launches: the first leaves two sums of each chunk of rows, blockIdx.y, in doubles; every block of
// the second adds up those of its channels, all in one order. F::value and F::derivative come from the activation, k are
// its constants. Threads of a block: 8 channels x 32 rows; blocks stride over the channels.
#define LANES 32
#define FOR_EACH_CHANNEL                                                                                           \
    for (int first_channel = blockIdx.x * 8, c = first_channel + threadIdx.x; first_channel < channels;            \
         first_channel += gridDim.x * 8, c += gridDim.x * 8)

// The sum over the lanes of a channel, for all of them, in a fixed order.
__device__ __forceinline__ double lane_sum(double value)
{
    __shared__ double sums[LANES][8];
    const int x = threadIdx.x, y = threadIdx.y;
    sums[y][x] = value;
    __syncthreads();
    for (int half = LANES / 2; half; half /= 2) {
        if (y < half) sums[y][x] += sums[y + half][x];
        __syncthreads();
    }
    value = sums[0][x];
    __syncthreads();
    return value;
}

// A chunk's rows.
struct Chunk {
    long long first, end;

    __device__ __forceinline__ Chunk(long long index, long long size, long long count)
    {
        first = index * size;
        end = first + size < count ? first + size : count;
    }
    __device__ __forceinline__ double rows() const { return double(end - first); }
};

// Forward, the first: each chunk's mean, and its sum of squares around it. parts: (chunks, 2, channels).
extern "C" __global__ void __launch_bounds__(256, 3)
    statistics(const T* __restrict__ inputs, double* __restrict__ parts, int channels,
               long long count, long long size)
{
    const Chunk chunk(blockIdx.y, size, count);
    FOR_EACH_CHANNEL
    {
        double sum = 0.0, squares = 0.0;
        if (c < channels)
            for (long long i = chunk.first + threadIdx.y; i < chunk.end; i += LANES)
                sum += double(inputs[i * channels + c]);
        const double mean = lane_sum(sum) / chunk.rows();
        if (c < channels)
            for (long long i = chunk.first + threadIdx.y; i < chunk.end; i += LANES) {
                const double from_mean = double(inputs[i * channels + c]) - mean;
                squares += from_mean * from_mean;
            }
        squares = lane_sum(squares);
        if (threadIdx.y == 0 && c < channels) {
            parts[2ll * blockIdx.y * channels + c] = mean;
            parts[(2ll * blockIdx.y + 1) * channels + c] = squares;
        }
    }
}

// Forward, the second. With n_s numbers in chunk s, m = sum n_s m_s / count, and, since the squares around m are those
// around m_s and n_s (m_s - m)^2 (Chan, Golub & LeVeque 1983), v = sum (squares_s + n_s (m_s - m)^2) / count.
//
// chunks = 0: m and v are the running ones. follows: the running ones become (1 - momentum) running + momentum * batch,
// with v count / (count - 1). m and r are left for the way back.
extern "C" __global__ void __launch_bounds__(256, 3)
    normalise(const T* __restrict__ inputs, const double* __restrict__ parts, int chunks,
              const T* __restrict__ gamma, const T* __restrict__ beta, T* running_mean,
              T* running_variance, int follows, T momentum, T epsilon, T* __restrict__ kept_mean,
              T* __restrict__ kept_r, T* z, T* a, const T* __restrict__ k, int channels,
              long long count, long long size)
{
    FOR_EACH_CHANNEL
    {
        double sum = 0.0, squares = 0.0;
        if (c < channels)
            for (int s = threadIdx.y; s < chunks; s += LANES)
                sum += Chunk(s, size, count).rows() * parts[2ll * s * channels + c];
        const double batch_mean = lane_sum(sum) / double(count);
        if (c < channels)
            for (int s = threadIdx.y; s < chunks; s += LANES) {
                const double from_mean = parts[2ll * s * channels + c] - batch_mean;
                squares += parts[(2ll * s + 1) * channels + c] + Chunk(s, size, count).rows() * from_mean * from_mean;
            }
        squares = lane_sum(squares);
        if (c >= channels) continue;
        const T mean = chunks ? T(batch_mean) : running_mean[c];
        const T variance = chunks ? T(squares / double(count)) : running_variance[c];
        const T r = T(1.0) / sqrt(variance + epsilon), slope = gamma[c], offset = beta[c];
        if (blockIdx.y == 0 && threadIdx.y == 0) {
            kept_mean[c] = mean;
            kept_r[c] = r;
            if (follows) {
                const T unbiased = variance * T(double(count) / double(count > 1 ? count - 1 : 1));
                running_mean[c] += momentum * (mean - running_mean[c]);
                running_variance[c] += momentum * (unbiased - running_variance[c]);
            }
        }
        for (long long i = (long long)blockIdx.y * LANES + threadIdx.y; i < count; i += (long long)gridDim.y * LANES) {
            const long long e = i * channels + c;
            const T x = (inputs[e] - mean) * r * slope + offset;
            z[e] = x;
            a[e] = F::value(x, k);
        }
    }
}

// Backward, the first: delta = dLoss/da f'(z), and each chunk's sums of delta and of delta u. parts: as forward.
extern "C" __global__ void __launch_bounds__(256, 3)
    normalised_sums(const T* __restrict__ inputs, const T* __restrict__ mean,
                    const T* __restrict__ r, const T* __restrict__ z, const T* __restrict__ a,
                    T* __restrict__ delta, const T* __restrict__ k, double* __restrict__ parts,
                    int channels, long long count, long long size)
{
    const Chunk chunk(blockIdx.y, size, count);
    FOR_EACH_CHANNEL
    {
        double of_delta = 0.0, of_products = 0.0;
        if (c < channels)
            for (long long i = chunk.first + threadIdx.y; i < chunk.end; i += LANES) {
                const long long e = i * channels + c;
                const T d = delta[e] * F::derivative(z[e], a[e], k);
                delta[e] = d;
                of_delta += double(d);
                of_products += double(d * ((inputs[e] - mean[c]) * r[c]));
            }
        of_delta = lane_sum(of_delta);
        of_products = lane_sum(of_products);
        if (threadIdx.y == 0 && c < channels) {
            parts[2ll * blockIdx.y * channels + c] = of_delta;
            parts[(2ll * blockIdx.y + 1) * channels + c] = of_products;
        }
    }
}

// Backward, the second: the gradients of gamma and beta, and, where it is wanted, that of the inputs.
extern "C" __global__ void __launch_bounds__(256, 3)
    normalised_gradient(const T* __restrict__ inputs, const T* __restrict__ mean,
                        const T* __restrict__ r, const T* __restrict__ gamma,
                        const T* __restrict__ delta, const double* __restrict__ parts, int chunks,
                        T* __restrict__ gamma_gradient, T* __restrict__ beta_gradient,
                        T* __restrict__ input_gradient, int wanted, int channels, long long count)
{
    FOR_EACH_CHANNEL
    {
        double of_delta = 0.0, of_products = 0.0;
        if (c < channels)
            for (int s = threadIdx.y; s < chunks; s += LANES) {
                of_delta += parts[2ll * s * channels + c];
                of_products += parts[(2ll * s + 1) * channels + c];
            }
        of_delta = lane_sum(of_delta);
        of_products = lane_sum(of_products);
        if (c >= channels) continue;
        if (blockIdx.y == 0 && threadIdx.y == 0) {
            gamma_gradient[c] = T(of_products);
            beta_gradient[c] = T(of_delta);
        }
        if (!wanted) continue;
        const T slope = gamma[c] * r[c];
        const T mean_delta = T(of_delta / double(count)), mean_product = T(of_products / double(count));
        for (long long i = (long long)blockIdx.y * LANES + threadIdx.y; i < count; i += (long long)gridDim.y * LANES) {
            const long long e = i * channels + c;
            const T u = (inputs[e] - mean[c]) * r[c];
            input_gradient[e] = slope * (delta[e] - mean_delta - u * mean_product);
        }
    }
}
