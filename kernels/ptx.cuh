// ptx.cuh: the instructions C++ has no word for, each with its twin on the host.
//
// bf16 is the upper half of an f32, f16 is IEEE half precision. No header of the toolkit is needed.
//
// A warp multiplies small matrices, every lane holding a part of each. Lane l, with g = l / 4 and
// t = l % 4, has these; a register of two numbers has the first in its lower half.
//
//   mma<T>          c += a b
//     a (16, 16) T       a[i]   row g + 8 (i % 2), columns 2t and 2t + 1 of half i / 2
//     b (16, 8) T        b[i]   rows 2t and 2t + 1 of half i, column g
//     c (16, 8) f32      c[i]   row g + 8 (i / 2), column 2t + i % 2
//   mma             c += a b
//     a (8, 4) f64       row g, column t
//     b (4, 8) f64       row t, column g
//     c (8, 8) f64       c[i]   row g, column 2t + i
//   ldmatrix        matrices (8, 8) of 16 bits in shared memory; lane 8 m + r points at row r of
//                   matrix m, which lies on 16 bytes
//                        x[m]   row g, columns 2t and 2t + 1
//   ldmatrix_trans       x[m]   rows 2t and 2t + 1, column g
//
// So ldmatrix reads a from rows along k, and b from rows along k, (8, 16); ldmatrix_trans reads b
// from rows along its columns, (16, 8).
#pragma once

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

// Of shared or global memory, sixteen bytes at once; they lie on sixteen bytes.
#ifdef __CUDACC_RTC__
struct alignas(16) Packet { unsigned x[4]; };

HD float widen(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

HD float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

HD bf16 round_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

HD f16 round_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two at once, the first in the lower half.
HD unsigned round_bf16(float first, float second) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
    return y;
}

// Tells the compiler that an address lies in global memory, where it cannot see it.
HD void in_global(const void* p) { __builtin_assume(__isGlobal(p)); }

HD unsigned bits_of(float x) { return __float_as_uint(x); }
HD float of_bits(unsigned x) { return __uint_as_float(x); }

template <class T> HD void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

template <> HD void mma<bf16>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <> HD void mma<f16>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

HD void mma(double (&c)[2], double a, double b) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c[0]), "+d"(c[1])
        : "d"(a), "d"(b));
}

HD unsigned in_shared(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

HD void ldmatrix(unsigned (&x)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(in_shared(row)) : "memory");
}

HD void ldmatrix_trans(unsigned (&x)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(in_shared(row)) : "memory");
}

// Two matrices; what lanes 16 to 31 point at does not matter.
HD void ldmatrix(unsigned (&x)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1])
                 : "r"(in_shared(row)) : "memory");
}

// Copies 16 bytes into shared memory, the first `bytes` of them from `from` and zeros after; both
// lie on 16 bytes. They are there for this thread after a wait, for others after a barrier then.
HD void cp_async(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(in_shared(to)), "l"(from), "r"(bytes) : "memory");
}

// Copies since the last one are a group.
HD void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most the last N groups are on their way.
template <int N> HD void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

#else
typedef simt::Packet Packet;

inline void in_global(const void*) {}
inline unsigned bits_of(float x) { return simt::as_bits(x); }
inline float of_bits(unsigned x) { return simt::as_float(x); }
inline float widen(bf16 x) { return simt::as_float(static_cast<unsigned>(x.bits) << 16); }

// A NaN becomes the one NaN the instruction gives.
inline bf16 round_bf16(float x) {
    if (x != x) return {0x7fff};
    const unsigned bits = simt::as_bits(x);
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline unsigned round_bf16(float first, float second) {
    return round_bf16(first).bits | static_cast<unsigned>(round_bf16(second).bits) << 16;
}

inline float widen(f16 x) { return static_cast<float>(simt::as<_Float16>(x.bits)); }

inline f16 round_f16(float x) {
    if (x != x) return {0x7fff};
    return {simt::as<unsigned short>(static_cast<_Float16>(x))};
}

HD float number(unsigned pair, int i, bf16) { return widen(bf16{simt::half(pair, i)}); }
HD float number(unsigned pair, int i, f16) { return widen(f16{simt::half(pair, i)}); }

// Products of two such numbers are exact in f32. They are added to c one by one, to the nearest; a
// card adds several at once and cuts off what sticks out.
template <class T> UNWATCHED void mma_warp(void* const* lanes) {
    float a[16][16], b[16][8], c[16][8];
    const auto of = [lanes](int l) { return static_cast<simt::Fragments*>(lanes[l]); };
    for (int l = 0; l < 32; l++) {
        const int g = l / 4, t = l % 4;
        for (int i = 0; i < 8; i++)
            a[g + i / 2 % 2 * 8][2 * t + i % 2 + i / 4 * 8] = number(of(l)->a[i / 2], i % 2, T());
        for (int i = 0; i < 4; i++)
            b[2 * t + i % 2 + i / 2 * 8][g] = number(of(l)->b[i / 2], i % 2, T());
        for (int i = 0; i < 4; i++) c[g + i / 2 * 8][2 * t + i % 2] = of(l)->c[i];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++) c[row][col] += a[row][k] * b[k][col];
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) of(l)->c[i] = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}

template <class T> HD void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                               simt::Site at = HERE) {
    simt::Fragments mine = {c, a, b};
    simt::together(&mine, mma_warp<T>, at);
}

struct Doubles { double *c, a, b; };

UNWATCHED inline void mma_warp_f64(void* const* lanes) {
    const auto of = [lanes](int l) { return static_cast<Doubles*>(lanes[l]); };
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 4; k++) {
                double& c = of(l)->c[i];
                c = fma(of(l / 4 * 4 + k)->a, of((2 * (l % 4) + i) * 4 + k)->b, c);
            }
}

HD void mma(double (&c)[2], double a, double b, simt::Site at = HERE) {
    Doubles mine = {c, a, b};
    simt::together(&mine, mma_warp_f64, at);
}

// What a lane reads for the warp, and what it gets.
struct Reading { Packet row; unsigned x[4]; };

template <bool TRANS> UNWATCHED void ldmatrix_warp(void* const* lanes) {
    const auto of = [lanes](int l) { return static_cast<Reading*>(lanes[l]); };
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 8; i++) {
            const int first = l / 4, second = 2 * (l % 4) + i % 2, matrix = i / 2;
            const int row = TRANS ? second : first, column = TRANS ? first : second;
            const Packet& packet = of(8 * matrix + row)->row;
            const unsigned x = simt::half(packet.x[column / 2], column % 2);
            unsigned& pair = of(l)->x[matrix];
            pair = i % 2 ? pair | x << 16 : x;
        }
}

template <bool TRANS, int N> HD void ldmatrix(unsigned (&x)[N], const void* row, simt::Site at) {
    Reading mine = {};
    if (simt::lane() < 8 * N)
        mine.row = *static_cast<const Packet*>(simt::on_16_bytes(row, at));
    simt::together(&mine, ldmatrix_warp<TRANS>, at);
    for (int i = 0; i < N; i++) x[i] = mine.x[i];
}

HD void ldmatrix(unsigned (&x)[4], const void* row, simt::Site at = HERE) {
    ldmatrix<false>(x, row, at);
}
HD void ldmatrix_trans(unsigned (&x)[4], const void* row, simt::Site at = HERE) {
    ldmatrix<true>(x, row, at);
}
HD void ldmatrix(unsigned (&x)[2], const void* row, simt::Site at = HERE) {
    ldmatrix<false>(x, row, at);
}

// The bytes are read now and written at the wait; until then nobody may read or write there.
HD void cp_async(void* to, const void* from, int bytes, simt::Site at = HERE) {
    Packet packet = {};
    memcpy(&packet, simt::on_16_bytes(from, at), bytes);
    *static_cast<Packet*>(simt::on_16_bytes(to, at)) = simt::POISON;
    simt::copy(to, packet, at);
}

HD void cp_async_commit() { simt::commit(); }

template <int N> HD void cp_async_wait() {
    Packet packet;
    while (void* to = simt::landed(N, &packet)) *static_cast<Packet*>(to) = packet;
}

#endif

// The next number towards zero; x is not zero.
HD float toward_zero(float x) { return of_bits(bits_of(x) - 1); }
HD float set_last_bit(float x) { return of_bits(bits_of(x) | 1); }
