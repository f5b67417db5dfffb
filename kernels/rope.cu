// rope.cu: rotary positions, forward and backward.
//
//   maths    a' = a cos - b sin      b' = b cos + a sin      back: the same with -sin
//   shapes   x (N, H E), in place    cos sin (N, half) f32, half <= E/2 pairs of a head turn
//   types    f32 bf16                                             computed in f32
//   launch   THREADS a block, a pair a thread; `adjacent`: pairs (2i, 2i + 1), else (i, i + half)
//   cost     moves 4 N H half elements; bandwidth-bound
//   source   Su et al. 2021, arXiv:2104.09864
#include "common.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void rope_turn(const float* cos, const float* sin, int adjacent, int back,
                                     int N, int H, int E, int half, inout elem* x) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= static_cast<long long>(N) * H * half) return;
    const int pair = i % half;
    const long long head = i / half, token = head / H;
    x += head * E + (adjacent ? 2 * pair : pair);
    const int other = adjacent ? 1 : half;
    const float c = cos[token * half + pair], turn = sin[token * half + pair];
    const float s = back ? -turn : turn, a = f32(x[0]), b = f32(x[other]);
    put(&x[0], a * c - b * s);
    put(&x[other], b * c + a * s);
}
