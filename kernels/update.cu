// update.cu: a change of low rank added to stored weights, rounded once, and what rounding lost.
//
//   maths    new = round(W + sum_r left_r right_r^T), the sum in f64 in the order of r: a product
//            of two f32 is exact there, so the bytes are those of any other machine; NaN stays
//   shapes   W new (rows, cols) as stored   left (rows, R)   right (cols, R) f32
//            sums (blocks, 4) f64: of W^2, of the change squared, of what was lost squared, and how
//            many elements left the range of the type; added up in the order of blocks
//   types    f32 bf16 f16                                          of W
//   launch   a tile of SIDE x SIDE a block of THREADS, each with ITEMS x ITEMS elements
//   cost     moves W twice, 2 rows cols R FLOP in f64; estimated to be bandwidth-bound up to R of
//            8, and bound by f64 products above, at half the rate of f32
//   source   -
#include "common.cuh"

constexpr int SIDE = 64;
constexpr int STRIDE = 16;  // threads along a side
constexpr int ITEMS = 4;  // a thread has along a side
constexpr int THREADS = 256;
constexpr int DEPTH = 16;
static_assert(STRIDE * ITEMS == SIDE && STRIDE * STRIDE == THREADS, "a tile is shared");

struct Shared {
    union {
        struct { double left[DEPTH][SIDE + 1], right[DEPTH][SIDE + 1]; };
        double part[4][THREADS];
    };
};

HD double value(float x) { return x; }
HD double value(bf16 x) { return widen(x); }
HD double value(f16 x) { return widen(x); }

// Round to odd: to f32 so that rounding on to fewer bits is as good as rounding once. Digits are
// cut off, and the last bit is set where any were lost.
HD float round_to_odd(double x) {
    float y = static_cast<float>(x);
    if (fabs(static_cast<double>(y)) > fabs(x)) y = toward_zero(y);
    return static_cast<double>(y) == x || x != x ? y : set_last_bit(y);
}
HD void put_once(float* p, double x) { *p = static_cast<float>(x); }
HD void put_once(bf16* p, double x) { *p = round_bf16(round_to_odd(x)); }
HD void put_once(f16* p, double x) { *p = round_f16(round_to_odd(x)); }

// factor^T, DEPTH columns of it from `from` on, for SIDE rows of (rows, R) from `first` on.
HD void load_factor(const float* factor, int rows, int R, int first, int from,
                    double (*to)[SIDE + 1]) {
    const int k = threadIdx.x % DEPTH;
    for (int i = threadIdx.x / DEPTH; i < SIDE; i += THREADS / DEPTH) {
        const bool there = first + i < rows && from + k < R;
        to[k][i] = there ? factor[static_cast<long long>(first + i) * R + from + k] : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
update(const float* left, const float* right, int R, int rows, int cols, const elem* w, elem* now,
       double* sums) {
    Shared& s = shared();
    const int t = threadIdx.x, tiles = (cols + SIDE - 1) / SIDE;
    const int row = blockIdx.x / tiles * SIDE, col = blockIdx.x % tiles * SIDE;
    const int y = t / STRIDE, x = t % STRIDE;
    double change[ITEMS][ITEMS] = {};
    for (int from = 0; from < R; from += DEPTH) {
        load_factor(left, rows, R, row, from, s.left);
        load_factor(right, cols, R, col, from, s.right);
        __syncthreads();
        for (int k = 0; k < DEPTH && from + k < R; k++)
            UNROLL for (int i = 0; i < ITEMS; i++)
                UNROLL for (int j = 0; j < ITEMS; j++)
                    change[i][j] += s.left[k][y + STRIDE * i] * s.right[k][x + STRIDE * j];
        __syncthreads();
    }
    double of[4] = {};
    UNROLL for (int i = 0; i < ITEMS; i++)
        UNROLL for (int j = 0; j < ITEMS; j++) {
            const int r = row + y + STRIDE * i, c = col + x + STRIDE * j;
            if (r >= rows || c >= cols) continue;
            const long long at = static_cast<long long>(r) * cols + c;
            const double old = value(w[at]), wanted = old + change[i][j];
            if (old == old) put_once(&now[at], wanted);
            else now[at] = w[at];
            const double made = value(now[at]), lost = wanted - made;
            const bool beyond = fabs(old) < INFINITY && !(fabs(made) < INFINITY);
            of[0] += old * old;
            of[1] += change[i][j] * change[i][j];
            of[2] += beyond ? 0 : lost * lost;
            of[3] += beyond ? 1 : 0;
        }
    for (int part = 0; part < 4; part++) s.part[part][t] = of[part];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half)
            for (int part = 0; part < 4; part++) s.part[part][t] += s.part[part][t + half];
    }
    if (t == 0)
        for (int part = 0; part < 4; part++) sums[4ll * blockIdx.x + part] = s.part[part][0];
}
