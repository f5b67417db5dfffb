// attention.cu: causal attention over packed sequences with keys of earlier tokens, any sizes.
//
//   maths    s_ij = scale <q_i, k_j>    p_ij = exp(s_ij - lse_i)    o_i = sum_j p_ij v_j
//            t_ij = <do_i, v_j>    e_ij = p_ij (t_ij - mean_i),   mean_i = sum_j p_ij t_ij
//            capped: s_ij = c tanh(scale <q_i, k_j> / c), and e_ij times 1 - (s_ij / c)^2
//            dq_i = scale sum_j e_ij k_j    dk_j = scale sum_i e_ij q_i    dv_j = sum_i p_ij do_i
//   shapes   q o do dq (N, H E)   k v dk dv (N, G E)   past_k past_v (rows, G E)
//            lse total mean (N, H) f32;   total_i = sum_j p_ij, 1 but for rounding of a large lse
//            tiles (T, 7): a sequence's rows of the batch, of the shared past and of its own,
//            from and to; the first of TILE of its rows   window: tokens a query sees, 0 for all
//            cap: c, 0 for none
//   types    f32 bf16                                              every sum in f32
//   launch   a block a tile, head (for dk and dv: group) and SLICE (backward SLICE_BWD) columns of
//            the result; grid (T, H or G, slices). A tile of queries meets its keys TILE by TILE,
//            and a tile of keys its queries; what is between them is 4 x 4 numbers a thread
//   cost     4 H E FLOP a query and key seen, backward 18; all of it but 2 (6) for the result once
//            more for each further slice; at the rate of f32, bounded by reads of shared memory
//   source   Dao et al. 2022, arXiv:2205.14135; Ainslie et al. 2023, arXiv:2305.13245
#include "attention.cuh"

constexpr int TILE = 64;
constexpr int THREADS = 256;
constexpr int SLICE = 128;
constexpr int SLICE_BWD = 64;
constexpr int DEPTH = 32;
constexpr int SIDE = 16;  // threads along a side
constexpr int ITEMS = 4;  // rows and columns of a thread

static_assert(SIDE * SIDE == THREADS && SIDE * ITEMS == TILE, "4 x 4 numbers a thread");
static_assert(SLICE % TILE == 0 && SLICE_BWD % TILE == 0, "slices of whole tiles");

struct Shared {
    // Panels of two sides, (DEPTH, TILE + 1) each and padded against bank conflicts; or (DEPTH,
    // columns of a slice).
    alignas(16) float stage[2 * DEPTH * (TILE + 1)];
    float p[TILE][TILE + 1];
    float p_sum[TILE], pt_sum[TILE];
    const elem *k[TILE], *v[TILE];  // where they lie
};

static_assert(DEPTH * SLICE <= 2 * DEPTH * (TILE + 1), "a slice fits the stage");

// A thread's part of a tile: rows row() + SIDE i, columns column() + SIDE j.
typedef float Acc[ITEMS][ITEMS];
HD int row() { return threadIdx.x / SIDE; }
HD int column() { return threadIdx.x % SIDE; }

// A panel of n <= TILE rows x(i), from column e on.
template <class X> HD void load_tile(float* panel, X x, int n, int e, int E) {
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        const int of = i / DEPTH, k = i % DEPTH;
        panel[k * (TILE + 1) + of] = of < n && e + k < E ? f32(x(of)[e + k]) : 0.0f;
    }
}

// all = <x_i, y_j>.
template <class X, class Y>
HD void products(Shared& s, X x, int x_n, Y y, int y_n, int E, Acc& all) {
    float *a = s.stage, *b = s.stage + DEPTH * (TILE + 1);
    for (int i = 0; i < ITEMS; i++)
        for (int j = 0; j < ITEMS; j++) all[i][j] = 0;
    for (int e = 0; e < E; e += DEPTH) {
        load_tile(a, x, x_n, e, E);
        load_tile(b, y, y_n, e, E);
        __syncthreads();
        // A panel is summed by itself: the error grows with DEPTH + E / DEPTH, not with E.
        Acc sum = {};
        for (int k = 0; k < min(E - e, DEPTH); k++)
            for (int i = 0; i < ITEMS && SIDE * i < x_n; i++)
                for (int j = 0; j < ITEMS && SIDE * j < y_n; j++)
                    sum[i][j] += a[k * (TILE + 1) + row() + SIDE * i] *
                                 b[k * (TILE + 1) + column() + SIDE * j];
        for (int i = 0; i < ITEMS; i++)
            for (int j = 0; j < ITEMS; j++) all[i][j] += sum[i][j];
        __syncthreads();
    }
}

// Scores in the place of products. Before other numbers are there, for a tanh takes registers.
HD void score_all(const Score& score, Acc& all) {
    for (int i = 0; i < ITEMS; i++)
        for (int j = 0; j < ITEMS; j++) all[i][j] = score.of(all[i][j]);
}

// A thread's part of rows row() + SIDE i of a result, column_of(c) of a slice's columns.
template <int COLUMNS> struct RowAcc { float x[ITEMS][COLUMNS / SIDE]; };

HD int column_of(int c) { return c / ITEMS * TILE + ITEMS * column() + c % ITEMS; }

// all = keep_i all + sum_j p_ij x_j for `rows` rows of p and n of x, a slice of it from e on.
template <int COLUMNS, class X>
HD void add(Shared& s, int rows, X x, int n, int e, int E, const float (&keep)[ITEMS],
            RowAcc<COLUMNS>& all) {
    RowAcc<COLUMNS> sum = {};
    for (int from = 0; from < n; from += DEPTH) {
        for (int i = threadIdx.x; i < DEPTH * COLUMNS; i += THREADS) {
            const int j = from + i / COLUMNS, c = e + i % COLUMNS;
            s.stage[i] = j < n && c < E ? f32(x(j)[c]) : 0.0f;
        }
        __syncthreads();
        for (int k = 0; k < min(n - from, DEPTH); k++)
            for (int c = 0; c < COLUMNS / SIDE; c++)
                for (int i = 0; i < ITEMS && SIDE * i < rows && e + c / ITEMS * TILE < E; i++)
                    sum.x[i][c] += s.p[row() + SIDE * i][from + k] *
                                   s.stage[k * COLUMNS + column_of(c)];
        __syncthreads();
    }
    for (int i = 0; i < ITEMS; i++)
        for (int c = 0; c < COLUMNS / SIDE; c++)
            all.x[i][c] = keep[i] * all.x[i][c] + sum.x[i][c];
}

template <int COLUMNS>
HD void write(const RowAcc<COLUMNS>& y, const float (&factor)[ITEMS], elem* to, long long stride,
              int n, int e, int E) {
    for (int i = 0; i < ITEMS; i++)
        for (int c = 0; c < COLUMNS / SIDE; c++)
            if (row() + SIDE * i < n && e + column_of(c) < E)
                put(&to[(row() + SIDE * i) * stride + e + column_of(c)], factor[i] * y.x[i][c]);
}

// Over the threads of a row.
HD float side_sum(float x) {
    for (int d = SIDE / 2; d > 0; d /= 2) x += __shfl_xor_sync(ALL, x, d);
    return x;
}

HD float side_max(float x) {
    for (int d = SIDE / 2; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, d));
    return x;
}

// A tile of queries: the first of its sequence's, how many, and the keys they see, from and to.
struct Tile {
    Seq seq;
    int from, n, first_key, keys;
    long long head, stride;  // the first's place in (N, H); from a row to the next
};

HD Tile tile_at(const int* places, int h, int window, int H, int E) {
    Tile t;
    t.seq = seq_at(places);
    t.from = places[6];
    t.n = min(queries_of(t.seq) - t.from, TILE);
    t.first_key = first_seen(t.seq, t.from, window);
    t.keys = past_of(t.seq) + t.from + t.n;
    t.head = static_cast<long long>(t.seq.rows + t.from) * H + h;
    t.stride = static_cast<long long>(H) * E;
    return t;
}

// Whether the a-th query sees key j.
HD bool sees(const Seq& seq, int a, int j, int window) {
    return a < queries_of(seq) && j <= past_of(seq) + a && j >= first_seen(seq, a, window);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_fwd(
    const elem* q, const elem* k, const elem* v, const elem* past_k, const elem* past_v,
    const int* tiles, float scale, float cap, int window, int H, int G, int E, elem* o,
    float* lse) {
    Shared& s = shared();
    const Score score(scale, cap);
    const int h = blockIdx.y, g = h / (H / G), e = blockIdx.z * SLICE;
    const Tile t = tile_at(tiles + 7 * blockIdx.x, h, window, H, E);
    const auto query = [&](int i) { return q + t.head * E + i * t.stride; };
    const auto key = [&](int j) { return s.k[j]; };
    const auto value = [&](int j) { return s.v[j]; };
    RowAcc<SLICE> sum = {};
    float top[ITEMS], total[ITEMS];
    for (int i = 0; i < ITEMS; i++) top[i] = -INFINITY, total[i] = 0;
    for (int j0 = t.first_key; j0 < t.keys; j0 += TILE) {
        const int n = min(t.keys - j0, TILE);
        locate(s.k, t.seq, j0, n, past_k, k, G, g, E);
        locate(s.v, t.seq, j0, n, past_v, v, G, g, E);
        __syncthreads();
        Acc sums;
        products(s, query, t.n, key, n, E, sums);
        score_all(score, sums);
        float keep[ITEMS];
        for (int i = 0; i < ITEMS; i++) {
            float higher = top[i];
            for (int j = 0; j < ITEMS; j++) {
                const int a = t.from + row() + SIDE * i, at = j0 + column() + SIDE * j;
                sums[i][j] = sees(t.seq, a, at, window) ? sums[i][j] : -INFINITY;
                higher = fmaxf(higher, sums[i][j]);
            }
            higher = side_max(higher);
            // A row that has seen no key yet has no top.
            const float base = higher > -INFINITY ? higher : 0.0f;
            float here = 0;
            for (int j = 0; j < ITEMS; j++) {
                const float p = expf(sums[i][j] - base);
                s.p[row() + SIDE * i][column() + SIDE * j] = p;
                here += p;
            }
            keep[i] = expf(top[i] - base);
            total[i] = keep[i] * total[i] + side_sum(here);
            top[i] = higher;
        }
        add(s, t.n, value, n, e, E, keep, sum);
    }
    float factor[ITEMS];
    for (int i = 0; i < ITEMS; i++) {
        factor[i] = 1 / total[i];
        if (column() == 0 && e == 0 && row() + SIDE * i < t.n)
            lse[t.head + (row() + SIDE * i) * H] = top[i] + logf(total[i]);
    }
    write(sum, factor, o + t.head * E, t.stride, t.n, e, E);
}

// dq, and total and mean, which the keys need.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_bwd_q(
    const elem* d_o, const elem* q, const elem* k, const elem* v, const elem* past_k,
    const elem* past_v, const float* lse, const int* tiles, float scale, float cap, int window,
    int H, int G, int E, elem* dq, float* total, float* mean) {
    Shared& s = shared();
    const Score score(scale, cap);
    const int h = blockIdx.y, g = h / (H / G), e = blockIdx.z * SLICE_BWD;
    const Tile t = tile_at(tiles + 7 * blockIdx.x, h, window, H, E);
    const auto query = [&](int i) { return q + t.head * E + i * t.stride; };
    const auto d_out = [&](int i) { return d_o + t.head * E + i * t.stride; };
    const auto key = [&](int j) { return s.k[j]; };
    const auto value = [&](int j) { return s.v[j]; };
    const float ones[ITEMS] = {1, 1, 1, 1}, scales[ITEMS] = {scale, scale, scale, scale};
    RowAcc<SLICE_BWD> sum = {};
    if (threadIdx.x < TILE) s.p_sum[threadIdx.x] = s.pt_sum[threadIdx.x] = 0;
    // First the mean, then what is off it: a difference of sums would lose the digits they share.
    for (int pass = 0; pass < 2; pass++) {
        for (int j0 = t.first_key; j0 < t.keys; j0 += TILE) {
            const int n = min(t.keys - j0, TILE);
            locate(s.k, t.seq, j0, n, past_k, k, G, g, E);
            locate(s.v, t.seq, j0, n, past_v, v, G, g, E);
            __syncthreads();
            Acc p, of_v;
            products(s, query, t.n, key, n, E, p);
            score_all(score, p);
            products(s, d_out, t.n, value, n, E, of_v);
            for (int i = 0; i < ITEMS; i++) {
                const int r = row() + SIDE * i;
                const float log_sum = r < t.n ? lse[t.head + r * H] : 0.0f;
                const float about = pass == 1 ? s.pt_sum[r] / s.p_sum[r] : 0.0f;
                float p_sum = 0, pt_sum = 0;
                for (int j = 0; j < ITEMS; j++) {
                    const int c = column() + SIDE * j;
                    const bool seen = sees(t.seq, t.from + r, j0 + c, window);
                    const float here = seen ? expf(p[i][j] - log_sum) : 0.0f;
                    p_sum += here;
                    pt_sum += here * of_v[i][j];
                    const float off = of_v[i][j] - about;
                    if (pass == 1)
                        s.p[r][c] = seen ? here / s.p_sum[r] * off * score.slope(p[i][j]) : 0.0f;
                }
                if (pass == 1) continue;
                p_sum = side_sum(p_sum);
                pt_sum = side_sum(pt_sum);
                if (column() == 0) s.p_sum[r] += p_sum, s.pt_sum[r] += pt_sum;
            }
            if (pass == 1) add(s, t.n, key, n, e, E, ones, sum);
        }
        for (int r = row(); r < t.n && pass + e + column() == 0; r += SIDE) {
            total[t.head + r * H] = s.p_sum[r];
            mean[t.head + r * H] = s.pt_sum[r] / s.p_sum[r];
        }
    }
    write(sum, scales, dq + t.head * E, t.stride, t.n, e, E);
}

// dk and dv of the batch's own keys; the past is frozen.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_bwd_kv(
    const elem* d_o, const elem* q, const elem* k, const elem* v, const float* lse,
    const float* total, const float* mean, const int* tiles, float scale, float cap, int window,
    int H, int G, int E, elem* dk, elem* dv) {
    Shared& s = shared();
    const Score score(scale, cap);
    const int g = blockIdx.y, share = H / G, e = blockIdx.z * SLICE_BWD;
    const Seq seq = seq_at(tiles + 7 * blockIdx.x);
    const int from = tiles[7 * blockIdx.x + 6], n = min(queries_of(seq) - from, TILE);
    const int last = from + n - 1, past = past_of(seq);
    const int end = window > 0 && window < queries_of(seq) - last ? last + window : queries_of(seq);
    const long long own = (static_cast<long long>(seq.rows + from) * G + g) * E;
    const long long step = static_cast<long long>(G) * E, stride = static_cast<long long>(H) * E;
    const auto key = [&](int j) { return k + own + j * step; };
    const auto value = [&](int j) { return v + own + j * step; };
    const float ones[ITEMS] = {1, 1, 1, 1}, scales[ITEMS] = {scale, scale, scale, scale};
    RowAcc<SLICE_BWD> to_k = {}, to_v = {};
    for (int at = 0; at < (end - from + TILE - 1) / TILE * share; at++) {
        const int i0 = from + at / share * TILE, queries = min(end - i0, TILE);
        const long long head = static_cast<long long>(seq.rows + i0) * H + g * share + at % share;
        const auto query = [&](int i) { return q + head * E + i * stride; };
        const auto d_out = [&](int i) { return d_o + head * E + i * stride; };
        Acc p, of_v;
        products(s, key, n, query, queries, E, p);
        score_all(score, p);
        products(s, value, n, d_out, queries, E, of_v);
        for (int j = 0; j < ITEMS; j++) {
            const int c = column() + SIDE * j;
            const long long i = head + (c < queries ? c : 0) * H;
            for (int r = 0; r < ITEMS; r++) {
                const int key_at = from + row() + SIDE * r;
                const bool seen = c < queries && sees(seq, i0 + c, past + key_at, window);
                of_v[r][j] = (of_v[r][j] - mean[i]) * score.slope(p[r][j]);
                p[r][j] = seen ? expf(p[r][j] - lse[i]) / total[i] : 0.0f;
                of_v[r][j] *= p[r][j];
                s.p[row() + SIDE * r][c] = p[r][j];
            }
        }
        add(s, n, d_out, queries, e, E, ones, to_v);
        for (int r = 0; r < ITEMS; r++)
            for (int j = 0; j < ITEMS; j++)
                s.p[row() + SIDE * r][column() + SIDE * j] = of_v[r][j];
        add(s, n, query, queries, e, E, ones, to_k);
    }
    write(to_k, scales, dk + own, step, n, e, E);
    write(to_v, ones, dv + own, step, n, e, E);
}
