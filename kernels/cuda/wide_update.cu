// Adds the penalties' slopes to the gradient of weights, and leaves each block's sums of penalties and of the
// gradient's squares.
extern "C" __global__ void penalize(const T* __restrict__ p, T* __restrict__ g,
                                    const unsigned char* __restrict__ is_weight, double alpha, double l1,
                                    const long long* __restrict__ stretch, const double* __restrict__ values, int width,
                                    double* __restrict__ penalties, double* __restrict__ squares, long long n)
{
    const Step step(stretch, 0);
    const T divisor = T(values[step.index * width]);
    const long long stride = (long long)gridDim.x * blockDim.x;
    double penalty_sum = 0.0, square_sum = 0.0;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        T slope = g[i];
        if (is_weight[i]) {
            const T w = p[i];
            slope += penalty_slope(w, alpha, l1) / divisor;
            g[i] = slope;
            penalty_sum += penalty(w, alpha, l1);
        }
        square_sum += double(slope) * double(slope);
    }
    penalty_sum = block_sum(penalty_sum);
    square_sum = block_sum(square_sum);
    if (threadIdx.x == 0) {
        penalties[blockIdx.x] = penalty_sum;
        squares[blockIdx.x] = square_sum;
    }
}

// One step of the optimizer over the flat vectors; slots: all state vectors, one behind the other. Block 0 also puts
// the step's loss together and moves the stretch on.
extern "C" __global__ void update(T* __restrict__ p, const T* __restrict__ g, T* __restrict__ slots, long long n,
                                  long long* stretch, const double* __restrict__ values, double clip_norm,
                                  const double* __restrict__ losses_of_blocks, int loss_blocks,
                                  const double* __restrict__ penalties, int penalty_blocks,
                                  const double* __restrict__ squares, int square_blocks,
                                  double* __restrict__ losses)
{
    const Step step(stretch, 1);
    const double* row = values + step.index * (1 + STEP_VALUES);
    T s[STEP_VALUES];
    for (int i = 0; i < STEP_VALUES; ++i) s[i] = T(row[1 + i]);
    const T factor = clip_factor(squares, square_blocks, clip_norm);
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        update_element(p, slots, g[i] * factor, s, i, n);
    if (blockIdx.x == 0) {
        const double sum = sum_of_blocks(losses_of_blocks, loss_blocks) + sum_of_blocks(penalties, penalty_blocks);
        if (threadIdx.x == 0) losses[step.index] = sum / row[0];
        next_step(stretch);
    }
}
