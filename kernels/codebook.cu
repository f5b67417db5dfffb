// codebook.cu: the nearest key of a row, and that key's value in the place of rows.
//
//   maths    nearest  d_j = |x_rows[i] - k_j|^2   j* = the first with the least d
//                     chosen_i = j* where d_j* <= r_j*^2, else -1
//            replace  y_rows[i] = v_j, j = chosen_of[i], where j >= 0
//   shapes   x (N, F), y (N, D) elem   keys (n, F)   radii (n)   chosen (R)   values (n, D)
//            rows (R), of replace (M), of (M)
//   types    f32 bf16                                              squares of distances in f32
//   launch   nearest: a block a row, a warp a key in turn; replace: an element a thread
//   cost     nearest moves R n F floats, replace 2 M D; bandwidth-bound
//   source   Hartvigsen et al. 2023, arXiv:2211.11031
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = 8;  // THREADS / WARP

struct Shared {
    float least[WARPS];
    int key[WARPS];
};

extern "C" __global__ void nearest_key(const elem* x, const int* rows, const float* keys,
                                       const float* radii, int n, int F, int* chosen) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const elem* query = x + static_cast<long long>(rows[blockIdx.x]) * F;
    float least = INFINITY;
    int key = -1;
    for (int j = warp; j < n; j += WARPS) {
        const float* k = keys + static_cast<long long>(j) * F;
        float sum = 0;
        for (int i = lane; i < F; i += WARP) {
            const float gap = f32(query[i]) - k[i];
            sum += gap * gap;
        }
        const float d = warp_sum(sum);
        if (d < least) {  // the first of a warp's keys stays where distances are equal
            least = d;
            key = j;
        }
    }
    if (lane == 0) {
        shared().least[warp] = least;
        shared().key[warp] = key;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 1; w < WARPS; w++) {
        const float d = shared().least[w];
        const int j = shared().key[w];
        if (j >= 0 && (d < least || (d == least && j < key))) {
            least = d;
            key = j;
        }
    }
    chosen[blockIdx.x] = key >= 0 && least <= radii[key] * radii[key] ? key : -1;
}

extern "C" __global__ void replace_rows(const float* values, const int* rows, const int* of,
                                        const int* chosen, int m, int D, inout elem* y) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= static_cast<long long>(m) * D) return;
    const int j = chosen[of[i / D]];
    if (j >= 0)
        put(&y[static_cast<long long>(rows[i / D]) * D + i % D],
            values[static_cast<long long>(j) * D + i % D]);
}
