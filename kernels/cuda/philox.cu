// Philox4x32-10 (Salmon et al. 2011); nnfast.support.random is the definition that this equals bit for bit.
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

// The four words of one block of a layer's dropout mask in one step: element e of the batch takes word e % 4 of
// counter (e / 4, step low, step high, purpose and layer) under the seed as key.
__device__ __forceinline__ void dropout_words(unsigned int c[4], long long block, unsigned long long step,
                                              unsigned int purpose_layer, unsigned long long seed)
{
    c[0] = (unsigned int)block;
    c[1] = (unsigned int)step;
    c[2] = (unsigned int)(step >> 32);
    c[3] = purpose_layer;
    unsigned int k0 = (unsigned int)seed, k1 = (unsigned int)(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        philox_round(c, k0, k1);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}
