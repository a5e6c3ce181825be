// The gradient of a convolution's weights and bias, as the product of two matrices whose common side is the outputs'
// pixels of all rows:
//
//     dLoss/dW[i, j, c, f] = sum over rows, y, x of input[row, v, u, c] delta[row, y, x, f]
//     dLoss/db[f]          = sum over rows, y, x of delta[row, y, x, f]
//
// with (v, u) the pixel that (y, x) meets through (i, j). The bias is one more term, in which every input is 1: so its
// gradient stands behind W's, as in the vector of parameters.
//
// The sum is cut into chunks of pixels, whose sums add_chunks adds up in their order; that of a single chunk is the
// gradient itself. A block takes a chunk, blockIdx.y, and strides over tiles of ROWS terms x COLUMNS filters of one
// group. parts: (chunks, terms + has_bias, filters).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    convolution_gradient(const T* __restrict__ inputs, const T* __restrict__ delta, T* __restrict__ parts,
                         const int* __restrict__ words, int rows, int has_bias, long long chunk)
{
    __shared__ Pixel pixels[THREADS];
    __shared__ T left[DEPTH][ROWS], right[DEPTH][COLUMNS];
    const Correlation c(words);
    const int t = threadIdx.x, tiles = (c.columns + COLUMNS - 1) / COLUMNS;
    const int terms = c.terms + has_bias, term_tiles = (terms + ROWS - 1) / ROWS;
    const long long start = blockIdx.y * chunk, all = (long long)rows * c.target_pixels();
    const long long end = start + chunk < all ? start + chunk : all;
    T* part = parts + (long long)blockIdx.y * terms * c.target_depth;
    for (int tile = blockIdx.x; tile < term_tiles * tiles * c.groups; tile += gridDim.x) {
        const int first_term = tile % term_tiles * ROWS, first_column = tile / term_tiles % tiles * COLUMNS;
        const int group = tile / term_tiles / tiles, own = first_term + t % ROWS;
        const Term term = c.term(own);
        T sums[SIDE][SIDE] = {}, left_ahead[LEFT], right_ahead[RIGHT];
        for (long long first = start; first < end; first += THREADS) {
            pixels[t] = c.pixel(first, t, end);
            __syncthreads();
            const auto fetch = [&](int skipped) {
#pragma unroll
                for (int n = 0; n < LEFT; ++n) {
                    left_ahead[n] = own == c.terms ? T(1.0) : T(0.0);
                    const Pixel pixel = pixels[skipped + t / ROWS + n * (THREADS / ROWS)];
                    if (own < c.terms) left_ahead[n] = c.read(inputs, pixel, term, group);
                }
                const int column = first_column + t % COLUMNS;
#pragma unroll
                for (int n = 0; n < RIGHT; ++n) {
                    const long long pixel = first + skipped + t / COLUMNS + n * (THREADS / COLUMNS);
                    const bool exists = pixel < end && column < c.columns;
                    right_ahead[n] = exists ? delta[pixel * c.target_depth + group * c.columns + column] : T(0.0);
                }
            };
            fetch(0);
            const int pixels_here = end - first < THREADS ? int(end - first) : THREADS;
            for (int skipped = 0; skipped < pixels_here; skipped += DEPTH) {
#pragma unroll
                for (int n = 0; n < LEFT; ++n) left[t / ROWS + n * (THREADS / ROWS)][t % ROWS] = left_ahead[n];
#pragma unroll
                for (int n = 0; n < RIGHT; ++n)
                    right[t / COLUMNS + n * (THREADS / COLUMNS)][t % COLUMNS] = right_ahead[n];
                __syncthreads();
                if (skipped + DEPTH < pixels_here) fetch(skipped + DEPTH);
#pragma unroll 4
                for (int d = 0; d < DEPTH; ++d) add_products(sums, left[d], right[d]);
                __syncthreads();
            }
        }
#pragma unroll
        for (int i = 0; i < SIDE; ++i)
#pragma unroll
            for (int j = 0; j < SIDE; ++j) {
                const int index = first_term + own_row(i), column = first_column + own_column(j);
                if (index < terms && column < c.columns)
                    part[(long long)index * c.target_depth + group * c.columns + column] = sums[i][j];
            }
    }
}

// gradient[e] = sum over chunks of parts[chunk][e]. Threads of a block: 32 numbers x 8, each of which adds up every
// eighth chunk; then the eight sums are added up in their order.
extern "C" __global__ void add_chunks(const T* __restrict__ parts, int chunks, T* __restrict__ gradient, long long size)
{
    __shared__ T sums[8][32];
    const int x = threadIdx.x, y = threadIdx.y;
    for (long long first = (long long)blockIdx.x * 32; first < size; first += (long long)gridDim.x * 32) {
        const long long e = first + x;
        T sum = T(0.0);
        if (e < size)
            for (int chunk = y; chunk < chunks; chunk += 8) sum += parts[chunk * size + e];
        sums[y][x] = sum;
        __syncthreads();
        if (y == 0 && e < size) {
            for (int other = 1; other < 8; ++other) sum += sums[other][x];
            gradient[e] = sum;
        }
        __syncthreads();
    }
}
