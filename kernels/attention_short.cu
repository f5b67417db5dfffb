// attention_short.cu: attention of sequences of a few queries that see a few keys.
//
//   maths    attention.cu's; p is formed anew from the scores, which are all at hand
//   shapes   attention.cu's;   seqs (S, 6): rows of the batch, of the shared past and of its own
//            past, from and to: at most KEYS keys, and n queries with
//            n' n H / G <= OWN, where n' is n rounded up to ROWS   E a multiple of VEC
//   types    f32 bf16                                              every sum in f32
//   launch   a block a sequence and head, backward and group; grid (S, H) or (S, G)
//   cost     4 H E FLOP a query and key, backward 10, at the rate of f32; q, k, v and o once from
//            memory, backward q, k and do once more from a cache, where the past that sequences
//            share lies too
//   source   Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245
#include "common.cuh"

constexpr int THREADS = 128;
constexpr int ROWS = 4;  // at a time
constexpr int VEC = 8;
constexpr int KEYS = 64;
constexpr int OWN = 1024;

#include "attention_few.cuh"

struct Shared {
    const elem *k[KEYS], *v[KEYS];  // where they lie
    alignas(16) float s[KEYS][ROWS];
    alignas(16) float t[KEYS][ROWS];
    float slope[KEYS][ROWS];
    alignas(16) float own_p[OWN / ROWS][ROWS];
    alignas(16) float own_e[OWN / ROWS][ROWS];
    Partials parts;
};

static_assert(KEYS == GROUP_KEYS * GROUPS, "products goes through the keys once");

// Where own key j's p and e of query a and head h of a group stand, j / ROWS by j / ROWS.
HD int own_at(int j, int a, int h, int queries, int share) {
    return (j / ROWS * queries + a) * share + h;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) attention_short_fwd(
    const elem* q, const elem* k, const elem* v, const elem* past_k, const elem* past_v,
    const int* seqs, float scale, float cap, int window, int H, int G, int E, elem* o, float* lse) {
    Shared& s = shared();
    const Score score(scale, cap);
    const int h = blockIdx.y, lane = threadIdx.x % WARP, i = threadIdx.x / WARP;
    const Seq seq = seq_at(seqs + 6 * blockIdx.x);
    const int queries = queries_of(seq), past = past_of(seq);
    locate(s.k, seq, 0, keys_of(seq), past_k, k, G, h / (H / G), E);
    locate(s.v, seq, 0, keys_of(seq), past_v, v, G, h / (H / G), E);
    __syncthreads();
    for (int from = 0; from < queries; from += ROWS) {
        const int rows = queries - from < ROWS ? queries - from : ROWS, n = past + from + rows;
        const long long at = static_cast<long long>(seq.rows + from) * H + h;
        const long long stride = static_cast<long long>(H) * E;
        products({q + at * E, stride, rows}, s.k, n, E, s.s);
        __syncthreads();
        if (i < rows) {
            const int first = first_seen(seq, from + i, window), last = past + from + i;
            const RowStats a = softmax_numerators(s.s, i, n, first, last, score);
            for (int j = lane; j < n; j += WARP) s.s[j][i] /= a.total;
            if (lane == 0) lse[at + i * H] = a.top + logf(a.total);
        }
        __syncthreads();
        combine(s.s, [&](int j) { return s.v[j]; }, 0, n, E, 1, s.parts,
                Strided<elem>{o + at * E, stride, rows});
    }
}

// dq of all heads of a group, and dk and dv of its own keys; the past is frozen.
extern "C" __global__ void __launch_bounds__(THREADS, 4) attention_short_bwd(
    const elem* d_o, const elem* q, const elem* k, const elem* v, const elem* past_k,
    const elem* past_v, const int* seqs, float scale, float cap, int window, int H, int G, int E,
    elem* dq, elem* dk, elem* dv) {
    Shared& s = shared();
    const Score score(scale, cap);
    const int g = blockIdx.y, share = H / G, lane = threadIdx.x % WARP, i = threadIdx.x / WARP;
    const Seq seq = seq_at(seqs + 6 * blockIdx.x);
    const int queries = queries_of(seq), past = past_of(seq);
    const long long stride = static_cast<long long>(H) * E;
    const long long corner = seq.rows * stride + static_cast<long long>(g) * share * E;
    locate(s.k, seq, 0, keys_of(seq), past_k, k, G, g, E);
    locate(s.v, seq, 0, keys_of(seq), past_v, v, G, g, E);
    __syncthreads();
    for (int step = 0; step < share * ((queries + ROWS - 1) / ROWS); step++) {
        const int h = step % share, from = step / share * ROWS;
        const int rows = queries - from < ROWS ? queries - from : ROWS, n = past + from + rows;
        const long long at = corner + from * stride + static_cast<long long>(h) * E;
        products({q + at, stride, rows}, s.k, n, E, s.s);
        products({d_o + at, stride, rows}, s.v, n, E, s.t);
        __syncthreads();
        if (i < rows) {
            const int first = first_seen(seq, from + i, window), last = past + from + i;
            const float total =
                softmax_numerators(s.s, i, n, first, last, score, s.slope).total;
            float mean = 0;
            for (int j = lane; j < n; j += WARP) mean += s.s[j][i] / total * s.t[j][i];
            mean = warp_sum(mean);
            for (int j = lane; j < n; j += WARP) {
                const float p = s.s[j][i] / total;
                const float e = p * (s.t[j][i] - mean) * s.slope[j][i];
                s.s[j][i] = e;
                if (j < past) continue;
                const int own = own_at(j - past, from + i, h, queries, share);
                s.own_p[own][(j - past) % ROWS] = p;
                s.own_e[own][(j - past) % ROWS] = e;
            }
        }
        __syncthreads();
        combine(s.s, [&](int j) { return s.k[j]; }, 0, n, E, scale, s.parts,
                Strided<elem>{dq + at, stride, rows});
    }
    for (int from = 0; from < queries; from += ROWS) {
        const int rows = queries - from < ROWS ? queries - from : ROWS;
        const int start = own_at(from, 0, 0, queries, share);
        const long long to = (static_cast<long long>(seq.rows + from) * G + g) * E;
        const auto row = [&](const elem* of) {
            return [=](int r) {
                return of + corner + r / share * stride + static_cast<long long>(r % share) * E;
            };
        };
        const Strided<elem> to_k = {dk + to, static_cast<long long>(G) * E, rows};
        const Strided<elem> to_v = {dv + to, static_cast<long long>(G) * E, rows};
        combine(s.own_e + start, row(q), from * share, queries * share, E, scale, s.parts, to_k);
        combine(s.own_p + start, row(d_o), from * share, queries * share, E, 1, s.parts, to_v);
    }
}
