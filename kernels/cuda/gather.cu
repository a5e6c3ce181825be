// Gathers a batch's rows from a source of element type S into T.
extern "C" __global__ void gather(const S* source, const long long* rows, long long n, int columns, T scale, T* out)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        out[i] = T(source[rows[i / columns] * columns + i % columns]) * scale;
}

// Class labels become rows with a single one.
extern "C" __global__ void one_hot(const S* source, const long long* rows, long long n, int columns, T scale, T* out)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        out[i] = source[rows[i / columns]] == S(i % columns) ? scale : T(0.0);
}

// CSR rows into rows that are zero already, one thread a row.
extern "C" __global__ void gather_csr(const S* values, const long long* indices, const long long* starts,
                                      const long long* rows, long long n, int columns, T* out)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        for (long long k = starts[rows[i]]; k < starts[rows[i] + 1]; ++k)
            out[i * columns + indices[k]] += T(values[k]);
}
