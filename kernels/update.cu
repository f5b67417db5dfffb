// update.cu: a change of low rank added to stored weights, rounded once, and what rounding lost.
//
//   maths    new = round(W + sum_r left_r right_r^T), the sum in f64 in the order of r: a product
//            of two f32 is exact there, so the bytes are those of any other machine
//   shapes   W new (rows, cols) as stored   left (rows, R)   right (cols, R) f32
//            sums (blocks, 4) f64: of W^2, of the change squared, of what was lost squared, and how
//            many elements left the range of the type; added up in the order of blocks
//   types    f32 bf16 f16                                          of W
//   launch   THREADS a block, an element a thread
//   cost     moves W twice, 2 rows cols R FLOP in f64; bandwidth-bound for small R
//   source   -
#include "common.cuh"

constexpr int THREADS = 256;

struct Shared { double part[4][THREADS]; };

HD double value(float x) { return x; }
HD double value(bf16 x) { return widen(x); }
HD double value(f16 x) { return widen(x); }

// To f32 so that rounding on to fewer bits is as good as rounding once: cut off, and the last bit
// set where anything was lost.
HD float odd(double x) {
    float y = static_cast<float>(x);
    if (fabs(static_cast<double>(y)) > fabs(x)) y = toward_zero(y);
    return static_cast<double>(y) == x || x != x ? y : set_last_bit(y);
}
HD void put_once(float* p, double x) { *p = static_cast<float>(x); }
HD void put_once(bf16* p, double x) { *p = round_bf16(odd(x)); }
HD void put_once(f16* p, double x) { *p = round_f16(odd(x)); }

extern "C" __global__ void update(const float* left, const float* right, int R, int rows, int cols,
                                  const elem* w, elem* now, double* sums) {
    const long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    const int t = threadIdx.x;
    double of[4] = {};
    if (i < static_cast<long long>(rows) * cols) {
        const float* l = left + i / cols * R;
        const float* r = right + i % cols * R;
        double change = 0;
        for (int k = 0; k < R; k++) change += static_cast<double>(l[k]) * r[k];
        const double old = value(w[i]);
        put_once(&now[i], old + change);
        const double made = value(now[i]), lost = old + change - made;
        const bool beyond = fabs(old) < INFINITY && !(fabs(made) < INFINITY);
        of[0] = old * old;
        of[1] = change * change;
        of[2] = beyond ? 0 : lost * lost;
        of[3] = beyond ? 1 : 0;
    }
    for (int part = 0; part < 4; part++) shared().part[part][t] = of[part];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half)
            for (int part = 0; part < 4; part++)
                shared().part[part][t] += shared().part[part][t + half];
    }
    if (t == 0)
        for (int part = 0; part < 4; part++)
            sums[4ll * blockIdx.x + part] = shared().part[part][0];
}
