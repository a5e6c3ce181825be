// The end of a step. update_element (one optimizer step for element i), STEP_VALUES and T come from the optimizer.

// The sum of numbers that the blocks of an earlier launch left, in a fixed order, for all threads.
__device__ __forceinline__ double sum_of_blocks(const double* values, int count)
{
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += int(blockDim.x)) sum += values[i];
    return block_sum(sum);
}

// What shortens a gradient whose squares these are to clip_norm, or 1 where it is short enough or nothing is asked for.
__device__ __forceinline__ T clip_factor(const double* squares, int count, double clip_norm)
{
    if (clip_norm == 0.0) return T(1.0);
    const double norm = sqrt(sum_of_blocks(squares, count));
    return norm > clip_norm ? T(clip_norm / norm) : T(1.0);
}
