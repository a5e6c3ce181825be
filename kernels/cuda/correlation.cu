// The geometry that a convolution and its gradients share (docs/convolutions.md). Images are [row][y][x][channel]. A
// correlation gives every pixel of a target the pixels of a source that it meets through the taps (i, j) of a kernel:
//
//     target (y, x), tap (i, j)  <->  source (v, u),    v = (y * factor + i * step + shift) / divisor,
//
// where v is whole and in the source, and u likewise; elsewhere the source counts 0. Forward, the source is the input
// and v = y s + i d - p. For the input's gradient it is delta, the target the input: that equation, solved for y.
//
// Channels and filters are divided into groups: those of a target's group see `depth` numbers of a source's pixel, so
// that a sum has taps * depth terms, term (i, j, k) at (i * kernel_width + j) * depth + k.
struct Axis {
    int source, target, factor, step, shift, divisor;

    // Where in the source, if it is there.
    __device__ __forceinline__ bool finds(int place, int& found) const
    {
        if (divisor > 1) {
            if (place % divisor) return false;
            place /= divisor;
        }
        found = place;
        return place >= 0 && place < source;
    }
};

// A pixel of the target: where its row's source begins, or -1 for none, and what of v and u it decides.
struct Pixel {
    long long start;
    int y, x;
};

// A term of the sum: what of v and u its tap decides, and which of the pixel's numbers it is.
struct Term {
    int y, x, k;
};

struct Correlation {
    Axis vertical, horizontal;
    int groups, kernel_width, terms;  // terms: taps * depth
    int depth, source_depth;          // numbers of a source's pixel: of a group, of all
    int columns, target_depth;        // the same of a target's
    int weight_tap, weight_k, weight_column, weight_group;  // the weights' strides

    __device__ __forceinline__ Correlation(const int* words)
    {
        vertical = {words[0], words[1], words[2], words[3], words[4], words[5]};
        horizontal = {words[6], words[7], words[8], words[9], words[10], words[11]};
        groups = words[12], kernel_width = words[13], terms = words[14];
        depth = words[15], source_depth = words[16];
        columns = words[17], target_depth = words[18];
        weight_tap = words[19], weight_k = words[20], weight_column = words[21], weight_group = words[22];
    }

    __device__ __forceinline__ int target_pixels() const { return vertical.target * horizontal.target; }

    // Pixel first + index of the batch's `count`; `first` is the same for all threads, and no division of a thread's own
    // is one of 64 bits.
    __device__ __forceinline__ Pixel pixel(long long first, int index, long long count) const
    {
        if (first + index >= count) return {-1, 0, 0};
        const int pixels = target_pixels();
        const long long row = first / pixels;
        const int local = int(first - row * pixels) + index, place = local % pixels;
        return {(row + local / pixels) * vertical.source * horizontal.source * source_depth,
                place / horizontal.target * vertical.factor + vertical.shift,
                place % horizontal.target * horizontal.factor + horizontal.shift};
    }

    __device__ __forceinline__ Term term(int index) const
    {
        const int tap = index / depth;
        return {tap / kernel_width * vertical.step, tap % kernel_width * horizontal.step, index % depth};
    }

    // The number of the source that a pixel meets in a term.
    __device__ __forceinline__ T read(const T* __restrict__ images, const Pixel& pixel, const Term& term,
                                      int group) const
    {
        int v, u;
        if (pixel.start < 0 || !vertical.finds(pixel.y + term.y, v) || !horizontal.finds(pixel.x + term.x, u))
            return T(0.0);
        return images[pixel.start + (v * horizontal.source + u) * source_depth + group * depth + term.k];
    }

    __device__ __forceinline__ long long weight(int index, int column, int group) const
    {
        return (long long)(index / depth) * weight_tap + index % depth * weight_k + column * weight_column +
               group * weight_group;
    }
};

// Matrix products by blocks of 256 threads: tiles of ROWS x COLUMNS, of which a thread sums SIDE x SIDE numbers, at
// own_row(i) and own_column(j). DEPTH terms of every sum are in shared memory at a time; each thread fetches LEFT and
// RIGHT numbers of the next DEPTH while these are summed.
#define ROWS 64
#define DEPTH 16
#define COLUMNS (4 * SIDE * SIDE)
#define THREADS 256
#define LEFT (ROWS * DEPTH / THREADS)
#define RIGHT (COLUMNS * DEPTH / THREADS)
// Blocks of a multiprocessor at least, which share its registers
#define BLOCKS SIDE == 2 ? 3 : 2

__device__ __forceinline__ int own_row(int i) { return int(threadIdx.x) / (COLUMNS / SIDE) + i * (ROWS / SIDE); }
__device__ __forceinline__ int own_column(int j) { return int(threadIdx.x) % (COLUMNS / SIDE) + j * (COLUMNS / SIDE); }

__device__ __forceinline__ void add_products(T (&sums)[SIDE][SIDE], const T* left, const T* right)
{
    T x[SIDE], y[SIDE];
#pragma unroll
    for (int i = 0; i < SIDE; ++i) x[i] = left[own_row(i)];
#pragma unroll
    for (int j = 0; j < SIDE; ++j) y[j] = right[own_column(j)];
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
#pragma unroll
        for (int j = 0; j < SIDE; ++j) sums[i][j] += x[i] * y[j];
}
