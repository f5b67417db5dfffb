// norm.cu: layer and RMS normalisation, forward and backward, of the stream and of heads.
//
//   maths    m = mean(x)   s = 1/sqrt(mean((x - m)^2) + eps)   h = (x - m) s   y = g h + b
//            RMS: m = 0; b may be absent
//            dx = s (p - mean(p) - h mean(p h)),   p = g dy        RMS: without mean(p)
//            the stream: x += added may come before, and x is kept for backward; dx is added to
//            heads: each row of E of (N, heads E) is a row by itself; y takes the place of x,
//            which is kept, and dx that of dy
//   shapes   x added kept dx (N, D) f32, x dx of heads elem   y dy (N, D)   g b (D) f32
//            m s (N) f32
//   types    f32 bf16                                              every sum in f32
//   launch   T = blockDim.x threads a row, a power of two between MIN_THREADS and MAX_THREADS, as
//            many as hold the row in registers; BLOCK_THREADS / T rows a block, or one
//   cost     forward moves 8 N D bytes and N D elements, with `added` 16 N D and N D, backward
//            12 N D and N D; heads 3 N D elements each; bandwidth-bound
//   source   Ba, Kiros, Hinton 2016, arXiv:1607.06450; Zhang, Sennrich 2019, arXiv:1910.07467
#include "common.cuh"

constexpr int VEC = 8;               // elements of one load, where rows and pointers allow
constexpr int ITEMS_PER_THREAD = 4;  // vectors, or else single elements, in a thread's registers
constexpr int MIN_THREADS = 8;
constexpr int MAX_THREADS = 512;
constexpr int BLOCK_THREADS = 64;

struct Shared { float part[MAX_THREADS / WARP]; };
static_assert(BLOCK_THREADS == 2 * WARP, "a row of more than a warp has a block to itself");
static_assert(WARP % MIN_THREADS == 0, "whole rows a warp");

HD float row_sum(float x) {
    const int threads = blockDim.x;
    if (threads > WARP) return block_sum(x, shared().part);
    for (int d = threads / 2; d > 0; d /= 2) x += __shfl_xor_sync(ALL, x, d);
    return x;
}

// Sixteen bytes of any type in one load or store.
struct __attribute__((may_alias, aligned(16))) Words16 { unsigned at[4]; };

HD Words16 load16(const void* from) { return *static_cast<const Words16*>(from); }
HD void store16(void* to, Words16 w) { *static_cast<Words16*>(to) = w; }

HD bool aligned(const void* p) { return reinterpret_cast<unsigned long long>(p) % 16 == 0; }

// P elements in a row, P = 1 or VEC.
template <int P> HD void load(const float* from, float* x) {
    if (P == 1) x[0] = *from;
    for (int half = 0; half < P / 4; half++) {
        const Words16 w = load16(from + 4 * half);
        for (int i = 0; i < 4; i++) x[4 * half + i] = of_bits(w.at[i]);
    }
}

template <int P> HD void load(const bf16* from, float* x) {
    if (P == 1) {
        x[0] = f32(*from);
    } else {
        const Words16 w = load16(from);
        for (int i = 0; i < P; i++)
            x[i] = f32(bf16{static_cast<unsigned short>(w.at[i / 2] >> 16 * (i % 2))});
    }
}

template <int P> HD void store(float* to, const float* x) {
    if (P == 1) *to = x[0];
    for (int half = 0; half < P / 4; half++) {
        Words16 w;
        for (int i = 0; i < 4; i++) w.at[i] = bits_of(x[4 * half + i]);
        store16(to + 4 * half, w);
    }
}

template <int P> HD void store(bf16* to, const float* x) {
    if (P == 1) {
        put(to, x[0]);
    } else {
        Words16 w = {};
        for (int i = 0; i < P; i++)
            w.at[i / 2] |= static_cast<unsigned>(round_bf16(x[i]).bits) << 16 * (i % 2);
        store16(to, w);
    }
}

// The part of a row from `from` on that is in registers: f(i, d) for the i-th P elements of this
// thread, which begin at d. The loop unrolls, so an array indexed by i stays in registers. Of T
// threads, with P elements an item:
//
//   item         0                   1
//   columns      0..P P..2P … T P   T P..T P + P …
//   thread       0    1     … T-1   0            …
template <int P, class F> HD void for_each_item(int from, int D, F f) {
    for (int i = 0; i < ITEMS_PER_THREAD; i++) {
        const int d = from + (i * blockDim.x + threadIdx.x) * P;
        if (d < D) f(i, d);
    }
}

// Threads beyond the last row hold nothing, and take part in sums.
HD int row_index() { return blockIdx.x * blockDim.y + threadIdx.y; }

struct Params { const float* g; const float* b; float eps; int centred, biased, N, D; };

// Two passes for the variance: mean(x^2) - m^2 loses digits when |m| is large beside the spread.
// A row wider than its threads' registers is read again in each pass; y may lie where x does.
template <int P, class X>
HD void forward(X* x, const float* added, X* kept, Params f, elem* y, float* m, float* s) {
    const int row = row_index(), D = row < f.N ? f.D : 0, step = blockDim.x * ITEMS_PER_THREAD * P;
    const long long at = static_cast<long long>(row) * f.D;
    const bool reload = f.D > step;
    float regs[ITEMS_PER_THREAD][P];

    float total = 0;
    for (int from = 0; from < f.D; from += step)
        for_each_item<P>(from, D, [&](int i, int d) {
            load<P>(x + at + d, regs[i]);
            if (added) {
                float more[P];
                load<P>(added + at + d, more);
                for (int j = 0; j < P; j++) regs[i][j] += more[j];
                store<P>(x + at + d, regs[i]);
            }
            store<P>(kept + at + d, regs[i]);
            for (int j = 0; j < P; j++) total += regs[i][j];
        });
    const float mean = f.centred ? row_sum(total) / f.D : 0.0f;
    const auto load_items = [&](int from) {
        for_each_item<P>(from, D, [&](int i, int d) { load<P>(x + at + d, regs[i]); });
    };

    float square = 0;
    for (int from = 0; from < f.D; from += step) {
        if (reload) load_items(from);
        for_each_item<P>(from, D, [&](int i, int) {
            for (int j = 0; j < P; j++) {
                const float c = regs[i][j] - mean;
                square += c * c;
            }
        });
    }
    const float rstd = 1 / sqrtf(row_sum(square) / f.D + f.eps);

    for (int from = 0; from < f.D; from += step) {
        if (reload) load_items(from);
        for_each_item<P>(from, D, [&](int i, int d) {
            float g[P], b[P] = {}, to[P];
            load<P>(f.g + d, g);
            if (f.biased) load<P>(f.b + d, b);
            for (int j = 0; j < P; j++) to[j] = g[j] * ((regs[i][j] - mean) * rstd) + b[j];
            store<P>(y + at + d, to);
        });
    }
    if (row < f.N && threadIdx.x == 0) {
        m[row] = mean;
        s[row] = rstd;
    }
}

// dx may lie where dy does: a thread writes what it alone has read.
template <int P, bool ADD, class X>
HD void backward(const elem* dy, const X* x, const float* m, const float* s, Params f, X* dx) {
    const int row = row_index(), D = row < f.N ? f.D : 0, step = blockDim.x * ITEMS_PER_THREAD * P;
    const long long at = static_cast<long long>(row) * f.D;
    const bool reload = f.D > step;
    const float mean = D ? m[row] : 0.0f, rstd = D ? s[row] : 0.0f;
    float p[ITEMS_PER_THREAD][P], h[ITEMS_PER_THREAD][P];
    const auto load_items = [&](int from) {
        for_each_item<P>(from, D, [&](int i, int d) {
            float g[P];
            load<P>(f.g + d, g);
            load<P>(dy + at + d, p[i]);
            load<P>(x + at + d, h[i]);
            for (int j = 0; j < P; j++) {
                p[i][j] *= g[j];
                h[i][j] = (h[i][j] - mean) * rstd;
            }
        });
    };

    float p_sum = 0, ph_sum = 0;
    for (int from = 0; from < f.D; from += step) {
        load_items(from);
        for_each_item<P>(from, D, [&](int i, int) {
            for (int j = 0; j < P; j++) {
                p_sum += p[i][j];
                ph_sum += p[i][j] * h[i][j];
            }
        });
    }
    const float mean_p = f.centred ? row_sum(p_sum) / f.D : 0.0f, mean_ph = row_sum(ph_sum) / f.D;

    for (int from = 0; from < f.D; from += step) {
        if (reload) load_items(from);
        for_each_item<P>(from, D, [&](int i, int d) {
            float to[P] = {};
            if (ADD) load<P>(dx + at + d, to);
            for (int j = 0; j < P; j++)
                to[j] += rstd * (p[i][j] - mean_p - h[i][j] * mean_ph);
            store<P>(dx + at + d, to);
        });
    }
}

// x stays as it is where nothing is added.
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
norm_fwd(const float* added, const float* g, const float* b, float eps, int centred, int biased,
         int adds, int N, int D, inout float* x, float* kept, elem* y, float* m, float* s) {
    const Params f = {g, b, eps, centred, biased, N, D};
    if (!adds) added = nullptr;
    const bool vectorized = D % VEC == 0 && aligned(x) && aligned(g) && (!biased || aligned(b)) &&
                            aligned(y) && aligned(added) && aligned(kept);
    if (vectorized) forward<VEC>(x, added, kept, f, y, m, s);
    else forward<1>(x, added, kept, f, y, m, s);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
norm_bwd(const elem* dy, const float* g, const float* x, const float* m, const float* s,
         int centred, int N, int D, inout float* dx) {
    const Params f = {g, nullptr, 0, centred, 0, N, D};
    const bool vectorized = D % VEC == 0 && aligned(dy) && aligned(g) && aligned(x) && aligned(dx);
    if (vectorized) backward<VEC, true>(dy, x, m, s, f, dx);
    else backward<1, true>(dy, x, m, s, f, dx);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
norm_heads_fwd(const float* g, const float* b, float eps, int centred, int biased, int N, int D,
               inout elem* x, elem* kept, float* m, float* s) {
    const Params f = {g, b, eps, centred, biased, N, D};
    const bool vectorized = D % VEC == 0 && aligned(x) && aligned(g) && (!biased || aligned(b)) &&
                            aligned(kept);
    if (vectorized) forward<VEC>(x, nullptr, kept, f, x, m, s);
    else forward<1>(x, nullptr, kept, f, x, m, s);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
norm_heads_bwd(const float* g, const elem* x, const float* m, const float* s, int centred, int N,
               int D, inout elem* d) {
    const Params f = {g, nullptr, 0, centred, 0, N, D};
    if (D % VEC == 0 && aligned(g) && aligned(x) && aligned(d))
        backward<VEC, false>(d, x, m, s, f, d);
    else backward<1, false>(d, x, m, s, f, d);
}
