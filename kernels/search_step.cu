// search_step.cu: one step of the value search for every fact of a batch.
//
//   maths    nll = f sum w loss over cross-entropies     kl = sum w loss over KLs
//            decay = c sum_p |d_p| / |t_p|^2             missed = cross-entropies not `is_argmax`
//            g_p += c d_p / (|d_p| |t_p|^2)              total = nll + kl + decay
//            d = Adam(d, g), as in adam.cu,              then |d_p| <= clamp |t_p|
//            f = nll_factor, a tenth of it for the next step where `anneal_nll` and none is missed
//   ends     total < loss_tolerance, n = max_steps, or `anneal_nll`, none missed and
//            kl <= KL_TOLERANCE: d stays as it is
//   shapes   delta m v t0 g (S, P D): d and t, P parts of D a fact   rows (S, 2): from, to of R
//            target weight loss is_argmax (R): as in loss.cu; a cross-entropy if target >= 0
//            status (S, 2): ACTIVE, CONVERGED or DIVERGED (total not finite; nothing moved); n
//            factor (S): f   trace (S, max_steps, 4): nll kl decay missed of each n
//   types    f32                                  every sum in f32, 1 - b^n from f64
//   launch   a block a fact, THREADS each
//   cost     moves 11 P D floats a fact; from the cache for the most part, and bound by latency
//   source   Meng et al. 2022, arXiv:2202.05262, eq. 4; Li et al. 2024, arXiv:2308.08742
#include "common.cuh"
#include "adam.cuh"

constexpr int THREADS = 256;
constexpr int ACTIVE = 0;
constexpr int CONVERGED = 1;
constexpr int DIVERGED = 2;
constexpr float ANNEALED_NLL = 0.1f;
constexpr float KL_TOLERANCE = 0.01f;

struct Shared { float part[THREADS / WARP]; };

HD float square_norm(const float* x, int D) {
    float sum = 0;
    for (int i = threadIdx.x; i < D; i += THREADS) sum += x[i] * x[i];
    return block_sum(sum, shared().part);
}

struct Losses { float nll, kl, missed; };

HD Losses losses(const int* rows, const int* target, const float* weight, const float* loss,
                 const int* is_argmax) {
    Losses sum = {0, 0, 0};
    for (int row = rows[0] + threadIdx.x; row < rows[1]; row += THREADS) {
        const float weighted = weight[row] * loss[row];
        const bool cross_entropy = target[row] >= 0;
        (cross_entropy ? sum.nll : sum.kl) += weighted;
        sum.missed += cross_entropy && !is_argmax[row];
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

extern "C" __global__ void search_step(
    const float* g, const float* t0, const int* rows, const int* target, const float* weight,
    const float* loss, const int* is_argmax, float lr, float weight_decay, float clamp,
    float nll_factor, float loss_tolerance, int anneal_nll, int max_steps, int P, int D,
    inout float* delta, inout float* m, inout float* v, inout int* status, inout float* factor,
    inout float* trace) {
    const long long slot = blockIdx.x, at = slot * P * D;
    status += 2 * slot;
    if (status[0] != ACTIVE) return;  // the whole block
    const int n = status[1] + 1;
    const float f = factor[slot];
    g += at, t0 += at, delta += at, m += at, v += at;

    const Losses of = losses(rows + 2 * slot, target, weight, loss, is_argmax);
    const float nll = f * of.nll;
    float decay = 0;
    for (int p = 0; p < P; p++)
        decay += weight_decay / square_norm(t0 + p * D, D) * sqrtf(square_norm(delta + p * D, D));
    const float total = nll + of.kl + decay;
    const bool diverged = !(fabsf(total) < INFINITY), anneals = anneal_nll && of.missed == 0;
    const bool ends =
        total < loss_tolerance || n == max_steps || (anneals && of.kl <= KL_TOLERANCE);
    if (threadIdx.x == 0) {
        if (diverged || ends) status[0] = diverged ? DIVERGED : CONVERGED;
        if (!diverged) {
            status[1] = n;
            factor[slot] = nll_factor * (anneals ? ANNEALED_NLL : 1.0f);
            float* seen = trace + 4 * (slot * max_steps + n - 1);
            seen[0] = nll, seen[1] = of.kl, seen[2] = decay, seen[3] = of.missed;
        }
    }
    if (diverged || ends) return;

    const float c1 = correction(BETA1, n), c2 = correction(BETA2, n);
    for (int p = 0; p < P; p++, g += D, t0 += D, delta += D, m += D, v += D) {
        const float square = square_norm(t0, D), length = sqrtf(square_norm(delta, D));
        const float pull = length > 0 ? weight_decay / square / length : 0.0f;  // d|d| = d / |d|
        float sum = 0;
        for (int i = threadIdx.x; i < D; i += THREADS) {
            const float before = delta[i];
            const float now = adam_update(before, g[i] + pull * before, lr, c1, c2, m[i], v[i]);
            delta[i] = now;
            sum += now * now;
        }
        const float moved = sqrtf(block_sum(sum, shared().part)), radius = clamp * sqrtf(square);
        if (moved > radius)
            for (int i = threadIdx.x; i < D; i += THREADS) delta[i] *= radius / moved;
    }
}
