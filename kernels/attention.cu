// attention.cu: causal attention over packed sequences with keys of earlier tokens, any sizes.
//
//   maths    s_ij = scale <q_i, k_j>    p_ij = exp(s_ij - lse_i)    o_i = sum_j p_ij v_j
//            t_ij = <do_i, v_j>    e_ij = p_ij (t_ij - mean_i),   mean_i = sum_j p_ij t_ij
//            dq_i = scale sum_j e_ij k_j    dk_j = scale sum_i e_ij q_i    dv_j = sum_i p_ij do_i
//   shapes   q o do dq (N, H E)   k v dk dv (N, G E)   past_k past_v (rows, G E)
//            lse total mean (N, H) f32;   total_i = sum_j p_ij, 1 but for rounding of a large lse
//            seqs (S, 6): rows of the batch, of the shared past, of its own past, from and to
//            seq_of (N): a row's sequence;   window: tokens a query sees, 0 for all
//   types    f32 bf16                                              every sum in f32
//   launch   a warp a row of the batch and head (for dk and dv: group); grid (N, H) or (N, G)
//   cost     4 N H E FLOP a key seen, backward 10 N H E; K and V come from the cache
//   source   Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245
#include "common.cuh"

constexpr int WIDE = 4;  // numbers of a head a lane sums at a time

// Keys a query sees, oldest first: of the shared past, its own past, and the batch.
struct Seen { int from[3], count[3]; };

HD Seen seen(const int* seq, int i, int window) {
    Seen s = {{seq[2], seq[4], seq[0]}, {seq[3] - seq[2], seq[5] - seq[4], i + 1 - seq[0]}};
    int hidden = s.count[0] + s.count[1] + s.count[2] - window;
    if (window == 0) hidden = 0;
    for (int part = 0; part < 3 && hidden > 0; part++) {
        const int here = hidden < s.count[part] ? hidden : s.count[part];
        s.from[part] += here;
        s.count[part] -= here;
        hidden -= here;
    }
    return s;
}

// The row of the j-th of them, in the past or, from `own` on, in the batch.
HD int row_of(const Seen& s, int j) {
    if (j < s.count[0]) return s.from[0] + j;
    j -= s.count[0];
    return j < s.count[1] ? s.from[1] + j : s.from[2] + j - s.count[1];
}

struct Sizes { int H, G, E, h; };

HD const elem* at(const elem* past, const elem* own, const Seen& s, int j, Sizes z) {
    const elem* rows = j < s.count[0] + s.count[1] ? past : own;
    return rows + (static_cast<long long>(row_of(s, j)) * z.G + z.h / (z.H / z.G)) * z.E;
}

HD float dot(const elem* a, const elem* b, int E) {
    float sum = 0;
    for (int e = threadIdx.x; e < E; e += WARP) sum += f32(a[e]) * f32(b[e]);
    return warp_sum(sum);
}

// Lane l gets the score of key from + l; lanes beyond the last, minus infinity.
HD float scores(const elem* q, const elem* past_k, const elem* k, const Seen& s, int from, int n,
                Sizes z, float scale) {
    const int lane = threadIdx.x;
    float mine = -INFINITY;
    for (int j = from; j < from + WARP && j < n; j++) {
        const float score = scale * dot(q, at(past_k, k, s, j, z), z.E);
        if (lane == j - from) mine = score;
    }
    return mine;
}

// y = sum_j w_j x_j over a tile of E, in blocks of a warp's keys; lane l has w of key from + l.
struct Sum { float block[WIDE], all[WIDE]; };

HD void clear(Sum& y) {
    for (int i = 0; i < WIDE; i++) y.block[i] = y.all[i] = 0;
}

HD void add(Sum& y, float w, const elem* x, int from_e, int E) {
    for (int i = 0; i < WIDE; i++) {
        const int e = from_e + i * WARP + threadIdx.x;
        if (e < E) y.block[i] += w * f32(x[e]);
    }
}

HD void end_block(Sum& y) {
    for (int i = 0; i < WIDE; i++) {
        y.all[i] += y.block[i];
        y.block[i] = 0;
    }
}

HD void write(const Sum& y, elem* to, int from_e, int E, float factor) {
    for (int i = 0; i < WIDE; i++) {
        const int e = from_e + i * WARP + threadIdx.x;
        if (e < E) put(&to[e], factor * y.all[i]);
    }
}

extern "C" __global__ void attention_fwd(const elem* q, const elem* k, const elem* v,
                                         const elem* past_k, const elem* past_v, const int* seqs,
                                         const int* seq_of, float scale, int window, int H, int G,
                                         int E, elem* o, float* lse) {
    const int i = blockIdx.x, h = blockIdx.y, lane = threadIdx.x;
    const Sizes z = {H, G, E, h};
    const Seen s = seen(seqs + 6 * seq_of[i], i, window);
    const int n = s.count[0] + s.count[1] + s.count[2];
    const long long head = static_cast<long long>(i) * H + h;
    q += head * E;
    o += head * E;

    float top = -INFINITY, total = 0;
    for (int j = 0; j < n; j += WARP) {
        const float score = scores(q, past_k, k, s, j, n, z, scale);
        const float higher = fmaxf(top, warp_max(score));
        total = total * expf(top - higher) + warp_sum(expf(score - higher));
        top = higher;
    }
    for (int e = 0; e < E; e += WIDE * WARP) {
        Sum y;
        clear(y);
        for (int j = 0; j < n; j += WARP) {
            const float p = expf(scores(q, past_k, k, s, j, n, z, scale) - top) / total;
            for (int l = 0; l < WARP && j + l < n; l++)
                add(y, __shfl_sync(ALL, p, l), at(past_v, v, s, j + l, z), e, E);
            end_block(y);
        }
        write(y, o, e, E, 1);
    }
    if (lane == 0) lse[head] = top + logf(total);
}

// dq, and total and mean, which the keys need.
extern "C" __global__ void attention_bwd_q(const elem* d_o, const elem* q, const elem* k,
                                           const elem* v, const elem* past_k, const elem* past_v,
                                           const float* lse, const int* seqs, const int* seq_of,
                                           float scale, int window, int H, int G, int E, elem* dq,
                                           float* total, float* mean) {
    const int i = blockIdx.x, h = blockIdx.y, lane = threadIdx.x;
    const Sizes z = {H, G, E, h};
    const Seen s = seen(seqs + 6 * seq_of[i], i, window);
    const int n = s.count[0] + s.count[1] + s.count[2];
    const long long head = static_cast<long long>(i) * H + h;
    q += head * E;
    d_o += head * E;
    dq += head * E;

    float p_sum = 0, pt_sum = 0;
    for (int j = 0; j < n; j += WARP) {
        const float p = expf(scores(q, past_k, k, s, j, n, z, scale) - lse[head]);
        float t = 0;
        for (int l = 0; l < WARP && j + l < n; l++) {
            const float of = dot(d_o, at(past_v, v, s, j + l, z), E);
            if (lane == l) t = of;
        }
        p_sum += warp_sum(p);
        pt_sum += warp_sum(p * t);
    }
    const float about = pt_sum / p_sum;
    for (int e = 0; e < E; e += WIDE * WARP) {
        Sum y;
        clear(y);
        for (int j = 0; j < n; j += WARP) {
            const float p = expf(scores(q, past_k, k, s, j, n, z, scale) - lse[head]) / p_sum;
            for (int l = 0; l < WARP && j + l < n; l++) {
                const float t = dot(d_o, at(past_v, v, s, j + l, z), E);
                add(y, __shfl_sync(ALL, p, l) * (t - about), at(past_k, k, s, j + l, z), e, E);
            }
            end_block(y);
        }
        write(y, dq, e, E, scale);
    }
    if (lane == 0) {
        total[head] = p_sum;
        mean[head] = about;
    }
}

// dk and dv of the batch's own keys; the past is frozen.
extern "C" __global__ void attention_bwd_kv(const elem* d_o, const elem* q, const elem* k,
                                            const elem* v, const float* lse, const float* total,
                                            const float* mean, const int* seqs, const int* seq_of,
                                            float scale, int window, int H, int G, int E, elem* dk,
                                            elem* dv) {
    const int j = blockIdx.x, g = blockIdx.y, share = H / G;
    const int end = seqs[6 * seq_of[j] + 1];
    const int last = window > 0 && window < end - j ? j + window : end;
    const long long group = static_cast<long long>(j) * G + g;
    k += group * E;
    v += group * E;
    dk += group * E;
    dv += group * E;

    for (int e = 0; e < E; e += WIDE * WARP) {
        Sum to_k, to_v;
        clear(to_k);
        clear(to_v);
        int terms = 0;
        for (int i = j; i < last; i++) {
            for (int h = g * share; h < (g + 1) * share; h++) {
                const long long head = static_cast<long long>(i) * H + h;
                const elem* qi = q + head * E;
                const elem* doi = d_o + head * E;
                const float p = expf(scale * dot(qi, k, E) - lse[head]) / total[head];
                add(to_k, p * (dot(doi, v, E) - mean[head]), qi, e, E);
                add(to_v, p, doi, e, E);
                if (++terms % WARP == 0) {
                    end_block(to_k);
                    end_block(to_v);
                }
            }
        }
        end_block(to_k);
        end_block(to_v);
        write(to_k, dk, e, E, scale);
        write(to_v, dv, e, E, 1);
    }
}
