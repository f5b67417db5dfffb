// ptx.cuh: the instructions C++ has no word for, each with its twin on the host.
//
// bf16 is the upper half of an f32, f16 is IEEE half precision. No header of the toolkit is needed.
#pragma once

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

#ifdef __CUDACC_RTC__

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

// Tells the compiler that an address lies in global memory, where it cannot see it.
HD void in_global(const void* p) { __builtin_assume(__isGlobal(p)); }

HD unsigned bits_of(float x) { return __float_as_uint(x); }
HD float of_bits(unsigned x) { return __uint_as_float(x); }

#else

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

inline float widen(f16 x) { return static_cast<float>(simt::as<_Float16>(x.bits)); }

inline f16 round_f16(float x) {
    if (x != x) return {0x7fff};
    return {simt::as<unsigned short>(static_cast<_Float16>(x))};
}

#endif

// The next number towards zero; x is not zero.
HD float toward_zero(float x) { return of_bits(bits_of(x) - 1); }
HD float set_last_bit(float x) { return of_bits(bits_of(x) | 1); }
