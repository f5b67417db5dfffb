// adam.cu: one step of Adam.
//
//   maths    g' = g + decay x
//            m = b1 m + (1 - b1) g'       v = b2 v + (1 - b2) g'^2
//            x -= lr (m / c1) / (sqrt(v / c2) + e),   c1 = 1 - b1^n, c2 = 1 - b2^n in step n
//            x = centre - radius, x or centre + radius, whichever is nearest, where radius >= 0
//   shapes   all (n)
//   types    f32                                              c1 and c2 from f64
//   launch   THREADS a block, an element a thread
//   cost     moves 7 n floats, with a bound 8 n; bandwidth-bound
//   source   Kingma, Ba 2015, arXiv:1412.6980, algorithm 1
#include "common.cuh"
#include "adam.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void adam(const float* g, const float* centre, long long n, float lr,
                                float decay, float radius, float c1, float c2, inout float* x,
                                inout float* m, inout float* v) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= n) return;
    float now = adam_update(x[i], g[i] + decay * x[i], lr, c1, c2, m[i], v[i]);
    if (radius >= 0) {
        const float low = centre[i] - radius, high = centre[i] + radius;
        now = now < low ? low : now > high ? high : now;
    }
    x[i] = now;
}
