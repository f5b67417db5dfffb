// loss.cu: the value search's losses at rows of logits, and their gradient in place.
//
//   maths    p = softmax(z)
//            say   -ln p_y                              dz = w (p - e_y)
//            stay  KL = sum p (ln p - ln p0)            dz = w p (ln p - ln p0 - KL)
//   shapes   z (R, V) f32   first (rows, V) f32: ln p0   target (R): y, or -1 - row of `first`
//            weight_of (R): w   loss (R)   top (R): no token is likelier than y
//   types    f32
//   launch   a block a row, THREADS each; any R, any V
//   cost     moves 3 R V to 5 R V floats; bandwidth-bound
//   source   Meng et al. 2022, arXiv:2202.05262, eq. 4
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
HD float log_sum(const elem* z, int V, float top) {
    float sum = 0;
    for (int v = threadIdx.x; v < V; v += THREADS) sum += expf(z[v] - top);
    return top + logf(block_sum(sum, shared().part));
}

HD float largest(const elem* z, int V) {
    float top = z[0];
    for (int v = threadIdx.x; v < V; v += THREADS) top = fmaxf(top, z[v]);
    return block_max(top);
}

extern "C" __global__ void log_softmax(const elem* z, const int* rows, int V, elem* logp) {
    z += static_cast<long long>(rows[blockIdx.x]) * V;
    logp += static_cast<long long>(blockIdx.x) * V;
    const float lse = log_sum(z, V, largest(z, V));
    for (int v = threadIdx.x; v < V; v += THREADS) logp[v] = z[v] - lse;
}

extern "C" __global__ void loss_gradient(const elem* first, const int* target,
                                         const float* weight_of, int V, inout elem* z, float* loss,
                                         int* top) {
    const int row = blockIdx.x, y = target[row];
    const float w = weight_of[row];
    z += static_cast<long long>(row) * V;
    const float most = largest(z, V), lse = log_sum(z, V, most);

    if (y >= 0) {
        const float at_target = z[y];
        __syncthreads();  // before its place is written over
        for (int v = threadIdx.x; v < V; v += THREADS)
            z[v] = w * (expf(z[v] - lse) - (v == y ? 1.0f : 0.0f));
        if (threadIdx.x == 0) {
            loss[row] = lse - at_target;
            top[row] = at_target >= most;
        }
        return;
    }
    first += static_cast<long long>(-1 - y) * V;
    float sum = 0;
    for (int v = threadIdx.x; v < V; v += THREADS) {
        const float logp = z[v] - lse;
        sum += expf(logp) * (logp - first[v]);
    }
    const float kl = block_sum(sum, shared().part);
    for (int v = threadIdx.x; v < V; v += THREADS) {
        const float logp = z[v] - lse;
        z[v] = w * expf(logp) * (logp - first[v] - kl);
    }
    if (threadIdx.x == 0) {
        loss[row] = kl;
        top[row] = 0;
    }
}
