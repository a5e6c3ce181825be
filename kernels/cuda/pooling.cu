// Pooling of each channel separately, forward and backward (docs/convolutions.md). Output (y, x) looks at the pixels
//
//     (y * stride_y - pad_top + i, x * stride_x - pad_left + j),    0 <= i < kernel_height, 0 <= j < kernel_width,
//
// those of them that lie inside the image: at least one. Backward, a thread finds the windows that its own pixel is in
// and adds up what they send, so that no two threads add to one pixel.
//
// Threads of a block: 32 numbers of a row x 8 rows; a thread's place in the image is the same for all its rows.
struct Axis {
    int input, output, kernel, stride, pad;

    // The pixels of a window, and the windows of a pixel: from first() to before end().
    __device__ __forceinline__ int first_pixel(int o) const { return max(o * stride - pad, 0); }
    __device__ __forceinline__ int end_pixel(int o) const { return min(o * stride - pad + kernel, input); }
    __device__ __forceinline__ int first_window(int u) const
    {
        const int skipped = u + pad - kernel + 1;
        return skipped > 0 ? (skipped + stride - 1) / stride : 0;
    }
    __device__ __forceinline__ int end_window(int u) const { return min((u + pad) / stride + 1, output); }
};

struct Window {
    Axis vertical, horizontal;
    int channels;

    __device__ __forceinline__ Window(const int* words)
    {
        vertical = {words[0], words[1], words[2], words[3], words[4]};
        horizontal = {words[5], words[6], words[7], words[8], words[9]};
        channels = words[10];
    }
    __device__ __forceinline__ int inputs() const { return vertical.input * horizontal.input * channels; }
    __device__ __forceinline__ int outputs() const { return vertical.output * horizontal.output * channels; }
    __device__ __forceinline__ int input(int v, int u, int c) const
    {
        return (v * horizontal.input + u) * channels + c;
    }
    __device__ __forceinline__ int output(int y, int x, int c) const
    {
        return (y * horizontal.output + x) * channels + c;
    }
    __device__ __forceinline__ int pixels(int y, int x) const
    {
        return (vertical.end_pixel(y) - vertical.first_pixel(y)) * (horizontal.end_pixel(x) - horizontal.first_pixel(x));
    }
};

#define FOR_EACH_NUMBER(NUMBERS)                                                                     \
    for (int j = blockIdx.y * 32 + threadIdx.x; j < (NUMBERS); j += gridDim.y * 32)
#define FOR_EACH_ROW for (int i = blockIdx.x * 8 + threadIdx.y; i < rows; i += gridDim.x * 8)
#define FOR_EACH_PIXEL(y, x)                                                                         \
    for (int v = w.vertical.first_pixel(y); v < w.vertical.end_pixel(y); ++v)                        \
        for (int u = w.horizontal.first_pixel(x); u < w.horizontal.end_pixel(x); ++u)
#define FOR_EACH_WINDOW(v, u)                                                                        \
    for (int y = w.vertical.first_window(v); y < w.vertical.end_window(v); ++y)                      \
        for (int x = w.horizontal.first_window(u); x < w.horizontal.end_window(u); ++x)

// outputs = the largest number of each window. One that is NaN stays to be seen.
extern "C" __global__ void __launch_bounds__(256, 3)
    max_pool(const T* __restrict__ inputs, T* __restrict__ outputs, const int* __restrict__ words,
             int rows)
{
    const Window w(words);
    FOR_EACH_NUMBER(w.outputs())
    {
        const int c = j % w.channels, x = j / w.channels % w.horizontal.output,
                  y = j / w.channels / w.horizontal.output;
        FOR_EACH_ROW
        {
            const T* image = inputs + (long long)i * w.inputs();
            T largest = image[w.input(w.vertical.first_pixel(y), w.horizontal.first_pixel(x), c)];
            FOR_EACH_PIXEL(y, x)
            {
                const T number = image[w.input(v, u, c)];
                if (number > largest || number != number) largest = number;
            }
            outputs[(long long)i * w.outputs() + j] = largest;
        }
    }
}

// dLoss/dinput: of each window that it is in, a pixel has the delta if it is the first of the largest.
extern "C" __global__ void __launch_bounds__(256, 3)
    max_pool_gradient(const T* __restrict__ inputs, const T* __restrict__ outputs,
                      const T* __restrict__ delta, T* __restrict__ gradient,
                      const int* __restrict__ words, int rows)
{
    const Window w(words);
    FOR_EACH_NUMBER(w.inputs())
    {
        const int c = j % w.channels, own_u = j / w.channels % w.horizontal.input,
                  own_v = j / w.channels / w.horizontal.input;
        FOR_EACH_ROW
        {
            const T* image = inputs + (long long)i * w.inputs();
            T sum = T(0.0);
            FOR_EACH_WINDOW(own_v, own_u)
            {
                const long long o = (long long)i * w.outputs() + w.output(y, x, c);
                if (image[j] != outputs[o]) continue;
                bool is_first = true;
                FOR_EACH_PIXEL(y, x)
                    if ((v < own_v || (v == own_v && u < own_u)) && image[w.input(v, u, c)] == outputs[o])
                        is_first = false;
                if (is_first) sum += delta[o];
            }
            gradient[(long long)i * w.inputs() + j] = sum;
        }
    }
}

// outputs = the mean of each window's pixels inside the image.
extern "C" __global__ void __launch_bounds__(256, 3)
    average_pool(const T* __restrict__ inputs, T* __restrict__ outputs,
                 const int* __restrict__ words, int rows)
{
    const Window w(words);
    FOR_EACH_NUMBER(w.outputs())
    {
        const int c = j % w.channels, x = j / w.channels % w.horizontal.output,
                  y = j / w.channels / w.horizontal.output;
        FOR_EACH_ROW
        {
            const T* image = inputs + (long long)i * w.inputs();
            T sum = T(0.0);
            FOR_EACH_PIXEL(y, x) sum += image[w.input(v, u, c)];
            outputs[(long long)i * w.outputs() + j] = sum / T(w.pixels(y, x));
        }
    }
}

// dLoss/dinput: of each window that it is in, a pixel has an equal share in the delta.
extern "C" __global__ void __launch_bounds__(256, 3)
    average_pool_gradient(const T* __restrict__ delta, T* __restrict__ gradient,
                          const int* __restrict__ words, int rows)
{
    const Window w(words);
    FOR_EACH_NUMBER(w.inputs())
    {
        const int c = j % w.channels, own_u = j / w.channels % w.horizontal.input,
                  own_v = j / w.channels / w.horizontal.input;
        FOR_EACH_ROW
        {
            T sum = T(0.0);
            FOR_EACH_WINDOW(own_v, own_u)
                sum += delta[(long long)i * w.outputs() + w.output(y, x, c)] / T(w.pixels(y, x));
            gradient[(long long)i * w.inputs() + j] = sum;
        }
    }
}
