// weight_gradient.cu: the gradient of a matrix W (M, K) of y = x W^T, summed over tokens in pieces.
//
//   maths    dW += dy^T x of piece 0, += dy^T x of piece 1, ...
//   shapes   dy (N, M)   x (N, K)   dW (M, K) f32   piece p: tokens cuts[p] to cuts[p + 1],
//            at most PIECE
//   types    f32 bf16
//   launch   SIDE x SIDE of dW a block of THREADS, grid (M / SIDE, K / SIDE)
//   cost     2 P PIECE M K FLOP for bf16, 3 times that for f32, in P pieces that are full or not;
//            bound by the tensor cores, where there are some thousand tokens: dW is read and
//            written once
//   source   -
//
// Numbers in f32 are hi + lo + r in bf16, summed in three products, as in linear_mma.cu: beyond
// the rounding of sums an element is off by no more than 4 (1 + 2^-19) 2^-17 sum_n |dy| |x|. Sums
// of tensor cores, which cut off, end with a piece, and are promoted to sums that round. So bits
// are a matter of the pieces, and not of how many of them a launch has.
#include "common.cuh"
#include "tiles.cuh"
#include "rank_k.cuh"

constexpr int SIDE = 128;
constexpr int THREADS = 256;
constexpr int PIECE = 128;

using Plan = RankK<SIDE, THREADS, PIECE>;
struct Shared : Plan::Tiles {};  // of dy and of x

extern "C" __global__ void __launch_bounds__(256) weight_gradient(
    const elem* dy, const elem* x, const int* cuts, int P, int M, int K, inout float* dw) {
    const int m0 = blockIdx.x * SIDE, k0 = blockIdx.y * SIDE;
    const WarpPlace at = warp_place<Plan>();
    const bool busy = m0 + at.row < M && k0 + at.col < K;

    // The element of dW in each place of the accumulators; none beyond it.
    const auto place = [&](int i, int j, int e) -> float* {
        const int m = m0 + at.thread_row + 16 * i + e / 2 * 8;
        const int k = k0 + at.thread_col + 8 * j + e % 2;
        return m < M && k < K ? &dw[static_cast<long long>(m) * K + k] : nullptr;
    };
    Acc all, sum = {};
    UNROLL for (int i = 0; i < WARP_M / 16; i++)
        UNROLL for (int j = 0; j < WARP_N / 8; j++)
            UNROLL for (int e = 0; e < 4; e++) {
                const float* from = place(i, j, e);
                all.x[i][j][e] = from ? *from : 0;
            }
    const auto rows = [&](int tile) {
        const int piece = tile / Plan::run;
        return TileRows{cuts[piece] + tile % Plan::run * Plan::depth, cuts[piece + 1]};
    };
    rank_k<Plan>(all, sum, shared(), matrix(dy + m0, M, 1, 0, M - m0),
                 matrix(x + k0, K, 1, 0, K - k0), at, busy, P * Plan::run, rows);
    UNROLL for (int i = 0; i < WARP_M / 16; i++)
        UNROLL for (int j = 0; j < WARP_N / 8; j++)
            UNROLL for (int e = 0; e < 4; e++) {
                float* to = place(i, j, e);
                if (to) *to = all.x[i][j][e];
            }
}
