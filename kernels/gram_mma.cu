// gram_mma.cu: key second moments on tensor cores, in three sets of sums so that rounding does not
// grow with the corpus.
//
//   maths    part += K^T K      total += part, part = 0
//   shapes   k (N, F)   part (F, F) f32   total (F, F) f64         the lower triangle of both
//   types    f32 bf16
//   launch   gram_add: SIDE x SIDE of the triangle a block of THREADS, grid (F / SIDE, F / SIDE),
//            blocks above the diagonal leave; gram_flush: an element a thread, after at most FLUSH
//            tokens
//   cost     N F^2 FLOP for bf16, 3 N F^2 for f32; bound by the tensor cores, where a launch has
//            some thousand tokens: it reads and writes part once
//   source   -
//
// Keys in f32 are hi + lo + r in bf16, summed in three products, as in linear_mma.cu: besides the
// rounding of sums an element is off by no more than 4 (1 + 2^-19) 2^-17 sum_n |k_i| |k_j|. Keys in
// bf16 are what they are. Sums of tensor cores, which cut off, are promoted to sums that round
// after every RUN tokens, these to part with the launch, and part to f64 with the flush.
#include "common.cuh"
#include "tiles.cuh"
#include "rank_k.cuh"

constexpr int SIDE = 128;
constexpr int THREADS = 256;
constexpr int RUN = 128;
constexpr int FLUSH = 16384;

using Plan = RankK<SIDE, THREADS, RUN>;
struct Shared : Plan::Tiles {};  // of K: the rows and the columns of the block

extern "C" __global__ void __launch_bounds__(256) gram_add(const elem* k, int N, int F,
                                                           inout float* part) {
    const int i0 = blockIdx.y * SIDE, j0 = blockIdx.x * SIDE;
    if (j0 > i0) return;  // the whole block
    const WarpPlace at = warp_place<Plan>();
    const bool busy = i0 + at.row < F && j0 + at.col <= i0 + at.row + WARP_M - 1;
    Acc all = {}, sum = {};
    rank_k<Plan>(all, sum, shared(), matrix(k + i0, F, 1, N, F - i0),
                 matrix(k + j0, F, 1, N, F - j0), at, busy, (N + Plan::depth - 1) / Plan::depth,
                 [&](int tile) { return TileRows{tile * Plan::depth, N}; });
    promote(all, sum);

    UNROLL for (int e = 0; e < WARP_M / 16 * 4; e++) {
        const int f = i0 + at.thread_row + e / 4 * 16 + e / 2 % 2 * 8;
        const int g = j0 + at.thread_col + e % 2;
        float* to = &part[static_cast<long long>(f) * F + g];
        UNROLL for (int j = 0; j < WARP_N / 8; j++)
            if (f < F && g + 8 * j <= f) to[8 * j] += all.x[e / 4][j][e % 4];
    }
}

extern "C" __global__ void gram_flush(int F, inout float* part, inout double* total) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= static_cast<long long>(F) * F || i % F > i / F) return;
    total[i] += part[i];
    part[i] = 0;
}
