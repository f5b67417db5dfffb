// norm.cu: layer and RMS normalisation, forward and backward.
//
//   maths    m = mean(x)   s = 1/sqrt(mean((x - m)^2) + eps)   h = (x - m) s   y = g h + b
//            RMS: m = 0; b may be absent
//            dx += s (p - mean(p) - h mean(p h)),   p = g dy       RMS: without mean(p)
//   shapes   x dx (N, D) f32   y dy (N, D)   g b (D) f32   m s (N) f32      row-major, dense
//   types    f32 bf16                                              every sum in f32
//   launch   one warp a row, ROWS rows a block; any N, any D
//   cost     forward moves 4 N D bytes and N D elements, backward twice that; bandwidth-bound
//   source   Ba, Kiros, Hinton 2016, arXiv:1607.06450; Zhang, Sennrich 2019, arXiv:1910.07467
#include "common.cuh"

constexpr int ROWS = 4;

// Two passes for the variance: mean(x^2) - m^2 loses digits when |m| is large beside the spread,
// and the second pass finds the row in the cache.
extern "C" __global__ void norm_fwd(const float* x, const float* g, const float* b, float eps,
                                    int centred, int biased, int N, int D, elem* y, float* m,
                                    float* s) {
    const int row = blockIdx.x * ROWS + threadIdx.y, lane = threadIdx.x;
    if (row >= N) return;  // the whole warp leaves together
    x += static_cast<long long>(row) * D;
    y += static_cast<long long>(row) * D;

    float sum = 0;
    if (centred)
        for (int d = lane; d < D; d += WARP) sum += x[d];
    const float mean = warp_sum(sum) / D;

    float square = 0;
    for (int d = lane; d < D; d += WARP) {
        const float c = x[d] - mean;
        square += c * c;
    }
    const float rstd = 1 / sqrtf(warp_sum(square) / D + eps);

    for (int d = lane; d < D; d += WARP)
        put(&y[d], g[d] * ((x[d] - mean) * rstd) + (biased ? b[d] : 0.0f));
    if (lane == 0) {
        m[row] = mean;
        s[row] = rstd;
    }
}

extern "C" __global__ void norm_bwd(const elem* dy, const float* g, const float* x, const float* m,
                                    const float* s, int centred, int N, int D, inout float* dx) {
    const int row = blockIdx.x * ROWS + threadIdx.y, lane = threadIdx.x;
    if (row >= N) return;
    dy += static_cast<long long>(row) * D;
    x += static_cast<long long>(row) * D;
    dx += static_cast<long long>(row) * D;
    const float mean = m[row], rstd = s[row];

    float p_sum = 0, ph_sum = 0;
    for (int d = lane; d < D; d += WARP) {
        const float p = g[d] * f32(dy[d]);
        p_sum += p;
        ph_sum += p * ((x[d] - mean) * rstd);
    }
    const float mean_p = centred ? warp_sum(p_sum) / D : 0.0f, mean_ph = warp_sum(ph_sum) / D;

    for (int d = lane; d < D; d += WARP) {
        const float p = g[d] * f32(dy[d]), h = (x[d] - mean) * rstd;
        dx[d] += rstd * (p - mean_p - h * mean_ph);
    }
}
