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

constexpr int SIDE = 128;
constexpr int THREADS = 256;
constexpr int PIECE = 128;

struct Plan {
    static constexpr int parts = Parts<elem>::count;
    static constexpr int depth = 32 / parts;
    static constexpr int tile = SIDE * depth;  // numbers of one part
    static constexpr int tiles = PIECE / depth;  // of a piece
    static constexpr int stages = 3;
    static_assert(PIECE % depth == 0 && SIDE / WARP_M * (SIDE / WARP_N) * WARP == THREADS, "");
};

// Tiles of dy and of x, (depth, SIDE).
struct Shared {
    alignas(16) bf16 dy[Plan::stages][Plan::parts][Plan::tile];
    alignas(16) bf16 x[Plan::stages][Plan::parts][Plan::tile];
};
static_assert(sizeof(Shared) <= 48 << 10, "");

extern "C" __global__ void __launch_bounds__(256) weight_gradient(
    const elem* dy, const elem* x, const int* cuts, int P, int M, int K, inout float* dw) {
    Shared& s = shared();
    constexpr int bits = bits_for(SIDE / VEC);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int m0 = blockIdx.x * SIDE, k0 = blockIdx.y * SIDE;
    const int row = warp % (SIDE / WARP_M) * WARP_M, col = warp / (SIDE / WARP_M) * WARP_N;
    const bool busy = m0 + row < M && k0 + col < K;

    // The element of dW in each place of the accumulators; none beyond it.
    const auto place = [&](int i, int j, int e) -> float* {
        const int m = m0 + row + 16 * i + lane / 4 + e / 2 * 8;
        const int k = k0 + col + 8 * j + lane % 4 * 2 + e % 2;
        return m < M && k < K ? &dw[static_cast<long long>(m) * K + k] : nullptr;
    };
    Acc all, sum = {};
    UNROLL for (int i = 0; i < WARP_M / 16; i++)
        UNROLL for (int j = 0; j < WARP_N / 8; j++)
            UNROLL for (int e = 0; e < 4; e++) {
                const float* at = place(i, j, e);
                all.x[i][j][e] = at ? *at : 0;
            }

    TileLoader<elem, Plan::tile, THREADS> of_dy, of_x;
    const auto begin = [&](int tile, int stage) {
        const int piece = tile / Plan::tiles, end = cuts[piece + 1];
        const int from = cuts[piece] + tile % Plan::tiles * Plan::depth;
        of_dy.load(matrix(dy + m0, M, 1, end, M - m0), from, 0, bits, s.dy[stage]);
        of_x.load(matrix(x + k0, K, 1, end, K - k0), from, 0, bits, s.x[stage]);
    };
    const auto end = [&](int stage) {
        of_dy.store(bits, s.dy[stage]);
        of_x.store(bits, s.x[stage]);
    };
    const auto use = [&](int tile, int stage) {
        if (busy)
            warp_mma<Plan::parts, Plan::parts, Plan::depth>(sum, s.dy[stage], s.x[stage], row, col,
                                                            false, false);
        if ((tile + 1) % Plan::tiles == 0) promote(all, sum);
    };
    pipeline<Plan::stages>(P * Plan::tiles, begin, end, use);

    UNROLL for (int i = 0; i < WARP_M / 16; i++)
        UNROLL for (int j = 0; j < WARP_N / 8; j++)
            UNROLL for (int e = 0; e < 4; e++) {
                float* at = place(i, j, e);
                if (at) *at = all.x[i][j][e];
            }
}
