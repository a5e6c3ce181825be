// The kernels that turn what narrow_rows.cu left into gradients, and these into new weights. narrow.py writes LAYERS, a
// table of sizes.

// A weight matrix with its bias as one more row of weights, of an input that is always one: so they lie in memory.
struct Layer {
    int inputs, outputs, biases;
    int first_tile, tiles_across;  // among the tiles of all layers
    long long x, delta;            // in the workspace
    long long weights;             // in the parameters
};
__constant__ Layer layers[] = LAYERS;
constexpr int LAYER_COUNT = sizeof(layers) / sizeof(Layer);

#define CHUNK 64  // rows of the batch in shared memory at a time
#define TEAMS 4   // of threads, each of which sums every fourth row

// One weight's gradient, and its place in the parameters, or -1 beyond the matrix.
struct Weight {
    T gradient;
    long long place;
};

// A tile of a layer's weight gradient, dLoss/dW = x^T delta and dLoss/db = sum of delta's rows, penalties included: by
// 256 threads, of which thread t gets weight t.
__device__ __forceinline__ Weight weight_of_tile(const T* __restrict__ p, const T* __restrict__ workspace, int batch,
                                                 T divisor, double alpha, double l1)
{
    __shared__ T xs[CHUNK][TILE], deltas[CHUNK][TILE], sums[TEAMS][TILE][TILE];
    int index = 0;
    while (index + 1 < LAYER_COUNT && int(blockIdx.x) >= layers[index + 1].first_tile) ++index;
    const Layer layer = layers[index];
    const int tile = blockIdx.x - layer.first_tile, t = threadIdx.x;
    const int first_i = tile / layer.tiles_across * TILE, first_j = tile % layer.tiles_across * TILE;

    // Thread t loads column t % 16 of rows t / 16, t / 16 + 16, ... of a chunk, one chunk ahead of the sums.
    constexpr int LOADS = CHUNK / TILE;
    const int column = t % TILE, i_loaded = first_i + column, j_loaded = first_j + column;
    T x_ahead[LOADS], delta_ahead[LOADS];
    const auto load = [&](int first) {
#pragma unroll
        for (int n = 0; n < LOADS; ++n) {
            const long long row = first + t / TILE + n * TILE;
            x_ahead[n] = i_loaded == layer.inputs ? T(1.0) : T(0.0);
            delta_ahead[n] = T(0.0);
            if (row < batch && i_loaded < layer.inputs) x_ahead[n] = workspace[layer.x + row * layer.inputs + i_loaded];
            if (row < batch && j_loaded < layer.outputs)
                delta_ahead[n] = workspace[layer.delta + row * layer.outputs + j_loaded];
        }
    };

    // A team's 64 threads take 2 x 2 weights each.
    const int team = t / 64, i = t % 64 / 8 * 2, j = t % 8 * 2;
    T sum[2][2] = {};
    load(0);
    for (int first = 0; first < batch; first += CHUNK) {
#pragma unroll
        for (int n = 0; n < LOADS; ++n) {
            xs[t / TILE + n * TILE][column] = x_ahead[n];
            deltas[t / TILE + n * TILE][column] = delta_ahead[n];
        }
        __syncthreads();
        if (first + CHUNK < batch) load(first + CHUNK);
#pragma unroll 4
        for (int row = team; row < CHUNK; row += TEAMS) {
            const T x0 = xs[row][i], x1 = xs[row][i + 1], d0 = deltas[row][j], d1 = deltas[row][j + 1];
            sum[0][0] += x0 * d0;
            sum[0][1] += x0 * d1;
            sum[1][0] += x1 * d0;
            sum[1][1] += x1 * d1;
        }
        __syncthreads();
    }
    for (int n = 0; n < 4; ++n) sums[team][i + n / 2][j + n % 2] = sum[n / 2][n % 2];
    __syncthreads();

    const int own_i = first_i + t / TILE, own_j = first_j + column;
    Weight weight = {T(0.0), -1};
    for (int n = 0; n < TEAMS; ++n) weight.gradient += sums[n][t / TILE][column];
    if (own_i < layer.inputs + layer.biases && own_j < layer.outputs) {
        weight.place = layer.weights + (long long)own_i * layer.outputs + own_j;
        if (own_i < layer.inputs) weight.gradient += penalty_slope(p[weight.place], alpha, l1) / divisor;
    }
    return weight;
}

// The second launch of a step, and the last: the gradient of each weight, and its update.
extern "C" __global__ void __launch_bounds__(256, 1)
    learn(T* p, const T* __restrict__ workspace, T* slots, long long* stretch, const double* __restrict__ values,
          double alpha, double l1, const double* __restrict__ losses_of_blocks, int loss_blocks,
          double* __restrict__ losses)
{
    const Step step(stretch, 1);
    const double* row = values + step.index * (1 + STEP_VALUES);
    const Weight weight = weight_of_tile(p, workspace, int(step.rows), T(row[0]), alpha, l1);
    if (weight.place >= 0) {
        T s[STEP_VALUES];
        for (int i = 0; i < STEP_VALUES; ++i) s[i] = T(row[1 + i]);
        update_element(p, slots, weight.gradient, s, weight.place, PARAMETERS);
    }
    if (blockIdx.x == 0) {
        const double sum = sum_of_blocks(losses_of_blocks, loss_blocks);
        if (threadIdx.x == 0) losses[step.index] = sum / row[0];
        next_step(stretch);
    }
}

// The second launch where something comes between gradient and update: each block leaves its sum of squares.
extern "C" __global__ void __launch_bounds__(256, 1)
    gradient(const T* __restrict__ p, const T* __restrict__ workspace, T* __restrict__ g,
             const long long* __restrict__ stretch, const double* __restrict__ values, int width, double alpha,
             double l1, double* __restrict__ squares)
{
    const Step step(stretch, 0);
    const Weight weight = weight_of_tile(p, workspace, int(step.rows), T(values[step.index * width]), alpha, l1);
    double square = 0.0;
    if (weight.place >= 0) {
        g[weight.place] = weight.gradient;
        square = double(weight.gradient) * double(weight.gradient);
    }
    square = block_sum(square);
    if (threadIdx.x == 0) squares[blockIdx.x] = square;
}
