// One optimizer step over the flat vectors. slots: all state vectors, one behind the other; s: the step's values.
// T, FORMULA (reads, statements and writes of element i) come from the optimizer's formulas.
extern "C" __global__ void update(T* p, const T* g, T* slots, const T* s, long long n)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        FORMULA
    }
}
