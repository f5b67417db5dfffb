// linear_split.cu: f32 numbers as the bf16 that a library multiplies.
//
//   maths    y[0] = the nearest to x      y[1] = the nearest to what is left, x - y[0]
//   shapes   x (N) f32    y (2, N); N a multiple of NUMBERS, both on 16 bytes
//   types    bf16                                                             of y
//   launch   NUMBERS numbers a thread; grid (N / NUMBERS / THREADS)
//   cost     8 bytes a number, and bound by them
//   source   -
//
// These are the parts of linear_mma.cu, and |x - y[0] - y[1]| <= 2^-17 |x| as there. What is
// infinite gives NaN.
#include "common.cuh"
#include "tiles.cuh"

constexpr int THREADS = 256;
constexpr int NUMBERS = 8;  // of a thread
static_assert(NUMBERS == VEC, "");

extern "C" __global__ void __launch_bounds__(256) linear_split(const float* x, int N, elem* y) {
    const int i = (blockIdx.x * THREADS + threadIdx.x) * NUMBERS;
    if (i >= N) return;
    const Packet* from = reinterpret_cast<const Packet*>(x + i);
    const Raw<float> raw = {{from[0], from[1]}};
    Packet hi, lo;
    split<2>(raw, hi, lo);
    *reinterpret_cast<Packet*>(y + i) = hi;
    *reinterpret_cast<Packet*>(y + N + i) = lo;
}
