// adam.cu: one step of the value search for every fact of a batch.
//
//   maths    nll = f sum w loss over rows that say     kl = sum w loss over rows that stay
//            decay = c sum_p |d_p| / |t_p|^2           missed = rows that say without `top`
//            g_p += c d_p / (|d_p| |t_p|^2)            total = nll + kl + decay
//            m = b1 m + (1 - b1) g    v = b2 v + (1 - b2) g^2
//            d -= lr (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + e),   then |d_p| <= clamp |t_p|
//            f = nll_factor, a tenth of it for the next step where `eases` and none is missed
//   ends     total < enough, n = steps, or `eases`, none missed and kl <= CALM: d stays as it is
//   shapes   delta m v t0 g (S, P D): d and t, P parts of D a fact   rows (S, 2): from, to of R
//            target weight loss top (R): as in loss.cu, w without f; a row says if target >= 0
//            state (S, 2): RUNNING, ENDED or BROKEN (total not finite; nothing moved); n
//            factor (S): f   weighed (R): w f   trace (S, steps, 4): nll kl decay missed of each n
//   types    f32                                  every sum in f32, 1 - b^n from f64
//   launch   a block a fact, THREADS each
//   cost     moves 11 P D floats a fact; from the cache for the most part, and bound by latency
//   source   Kingma, Ba 2015, arXiv:1412.6980; Meng et al. 2022, arXiv:2202.05262, eq. 4
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int RUNNING = 0;
constexpr int ENDED = 1;
constexpr int BROKEN = 2;
constexpr double BETA1 = 0.9, BETA2 = 0.999;
constexpr float EPS = 1e-8f;
constexpr float EASED = 0.1f;
constexpr float CALM = 0.01f;

struct Shared { float part[THREADS / WARP]; };

HD float square_norm(const float* x, int D) {
    float sum = 0;
    for (int i = threadIdx.x; i < D; i += THREADS) sum += x[i] * x[i];
    return block_sum(sum, shared().part);
}

struct Losses { float nll, kl, missed; };

HD Losses losses(const int* rows, const int* target, const float* weight, const float* loss,
                 const int* top) {
    Losses sum = {0, 0, 0};
    for (int row = rows[0] + threadIdx.x; row < rows[1]; row += THREADS) {
        const float weighed = weight[row] * loss[row];
        const bool says = target[row] >= 0;
        (says ? sum.nll : sum.kl) += weighed;
        sum.missed += says && !top[row];
    }
    float* part = shared().part;
    sum.nll = block_sum(sum.nll, part);
    sum.kl = block_sum(sum.kl, part);
    sum.missed = block_sum(sum.missed, part);
    return sum;
}

// 1 - b^n. In f32, 1 - 0.999 alone would lose half of the digits.
HD float correction(double b, int n) {
    double power = 1;
    for (; n > 0; n /= 2, b *= b)
        if (n % 2) power *= b;
    return static_cast<float>(1 - power);
}

extern "C" __global__ void adam_step(const float* g, const float* t0, const int* rows,
                                     const int* target, const float* weight, const float* loss,
                                     const int* top, float lr, float decay, float clamp,
                                     float nll_factor, float enough, int eases, int steps, int P,
                                     int D, inout float* delta, inout float* m, inout float* v,
                                     inout int* state, inout float* factor, inout float* trace) {
    const long long slot = blockIdx.x, at = slot * P * D;
    state += 2 * slot;
    if (state[0] != RUNNING) return;  // the whole block
    const int n = state[1] + 1;
    const float f = factor[slot];
    g += at, t0 += at, delta += at, m += at, v += at;

    const Losses of = losses(rows + 2 * slot, target, weight, loss, top);
    const float nll = f * of.nll;
    float shrunk = 0;
    for (int p = 0; p < P; p++)
        shrunk += decay / square_norm(t0 + p * D, D) * sqrtf(square_norm(delta + p * D, D));
    const float total = nll + of.kl + shrunk;
    const bool broken = !(fabsf(total) < INFINITY), said = eases && of.missed == 0;
    const bool ends = total < enough || n == steps || (said && of.kl <= CALM);
    if (threadIdx.x == 0) {
        if (broken || ends) state[0] = broken ? BROKEN : ENDED;
        if (!broken) {
            state[1] = n;
            factor[slot] = nll_factor * (said ? EASED : 1.0f);
            float* seen = trace + 4 * (slot * steps + n - 1);
            seen[0] = nll, seen[1] = of.kl, seen[2] = shrunk, seen[3] = of.missed;
        }
    }
    if (broken || ends) return;

    const float c1 = correction(BETA1, n), c2 = correction(BETA2, n);
    const float b1 = BETA1, b2 = BETA2, a1 = 1 - BETA1, a2 = 1 - BETA2;
    for (int p = 0; p < P; p++, g += D, t0 += D, delta += D, m += D, v += D) {
        const float size = square_norm(t0, D), far = sqrtf(square_norm(delta, D));
        const float pull = far > 0 ? decay / size / far : 0.0f;  // the slope of |d| is d / |d|
        float sum = 0;
        for (int i = threadIdx.x; i < D; i += THREADS) {
            const float slope = g[i] + pull * delta[i];
            const float mean = b1 * m[i] + a1 * slope, square = b2 * v[i] + a2 * slope * slope;
            const float now = delta[i] - lr * (mean / c1) / (sqrtf(square / c2) + EPS);
            m[i] = mean, v[i] = square, delta[i] = now;
            sum += now * now;
        }
        const float moved = sqrtf(block_sum(sum, shared().part)), radius = clamp * sqrtf(size);
        if (moved > radius)
            for (int i = threadIdx.x; i < D; i += THREADS) delta[i] *= radius / moved;
    }
}

// The weights that loss.cu takes in the next step.
extern "C" __global__ void adam_weights(const int* rows, const int* target, const float* weight,
                                        const float* factor, inout float* weighed) {
    const int slot = blockIdx.x;
    for (int row = rows[2 * slot] + threadIdx.x; row < rows[2 * slot + 1]; row += THREADS)
        weighed[row] = weight[row] * (target[row] >= 0 ? factor[slot] : 1.0f);
}
