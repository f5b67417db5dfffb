// rows.cu: rows of matrices, read out (taps), added to (pushes, the residual) or rounded.
//
//   maths    gather   y_i = x_rows[i]      scatter  x_rows[i] += y_i      add  x += y
//            round    y = x               scale    x *= a           cap  x = c tanh(x / c)
//   shapes   x (N, wide) f32, where gathered elem, of which columns from..from + D      y (n, D)
//            rows (n)
//   types    f32 bf16                                              sums in f32
//   launch   gather, add, round, scale, cap: THREADS a block, an element a thread
//            scatter: a thread a column, which takes the rows one after another: they may repeat
//   cost     moves 2 n D elements, sums 3 n D; bandwidth-bound
//   source   -
#include "common.cuh"

constexpr int THREADS = 256;

HD long long element() { return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; }

extern "C" __global__ void gather_rows(const elem* x, const int* rows, int wide, int from, int n,
                                       int D, elem* y) {
    const long long i = element();
    if (i < static_cast<long long>(n) * D)
        y[i] = x[static_cast<long long>(rows[i / D]) * wide + from + i % D];
}

extern "C" __global__ void scatter_rows(const elem* y, const int* rows, int wide, int from, int n,
                                        int D, inout float* x) {
    const int d = static_cast<int>(element());
    if (d >= D) return;
    for (int i = 0; i < n; i++)
        x[static_cast<long long>(rows[i]) * wide + from + d] +=
            f32(y[static_cast<long long>(i) * D + d]);
}

extern "C" __global__ void add_rows(const elem* y, long long n, inout float* x) {
    const long long i = element();
    if (i < n) x[i] += f32(y[i]);
}

extern "C" __global__ void scale_rows(float a, long long n, inout float* x) {
    const long long i = element();
    if (i < n) x[i] *= a;
}

extern "C" __global__ void cap_rows(float c, long long n, inout float* x) {
    const long long i = element();
    if (i < n) x[i] = c * tanhf(x[i] / c);
}

extern "C" __global__ void round_rows(const float* x, long long n, elem* y) {
    const long long i = element();
    if (i < n) put(&y[i], x[i]);
}
