// A convolution with its bias and activation; or, with other geometry, no bias and the identity, the gradient of its
// inputs. With (v, u) the pixel of the source that (y, x) meets through (i, j):
//
//     z[row, y, x, n] = bias[n] + sum over i, j, k of source[row, v, u, k] W(i, j, k, n),    a = f(z)
//     forward: k = c, n = f of W[i, j, c, f];    dLoss/dinput: k = f, n = c
//
// This is a product of a matrix (pixels of all rows, terms), of which only what a tile needs is ever gathered, and W,
// (terms, columns). A block takes ROWS pixels x COLUMNS of one group: blockIdx.x strides over the pixels of `rows` rows,
// blockIdx.y over the groups' tiles of columns. F::value comes from the activation, k are its constants. a may be z,
// which is then not kept.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    convolve(const T* __restrict__ source, const T* __restrict__ W, const T* __restrict__ bias, int has_bias, T* z, T* a,
             const T* __restrict__ k, const int* __restrict__ words, int rows)
{
    __shared__ Pixel pixels[ROWS];
    __shared__ T left[DEPTH][ROWS + 1], right[DEPTH][COLUMNS];  // + 1: a column's numbers lie in different banks
    const Correlation c(words);
    const int t = threadIdx.x, tiles = (c.columns + COLUMNS - 1) / COLUMNS;
    const long long count = (long long)rows * c.target_pixels();
    for (int tile = blockIdx.y; tile < tiles * c.groups; tile += gridDim.y) {
        const int group = tile / tiles, first_column = tile % tiles * COLUMNS;
        for (long long first = (long long)blockIdx.x * ROWS; first < count; first += (long long)gridDim.x * ROWS) {
            if (t < ROWS) pixels[t] = c.pixel(first, t, count);
            __syncthreads();
            T sums[SIDE][SIDE] = {}, left_ahead[LEFT], right_ahead[RIGHT];
            const auto fetch = [&](int first_term) {
                const int own = first_term + t % DEPTH, column = first_column + t % COLUMNS;
                const Term term = c.term(own);
#pragma unroll
                for (int n = 0; n < LEFT; ++n) {
                    const Pixel pixel = pixels[t / DEPTH + n * (THREADS / DEPTH)];
                    left_ahead[n] = own < c.terms ? c.read(source, pixel, term, group) : T(0.0);
                }
#pragma unroll
                for (int n = 0; n < RIGHT; ++n) {
                    const int index = first_term + t / COLUMNS + n * (THREADS / COLUMNS);
                    const bool exists = index < c.terms && column < c.columns;
                    right_ahead[n] = exists ? W[c.weight(index, column, group)] : T(0.0);
                }
            };
            fetch(0);
            for (int first_term = 0; first_term < c.terms; first_term += DEPTH) {
#pragma unroll
                for (int n = 0; n < LEFT; ++n) left[t % DEPTH][t / DEPTH + n * (THREADS / DEPTH)] = left_ahead[n];
#pragma unroll
                for (int n = 0; n < RIGHT; ++n)
                    right[t / COLUMNS + n * (THREADS / COLUMNS)][t % COLUMNS] = right_ahead[n];
                __syncthreads();
                if (first_term + DEPTH < c.terms) fetch(first_term + DEPTH);
#pragma unroll 4
                for (int d = 0; d < DEPTH; ++d) add_products(sums, left[d], right[d]);
                __syncthreads();
            }
#pragma unroll
            for (int i = 0; i < SIDE; ++i)
#pragma unroll
                for (int j = 0; j < SIDE; ++j) {
                    const long long pixel = first + own_row(i);
                    const int column = first_column + own_column(j);
                    if (pixel >= count || column >= c.columns) continue;
                    const int n = group * c.columns + column;
                    const T x = sums[i][j] + (has_bias ? bias[n] : T(0.0));
                    const long long e = pixel * c.target_depth + n;
                    if (z != a) z[e] = x;
                    a[e] = F::value(x, k);
                }
        }
    }
}
