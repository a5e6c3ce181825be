// A training step of a narrow network in two launches: `rows` takes tiles of the batch through the whole network, each
// in the shared memory of one block, and leaves every layer's inputs and deltas; `learn` sums the weights' gradients
// from these, tile by tile of each weight matrix, and updates the weights at once.
//
// The pieces that narrow.py puts together to forward() and backward(); a place is where in shared memory an array begins.

// Numbers of one unit for all rows of a block: a thread reads them at once.
struct alignas(ROWS_ALIGNMENT) Rows {
    T of[ROWS];
};

// What a block works on: `count` rows of the batch, from `first`. keep: whether later launches need what it computes.
struct Block {
    Rows* memory;
    const T* p;
    const T* k;
    T* workspace;
    long long first;
    int count;
    bool keep;

    __device__ __forceinline__ T* scratch() const { return memory[SCRATCH].of; }
};

// Rows whose numbers stand side by side, in shared and in device memory: thread t takes element t of COLUMNS x ROWS,
// then element t + THREADS, in all of these, so that calls that follow each other need no barrier between them.
#define FOR_EACH_ELEMENT(COLUMNS)                                                                             \
    for (int e = threadIdx.x, r = e / (COLUMNS), c = e % (COLUMNS); e < ROWS * (COLUMNS);                     \
         e += THREADS, r = e / (COLUMNS), c = e % (COLUMNS))

template <int COLUMNS>
__device__ __forceinline__ void store(const Block& b, int place, T* rows)
{
    FOR_EACH_ELEMENT(COLUMNS)
        if (r < b.count) rows[(b.first + r) * COLUMNS + c] = b.memory[place + c].of[r];
}

#if SPARSE
template <int COLUMNS>
__device__ __forceinline__ void gather(const Block& b, const Step& step, const S* values, const long long* indices,
                                       const long long* starts, T, int place)
{
    FOR_EACH_ELEMENT(COLUMNS) b.memory[place + c].of[r] = T(0.0);
    __syncthreads();
    for (int r = threadIdx.x / 32; r < b.count; r += THREADS / 32) {
        const long long row = step.row(b.first + r);
        for (long long k = starts[row] + threadIdx.x % 32; k < starts[row + 1]; k += 32)
            b.memory[place + indices[k]].of[r] = T(values[k]);
    }
    __syncthreads();
}
#else
template <int COLUMNS>
__device__ __forceinline__ void gather(const Block& b, const Step& step, const S* source, const long long*,
                                       const long long*, T scale, int place)
{
    FOR_EACH_ELEMENT(COLUMNS)
        b.memory[place + c].of[r] = r < b.count ? T(source[step.row(b.first + r) * COLUMNS + c]) * scale : T(0.0);
}
#endif

// x W, each unit's sum in SLICES parts: all threads together read W as it lies in memory.
template <int INPUTS, int OUTPUTS, int SLICES>
__device__ __forceinline__ void product(const Block& b, const T* __restrict__ W, int inputs)
{
    const int j = threadIdx.x % OUTPUTS, slice = threadIdx.x / OUTPUTS;
    __syncthreads();
    if (slice < SLICES) {
        T sums[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sums[r] = T(0.0);
#pragma unroll 8
        for (int i = slice; i < INPUTS; i += SLICES) {
            const T w = W[i * OUTPUTS + j];
            const Rows x = b.memory[inputs + i];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) sums[r] += x.of[r] * w;
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) b.scratch()[(slice * ROWS + r) * OUTPUTS + j] = sums[r];
    }
    __syncthreads();
}

template <int OUTPUTS, int SLICES>
__device__ __forceinline__ T sum_of_slices(const Block& b, int r, int c)
{
    T sum = T(0.0);
#pragma unroll
    for (int slice = 0; slice < SLICES; ++slice) sum += b.scratch()[(slice * ROWS + r) * OUTPUTS + c];
    return sum;
}

// z = x W + b, kept where the derivative names it (z >= 0), and a = f(z), from the sums of slices.
template <int OUTPUTS, int SLICES, class F>
__device__ __forceinline__ void activate(const Block& b, const T* bias, const T* k, int z, int a)
{
    FOR_EACH_ELEMENT(OUTPUTS)
    {
        const T x = sum_of_slices<OUTPUTS, SLICES>(b, r, c) + (bias ? bias[c] : T(0.0));
        if (z >= 0) b.memory[z + c].of[r] = x;
        b.memory[a + c].of[r] = F::value(x, k);
    }
}

// The last layer's x W; its bias and activation belong to its loss.
template <int OUTPUTS, int SLICES>
__device__ __forceinline__ void collect(const Block& b, int z)
{
    FOR_EACH_ELEMENT(OUTPUTS) b.memory[z + c].of[r] = sum_of_slices<OUTPUTS, SLICES>(b, r, c);
}

// The stretch's part in dropout, and the program's; see dropout.cu.
struct Draw {
    unsigned long long seed, step;
    bool drops;
};

template <int COLUMNS>
__device__ __forceinline__ void drop(const Block& b, const Draw& draw, unsigned int purpose_layer,
                                     unsigned long long threshold, T scale, int inputs, int outputs, int mask)
{
    FOR_EACH_ELEMENT(COLUMNS)
    {
        T factor = T(1.0);
        if (draw.drops) {
            const long long element = (b.first + r) * COLUMNS + c;
            unsigned int words[4];
            dropout_words(words, element / 4, draw.step, purpose_layer, draw.seed);
#pragma unroll
            for (int word = 0; word < 4; ++word)  // no index that is known at run time only: registers have none
                if (element % 4 == word) factor = words[word] >= threshold ? scale : T(0.0);
        }
        b.memory[mask + c].of[r] = factor;
        b.memory[outputs + c].of[r] = b.memory[inputs + c].of[r] * factor;
    }
}

// The weighted losses of the block's rows, a warp a row; each lane 0 gets its warp's.
__device__ __forceinline__ double losses_of_rows(const Block& b, const Step& step, const Targets& targets,
                                                 const T* sample_weight, int weighted, T divisor, const T* bias,
                                                 const T* k, int z, int a, int delta)
{
    double sum = 0.0;
    __syncthreads();
    for (int r = threadIdx.x / 32; r < b.count; r += THREADS / 32) {
        const long long row = step.row(b.first + r);
        const T weight = weighted ? sample_weight[row] : T(1.0);
        T* const memory = b.memory[0].of + r;
        const T loss = row_loss<ROWS>(memory + z * ROWS, bias, bias != nullptr, memory + a * ROWS,
                                      memory + delta * ROWS, weight / divisor, k, targets, row);
        if (threadIdx.x % 32 == 0) sum += double(weight) * double(loss);
    }
    __syncthreads();
    return sum;
}

// delta W^T: GROUP neighbouring threads take an input, and every GROUP-th unit each.
template <int INPUTS, int OUTPUTS, int GROUP>
__device__ __forceinline__ void product_back(const Block& b, const T* __restrict__ W, int delta, int result)
{
    const int lane = threadIdx.x % GROUP;
    __syncthreads();
#pragma unroll 2
    for (int first = 0; first < INPUTS; first += THREADS / GROUP) {
        const int i = first + threadIdx.x / GROUP;
        T sums[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sums[r] = T(0.0);
        if (i < INPUTS)
#pragma unroll
            for (int j = lane; j < OUTPUTS; j += GROUP) {
                const T w = W[i * OUTPUTS + j];
                const Rows d = b.memory[delta + j];
#pragma unroll
                for (int r = 0; r < ROWS; ++r) sums[r] += d.of[r] * w;
            }
#pragma unroll
        for (int distance = GROUP / 2; distance; distance /= 2)
#pragma unroll
            for (int r = 0; r < ROWS; ++r) sums[r] += __shfl_xor_sync(~0u, sums[r], distance);
        if (i < INPUTS)
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
                if (lane == r % GROUP) b.memory[result + i].of[r] = sums[r];
    }
    __syncthreads();
}

// Through an activation: dLoss/dz = dLoss/da f'(z). z < 0: the derivative does not name it.
template <int COLUMNS, class F>
__device__ __forceinline__ void slope(const Block& b, const T* k, int z, int a, int delta)
{
    FOR_EACH_ELEMENT(COLUMNS)
    {
        const T out = b.memory[a + c].of[r];
        b.memory[delta + c].of[r] *= F::derivative(z >= 0 ? b.memory[z + c].of[r] : out, out, k);
    }
}

// Through dropout: what was dropped passes nothing back.
template <int COLUMNS>
__device__ __forceinline__ void undrop(const Block& b, int mask, int delta)
{
    FOR_EACH_ELEMENT(COLUMNS) b.memory[delta + c].of[r] *= b.memory[mask + c].of[r];
}

// This block's share of the penalties on `size` weights.
__device__ __forceinline__ double penalties_of(const T* W, int size, double alpha, double l1)
{
    double sum = 0.0;
    const long long first = (long long)blockIdx.x * THREADS + threadIdx.x, stride = (long long)gridDim.x * THREADS;
    for (long long i = first; i < size; i += stride) sum += penalty(W[i], alpha, l1);
    return sum;
}
