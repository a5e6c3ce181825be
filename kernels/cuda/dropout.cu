// outputs = inputs * mask, where mask is 0 for words below the threshold and `scale` elsewhere. A thread draws four.
extern "C" __global__ void dropout(const T* __restrict__ inputs, T* __restrict__ outputs, T* __restrict__ mask,
                                   unsigned long long seed, unsigned int purpose_layer, unsigned long long threshold,
                                   T scale, int columns, const long long* __restrict__ stretch)
{
    const Step step(stretch, 0);
    const long long n = step.rows * columns, stride = (long long)gridDim.x * blockDim.x;
    for (long long block = (long long)blockIdx.x * blockDim.x + threadIdx.x; 4 * block < n; block += stride) {
        unsigned int c[4];
        dropout_words(c, block, (unsigned long long)step.number, purpose_layer, seed);
        for (int word = 0; word < 4; ++word) {
            const long long e = 4 * block + word;
            if (e < n) {
                mask[e] = c[word] >= threshold ? scale : T(0.0);
                outputs[e] = inputs[e] * mask[e];
            }
        }
    }
}
