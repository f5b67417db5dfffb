// probe.cu: every instruction of ptx.cuh by itself, for what only hardware can tell: how fragments
// lie, how tensor cores add, how numbers are rounded, what functions are worth. No computation uses
// it.
//
//   maths    c += a b; y = x rounded; e = exp x, c = erfc x
//   shapes   with each kernel
//   types    bf16 f16
//   launch   one warp; rounded, functions: THREADS a block, a number a thread
//   cost     -
//   source   -
#include "common.cuh"

constexpr int THREADS = 256;

struct Shared {
    alignas(16) elem a[16][24];
    alignas(16) elem b[16][24];
};

HD unsigned pair(elem first, elem second) { return first.bits | second.bits << 16; }

// Copies (16, 16) in two halves; the last `cut` elements are zeros.
HD void stage(elem (&to)[16][24], const elem* from, int cut) {
    const int row = threadIdx.x / 2, col = threadIdx.x % 2 * 8;
    const int left = 256 - cut - row * 16 - col, bytes = left < 0 ? 0 : left < 8 ? 2 * left : 16;
    cp_async(&to[row][col], from + row * 16 + col, bytes);
    cp_async_commit();
}

// c (16, 16) += a b; a (16, 16), b (16, 16) as rows along n, or (`along_k`) along k.
extern "C" __global__ void loaded(const elem* a, const elem* b, int along_k, inout float* c) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned x[4];
    for (int i = 0; i < 4; i++) {
        const elem* at = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
        x[i] = pair(at[0], at[1]);
    }
    for (int n = 0; n < 16; n += 8) {
        unsigned y[2];
        float sum[4];
        for (int i = 0; i < 2; i++) {
            const int k = 2 * t + 8 * i;
            y[i] = along_k ? pair(b[(n + g) * 16 + k], b[(n + g) * 16 + k + 1])
                           : pair(b[k * 16 + n + g], b[(k + 1) * 16 + n + g]);
        }
        for (int i = 0; i < 4; i++) sum[i] = c[(g + i / 2 * 8) * 16 + n + 2 * t + i % 2];
        mma<elem>(sum, x, y);
        for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 16 + n + 2 * t + i % 2] = sum[i];
    }
}

// The same through shared memory.
extern "C" __global__ void staged(const elem* a, const elem* b, int along_k, int cut,
                                  inout float* c) {
    Shared& s = shared();
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    stage(s.a, a, 0);
    stage(s.b, b, cut);
    unsigned x[4], y[4], first[2];
    cp_async_wait<1>();
    __syncwarp();
    ldmatrix(x, &s.a[lane % 16][lane / 16 * 8]);
    cp_async_wait<0>();
    __syncwarp();
    if (along_k) {
        ldmatrix(y, &s.b[lane / 16 * 8 + lane % 8][lane / 8 % 2 * 8]);
        ldmatrix(first, &s.b[lane % 8][lane / 8 % 2 * 8]);
    } else {
        ldmatrix_trans(y, &s.b[lane % 16][lane / 16 * 8]);
        first[0] = y[0];
        first[1] = y[1];
    }
    float left[4], right[4];
    for (int i = 0; i < 4; i++) {
        left[i] = c[(g + i / 2 * 8) * 16 + 2 * t + i % 2];
        right[i] = c[(g + i / 2 * 8) * 16 + 8 + 2 * t + i % 2];
    }
    const unsigned second[2] = {y[2], y[3]};
    mma<elem>(left, x, first);
    mma<elem>(right, x, second);
    for (int i = 0; i < 4; i++) {
        c[(g + i / 2 * 8) * 16 + 2 * t + i % 2] = left[i];
        c[(g + i / 2 * 8) * 16 + 8 + 2 * t + i % 2] = right[i];
    }
}

// c (8, 8) += a (8, 4) b (4, 8).
extern "C" __global__ void doubles(const double* a, const double* b, inout double* c) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    double sum[2] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1]};
    mma(sum, a[g * 4 + t], b[t * 8 + g]);
    c[g * 8 + 2 * t] = sum[0];
    c[g * 8 + 2 * t + 1] = sum[1];
}

// y = x in the nearest elem, back = y in f32.
extern "C" __global__ void rounded(const float* x, int n, elem* y, float* back) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    put(&y[i], x[i]);
    back[i] = f32(y[i]);
}

// e = expf(x), c = erfcf(x), as CUDA compiles them.
extern "C" __global__ void functions(const float* x, int n, float* e, float* c) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    e[i] = expf(x[i]);
    c[i] = erfcf(x[i]);
}
