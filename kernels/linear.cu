// linear.cu: products with a frozen matrix, every type, on the ordinary units.
//
//   maths    forward  y = x W^T + b      backward  dx = dy W, or dx += dy W
//   shapes   a (N, K): x or dy    c (N, M): y or dx    W read at w[k stride_k + m stride_m]:
//            forward k counts columns and m rows of W, backward the other way round
//   types    f32 bf16                                              every sum in f32
//   weights  f32 bf16 f16
//   launch   TILE x TILE of c a block of THREADS, 4 x 4 a thread; grid (M / TILE, N / TILE)
//   cost     2 N K M FLOP at the rate of f32; where there is a library for products, it goes first
//   source   -
#include "common.cuh"

constexpr int TILE = 64;
constexpr int THREADS = 256;
constexpr int DEPTH = 32;
constexpr int SIDE = 16;  // threads along a side
constexpr int EACH = 4;   // rows and columns a thread has

// Padded, so that neither filling nor reading a column meets one bank.
struct Shared {
    float a[DEPTH][TILE + 1];
    float w[DEPTH][TILE + 1];
};

extern "C" __global__ void linear(const elem* a, const weight* w, const float* b,
                                  long long stride_k, long long stride_m, int biased, int add,
                                  int N, int K, int M, inout elem* c) {
    Shared& s = shared();
    const int t = threadIdx.x, row = t / SIDE, col = t % SIDE;
    const int n0 = blockIdx.y * TILE, m0 = blockIdx.x * TILE;
    // Neighbouring threads read neighbouring elements, whichever way the matrix lies.
    const bool along_k = stride_k == 1;
    float all[EACH][EACH] = {};
    for (int k0 = 0; k0 < K; k0 += DEPTH) {
        for (int i = t; i < TILE * DEPTH; i += THREADS) {
            const int n = i / DEPTH, k = i % DEPTH;
            const bool in = n0 + n < N && k0 + k < K;
            s.a[k][n] = in ? f32(a[static_cast<long long>(n0 + n) * K + k0 + k]) : 0.0f;
        }
        for (int i = t; i < TILE * DEPTH; i += THREADS) {
            const int k = along_k ? i % DEPTH : i / TILE, m = along_k ? i / DEPTH : i % TILE;
            const bool in = m0 + m < M && k0 + k < K;
            s.w[k][m] = in ? f32(w[(k0 + k) * stride_k + (m0 + m) * stride_m]) : 0.0f;
        }
        __syncthreads();
        // A tile is summed by itself: the error grows with DEPTH + K / DEPTH, not with K.
        float sum[EACH][EACH] = {};
        for (int k = 0; k < DEPTH; k++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++)
                    sum[i][j] += s.a[k][row + SIDE * i] * s.w[k][col + SIDE * j];
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++) all[i][j] += sum[i][j];
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++) {
        for (int j = 0; j < EACH; j++) {
            const int n = n0 + row + SIDE * i, m = m0 + col + SIDE * j;
            if (n >= N || m >= M) continue;
            elem* to = &c[static_cast<long long>(n) * M + m];
            float sum = all[i][j];
            if (biased) sum += b[m];
            if (add) sum += f32(*to);
            put(to, sum);
        }
    }
}
