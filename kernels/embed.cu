// embed.cu: embedding of tokens and, where they are learned, of positions.
//
//   maths    x_i = W_token[id_i] (+ W_position[at_i])
//   shapes   x (N, D) f32   tokens (V, D)   positions (P, D)   ids at (N)      row-major, dense
//   types    f32                                                   x is the residual stream
//   weights  f32 bf16 f16
//   launch   THREADS a block, an element a thread; without positions `learned` is 0
//   cost     moves N D weights once or twice and 4 N D bytes; bandwidth-bound
//   source   -
#include "common.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void embed_fwd(const int* ids, const int* at, const weight* tokens,
                                     const weight* positions, int learned, int N, int D,
                                     elem* x) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= static_cast<long long>(N) * D) return;
    const long long row = i / D, d = i % D;
    float sum = f32(tokens[ids[row] * static_cast<long long>(D) + d]);
    if (learned) sum += f32(positions[at[row] * static_cast<long long>(D) + d]);
    put(&x[i], sum);
}
