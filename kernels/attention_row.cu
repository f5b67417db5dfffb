// attention_row.cu: attention of sequences of one query that sees many keys, as in decoding.
//
//   maths    attention.cu's. A block sums SPAN keys:   top = max s_j   total = sum exp(s_j - top)
//            part = sum exp(s_j - top) v_j             then, with the highest top of all spans,
//            o = sum exp(top_s - top) part_s / sum exp(top_s - top) total_s
//   shapes   attention.cu's;   spans (B, 7): rows of the batch, of the shared past and of its own
//            past, from and to; the first key   parts (B, H, E + 2) f32: part, top, total
//            merges (S, 3): a sequence's row of the batch, its first span and how many
//            E a multiple of VEC
//   types    f32 bf16                                              every sum in f32
//   launch   a block a span and group, grid (B, G); then a block a sequence and head, grid (S, H)
//   cost     4 H E FLOP a key; K and V once for ROWS heads of a group: bandwidth-bound
//   source   Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html
#include "common.cuh"

constexpr int THREADS = 128;
constexpr int ROWS = 4;  // at a time
constexpr int VEC = 8;
constexpr int SPAN = 128;

#include "attention_few.cuh"

struct Shared {
    const elem *k[SPAN], *v[SPAN];  // where they lie
    alignas(16) float s[SPAN][ROWS];
    Partials parts;
};

extern "C" __global__ void __launch_bounds__(THREADS, 4) attention_row_fwd(
    const elem* q, const elem* k, const elem* v, const elem* past_k, const elem* past_v,
    const int* spans, float scale, float cap, int window, int H, int G, int E, float* parts) {
    Shared& s = shared();
    const Score score(scale, cap);
    const int g = blockIdx.y, share = H / G, lane = threadIdx.x % WARP, i = threadIdx.x / WARP;
    const Seq seq = seq_at(spans + 7 * blockIdx.x);
    const int from = spans[7 * blockIdx.x + 6], left = keys_of(seq) - from;
    const int n = left < SPAN ? left : SPAN, first = first_seen(seq, 0, window) - from;
    locate(s.k, seq, from, n, past_k, k, G, g, E);
    locate(s.v, seq, from, n, past_v, v, G, g, E);
    __syncthreads();
    q += (static_cast<long long>(seq.rows) * H + g * share) * E;
    parts += (static_cast<long long>(blockIdx.x) * H + g * share) * (E + 2);
    for (int h = 0; h < share; h += ROWS) {
        const int rows = share - h < ROWS ? share - h : ROWS;
        float* part = parts + h * (E + 2);
        if (first >= n) {  // all hidden
            if (lane == 0 && i < rows) part[i * (E + 2) + E] = -INFINITY;
            continue;
        }
        products({q + h * E, E, rows}, s.k, n, E, s.s);
        __syncthreads();
        if (i < rows) {
            const RowStats a = softmax_numerators(s.s, i, n, first, n - 1, score);
            if (lane == 0) part[i * (E + 2) + E] = a.top;
            if (lane == 0) part[i * (E + 2) + E + 1] = a.total;
        }
        __syncthreads();
        combine(s.s, [&](int j) { return s.v[j]; }, 0, n, E, 1, s.parts,
                Strided<float>{part, E + 2, rows});
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_row_merge(
    const float* parts, const int* merges, int H, int E, elem* o, float* lse) {
    const int* merge = merges + 3 * blockIdx.x;
    const int h = blockIdx.y, spans = merge[2];
    const long long head = static_cast<long long>(merge[0]) * H + h;
    const long long step = static_cast<long long>(H) * (E + 2);
    parts += merge[1] * step + h * (E + 2);
    float top = -INFINITY, total = 0;
    for (int i = threadIdx.x % WARP; i < spans; i += WARP) top = fmaxf(top, parts[i * step + E]);
    top = warp_max(top);
    for (int i = threadIdx.x % WARP; i < spans; i += WARP) {
        const float* part = parts + i * step;
        if (part[E] > -INFINITY) total += expf(part[E] - top) * part[E + 1];
    }
    total = warp_sum(total);
    for (int e = threadIdx.x; e < E; e += THREADS) {
        float sum = 0;
        for (int i = 0; i < spans; i++) {
            const float* part = parts + i * step;
            if (part[E] > -INFINITY) sum += expf(part[E] - top) * part[e];
        }
        put(&o[head * E + e], sum / total);
    }
    if (threadIdx.x == 0) lse[head] = top + logf(total);
}
