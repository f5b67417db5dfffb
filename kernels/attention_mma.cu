// attention_mma.cu: attention.cu's forward pass on the tensor cores.
//
//   maths    attention.cu's. p = hi + lo, each the bf16 next to what is left: o is off by 2^-16 of
//            the largest v at most, 2^-8 of what its own rounding to bf16 may cost
//   shapes   attention.cu's;   E a multiple of MMA_K, at most MAX_HEAD_DIM
//   types    bf16                                                  every sum in f32
//   launch   a block a tile of TILE queries, head and SLICE columns of the result, a warp 16 of the
//            queries; grid (T, H, slices)
//   cost     6 H E FLOP a query and key seen, 2 of them once more for a further slice; bounded by
//            the tensor cores' rate through mma.sync and, at few queries, by reads of K and V
//   source   Dao et al. 2022, arXiv:2205.14135; Ainslie et al. 2023, arXiv:2305.13245
//
// Tensor cores cut off what is below the last of at least 24 bits (linear_mma.cu): a score, and so
// lse, is off by no more than d = scale ceil(E / 16) 17 2^-23 |q| |k| besides, a weight by exp(2 d)
// - 1 of itself, and o by that, the 2^-16 and twice ceil(keys / 16) 17 2^-23 of the largest v.
#include "attention.cuh"

constexpr int TILE = 64;
constexpr int THREADS = 128;
constexpr int KEYS = 32;  // at a time
constexpr int SLICE = 128;
constexpr int MAX_HEAD_DIM = 256;
constexpr int MMA_K = 16;  // of a product
constexpr int VEC = 8;     // elements of a copy, and columns of a product

static_assert(TILE == THREADS / WARP * 16, "a warp 16 queries");
static_assert(sizeof(elem) * VEC == 16, "copies of 16 bytes");

// Rows are a pack longer than they need be, so that eight of them meet all banks.
struct Shared {
    alignas(16) elem k[KEYS][MAX_HEAD_DIM + VEC];
    alignas(16) elem v[KEYS][SLICE + VEC];
    const elem *at_k[KEYS], *at_v[KEYS];  // where they lie
};

// Starts to copy `vectors` vectors of each of n rows, and zeros of the rest of KEYS.
template <int WIDTH>
HD void load_tile(elem (*to)[WIDTH], const elem* const* from, int e, int vectors, int n) {
    for (int i = threadIdx.x; i < KEYS * vectors; i += THREADS) {
        const int j = i / vectors, c = i % vectors * VEC;
        cp_async(&to[j][c], from[j < n ? j : 0] + e + c, j < n ? 16 : 0);
    }
    cp_async_commit();
}

// Over the four lanes of a row.
HD float row_sum(float x) {
    x += __shfl_xor_sync(ALL, x, 1);
    return x + __shfl_xor_sync(ALL, x, 2);
}

HD float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL, x, 2));
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_mma_fwd(
    const elem* q, const elem* k, const elem* v, const elem* past_k, const elem* past_v,
    const int* tiles, float scale, float cap, int window, int H, int G, int E, elem* o,
    float* lse) {
    Shared& s = shared();
    const Score score(scale, cap);
    const int h = blockIdx.y, g = h / (H / G), from_e = blockIdx.z * SLICE;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const Seq seq = seq_at(tiles + 7 * blockIdx.x);
    const int from = tiles[7 * blockIdx.x + 6], queries = min(queries_of(seq) - from, TILE);
    const int past = past_of(seq), keys = past + from + queries;
    const int columns = min(E - from_e, SLICE);
    // A lane has two rows of its warp's, `mine` and eight on, and of every product two columns.
    const int mine = 16 * warp + lane / 4, pair = 2 * (lane % 4);
    const long long head = static_cast<long long>(seq.rows + from) * H + h;
    const long long stride = static_cast<long long>(H) * E;

    unsigned of_q[MAX_HEAD_DIM / MMA_K][4];
    for (int c = 0; c < MAX_HEAD_DIM / MMA_K; c++)
        for (int i = 0; i < 4 && c * MMA_K < E; i++) {
            const int row = mine + 8 * (i % 2);
            const elem* at = q + head * E + row * stride + c * MMA_K + 8 * (i / 2) + pair;
            of_q[c][i] = row < queries ? *reinterpret_cast<const unsigned*>(at) : 0;
        }
    float sum[SLICE / VEC][4] = {};
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int j0 = first_seen(seq, from, window); j0 < keys; j0 += KEYS) {
        const int n = min(keys - j0, KEYS);
        locate(s.at_k, seq, j0, n, past_k, k, G, g, E);
        locate(s.at_v, seq, j0, n, past_v, v, G, g, E);
        __syncthreads();
        load_tile(s.k, s.at_k, 0, E / VEC, n);
        load_tile(s.v, s.at_v, from_e, columns / VEC, n);
        cp_async_wait<1>();
        __syncthreads();
        float p[KEYS / 8][4] = {};  // first scores
        for (int c = 0; c < MAX_HEAD_DIM / MMA_K; c++) {
            if (c * MMA_K >= E) continue;
            for (int j = 0; j < KEYS; j += 16) {
                unsigned b[4];
                ldmatrix(b, &s.k[j + lane / 16 * 8 + lane % 8][c * MMA_K + lane / 8 % 2 * 8]);
                mma<bf16>(p[j / 8], of_q[c], {b[0], b[1]});
                mma<bf16>(p[j / 8 + 1], of_q[c], {b[2], b[3]});
            }
        }
        for (int half = 0; half < 2; half++) {
            const int a = from + mine + 8 * half;
            const int last = past + a, first = first_seen(seq, a, window);
            float higher = top[half];
            for (int j = 0; j < KEYS / 8; j++)
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    const int at = j0 + 8 * j + pair + i % 2;
                    p[j][i] = at >= first && at <= last ? score.of(p[j][i]) : -INFINITY;
                    higher = fmaxf(higher, p[j][i]);
                }
            higher = row_max(higher);
            // A row that has seen no key yet has no top.
            const float base = higher > -INFINITY ? higher : 0.0f;
            const float keep = expf(top[half] - base);
            float here = 0;
            for (int j = 0; j < KEYS / 8; j++)
                for (int i = 2 * half; i < 2 * half + 2; i++)
                    here += p[j][i] = expf(p[j][i] - base);
            total[half] = keep * total[half] + row_sum(here);
            top[half] = higher;
            for (int c = 0; c < SLICE / VEC; c++)
                for (int i = 2 * half; i < 2 * half + 2; i++) sum[c][i] *= keep;
        }
        cp_async_wait<0>();
        __syncthreads();
        for (int j = 0; j < KEYS; j += 16) {
            unsigned hi[4], lo[4];
            for (int i = 0; i < 4; i++) {
                const int of = 2 * (i % 2);
                const float x = p[j / 8 + i / 2][of], y = p[j / 8 + i / 2][of + 1];
                hi[i] = round_bf16(x, y);
                lo[i] = round_bf16(x - of_bits(hi[i] << 16), y - of_bits(hi[i] & 0xffff0000u));
            }
            for (int c = 0; c < SLICE / VEC; c += 2) {
                if (c * VEC >= columns) continue;
                unsigned b[4];
                ldmatrix_trans(b, &s.v[j + lane % 16][c * VEC + lane / 16 * 8]);
                for (int i = 0; i < 2; i++) {
                    mma<bf16>(sum[c + i], lo, {b[2 * i], b[2 * i + 1]});
                    mma<bf16>(sum[c + i], hi, {b[2 * i], b[2 * i + 1]});
                }
            }
        }
        __syncthreads();
    }
    for (int half = 0; half < 2; half++) {
        const int row = mine + 8 * half;
        if (row >= queries) continue;
        elem* to = o + head * E + row * stride + from_e + pair;
        for (int c = 0; c < SLICE / VEC; c++)
            for (int i = 0; i < 2 && c * VEC < columns; i++)
                put(&to[c * VEC + i], sum[c][2 * half + i] / total[half]);
        if (pair == 0 && from_e == 0) lse[head + row * H] = top[half] + logf(total[half]);
    }
}
