// cholesky.cu: A = L L^T in place, and solves with L and L^T, in blocks of PANEL.
//
//   maths    factor  a diagonal block          L_kk L_kk^T = A_kk
//            solve   many systems with it      L_kk x = b, or L_kk^T x = b
//            update  what remains              c -= a b, or +=, or the lower triangle of it only
//            A: factor, solve (rows below the block are systems L_kk x = b), update, and so on;
//            a solve with L: solve, update, and so on, downwards, with L^T upwards
//   shapes   A (N, N) f64, the lower triangle, rows ld apart   x: unknown i of system j stands at
//            x[i down + j across]   a (R, K)   b (K, C)   c (R, C)   bad: -1, or the index of the
//            first pivot that is not a positive number; nothing is written from there on
//   types    f32                                no elem occurs: every number is f64
//   launch   factor: a block of THREADS; solve: SYSTEMS a block of THREADS; update: TILE x TILE of
//            c a block of UPDATE_THREADS
//   cost     N^3 / 3 FLOP, 2 N^2 a pair of solves and system. Updates move N^3 / (6 PANEL) numbers
//            in and out of the card's memory, which bounds them; a panel's factor and solve, some
//            microseconds each, bound small N
//   source   Higham 2002, Accuracy and Stability of Numerical Algorithms, chapter 10
#include "common.cuh"

constexpr int PANEL = 64;
constexpr int THREADS = 256;
constexpr int SYSTEMS = 32;
constexpr int TILE = 64;
constexpr int UPDATE_THREADS = 128;
constexpr int DEPTH = 16;
constexpr int SIDE_WARPS = 2;  // along a side of a tile
constexpr int MMAS = 4;        // matrices (8, 8) along a side of a warp's part of it
static_assert(UPDATE_THREADS == SIDE_WARPS * SIDE_WARPS * WARP, "a tile is shared");
static_assert(TILE == SIDE_WARPS * MMAS * 8, "a tile is shared");
static_assert(SYSTEMS == WARP && DEPTH % 4 == 0, "a lane a system, whole products");

// Rows are padded so that neither a column nor a fragment meets a bank twice.
struct Shared {
    union {
        double block[PANEL][PANEL + 1];
        struct {
            double l[PANEL * (PANEL + 1) / 2];
            double x[PANEL][SYSTEMS + 1];
        };
        struct {
            double a[TILE][DEPTH + 4];
            double b[TILE][DEPTH + 4];  // transposed
        };
    };
};

extern "C" __global__ void __launch_bounds__(THREADS)
cholesky_factor(int from, int n, long long ld, inout double* a, inout int* bad) {
    if (from > 0 && *bad >= 0) return;
    double (*l)[PANEL + 1] = shared().block;
    const int t = threadIdx.x, row = t / 16, col = t % 16;
    for (int i = row; i < n; i += 16)
        for (int j = col; j <= i; j += 16) l[i][j] = a[i * ld + j];
    for (int k = 0; k < n; k++) {
        __syncthreads();
        const double pivot = l[k][k];
        if (!(pivot > 0 && pivot < INFINITY)) {
            if (t == 0) *bad = from + k;
            return;  // the whole block
        }
        const double root = sqrt(pivot);
        __syncthreads();
        if (t >= k && t < n) l[t][k] = t == k ? root : l[t][k] / root;
        __syncthreads();
        for (int i = k + 1 + row; i < n; i += 16)
            for (int j = k + 1 + col; j <= i; j += 16) l[i][j] -= l[i][k] * l[j][k];
    }
    __syncthreads();
    for (int i = row; i < n; i += 16)
        for (int j = col; j <= i; j += 16) a[i * ld + j] = l[i][j];
    if (t == 0) *bad = -1;
}

// A lane has a system, the warps share its unknowns: each takes off what is known, and the one with
// the next unknown divides.
extern "C" __global__ void __launch_bounds__(THREADS)
cholesky_solve(const double* l, const int* bad, int n, long long ld, int transposed, int systems,
               long long down, long long across, inout double* x) {
    if (*bad >= 0) return;
    Shared& s = shared();
    const int t = threadIdx.x, lane = t % WARP, warp = t / WARP, warps = THREADS / WARP;
    const int own = systems - blockIdx.x * SYSTEMS;  // that are there
    x += blockIdx.x * SYSTEMS * across;
    // The block's triangle, rows end to end; in the order of the unknowns.
    const auto factor = [&](int i, int j) {
        if (transposed) i = n - 1 - i, j = n - 1 - j;
        const int high = i > j ? i : j, low = i > j ? j : i;
        return s.l[high * (high + 1) / 2 + low];
    };
    const auto index = [&](int i) { return transposed ? n - 1 - i : i; };
    for (int i = t / PANEL; i < n; i += THREADS / PANEL) {
        const int j = t % PANEL;
        if (j <= i) s.l[i * (i + 1) / 2 + j] = l[i * ld + j];
    }
    const bool along = across == 1;  // neighbours in memory are systems
    for (int at = t; at < n * SYSTEMS; at += THREADS) {
        const int i = along ? at / SYSTEMS : at % n, c = along ? at % SYSTEMS : at / n;
        s.x[i][c] = c < own ? x[i * down + c * across] : 0;
    }
    __syncthreads();
    if (warp == 0) s.x[index(0)][lane] /= factor(0, 0);
    for (int k = 0; k < n; k++) {
        __syncthreads();
        const double known = s.x[index(k)][lane];
        for (int i = k + 1 + ((warp - k - 1) & (warps - 1)); i < n; i += warps) {
            double rest = s.x[index(i)][lane] - factor(i, k) * known;
            if (i == k + 1) rest /= factor(i, i);
            s.x[index(i)][lane] = rest;
        }
    }
    __syncthreads();
    for (int at = t; at < n * SYSTEMS; at += THREADS) {
        const int i = along ? at / SYSTEMS : at % n, c = along ? at % SYSTEMS : at / n;
        if (c < own) x[i * down + c * across] = s.x[i][c];
    }
}

// A tile (TILE, DEPTH), zero beyond its rows; neighbours read along whichever side is dense.
HD void load_tile(double (*tile)[DEPTH + 4], const double* from, int rows, int K, long long down,
             long long along) {
    for (int at = threadIdx.x; at < TILE * DEPTH; at += UPDATE_THREADS) {
        const int i = along == 1 ? at / DEPTH : at % TILE, k = along == 1 ? at % DEPTH : at / TILE;
        tile[i][k] = i < rows && k < K ? from[i * down + k * along] : 0;
    }
}

extern "C" __global__ void __launch_bounds__(UPDATE_THREADS)
cholesky_update(const double* a, const double* b, const int* bad, long long a_row, long long a_k,
                long long b_k, long long b_col, int R, int K, int C, int lower, int adds,
                long long c_row, long long c_col, inout double* c) {
    const int i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
    if (*bad >= 0 || (lower && j0 > i0)) return;  // the whole block
    Shared& s = shared();
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const int row = warp / SIDE_WARPS * MMAS * 8, col = warp % SIDE_WARPS * MMAS * 8;
    double sum[MMAS][MMAS][2] = {};
    for (int k0 = 0; k0 < K; k0 += DEPTH) {
        load_tile(s.a, a + i0 * a_row + k0 * a_k, R - i0, K - k0, a_row, a_k);
        load_tile(s.b, b + j0 * b_col + k0 * b_k, C - j0, K - k0, b_col, b_k);
        __syncthreads();
        for (int k = 0; k < DEPTH; k += 4) {
            double x[MMAS], y[MMAS];
            for (int i = 0; i < MMAS; i++) x[i] = s.a[row + 8 * i + g][k + t];
            for (int j = 0; j < MMAS; j++) y[j] = s.b[col + 8 * j + g][k + t];
            for (int i = 0; i < MMAS; i++)
                for (int j = 0; j < MMAS; j++) mma(sum[i][j], x[i], y[j]);
        }
        __syncthreads();
    }
    UNROLL for (int i = 0; i < MMAS; i++)
        UNROLL for (int j = 0; j < MMAS; j++)
            UNROLL for (int e = 0; e < 2; e++) {
                const int at = i0 + row + 8 * i + g, to = j0 + col + 8 * j + 2 * t + e;
                if (at < R && to < C && !(lower && to > at))
                    c[at * c_row + to * c_col] += adds ? sum[i][j][e] : -sum[i][j][e];
            }
}
