// act.cu: activations inside the MLP, plain and gated, forward and backward.
//
//   maths    plain  key = a(up)           dup = dkey a'(up)
//            gated  key = a(gate) up      dup = dkey a(gate)     dgate = dkey up a'(gate)
//            relu(x) = max(x, 0)   gelu(x) = x P(x), P the normal distribution   silu(x) = x sig(x)
//            gelu_tanh(x) = x/2 (1 + tanh(u)) = x sig(2u),  u = sqrt(2/pi) (x + 0.044715 x^3)
//   shapes   all (n), n = N F                                     dup in the place of dkey
//   types    f32 bf16                                             computed in f32
//   launch   THREADS a block, an element a thread; `act` 0 relu, 1 gelu, 2 gelu_tanh, 3 silu
//   cost     forward moves 2 or 3 n elements, backward 3 or 5 n; bandwidth-bound
//   source   Hendrycks, Gimpel 2016, arXiv:1606.08415; Shazeer 2020, arXiv:2002.05202
//
// NVIDIA's erfcf is up to 4 units of the last place off, so besides the rounding of the formula
// gelu and its slope are off by no more than 2^-21 |x| P(x) and 2^-21 P(x).
#include "common.cuh"

constexpr int THREADS = 256;

// a(x) and a'(x).
struct ValueSlope { float value, slope; };

// x sig(u) and its slope, du = du/dx. 1 - sig is not formed where it cancels.
HD ValueSlope x_sigma(float x, float u, float du) {
    const float e = expf(-u), s = 1 / (1 + e), rest = e < 1 ? e * s : 1 - s;
    return {x * s, s + x * s * rest * du};
}

HD ValueSlope value_and_slope(int act, float x) {
    if (act == 0) return {x > 0 ? x : 0.0f, x > 0 ? 1.0f : 0.0f};
    if (act == 1) {
        const float below = 0.5f * erfcf(-0.70710678f * x);
        return {x * below, below + x * (0.39894228f * expf(-0.5f * x * x))};
    }
    if (act == 2) {
        const float root = 1.5957691f;  // sqrt(8/pi)
        return x_sigma(x, root * (x + 0.044715f * x * x * x), root * (1 + 0.134145f * x * x));
    }
    return x_sigma(x, x, 1);
}

HD long long element() { return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; }

extern "C" __global__ void act_fwd(const elem* up, int act, long long n, elem* key) {
    const long long i = element();
    if (i < n) put(&key[i], value_and_slope(act, f32(up[i])).value);
}

extern "C" __global__ void act_bwd(const elem* up, int act, long long n, inout elem* dkey) {
    const long long i = element();
    if (i < n) put(&dkey[i], f32(dkey[i]) * value_and_slope(act, f32(up[i])).slope);
}

extern "C" __global__ void gated_fwd(const elem* up, const elem* gate, int act, long long n,
                                     elem* key) {
    const long long i = element();
    if (i < n) put(&key[i], value_and_slope(act, f32(gate[i])).value * f32(up[i]));
}

extern "C" __global__ void gated_bwd(const elem* up, const elem* gate, int act, long long n,
                                     inout elem* dkey, elem* dgate) {
    const long long i = element();
    if (i >= n) return;
    const ValueSlope a = value_and_slope(act, f32(gate[i]));
    const float d = f32(dkey[i]);
    put(&dgate[i], d * f32(up[i]) * a.slope);
    put(&dkey[i], d * a.value);
}
