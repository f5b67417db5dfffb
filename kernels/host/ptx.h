// ptx.h: what each instruction of compiled kernels does, by the PTX ISA and nothing else of ours.
//
// A function has the name of its instruction, with _ for each dot, and its operands' types; what
// calls it is written from the PTX that NVRTC makes (tests/support/ptx). An instruction without a
// function here does not compile. Titles are those of the ISA's sections. ptx.cuh is not included:
// its host branch is what this one checks.
//
// Stricter than a card: every access lies in its array, in the block's shared memory or in the
// thread's own, on a multiple of its size; registers and memory hold NaN until they are written.
#pragma once
#include <cstdio>
#include <cstring>
#include <limits>

#include "memory.h"
#include "simt.h"

namespace ptx {

typedef unsigned char u8;
typedef unsigned short u16, b16;
typedef unsigned u32, b32;
typedef int s32;
typedef unsigned long long u64, b64;
typedef long long s64;
typedef float f32;
typedef double f64;

#define OP inline __attribute__((always_inline))

template <class To, class From> OP To as(From x) {
    static_assert(sizeof(To) == sizeof(From), "registers of one size");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

// What an instruction that is broken says, with the line of the PTX.
[[noreturn]] void fail(const char* what, u64 at, simt::Site site);

// == Integer Arithmetic Instructions; Comparison and Selection; shr of Logic and Shift.
// Sums and products are modulo 2^N; what a division by 0 gives is not specified.
template <class T> constexpr bool SIGNED = std::numeric_limits<T>::is_signed;
#define INTEGER(T, U) \
    OP T add_##T(U a, U b) { return static_cast<T>(a + b); } \
    OP T sub_##T(U a, U b) { return static_cast<T>(a - b); } \
    OP T mul_lo_##T(U a, U b) { return static_cast<T>(a * b); } \
    OP T mad_lo_##T(U a, U b, U c) { return static_cast<T>(a * b + c); } \
    OP T neg_##T(U a) { return static_cast<T>(0 - a); } \
    OP T div_##T(T a, T b) { \
        if (b == 0) return static_cast<T>(-1); \
        return SIGNED<T> && b == static_cast<T>(-1) ? neg_##T(static_cast<U>(a)) : a / b; \
    } \
    OP T rem_##T(T a, T b) { \
        if (b == 0) return static_cast<T>(-1); \
        return SIGNED<T> && b == static_cast<T>(-1) ? 0 : a % b; \
    } \
    OP T min_##T(T a, T b) { return a < b ? a : b; } \
    OP T max_##T(T a, T b) { return a > b ? a : b; } \
    OP T shr_##T(T a, u32 n) { \
        const u32 last = 8 * sizeof(T) - 1; \
        return n <= last ? a >> n : SIGNED<T> ? a >> last : 0; \
    } \
    OP bool setp_eq_##T(T a, T b) { return a == b; } \
    OP bool setp_ne_##T(T a, T b) { return a != b; } \
    OP bool setp_lt_##T(T a, T b) { return a < b; } \
    OP bool setp_le_##T(T a, T b) { return a <= b; } \
    OP bool setp_gt_##T(T a, T b) { return a > b; } \
    OP bool setp_ge_##T(T a, T b) { return a >= b; } \
    OP T mov_##T(T a) { return a; } \
    OP T selp_##T(T a, T b, bool c) { return c ? a : b; }
INTEGER(s32, u32)
INTEGER(u32, u32)
INTEGER(s64, u64)
INTEGER(u64, u64)
OP s64 mul_wide_s32(s32 a, s32 b) { return static_cast<s64>(a) * b; }
OP u64 mul_wide_u32(u32 a, u32 b) { return static_cast<u64>(a) * b; }
// The `n` lowest bits of a, put into b from bit `at` on.
OP b32 bfi_b32(b32 a, b32 b, u32 at, u32 n) {
    at &= 0xff, n &= 0xff;
    if (at > 31) return b;
    const b32 field = static_cast<b32>(((1ull << (n < 32 ? n : 32)) - 1) << at);
    return (b & ~field) | (a << at & field);
}

// == Logic and Shift Instructions. A shift by more than there are bits shifts all of them out.
#define BITS(T) \
    OP T and_##T(T a, T b) { return a & b; } \
    OP T or_##T(T a, T b) { return a | b; } \
    OP T xor_##T(T a, T b) { return a ^ b; } \
    OP T not_##T(T a) { return static_cast<T>(~a); } \
    OP T shl_##T(T a, u32 n) { return n < 8 * sizeof(T) ? static_cast<T>(a << n) : 0; } \
    OP bool setp_eq_##T(T a, T b) { return a == b; } \
    OP bool setp_ne_##T(T a, T b) { return a != b; } \
    OP T mov_##T(T a) { return a; } \
    OP T selp_##T(T a, T b, bool c) { return c ? a : b; }
BITS(b16)
BITS(b32)
BITS(b64)
OP bool and_pred(bool a, bool b) { return a && b; }
OP bool or_pred(bool a, bool b) { return a || b; }
OP bool xor_pred(bool a, bool b) { return a != b; }
OP bool not_pred(bool a) { return !a; }
OP bool mov_pred(bool a) { return a; }

// == Floating-Point Instructions. Without .ftz subnormal numbers count; without .rn, add, sub and
// mul round to the nearest, too. (The file that includes this is compiled without contraction.)
OP f32 fused(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
OP f64 fused(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }
OP f32 root(f32 a) { return __builtin_sqrtf(a); }
OP f64 root(f64 a) { return __builtin_sqrt(a); }
template <class T> OP bool unordered(T a, T b) { return a != a || b != b; }
// Of two numbers that compare equal, -0 is the smaller.
template <class T> OP T smaller(T a, T b) {
    return a != a ? b : b != b ? a : a < b || (a == b && __builtin_signbit(a)) ? a : b;
}
template <class T> OP T larger(T a, T b) {
    return a != a ? b : b != b ? a : a > b || (a == b && !__builtin_signbit(a)) ? a : b;
}
#define FLOATING(T) \
    OP T add_##T(T a, T b) { return a + b; } \
    OP T sub_##T(T a, T b) { return a - b; } \
    OP T mul_##T(T a, T b) { return a * b; } \
    OP T add_rn_##T(T a, T b) { return a + b; } \
    OP T sub_rn_##T(T a, T b) { return a - b; } \
    OP T mul_rn_##T(T a, T b) { return a * b; } \
    OP T fma_rn_##T(T a, T b, T c) { return fused(a, b, c); } \
    OP T div_rn_##T(T a, T b) { return a / b; } \
    OP T rcp_rn_##T(T a) { return 1 / a; } \
    OP T sqrt_rn_##T(T a) { return root(a); } \
    OP T neg_##T(T a) { return -a; } \
    OP T abs_##T(T a) { return a != a ? a : __builtin_signbit(a) ? -a : a; } \
    OP T min_##T(T a, T b) { return smaller(a, b); } \
    OP T max_##T(T a, T b) { return larger(a, b); } \
    OP bool setp_num_##T(T a, T b) { return !unordered(a, b); } \
    OP bool setp_nan_##T(T a, T b) { return unordered(a, b); } \
    OP bool setp_eq_##T(T a, T b) { return a == b; } \
    OP bool setp_ne_##T(T a, T b) { return !unordered(a, b) && a != b; } \
    OP bool setp_lt_##T(T a, T b) { return a < b; } \
    OP bool setp_le_##T(T a, T b) { return a <= b; } \
    OP bool setp_gt_##T(T a, T b) { return a > b; } \
    OP bool setp_ge_##T(T a, T b) { return a >= b; } \
    OP bool setp_equ_##T(T a, T b) { return unordered(a, b) || a == b; } \
    OP bool setp_neu_##T(T a, T b) { return a != b; } \
    OP bool setp_ltu_##T(T a, T b) { return !(a >= b); } \
    OP bool setp_leu_##T(T a, T b) { return !(a > b); } \
    OP bool setp_gtu_##T(T a, T b) { return !(a <= b); } \
    OP bool setp_geu_##T(T a, T b) { return !(a < b); } \
    OP T mov_##T(T a) { return a; } \
    OP T selp_##T(T a, T b, bool c) { return c ? a : b; }
FLOATING(f32)
FLOATING(f64)
f32 fma_rm_f32(f32 a, f32 b, f32 c);  // towards -infinity
// .ftz: subnormal operands and results are zeros of their sign.
OP f32 flushed(f32 x) {
    const bool keep = !(__builtin_fabsf(x) < std::numeric_limits<f32>::min());
    return keep ? x : __builtin_copysignf(0.0f, x);
}
// .approx: these are the nearest; a card may be off by 2 units in the last place and by 1.
f32 ex2_approx_ftz_f32(f32 a);
OP f32 rcp_approx_ftz_f32(f32 a) { return flushed(1 / flushed(a)); }

// == Data Movement and Conversion Instructions: cvt. A NaN becomes the one NaN of the type.
#define CONVERT(name, D, S) OP D cvt_##name(S a) { return static_cast<D>(a); }
CONVERT(u16_u32, u16, u32)
CONVERT(u32_u16, u32, u16)
CONVERT(u32_u64, u32, u64)
CONVERT(u64_u32, u64, u32)
CONVERT(s64_s32, s64, s32)
CONVERT(f64_f32, f64, f32)
CONVERT(rn_f32_s32, f32, s32)
CONVERT(rn_f32_u32, f32, u32)
CONVERT(rn_f32_f64, f32, f64)
CONVERT(rn_f64_u32, f64, u32)
CONVERT(rn_f64_s32, f64, s32)
OP f32 cvt_rzi_f32_f32(f32 a) { return __builtin_truncf(a); }
OP f32 cvt_sat_f32_f32(f32 a) { return a >= 1 ? 1.0f : a > 0 ? a : 0.0f; }
OP f32 cvt_f32_f16(u16 a) { return static_cast<f32>(as<_Float16>(a)); }
OP u16 cvt_rn_f16_f32(f32 a) {
    return a != a ? 0x7fff : as<u16>(static_cast<_Float16>(a));
}
// bf16 is the upper half of an f32: cut, then one more where the lower half is over a half, or is
// a half and the upper one odd.
OP u16 cvt_rz_bf16_f32(f32 a) {
    return a != a ? 0x7fff : static_cast<u16>(as<u32>(a) >> 16);
}
OP u16 cvt_rn_bf16_f32(f32 a) {
    const u16 cut = cvt_rz_bf16_f32(a), rest = static_cast<u16>(as<u32>(a));
    const bool up = rest > 0x8000 || (rest == 0x8000 && cut % 2);
    return a == a && up ? static_cast<u16>(cut + 1) : cut;
}
// d = {a, b}: b is the lower half.
OP b32 cvt_rn_bf16x2_f32(f32 a, f32 b) {
    return static_cast<b32>(cvt_rn_bf16_f32(a)) << 16 | cvt_rn_bf16_f32(b);
}
OP b32 cvt_rz_bf16x2_f32(f32 a, f32 b) {
    return static_cast<b32>(cvt_rz_bf16_f32(a)) << 16 | cvt_rz_bf16_f32(b);
}

// == … mov that packs and unpacks: the first is the lowest.
OP b32 pack_b32(b16 a, b16 b) { return static_cast<b32>(b) << 16 | a; }
OP b16 unpack_b32(b32 a, int i) { return static_cast<b16>(a >> 16 * i); }

// == … cvta: what is global has the same address everywhere. Nothing here makes a generic address
// of one in shared or local memory, so a generic access is a global one.
OP u64 cvta_to_global_u64(u64 a) { return a; }

// == State Spaces; Addresses as Operands: an address is a multiple of the size of the access.
constexpr u32 SHARED_BEGIN = 1024;  // none is 0

struct Space {
    char* memory;
    u64 begin, bytes;
    const char* name;
};

// Where an access lies in shared memory or in the thread's own.
[[noreturn]] void outside(const Space& space, u64 at, u64 bytes, simt::Site site);
OP char* within(const Space& space, u64 at, u64 bytes, simt::Site site) {
    const u64 from = at - space.begin;
    if (at % bytes != 0 || from >= space.bytes || space.bytes - from < bytes)
        outside(space, at, bytes, site);
    if (space.begin == SHARED_BEGIN) simt::accesses();
    return space.memory + from;
}

// The array of an access to global memory, which lies on a multiple of `step`.
const memory::Array* array(u64 at, u64 bytes, u64 step, simt::Site site);
// `last` is the array that the instruction met last.
OP char* global(const memory::Array*& last, u64 at, u64 bytes, simt::Site site) {
    if (at % bytes != 0 || !memory::holds(last, at, bytes)) last = array(at, bytes, bytes, site);
    return reinterpret_cast<char*>(at);
}

template <class T> OP T load(const char* at) {
    T x;
    memcpy(&x, at, sizeof x);
    return x;
}
template <class T> OP void store(char* at, T x) { memcpy(at, &x, sizeof x); }

// == Parallel Synchronization and Communication Instructions.
OP void bar_sync(u32 which, simt::Site site) {
    if (which != 0) fail("a barrier other than 0", which, site);
    simt::barrier(site);
}
OP void bar_warp_sync(u32 mask, simt::Site site) {
    simt::exchange(mask, 0, simt::lane(), true, site);
}
OP u32 atom_add_u32(char* at, u32 more) {
    const u32 old = load<u32>(at);
    store(at, old + more);
    return old;
}

// shfl.sync: b is the lane, or what is flipped in one's own; c has the last lane of a segment in
// bits 0 to 4, and in 8 to 12 which bits of a lane's number name its segment. `in`: whether the
// lane that is asked for is in range; where it is not, a lane reads itself.
OP u32 shfl(u32 a, u32 from, u32 c, u32 mask, bool& in, simt::Site site) {
    const u32 lane = simt::lane(), segment = c >> 8 & 31;
    in = from <= ((lane & segment) | (c & 31 & ~segment));
    return static_cast<u32>(simt::exchange(mask, a, in ? from : lane, false, site));
}
OP u32 shfl_sync_bfly_b32(u32 a, u32 b, u32 c, u32 mask, bool& in, simt::Site site) {
    return shfl(a, simt::lane() ^ (b & 31), c, mask, in, site);
}
OP u32 shfl_sync_idx_b32(u32 a, u32 b, u32 c, u32 mask, bool& in, simt::Site site) {
    const u32 segment = c >> 8 & 31;
    return shfl(a, (simt::lane() & segment) | (b & 31 & ~segment), c, mask, in, site);
}

// == Asynchronous copies: `bytes` of 16 are read, the others are zeros. They are read now and
// written at the wait; until then there is NaN.
void cp_async_cg_shared_global(const Space& block, u64 to, u64 from, u32 size, u32 bytes,
                               simt::Site site);
void cp_async_wait_group(int groups);

// == Warp Level Matrix Multiply-Accumulate Instructions: d = a b + c, in place of c.
void mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(f32 (&c)[4], const b32 (&a)[4],
                                                         const b32 (&b)[2], simt::Site site);
void mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(f32 (&c)[4], const b32 (&a)[4],
                                                       const b32 (&b)[2], simt::Site site);
void mma_sync_aligned_m8n8k4_row_col_f64_f64_f64_f64(f64 (&c)[2], const f64 (&a)[1],
                                                     const f64 (&b)[1], simt::Site site);

// ldmatrix: lanes 8 m to 8 m + 7 give the addresses of the rows of matrix m.
void ldmatrix_sync_aligned_m8n8_x2_shared_b16(b32 (&x)[2], const Space& block, u64 row,
                                              simt::Site site);
void ldmatrix_sync_aligned_m8n8_x4_shared_b16(b32 (&x)[4], const Space& block, u64 row,
                                              simt::Site site);
void ldmatrix_sync_aligned_m8n8_x2_trans_shared_b16(b32 (&x)[2], const Space& block, u64 row,
                                                    simt::Site site);
void ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(b32 (&x)[4], const Space& block, u64 row,
                                                    simt::Site site);

}  // namespace ptx
