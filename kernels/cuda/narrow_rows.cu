// The kernels that take a narrow network's rows through it. forward(), output_losses(), backward() and penalties() are
// lists of calls, written by narrow.py, of the pieces in narrow_pieces.cu.

#define SOURCE \
    const S *__restrict__ inputs, const long long *__restrict__ indices, const long long *__restrict__ starts, T scale
#define TARGETS \
    const long long *__restrict__ labels, const T *__restrict__ numbers, int kind, \
        const T *__restrict__ sample_weight, int weighted

// The first launch of a step: losses, and what the gradients are made of.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    rows(SOURCE, TARGETS, const T* __restrict__ p, const T* __restrict__ k, T* workspace, long long* stretch,
         const double* __restrict__ values, int width, unsigned long long seed, int drops, double alpha, double l1,
         double* __restrict__ losses)
{
    extern __shared__ Rows memory[];
    const Step step(stretch, 0);
    keep_step(stretch);
    const long long first = (long long)blockIdx.x * ROWS;
    const Block b = {memory, p, k, workspace, first, int(min((long long)ROWS, step.rows - first)), true};
    double sum = alpha != 0.0 || l1 != 0.0 ? penalties(p, alpha, l1) : 0.0;
    if (b.count > 0) {  // a grid is made for the largest batch
        const Targets targets = {labels, numbers, kind, NETWORK_OUTPUTS};
        forward(b, step, inputs, indices, starts, scale, {seed, (unsigned long long)step.number, drops != 0});
        sum += output_losses(b, step, targets, sample_weight, weighted, T(values[step.index * width]));
        backward(b);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}

// Outputs and losses of all rows of a stretch of one step, without dropout.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    evaluate(SOURCE, TARGETS, const T* __restrict__ p, const T* __restrict__ k, const long long* __restrict__ stretch,
             T* __restrict__ outputs, double* __restrict__ losses)
{
    extern __shared__ Rows memory[];
    const Step step(stretch, 0);
    const long long first = (long long)blockIdx.x * ROWS;
    const Block b = {memory, p, k, nullptr, first, int(min((long long)ROWS, step.rows - first)), false};
    const Targets targets = {labels, numbers, kind, NETWORK_OUTPUTS};
    forward(b, step, inputs, indices, starts, scale, {0, 0, false});
    const double sum = block_sum(output_losses(b, step, targets, sample_weight, weighted, T(1.0)));
    store<NETWORK_OUTPUTS>(b, OUTPUT_PLACE, outputs);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}
