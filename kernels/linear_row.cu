// linear_row.cu: a product with a frozen matrix for a few rows, as in decoding.
//
//   maths    forward  y = x W^T + b      backward  dx = dy W, or dx += dy W
//   shapes   as in linear_mma.cu, N at most ROWS
//   types    f32 bf16                                              every sum in f32
//   weights  f32 bf16 f16
//   launch   COLS columns of c a block of THREADS; grid (M / COLS)
//   cost     reads W once, sixteen bytes at a time, and is bound by that; a is read again by every
//            block, from the L2 cache
//   source   -
//
// Where W lies along k, a warp has WARP_COLS columns of c and its lanes take turns along k; where
// it lies along m, COL_LANES lanes have the columns of a block and the others take turns along k.
// Either way a thread uses each number of a, from shared memory, for every column it has.
#include "common.cuh"
#include "tiles.cuh"

constexpr int ROWS = 8;
constexpr int COLS = 32;
constexpr int THREADS = 256;
constexpr int DEPTH = 1024;  // numbers of a row of a in shared memory at a time
constexpr int WARPS = 8;
constexpr int WARP_COLS = 4;
constexpr int COL_LANES = 4;  // lanes across a block's columns
constexpr int HALF = 528;     // the padding keeps the halves of eight numbers in different banks
static_assert(WARPS * WARP == THREADS && WARPS * WARP_COLS == COLS, "");
static_assert(COL_LANES * VEC == COLS, "");
static_assert(2 * HALF == DEPTH + WARP && ROWS * COLS == THREADS && WARP_COLS * ROWS == WARP, "");

struct Shared {
    alignas(16) float a[ROWS][2 * HALF];
    float part[WARPS][ROWS][COLS];
};

// Of eight numbers, the first four lie in the first half: so a warp's lanes, which read four of
// their eight at a time, read neighbouring ones.
HD int padded_index(int k) { return k % VEC / 4 * HALF + k / VEC * 4 + k % 4; }

// Rows of a from k0 on; zeros beyond its end and for rows up to COUNT.
template <int COUNT> HD void load_rows(Shared& s, const elem* a, int N, int K, int k0) {
    __syncthreads();  // nobody reads what was there
    for (int n = 0; n < COUNT; n++)
        for (int k = threadIdx.x; k < DEPTH; k += THREADS)
            s.a[n][padded_index(k)] =
                n < N && k0 + k < K ? f32(a[static_cast<long long>(n) * K + k0 + k]) : 0.0f;
    __syncthreads();
}

// The sum of one row and column of the block a thread, 8 x 32.
template <int COUNT> HD float along_k(Shared& s, const elem* a, const Matrix<weight>& w, int N,
                                      int K) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float sum[WARP_COLS][COUNT] = {};
    for (int k0 = 0; k0 < K; k0 += DEPTH) {
        load_rows<COUNT>(s, a, N, K, k0);
        const int end = K - k0 < DEPTH ? K - k0 : DEPTH;
        for (int k = lane * VEC; k < end; k += WARP * VEC) {
            Raw<weight> raw[WARP_COLS];
            UNROLL for (int i = 0; i < WARP_COLS; i++)
                raw[i] = load_vector(w, warp * WARP_COLS + i, k0 + k);
            UNROLL for (int n = 0; n < COUNT; n++) {
                const float* x = &s.a[n][k / 2];
                UNROLL for (int j = 0; j < VEC; j++)
                    UNROLL for (int i = 0; i < WARP_COLS; i++)
                        sum[i][n] += x[j / 4 * HALF + j % 4] * get(raw[i], j);
            }
        }
    }
    UNROLL for (int i = 0; i < WARP_COLS; i++)
        UNROLL for (int n = 0; n < COUNT; n++) {
            const float all = warp_sum(sum[i][n]);
            if (lane == 0) s.part[0][n][warp * WARP_COLS + i] = all;
        }
    __syncthreads();
    return s.part[0][warp][lane];
}

template <int COUNT> HD float along_m(Shared& s, const elem* a, const Matrix<weight>& w, int N,
                                      int K) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, turn = threadIdx.x / COL_LANES;
    float sum[COUNT][VEC] = {};
    for (int k0 = 0; k0 < K; k0 += DEPTH) {
        load_rows<COUNT>(s, a, N, K, k0);
        const int end = K - k0 < DEPTH ? K - k0 : DEPTH;
        for (int k = turn; k < end; k += THREADS / COL_LANES) {
            const Raw<weight> raw = load_vector(w, k0 + k, lane % COL_LANES * VEC);
            UNROLL for (int n = 0; n < COUNT; n++) {
                const float x = s.a[n][padded_index(k)];
                UNROLL for (int j = 0; j < VEC; j++) sum[n][j] += x * get(raw, j);
            }
        }
    }
    UNROLL for (int n = 0; n < COUNT; n++)
        UNROLL for (int j = 0; j < VEC; j++) {
            float all = sum[n][j];
            for (int d = WARP / 2; d >= COL_LANES; d /= 2) all += __shfl_xor_sync(ALL, all, d);
            if (lane < COL_LANES) s.part[warp][n][lane * VEC + j] = all;
        }
    __syncthreads();
    float all = 0;
    if (warp < COUNT)
        for (int i = 0; i < WARPS; i++) all += s.part[i][warp][lane];
    return all;
}

template <int COUNT> HD float sum_of(Shared& s, const elem* a, const weight* w, long long stride_k,
                                     long long stride_m, int N, int K, int cols) {
    if (stride_m == 1)
        return along_m<COUNT>(s, a, matrix(w, stride_k, stride_m, K, cols), N, K);
    return along_k<COUNT>(s, a, matrix(w, stride_m, stride_k, cols, K), N, K);
}

extern "C" __global__ void __launch_bounds__(256) linear_row(
    const elem* a, const weight* w, const float* b, long long stride_k, long long stride_m,
    int biased, int add, int narrow, int N, int K, int M, inout float* c, elem* rounded) {
    Shared& s = shared();
    const int n = threadIdx.x / WARP, m0 = blockIdx.x * COLS, m = m0 + threadIdx.x % WARP;
    w += m0 * stride_m;
    float sum;
    if (N <= 2)
        sum = sum_of<2>(s, a, w, stride_k, stride_m, N, K, M - m0);
    else
        sum = sum_of<ROWS>(s, a, w, stride_k, stride_m, N, K, M - m0);
    if (n >= N || m >= M) return;
    const long long at = static_cast<long long>(n) * M + m;
    if (biased) sum += b[m];
    if (add) sum += c[at];
    if (narrow) put(&rounded[at], sum);
    else c[at] = sum;
}
