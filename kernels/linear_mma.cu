// linear_mma.cu: products with a frozen matrix on tensor cores.
//
//   maths    forward  y = x W^T + b      backward  dx = dy W, or dx += dy W
//   shapes   a (N, K): x or dy    c (N, M) f32: y or dx; or, where `narrow`, `rounded` to elem and
//            not added to    W read at w[k stride_k + m stride_m]: forward k counts columns and
//            m rows of W, backward the other way round
//   types    f32 bf16
//   weights  f32 bf16 f16
//   launch   ROWS x COLS of c a block of THREADS; grid (N / ROWS, M / COLS): blocks of one piece of
//            W run together, so that W comes from memory once
//   cost     2 N K M FLOP a product of parts (below). Up to some 200 rows a product bound by
//            reading W, then by the tensor cores (989 TFLOP/s over 4.8 TB/s, the data sheet of an
//            H200) or, bf16 by bf16, by the L2 cache, which gives a block 16 KB for 1 MFLOP. Some
//            220 registers a thread and 48 KB a block: 8 warps a multiprocessor
//   source   on how the cores add: Fasi, Higham, Mikaitis, Pranesh 2021, PeerJ CS 7:e330
//
// Tensor cores multiply bf16 and add in f32, so a number is a sum of parts: bf16 is one, f16 is
// exactly hi + lo, and f32 is hi + lo + r. hi is the nearest bf16 and lo the nearest to the rest,
// so |lo| <= 2^-8 |x| and |r| <= 2^-17 |x| (from 2^-117 on, below which lo has fewer digits). All
// products of parts are summed but lo lo, so besides the rounding of its sum an element of c is off
// by no more than this many times 2^-17 sum_k |a| |w|:
//
//            w bf16          w f16                  w f32
//   a bf16   0               0                      1  r of w                       products: 1 2 2
//   a f32    1  r of a       3  r of a, 2 lo lo     4  r of a, 2 lo lo, r of w                2 3 3
//
// (the last times 1 + 2^-19). Tensor cores cut off what is below the last of at least 24 bits of
// the largest of the 17 numbers they add at once, so a run of RUN numbers, 8 instructions a product
// of parts, may lose 8 17 2^-23 of its sum |a| |w|, always towards zero. Lest that grow with K, a
// run's sums are promoted: the ordinary units add them to others, and round. The host rounds, and
// shows none of this.
//
// How many rows there are, and what others hold, changes no bit of a row. What is infinite gives
// NaN.
#include "common.cuh"
#include "tiles.cuh"

constexpr int ROWS = 128;
constexpr int COLS = 128;
constexpr int THREADS = 256;
constexpr int RUN = 128;

struct Plan {
    static constexpr int a = Parts<elem>::count, w = Parts<weight>::count;
    static constexpr int depth = a + w == 4 ? 16 : 32;
    static constexpr int tile = ROWS * depth;  // numbers of one part
    static constexpr int stages = (48 << 10) / (2 * tile * (a + w));
    static_assert(stages >= 2 && RUN % depth == 0 && depth % 16 == 0, "");
    static_assert(ROWS == COLS && ROWS / WARP_M * (COLS / WARP_N) * WARP == THREADS, "");
};

// Tiles of a, (ROWS, depth), and of W: (COLS, depth) where it lies along k, else (depth, COLS).
struct Shared {
    alignas(16) bf16 a[Plan::stages][Plan::a][Plan::tile];
    alignas(16) bf16 w[Plan::stages][Plan::w][Plan::tile];
};
static_assert(sizeof(Shared) <= 48 << 10, "");

extern "C" __global__ void __launch_bounds__(256) linear_mma(
    const elem* a, const weight* w, const float* b, long long stride_k, long long stride_m,
    int biased, int add, int narrow, int N, int K, int M, inout float* c, elem* rounded) {
    Shared& s = shared();
    const int t = threadIdx.x, lane = t % WARP, warp = t / WARP;
    const int n0 = blockIdx.x * ROWS, m0 = blockIdx.y * COLS;
    const int row = warp % (ROWS / WARP_M) * WARP_M, col = warp / (ROWS / WARP_M) * WARP_N;
    // Neighbouring threads read neighbouring elements, whichever way W lies.
    const bool along_k = stride_m != 1;
    constexpr int deep = bits_for(Plan::depth / VEC), across = bits_for(COLS / VEC);
    const int bits = along_k ? deep : across;
    const Matrix<elem> x = matrix(a + static_cast<long long>(n0) * K, K, 1, N - n0, K);
    const weight* from = w + m0 * stride_m;
    const Matrix<weight> y = along_k ? matrix(from, stride_m, stride_k, M - m0, K)
                                     : matrix(from, stride_k, stride_m, K, M - m0);
    const bool busy = n0 + row < N && m0 + col < M;

    TileLoader<elem, Plan::tile, THREADS> of_a;
    TileLoader<weight, Plan::tile, THREADS> of_w;
    Acc all = {}, sum = {};
    const auto begin = [&](int tile, int stage) {
        const int k = tile * Plan::depth;
        of_a.load(x, 0, k, deep, s.a[stage]);
        of_w.load(y, along_k ? 0 : k, along_k ? k : 0, bits, s.w[stage]);
    };
    const auto end = [&](int stage) {
        of_a.store(deep, s.a[stage]);
        of_w.store(bits, s.w[stage]);
    };
    const auto use = [&](int tile, int stage) {
        if (busy)
            warp_mma<Plan::a, Plan::w, Plan::depth>(sum, s.a[stage], s.w[stage], row, col, true,
                                                    along_k);
        if ((tile + 1) % (RUN / Plan::depth) == 0) promote(all, sum);
    };
    pipeline<Plan::stages>((K + Plan::depth - 1) / Plan::depth, begin, end, use);
    promote(all, sum);

    UNROLL for (int e = 0; e < WARP_M / 16 * 4; e++) {
        const int i = e / 4, n = n0 + row + 16 * i + lane / 4 + e / 2 % 2 * 8;
        const int m = m0 + col + lane % 4 * 2 + e % 2;
        const long long at = static_cast<long long>(n) * M + m;
        UNROLL for (int j = 0; j < WARP_N / 8; j++) {
            if (n >= N || m + 8 * j >= M) continue;
            float sum = all.x[i][j][e % 4];
            if (biased) sum += b[m + 8 * j];
            if (add) sum += c[at + 8 * j];
            if (narrow) put(&rounded[at + 8 * j], sum);
            else c[at + 8 * j] = sum;
        }
    }
}
