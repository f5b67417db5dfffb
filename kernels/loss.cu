// loss.cu: cross-entropy and KL at rows of logits, and their gradient in place.
//
//   maths    p = softmax(z)
//            cross-entropy   -ln p_y                     dz = w (p - e_y)
//            kl              KL = sum p (ln p - ln p0)   dz = w p (ln p - ln p0 - KL)
//            capped          z = c tanh(z' / c)          dz' = dz (1 - (z / c)^2)
//            scale           w = factor weight of a cross-entropy, w = weight of a KL
//   shapes   z (R, V) f32   reference (rows, V) f32: ln p0   target (R): y, or -1 - row of ln p0
//            weight (R)   scaled (R): w   loss (R), without w   is_argmax (R): none likelier than y
//            groups (S, 2): from, to of R   factor (S)
//   types    f32
//   launch   a block a row, or for `loss_scale` a group, THREADS each; any R, any V
//   cost     moves 3 R V to 5 R V floats; bandwidth-bound
//   source   -
#include "common.cuh"

constexpr int THREADS = 512;

struct Shared { float part[THREADS / WARP]; };

HD float block_max(float x) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_max(x);
    if (lane == 0) shared().part[warp] = x;
    __syncthreads();
    x = warp_max(shared().part[lane % (THREADS / WARP)]);
    __syncthreads();
    return x;
}

// ln sum exp z, by the largest.
HD float log_sum(const elem* z, int V, float max) {
    float sum = 0;
    for (int v = threadIdx.x; v < V; v += THREADS) sum += expf(z[v] - max);
    return max + logf(block_sum(sum, shared().part));
}

HD float largest(const elem* z, int V) {
    float max = z[0];
    for (int v = threadIdx.x; v < V; v += THREADS) max = fmaxf(max, z[v]);
    return block_max(max);
}

// Of a cap c, from what it gave; 1 where there is none, and 1 / c is 0.
HD float slope(float z, float inverse_cap) { return 1 - z * inverse_cap * (z * inverse_cap); }

extern "C" __global__ void log_softmax(const elem* z, const int* rows, int V, elem* logp) {
    z += static_cast<long long>(rows[blockIdx.x]) * V;
    logp += static_cast<long long>(blockIdx.x) * V;
    const float lse = log_sum(z, V, largest(z, V));
    for (int v = threadIdx.x; v < V; v += THREADS) logp[v] = z[v] - lse;
}

extern "C" __global__ void loss_gradient(const elem* reference, const int* target,
                                         const float* scaled, float inverse_cap, int V,
                                         inout elem* z, float* loss, int* is_argmax) {
    const int row = blockIdx.x, y = target[row];
    const float w = scaled[row];
    z += static_cast<long long>(row) * V;
    const float max = largest(z, V), lse = log_sum(z, V, max);

    if (y >= 0) {
        const float at_target = z[y];
        __syncthreads();  // before its place is written over
        for (int v = threadIdx.x; v < V; v += THREADS)
            z[v] = w * (expf(z[v] - lse) - (v == y ? 1.0f : 0.0f)) * slope(z[v], inverse_cap);
        if (threadIdx.x == 0) {
            loss[row] = lse - at_target;
            is_argmax[row] = at_target >= max;
        }
        return;
    }
    reference += static_cast<long long>(-1 - y) * V;
    float sum = 0;
    for (int v = threadIdx.x; v < V; v += THREADS) {
        const float logp = z[v] - lse;
        sum += expf(logp) * (logp - reference[v]);
    }
    const float kl = block_sum(sum, shared().part);
    for (int v = threadIdx.x; v < V; v += THREADS) {
        const float logp = z[v] - lse;
        z[v] = w * expf(logp) * (logp - reference[v] - kl) * slope(z[v], inverse_cap);
    }
    if (threadIdx.x == 0) {
        loss[row] = kl;
        is_argmax[row] = 0;
    }
}

// The weights of the next gradient; rows of no group stay as they are.
extern "C" __global__ void loss_scale(const int* groups, const int* target, const float* weight,
                                      const float* factor, inout float* scaled) {
    const int group = blockIdx.x;
    for (int row = groups[2 * group] + threadIdx.x; row < groups[2 * group + 1]; row += THREADS)
        scaled[row] = weight[row] * (target[row] >= 0 ? factor[group] : 1.0f);
}
