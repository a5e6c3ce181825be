// A step begins: the rows of its batch, from a source of element type S, become the rows of `out`.
// Threads of a block: 32 x 8, a row of lanes for each row of the batch.
extern "C" __global__ void gather(const S* __restrict__ source, long long* stretch, int columns, T scale,
                                  T* __restrict__ out)
{
    const Step step(stretch, 0);
    keep_step(stretch);
    for (int i = blockIdx.x * 8 + threadIdx.y; i < step.rows; i += gridDim.x * 8) {
        const S* row = source + step.row(i) * columns;
        for (int j = blockIdx.y * 32 + threadIdx.x; j < columns; j += gridDim.y * 32)
            out[(long long)i * columns + j] = T(row[j]) * scale;
    }
}

// The same from CSR rows in which no column stands twice. The grid has one block of columns.
extern "C" __global__ void gather_csr(const S* __restrict__ values, const long long* __restrict__ indices,
                                      const long long* __restrict__ starts, long long* stretch, int columns,
                                      T* __restrict__ out)
{
    const Step step(stretch, 0);
    keep_step(stretch);
    for (int i = blockIdx.x * 8 + threadIdx.y; i < step.rows; i += gridDim.x * 8) {
        T* filled = out + (long long)i * columns;
        for (int j = threadIdx.x; j < columns; j += 32) filled[j] = T(0.0);
        __syncwarp();
        const long long row = step.row(i);
        for (long long k = starts[row] + threadIdx.x; k < starts[row + 1]; k += 32) filled[indices[k]] = T(values[k]);
    }
}
