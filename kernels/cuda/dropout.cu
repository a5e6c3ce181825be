// Dropout masks from Philox4x32-10 (Salmon et al. 2011); nnfast.random is the definition this equals bit for bit.
__device__ __forceinline__ void philox_round(unsigned int c[4], unsigned int k0, unsigned int k1)
{
    const unsigned long long product0 = 0xD2511F53ull * c[0];
    const unsigned long long product1 = 0xCD9E8D57ull * c[2];
    const unsigned int c1 = c[1], c3 = c[3];
    c[0] = (unsigned int)(product1 >> 32) ^ c1 ^ k0;
    c[1] = (unsigned int)product1;
    c[2] = (unsigned int)(product0 >> 32) ^ c3 ^ k1;
    c[3] = (unsigned int)product0;
}

// outputs = inputs * mask, where mask is 0 for words below the threshold and `scale` elsewhere. A thread draws four
// words: element e takes word e % 4 of counter (e / 4, step low, step high, purpose_layer) under the seed as key.
extern "C" __global__ void dropout(const T* inputs, T* outputs, T* mask, unsigned long long seed,
                                   unsigned long long step, unsigned int purpose_layer, unsigned long long threshold,
                                   T scale, long long n)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long block = (long long)blockIdx.x * blockDim.x + threadIdx.x; 4 * block < n; block += stride) {
        unsigned int c[4] = {(unsigned int)block, (unsigned int)step, (unsigned int)(step >> 32), purpose_layer};
        unsigned int k0 = (unsigned int)seed, k1 = (unsigned int)(seed >> 32);
        for (int round = 0; round < 10; ++round) {
            philox_round(c, k0, k1);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int word = 0; word < 4; ++word) {
            const long long e = 4 * block + word;
            if (e < n) {
                mask[e] = c[word] >= threshold ? scale : T(0.0);
                outputs[e] = inputs[e] * mask[e];
            }
        }
    }
}
