// common.cuh: the words every kernel is written in.
//
//   elem, weight        the types a file is compiled for: float, bf16, f16
//   f32(x)  put(p, x)   widened; rounded to nearest even
//   WARP                32 threads that can exchange numbers
//   warp_sum, warp_max  over all 32 lanes; every lane gets it, bits the same in each
//   block_sum           over all threads of a block, through `part`, one number a warp
//   shared()            the block's `struct Shared`
//   inout               of a pointer: read and written
//   UNROLL              before a loop over an array that must stay in registers
//
// A file compiles as CUDA, through NVRTC, and as C++, against host/simt.h.
#pragma once
#define inout

#ifdef __CUDACC_RTC__
#define HD __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define INFINITY __uint_as_float(0x7f800000u)
#define shared() block_memory<struct Shared>()
template <class T> HD T& block_memory() {
    __shared__ T memory;  // one a kernel, wherever it is called
    return memory;
}
#else
#include "host/simt.h"
#define UNROLL
#endif
#include "ptx.cuh"

#ifdef ELEM
typedef ELEM elem;
#endif
#ifdef WEIGHT
typedef WEIGHT weight;
#endif

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

HD float f32(float x) { return x; }
HD float f32(bf16 x) { return widen(x); }
HD float f32(f16 x) { return widen(x); }
HD void put(float* p, float x) { *p = x; }
HD void put(bf16* p, float x) { *p = round_bf16(x); }
HD void put(f16* p, float x) { *p = round_f16(x); }

// In a butterfly every lane adds the same pairs, so all get the same bits.
HD float warp_sum(float x) {
    for (int d = WARP / 2; d > 0; d /= 2) x += __shfl_xor_sync(ALL, x, d);
    return x;
}

HD float warp_max(float x) {
    for (int d = WARP / 2; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, d));
    return x;
}

// `part` has room for a number a warp; it may be used again at once.
HD float block_sum(float x, float* part) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) part[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? part[lane] : 0.0f);
    __syncthreads();
    return x;
}
