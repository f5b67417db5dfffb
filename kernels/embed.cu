// embed.cu: embedding of tokens and, where they are learned, of positions.
//
//   maths    fwd  x_i = W[id_i]          add  x_i += W[id_i]: positions, of a type of their own
//   shapes   x (N, D) f32   w (V, D)   ids (N)                        row-major, dense
//   types    f32                                                   x is the residual stream
//   weights  f32 bf16 f16
//   launch   THREADS a block, an element a thread
//   cost     moves N D weights and 4 N D bytes, add 8 N D; bandwidth-bound
//   source   -
#include "common.cuh"

constexpr int THREADS = 256;

HD long long element() { return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; }

HD float looked_up(const int* ids, const weight* w, long long i, int D) {
    return f32(w[ids[i / D] * static_cast<long long>(D) + i % D]);
}

extern "C" __global__ void embed_fwd(const int* ids, const weight* w, int N, int D, elem* x) {
    const long long i = element();
    if (i < static_cast<long long>(N) * D) put(&x[i], looked_up(ids, w, i, D));
}

extern "C" __global__ void embed_add(const int* ids, const weight* w, int N, int D, inout elem* x) {
    const long long i = element();
    if (i < static_cast<long long>(N) * D) put(&x[i], f32(x[i]) + looked_up(ids, w, i, D));
}
