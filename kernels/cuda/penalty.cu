// d/dW of alpha W^2 / 2 + l1 |W|
__device__ __forceinline__ T penalty_slope(T w, double alpha, double l1)
{
    return T(alpha) * w + (w > T(0.0) ? T(l1) : w < T(0.0) ? -T(l1) : T(0.0));
}
__device__ __forceinline__ double penalty(T w, double alpha, double l1)
{
    return alpha / 2 * double(w * w) + l1 * fabs(double(w));
}
