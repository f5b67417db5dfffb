// sample.cu: the next token from rows of logits: the likeliest, the k likeliest, one by chance.
//
//   maths    the order: larger z first (-0 below 0), among equals the lower id
//            w = exp((z - max z) / temperature)       S(i) = sum of w in order down to token i
//            kept = the first top_k in order; of these those down to the first with S >= top_p S
//            of all; id = the first with S > uniform S of all that are kept
//   shapes   z (R, V) f32   uniform (R) in [0, 1)   id (R), -1 where logits are not finite
//            values ids (R, k), k <= MAX_K, in order
//   types    f32
//   launch   a block a row, THREADS each; any R, any V < 2^24
//   cost     both find a place in the order bit by bit, with 17 readings of V, 16 or so more if
//            the place is among equals: top once, sampling up to three times; from the second
//            reading on bound by what the cache gives one SM
//   source   top_p: Holtzman et al. 2020, arXiv:1904.09751
//
// S is never summed in order: for any token it is one sum over the row in which the weights further
// down are zero. Rounding keeps the order of such sums, so S never falls, and a token is found by
// bisection exactly as S, so rounded, says.
#include "common.cuh"

constexpr int THREADS = 512;
constexpr int MAX_K = 64;

struct Shared {
    float part[THREADS / WARP];
    unsigned maxima[THREADS / WARP];
    int taken;
    unsigned value[MAX_K];
    int id[MAX_K];
};

// Unsigned numbers in the order of f32.
HD unsigned ordered(float x) {
    const unsigned bits = bits_of(x), sign = 0x80000000u;
    return bits & sign ? ~bits : bits | sign;
}

HD float number(unsigned order) {
    const unsigned sign = 0x80000000u;
    return of_bits(order & sign ? order ^ sign : ~order);
}

HD unsigned block_max(unsigned x) {
    unsigned* maxima = shared().maxima;
    for (int pass = 0; pass < 2; pass++) {
        for (int d = WARP / 2; d > 0; d /= 2) {
            const unsigned other = __shfl_xor_sync(ALL, x, d);
            x = other > x ? other : x;
        }
        if (pass == 0) {
            if (threadIdx.x % WARP == 0) maxima[threadIdx.x / WARP] = x;
            __syncthreads();
            x = maxima[threadIdx.x % (THREADS / WARP)];
        }
    }
    __syncthreads();
    return x;
}

// A place in the order.
struct Position { unsigned value; int id; };

HD bool down_to(Position last, unsigned value, int id) {
    return value > last.value || (value == last.value && id <= last.id);
}

struct Row {
    const float* z;
    int V;
    bool ones;  // every w is 1
    float top, temperature;
};

HD float weight(const Row& r, float z) {
    return r.ones ? 1.0f : expf((z - r.top) / r.temperature);
}

HD float sum_down_to(const Row& r, Position last) {
    float sum = 0;
    for (int i = threadIdx.x; i < r.V; i += THREADS)
        if (down_to(last, ordered(r.z[i]), i)) sum += weight(r, r.z[i]);
    return block_sum(sum, shared().part);
}

// The first of a value, and how many there are.
HD Position first_of(const Row& r, unsigned value, float& equals) {
    unsigned lowest = 0;
    float count = 0;
    for (int i = threadIdx.x; i < r.V; i += THREADS) {
        if (ordered(r.z[i]) != value) continue;
        lowest = lowest ? lowest : ~static_cast<unsigned>(i);
        count += 1;
    }
    equals = block_sum(count, shared().part);
    return {value, static_cast<int>(~block_max(lowest))};
}

// The first token with S >= x, 0 < x <= S of all: the largest value down to which S reaches x, two
// bits at a time, then among equals the lowest such id.
HD Position first_reaching(const Row& r, float x) {
    unsigned value = 0;
    for (int bit = 30; bit >= 0; bit -= 2) {
        float sum[3] = {};
        for (int i = threadIdx.x; i < r.V; i += THREADS) {
            const unsigned at = ordered(r.z[i]);
            const float w = weight(r, r.z[i]);
            for (unsigned c = 0; c < 3; c++)
                if (at >= value + ((c + 1) << bit)) sum[c] += w;
        }
        unsigned high = 0;
        for (unsigned c = 0; c < 3; c++)
            if (block_sum(sum[c], shared().part) >= x) high = c + 1;
        value += high << bit;
    }
    float equals;
    Position position = first_of(r, value, equals);
    if (equals <= 1) return position;
    int bit = 1, before = 0;
    while (bit < r.V) bit *= 2;
    for (; bit > 0; bit /= 2)
        if (sum_down_to(r, {value, before + bit - 1}) < x) before += bit;
    position.id = before;
    return position;
}

HD unsigned largest(const float* z, int V) {
    unsigned top = 0;
    for (int i = threadIdx.x; i < V; i += THREADS) {
        const unsigned at = ordered(z[i]);
        top = at > top ? at : top;
    }
    return block_max(top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
sample_top(const float* z, int V, int k, float* values, int* ids) {
    Shared& s = shared();
    const int t = threadIdx.x;
    const long long row = blockIdx.x;
    z += row * V;
    const Row r = {z, V, true, 0, 1};
    const Position last = first_reaching(r, k);
    if (t == 0) s.taken = 0;
    __syncthreads();
    for (int i = t; i < V; i += THREADS) {
        if (!down_to(last, ordered(z[i]), i)) continue;
        const int slot = atomicAdd(&s.taken, 1);  // whichever: ranks sort them
        s.value[slot] = ordered(z[i]);
        s.id[slot] = i;
    }
    __syncthreads();
    if (t >= k) return;
    int rank = -1;
    for (int i = 0; i < k; i++) rank += down_to({s.value[t], s.id[t]}, s.value[i], s.id[i]);
    values[row * k + rank] = number(s.value[t]);
    ids[row * k + rank] = s.id[t];
}

extern "C" __global__ void __launch_bounds__(THREADS)
sample(const float* z, const float* uniform, float temperature, int top_k, float top_p, int V,
       int* id) {
    z += static_cast<long long>(blockIdx.x) * V;
    const float top = number(largest(z, V));
    const Row one = {z, V, true, 0, 1}, r = {z, V, false, top, temperature};
    Position last = {0, V};
    float all = sum_down_to(r, last);
    if (!(all < INFINITY)) {
        if (threadIdx.x == 0) id[blockIdx.x] = -1;
        return;  // the whole block
    }
    if (top_k > 0 && top_k < V) {
        last = first_reaching(one, top_k);
        all = sum_down_to(r, last);
    }
    if (top_p < 1) {
        // The first is always kept; its weight is 1.
        last = first_reaching(r, fmaxf(top_p * all, 1e-30f));
        all = sum_down_to(r, last);
    }
    // S > x is S >= the number above x; at most all, should x be rounded up to it.
    const float x = of_bits(bits_of(uniform[blockIdx.x] * all) + 1);
    const Position found = first_reaching(r, fminf(x, all));
    if (threadIdx.x == 0) id[blockIdx.x] = found.id;
}
