// Layer normalisation of a matrix, (rows, columns), row by row (docs/convolutions.md). Of each row, with m and v the mean
// and the biased variance of its numbers and r = 1 / sqrt(v + epsilon):
//
//     u = (x - m) r,    z = gamma u + beta,    a = f(z)
//     delta = dLoss/da f'(z),    dLoss/dgamma = sum delta u,    dLoss/dbeta = sum delta    over the rows
//     dLoss/dx = r (g - mean(g) - u mean(g u))    with g = gamma delta
//
// F::value and F::derivative come from the activation, k are its constants. A warp takes a row; threads of a block:
// 32 columns x 8 rows.
#define FOR_EACH_ROW for (long long i = blockIdx.x * 8 + threadIdx.y; i < rows; i += gridDim.x * 8)
#define FOR_EACH_COLUMN for (int j = threadIdx.x; j < columns; j += 32)

// Forward; m and r are left for the way back.
extern "C" __global__ void layer_norm(const T* __restrict__ inputs, const T* __restrict__ gamma,
                                      const T* __restrict__ beta, T epsilon, T* __restrict__ kept_mean,
                                      T* __restrict__ kept_r, T* z, T* a, const T* __restrict__ k, int rows, int columns)
{
    FOR_EACH_ROW
    {
        const T* x = inputs + i * columns;
        double sum = 0.0, squares = 0.0;
        FOR_EACH_COLUMN sum += double(x[j]);
        const double row_mean = warp_sum(sum) / columns;
        FOR_EACH_COLUMN
        {
            const double from_mean = double(x[j]) - row_mean;
            squares += from_mean * from_mean;
        }
        const T mean = T(row_mean), r = T(1.0) / sqrt(T(warp_sum(squares) / columns) + epsilon);
        if (threadIdx.x == 0) {
            kept_mean[i] = mean;
            kept_r[i] = r;
        }
        FOR_EACH_COLUMN
        {
            const T value = (x[j] - mean) * r * gamma[j] + beta[j];
            z[i * columns + j] = value;
            a[i * columns + j] = F::value(value, k);
        }
    }
}

// Backward, the first: delta = dLoss/da f'(z), and the gradients of gamma and beta. A block takes 8 columns and all
// rows, 64 at a time; a column's sums are those of its 64 threads, in their order.
extern "C" __global__ void __launch_bounds__(512, 2)
    layer_norm_sums(const T* __restrict__ inputs, const T* __restrict__ mean, const T* __restrict__ r,
                    const T* __restrict__ z, const T* __restrict__ a, T* __restrict__ delta, const T* __restrict__ k,
                    T* __restrict__ gamma_gradient, T* __restrict__ beta_gradient, int rows, int columns)
{
    __shared__ double products[64][8], deltas[64][8];
    const int x = threadIdx.x, y = threadIdx.y;
    for (int first = blockIdx.x * 8; first < columns; first += gridDim.x * 8) {
        const int j = first + x;
        double of_products = 0.0, of_delta = 0.0;
        if (j < columns)
            for (int i = y; i < rows; i += 64) {
                const long long e = (long long)i * columns + j;
                const T d = delta[e] * F::derivative(z[e], a[e], k);
                delta[e] = d;
                of_delta += double(d);
                of_products += double(d * ((inputs[e] - mean[i]) * r[i]));
            }
        products[y][x] = of_products;
        deltas[y][x] = of_delta;
        __syncthreads();
        for (int half = 32; half; half /= 2) {
            if (y < half) {
                products[y][x] += products[y + half][x];
                deltas[y][x] += deltas[y + half][x];
            }
            __syncthreads();
        }
        if (y == 0 && j < columns) {
            gamma_gradient[j] = T(products[0][x]);
            beta_gradient[j] = T(deltas[0][x]);
        }
    }
}

// Backward, the second, where the gradient of the inputs is wanted.
extern "C" __global__ void layer_norm_gradient(const T* __restrict__ inputs, const T* __restrict__ mean,
                                               const T* __restrict__ r, const T* __restrict__ gamma,
                                               const T* __restrict__ delta, T* __restrict__ input_gradient, int rows,
                                               int columns)
{
    FOR_EACH_ROW
    {
        const T m = mean[i], factor = r[i];
        double of_g = 0.0, of_products = 0.0;
        FOR_EACH_COLUMN
        {
            const long long e = i * columns + j;
            const T g = gamma[j] * delta[e];
            of_g += double(g);
            of_products += double(g * ((inputs[e] - m) * factor));
        }
        const T mean_g = T(warp_sum(of_g) / columns), mean_product = T(warp_sum(of_products) / columns);
        FOR_EACH_COLUMN
        {
            const long long e = i * columns + j;
            const T u = (inputs[e] - m) * factor;
            input_gradient[e] = (gamma[j] * delta[e] - mean_g - u * mean_product) * factor;
        }
    }
}
