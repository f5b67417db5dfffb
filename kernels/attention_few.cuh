// attention_few.cuh: a few rows against some keys.
//
// A block has ROWS rows at a time and reads every key once for them, straight into registers: no
// other thread wants the same elements. E is a multiple of VEC, neighbours a lane reads at once.
#pragma once
#include "attention.cuh"

constexpr int WARPS = THREADS / WARP;
constexpr int GROUP_LANES = 8;  // that sum a product together
constexpr int GROUPS = THREADS / GROUP_LANES;
constexpr int GROUP_KEYS = 4;        // of a group at a time
constexpr int SEGMENT = 2 * WARP;  // elements of a row that a warp sums at a time

static_assert(ROWS == WARPS, "a warp a row, for what is done row by row");
static_assert(ROWS * GROUP_KEYS == 2 * GROUP_LANES, "reduce_scatter leaves two numbers a lane");

// n rows, `stride` elements apart.
template <class T> struct Strided {
    T* at;
    long long stride;
    int n;
};

// COUNT elements of a row in one access, or in accesses of 16 bytes; all rows begin on so many.
template <int COUNT> struct AlignedVector {
    static constexpr int BYTES = COUNT * sizeof(elem);
    alignas(BYTES < 16 ? BYTES : 16) elem x[COUNT];
};

template <int COUNT> HD void load(const elem* at, float (&x)[COUNT]) {
    in_global(at);
    const AlignedVector<COUNT> all = *reinterpret_cast<const AlignedVector<COUNT>*>(at);
    for (int c = 0; c < COUNT; c++) x[c] = f32(all.x[c]);
}

// Of the sums of 2 GROUP_LANES numbers over GROUP_LANES lanes, lane l gets those of 2l and 2l + 1.
HD void reduce_scatter(float (&x)[2 * GROUP_LANES]) {
    for (int d = GROUP_LANES / 2; d > 0; d /= 2) {
        const bool high = threadIdx.x & d;
        for (int i = 0; i < 2 * d; i++) {
            const float give = high ? x[i] : x[i + 2 * d], keep = high ? x[i + 2 * d] : x[i];
            x[i] = keep + __shfl_xor_sync(ALL, give, d);
        }
    }
}

// s[j][i] = <x_i, y_j> for j < n. What has no row i is anything.
HD void products(Strided<const elem> x, const elem* const* y, int n, int E, float (*s)[ROWS]) {
    const int lane = threadIdx.x % GROUP_LANES, group = threadIdx.x / GROUP_LANES;
    for (int from = 0; from < n; from += GROUP_KEYS * GROUPS) {
        const elem* mine[GROUP_KEYS];
        for (int k = 0; k < GROUP_KEYS; k++) {
            const int j = from + GROUPS * k + group;
            mine[k] = y[j < n ? j : n - 1];
        }
        float sum[GROUP_KEYS * ROWS] = {};
        for (int e = VEC * lane; e < E; e += VEC * GROUP_LANES) {
            float of_x[ROWS][VEC];
            for (int i = 0; i < ROWS; i++)
                load(x.at + (i < x.n ? i : 0) * x.stride + e, of_x[i]);
            for (int k = 0; k < GROUP_KEYS; k++) {
                if (from + GROUPS * k >= n) continue;
                float of_y[VEC];
                load(mine[k] + e, of_y);
                for (int i = 0; i < ROWS; i++)
                    for (int c = 0; c < VEC; c++) sum[ROWS * k + i] += of_x[i][c] * of_y[c];
            }
        }
        reduce_scatter(sum);
        for (int c = 0; c < 2; c++) {
            const int which = 2 * lane + c, j = from + GROUPS * (which / ROWS) + group;
            if (j < n) s[j][which % ROWS] = sum[c];
        }
    }
}

// Column i of s, products of n keys, becomes exp(s - top) of their scores where first <= j <= last,
// else 0; that of slopes, where there are any, becomes the scores' slopes.
struct RowStats { float top, total; };

HD RowStats softmax_numerators(float (*s)[ROWS], int i, int n, int first, int last, Score score,
                               float (*slopes)[ROWS] = nullptr) {
    float top = -INFINITY, total = 0;
    for (int j = threadIdx.x % WARP; j < n; j += WARP) {
        const float of_j = score.of(s[j][i]);
        s[j][i] = first <= j && j <= last ? of_j : -INFINITY;
        if (slopes) slopes[j][i] = score.slope(of_j);
        top = fmaxf(top, s[j][i]);
    }
    top = warp_max(top);
    for (int j = threadIdx.x % WARP; j < n; j += WARP) total += s[j][i] = expf(s[j][i] - top);
    return {top, warp_sum(total)};
}

// What the warps of a block have of a piece of ROWS sums.
typedef float Partials[WARPS][ROWS][SEGMENT];

// y_i = factor sum_j w[j][i] x_j over from <= j < n. Every warp has a part of the terms.
template <class X, class T>
HD void combine(const float (*w)[ROWS], X x, int from, int n, int E, float factor, Partials& parts,
                Strided<T> y) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int e = 2 * lane; e - 2 * lane < E; e += SEGMENT) {
        float sum[ROWS][2] = {};
        if (e < E) {
            for (int j = from + warp; j < n; j += WARPS) {
                float of_x[2];
                load(x(j) + e, of_x);
                for (int i = 0; i < ROWS; i++)
                    for (int c = 0; c < 2; c++) sum[i][c] += w[j][i] * of_x[c];
            }
        }
        for (int i = 0; i < ROWS; i++)
            for (int c = 0; c < 2; c++) parts[warp][i][2 * lane + c] = sum[i][c];
        __syncthreads();
        for (int c = 0; c < 2 && warp < y.n; c++) {
            float all = 0;
            for (int part = 0; part < WARPS; part++) all += parts[part][warp][2 * lane + c];
            if (e < E) put(&y.at[warp * y.stride + e + c], factor * all);
        }
        __syncthreads();
    }
}
