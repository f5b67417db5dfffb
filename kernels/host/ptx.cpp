// ptx.cpp: the instructions of compiled kernels that are more than a line (ptx.h).
#include "ptx.h"

#include <cfenv>
#include <cstdlib>

namespace ptx {
namespace {

// What tensor cores keep of a sum's terms. Hardware aligns c and the products to the largest of
// them and cuts off what is below its last bit; how many bits it has is not documented.
// INCISE_ACCUMULATORS says: 24 (what kernels/linear_mma.cu allows for), 26 (what A100 and H100 are
// reported to have at least), or `exact` for sums that are rounded once.
constexpr int EXACT = 0;
int kept_bits() {
    const char* said = getenv("INCISE_ACCUMULATORS");
    if (!said || !strcmp(said, "24")) return 24;
    if (!strcmp(said, "26")) return 26;
    if (!strcmp(said, "exact")) return EXACT;
    fprintf(stderr, "INCISE_ACCUMULATORS=%s: name 24, 26 or exact\n", said);
    exit(2);
}
const int KEPT = kept_bits();

const char MISALIGNED[] = "an address that is no multiple of its access";

f32 cut_to_f32(f64 x) {
    const f32 near = static_cast<f32>(x);
    return __builtin_fabs(near) > __builtin_fabs(x) ? __builtin_nextafterf(near, 0) : near;
}

// A row of sums, each of c and 16 exact products. With k bits kept, 2^e > |largest term| and
// q = 2^(e - k):
//
//   sum = q (trunc(c / q) + Σ trunc(p / q)), cut to f32
void add_products(f32* (&c)[8], const f64 (&a)[16], const f64 (&b)[16][8]) {
    f64 products[17][8], largest[8] = {}, plain[8] = {}, per_unit[8];
    for (int col = 0; col < 8; col++) products[16][col] = *c[col];
    for (int k = 0; k < 16; k++)
        for (int col = 0; col < 8; col++) products[k][col] = a[k] * b[k][col];
    for (int k = 0; k < 17; k++)
        for (int col = 0; col < 8; col++) {
            const f64 p = products[k][col], size = __builtin_fabs(p);
            plain[col] += p;
            largest[col] = size > largest[col] ? size : largest[col];
        }
    for (int col = 0; col < 8; col++) {
        // The exponent of the largest is that of 2^(e - 1), with a bias of 1023, as that of 1 / q.
        const u64 exponent = as<u64>(largest[col]) >> 52;
        per_unit[col] = as<f64>((2045 + static_cast<u64>(KEPT) - exponent) << 52);
        const bool is_number = plain[col] - plain[col] == 0;
        if (!is_number)
            for (int k = 0; k < 17; k++) products[k][col] = 0;
        if (!is_number || largest[col] == 0) per_unit[col] = 0;
    }
    s32 units[8] = {};
    for (int k = 0; k < 17; k++)
        for (int col = 0; col < 8; col++)
            units[col] += static_cast<s32>(products[k][col] * per_unit[col]);
    for (int col = 0; col < 8; col++) {
        const bool rounds = KEPT == EXACT || per_unit[col] == 0;
        *c[col] = rounds ? static_cast<f32>(plain[col]) : cut_to_f32(units[col] / per_unit[col]);
    }
}

struct Fragments { f32* c; const b32 *a, *b; };

f64 bf16_number(b32 pair, int i) {
    return as<f32>(i ? pair & 0xffff0000u : pair << 16);
}
f64 f16_number(b32 pair, int i) { return cvt_f32_f16(unpack_b32(pair, i)); }

// mma.m16n8k16 of 16-bit numbers. Of lane = 4 group + thread:
//   a0 … a7   row  group, where i is 0, 1, 4, 5, else group + 8
//             col  2 thread + (i & 1), plus 8 from i = 4 on
//   b0 … b3   row  2 thread + (i & 1), plus 8 from i = 2 on;   col  group
//   c0 … c3   row  group, plus 8 from i = 2 on;                col  2 thread + (i & 1)
template <f64 (*NUMBER)(b32, int)> void multiply(void* const* lanes) {
    f64 a[16][16], b[16][8];
    f32* c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Fragments& f = *static_cast<Fragments*>(lanes[lane]);
        const int group = lane >> 2, thread = lane & 3;
        for (int i = 0; i < 8; i++) {
            const int row = i == 0 || i == 1 || i == 4 || i == 5 ? group : group + 8;
            a[row][2 * thread + (i & 1) + (i >= 4 ? 8 : 0)] = NUMBER(f.a[i / 2], i & 1);
        }
        for (int i = 0; i < 4; i++) {
            b[2 * thread + (i & 1) + (i >= 2 ? 8 : 0)][group] = NUMBER(f.b[i / 2], i & 1);
            c[i >= 2 ? group + 8 : group][2 * thread + (i & 1)] = &f.c[i];
        }
    }
    for (int row = 0; row < 16; row++) add_products(c[row], a[row], b);
}

struct DoubleFragments { f64* c; f64 a, b; };

// mma.m8n8k4 of f64: a row group, col thread; b row thread, col group; c0, c1 row group,
// col 2 thread + i.
void multiply_f64(void* const* lanes) {
    f64 a[8][4], b[4][8];
    for (int lane = 0; lane < 32; lane++) {
        const DoubleFragments& f = *static_cast<DoubleFragments*>(lanes[lane]);
        a[lane >> 2][lane & 3] = f.a;
        b[lane & 3][lane >> 2] = f.b;
    }
    for (int lane = 0; lane < 32; lane++) {
        const DoubleFragments& f = *static_cast<DoubleFragments*>(lanes[lane]);
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 4; k++)
                f.c[i] = fused(a[lane >> 2][k], b[k][2 * (lane & 3) + i], f.c[i]);
    }
}

struct Rows { b16 mine[8]; b32* got; };

// Lane l gets elements 2 (l % 4) and the next of row l / 4 of each matrix; with .trans, of its
// column.
template <int MATRICES, bool TRANS> void distribute(void* const* lanes) {
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < MATRICES; m++) {
            b16 two[2];
            for (int i = 0; i < 2; i++) {
                const int row = lane / 4, col = 2 * (lane % 4) + i;
                const int of = TRANS ? col : row, at = TRANS ? row : col;
                two[i] = static_cast<Rows*>(lanes[8 * m + of])->mine[at];
            }
            static_cast<Rows*>(lanes[lane])->got[m] = pack_b32(two[0], two[1]);
        }
}

template <int MATRICES, bool TRANS>
void load_matrices(b32* x, const Space& block, u64 row, simt::Site site) {
    Rows rows = {{}, x};
    if (simt::lane() < 8 * MATRICES) memcpy(rows.mine, within(block, row, 16, site), 16);
    simt::together(&rows, distribute<MATRICES, TRANS>, site);
}

}  // namespace

void fail(const char* what, u64 at, simt::Site site) {
    char text[128];
    snprintf(text, sizeof text, "%s: %#llx", what, at);
    simt::stop(text, site);
}

void outside(const Space& space, u64 at, u64 bytes, simt::Site site) {
    char text[64];
    snprintf(text, sizeof text, "an access outside %s memory", space.name);
    fail(at % bytes ? MISALIGNED : text, at, site);
}

const memory::Array* array(u64 at, u64 bytes, u64 step, simt::Site site) {
    const memory::Array* a = memory::find(at);
    if (at % step != 0) fail(MISALIGNED, at, site);
    if (!memory::holds(a, at, bytes)) fail("an access outside every array", at, site);
    return a;
}

// `volatile`, so that it happens between the two changes.
f32 fma_rm_f32(f32 a, f32 b, f32 c) {
    const volatile f32 x = a, y = b, z = c;
    fesetround(FE_DOWNWARD);
    const volatile f32 sum = fused(x, y, z);
    fesetround(FE_TONEAREST);
    return sum;
}

f32 ex2_approx_ftz_f32(f32 a) {
    return flushed(static_cast<f32>(__builtin_exp2(flushed(a))));
}

void cp_async_cg_shared_global(const Space& block, u64 to, u64 from, u32 size, u32 bytes,
                               simt::Site site) {
    if (size != 16 || bytes > size) fail("a copy of more bytes than 16", bytes, site);
    if (from % size != 0) fail(MISALIGNED, from, site);
    char* place = within(block, to, size, site);
    simt::Packet packet = {};
    if (bytes) array(from, bytes, size, site);
    memcpy(&packet, reinterpret_cast<const void*>(from), bytes);
    memcpy(place, &simt::POISON, sizeof simt::POISON);
    simt::copy(place, packet, site);
}

void cp_async_wait_group(int groups) {
    simt::Packet packet;
    while (void* to = simt::landed(groups, &packet)) memcpy(to, &packet, sizeof packet);
}

void mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(f32 (&c)[4], const b32 (&a)[4],
                                                         const b32 (&b)[2], simt::Site site) {
    Fragments mine = {c, a, b};
    simt::together(&mine, multiply<bf16_number>, site);
}

void mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(f32 (&c)[4], const b32 (&a)[4],
                                                       const b32 (&b)[2], simt::Site site) {
    Fragments mine = {c, a, b};
    simt::together(&mine, multiply<f16_number>, site);
}

void mma_sync_aligned_m8n8k4_row_col_f64_f64_f64_f64(f64 (&c)[2], const f64 (&a)[1],
                                                     const f64 (&b)[1], simt::Site site) {
    DoubleFragments mine = {c, a[0], b[0]};
    simt::together(&mine, multiply_f64, site);
}

void ldmatrix_sync_aligned_m8n8_x2_shared_b16(b32 (&x)[2], const Space& block, u64 row,
                                              simt::Site site) {
    load_matrices<2, false>(x, block, row, site);
}
void ldmatrix_sync_aligned_m8n8_x4_shared_b16(b32 (&x)[4], const Space& block, u64 row,
                                              simt::Site site) {
    load_matrices<4, false>(x, block, row, site);
}
void ldmatrix_sync_aligned_m8n8_x2_trans_shared_b16(b32 (&x)[2], const Space& block, u64 row,
                                                    simt::Site site) {
    load_matrices<2, true>(x, block, row, site);
}
void ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(b32 (&x)[4], const Space& block, u64 row,
                                                    simt::Site site) {
    load_matrices<4, true>(x, block, row, site);
}

}  // namespace ptx
