// gram.cu: key second moments, in two sets of sums so that rounding does not grow with the corpus.
//
//   maths    part += K^T K, of at most TOKENS tokens a launch      total += part, part = 0
//   shapes   k (N, F)   part (F, F) f32   total (F, F) f64         the lower triangle of both
//   types    f32 bf16                                              every sum in f32
//   launch   gram_add: TILE x TILE of the triangle a block of THREADS, grid (F / TILE, F / TILE),
//            blocks above the diagonal leave; gram_flush: an element a thread, after at most
//            FLUSH tokens
//   cost     N F^2 FLOP
//   source   -
#include "common.cuh"

constexpr int TILE = 64;
constexpr int THREADS = 256;
constexpr int DEPTH = 32;
constexpr int TOKENS = 512;
constexpr int FLUSH = 16384;
constexpr int SIDE = 16;
constexpr int EACH = 4;

struct Shared {
    float rows[DEPTH][TILE];
    float cols[DEPTH][TILE];
};

extern "C" __global__ void gram_add(const elem* k, int N, int F, inout float* part) {
    const int i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
    if (j0 > i0) return;  // the whole block
    Shared& s = shared();
    const int t = threadIdx.x, row = t / SIDE, col = t % SIDE;
    float sum[EACH][EACH] = {};
    for (int n0 = 0; n0 < N; n0 += DEPTH) {
        for (int at = t; at < DEPTH * TILE; at += THREADS) {
            const int n = at / TILE, f = at % TILE;
            const elem* token = k + static_cast<long long>(n0 + n) * F;
            s.rows[n][f] = n0 + n < N && i0 + f < F ? f32(token[i0 + f]) : 0.0f;
            s.cols[n][f] = n0 + n < N && j0 + f < F ? f32(token[j0 + f]) : 0.0f;
        }
        __syncthreads();
        for (int n = 0; n < DEPTH; n++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++)
                    sum[i][j] += s.rows[n][row + SIDE * i] * s.cols[n][col + SIDE * j];
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++) {
        for (int j = 0; j < EACH; j++) {
            const int f = i0 + row + SIDE * i, g = j0 + col + SIDE * j;
            if (f < F && g <= f) part[static_cast<long long>(f) * F + g] += sum[i][j];
        }
    }
}

extern "C" __global__ void gram_flush(int F, inout float* part, inout double* total) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= static_cast<long long>(F) * F || i % F > i / F) return;
    total[i] += part[i];
    part[i] = 0;
}
