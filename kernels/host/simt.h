// simt.h: a CUDA block on one host thread, so that every kernel runs in every test.
//
// A CUDA thread is a fibre. It runs until it waits: at a barrier for its block, or at a warp
// operation for the lanes of a mask. The scheduler lets a group go when all of it waits at one call
// site; a group that cannot be completed is an error that names the lines. An order may also
// hold it at an access to shared memory, until no other thread can go on. Shared memory is a fresh
// heap block of the exact size, full of NaN. What this cannot show: coalescing, bank conflicts,
// spills, fences between blocks, the rounding of tensor cores.
#pragma once
#include <cmath>
#include <cstring>

#include "sanitizer.h"

#define __global__
#define __launch_bounds__(...)
#define HD inline __attribute__((always_inline))
#define SITE (simt::Site{__FILE__, __LINE__})
// As a default argument: where the call stands.
#define HERE {__builtin_FILE(), __builtin_LINE()}
#define __syncthreads() simt::barrier(SITE)
#define __syncwarp() simt::exchange(0xffffffffu, 0, simt::lane(), true, SITE)
#define __shfl_xor_sync(mask, x, d) simt::shuffle(mask, x, simt::lane() ^ (d), SITE)
#define __shfl_sync(mask, x, from) simt::shuffle(mask, x, (from), SITE)
#define atomicAdd(at, more) simt::atomic_add(at, more)
#define shared() (*static_cast<Shared*>(simt::block_memory()))

struct uint3 { unsigned x, y, z; };

inline int min(int a, int b) { return a < b ? a : b; }

namespace simt {

struct Site {
    const char* file;
    int line;
    bool is_one = false;  // no other call has this line: none is inlined or copied
};

uint3 thread_index();
uint3 block_index();
uint3 block_size();
uint3 grid_size();
unsigned lane();
void* block_memory();
void barrier(Site at);
// What the lane `from` gave, once all lanes of the mask gave theirs at the same call site. A
// shuffle orders no memory, __syncwarp does.
unsigned long long exchange(unsigned mask, unsigned long long mine, unsigned from, bool orders,
                            Site at);

// What a warp does as one: once all lanes wait at the same call site, `act` gets what each gave.
void together(void* mine, void (*act)(void* const* lanes), Site at);

// Ends the process: what the thread that runs broke, and where.
[[noreturn]] void stop(const char* what, Site at);

// Before an access to shared memory: whether it is held is the order's to say (launch.h).
extern long long accesses_left;
void hold();
inline void accesses() {
    if (--accesses_left == 0) hold();
}

// `p`, if it lies on 16 bytes.
const void* on_16_bytes(const void* p, Site at);
inline void* on_16_bytes(void* p, Site at) {
    return const_cast<void*>(on_16_bytes(const_cast<const void*>(p), at));
}

// Bytes on their way, in groups.
struct __attribute__((may_alias, aligned(16))) Packet { unsigned x[4]; };
constexpr Packet POISON = {{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}};
void copy(void* to, Packet packet, Site at);
void commit();
// Where the oldest packet goes, if it is of none of the last `groups`; else null.
void* landed(int groups, Packet* packet);

// The registers a lane gives to a product of matrices.
struct Fragments { float* c; const unsigned *a, *b; };

inline unsigned short half(unsigned pair, int i) {
    return static_cast<unsigned short>(pair >> 16 * i);
}

template <class To, class From> To as(From x) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
inline float as_float(unsigned bits) { return as<float>(bits); }
inline unsigned as_bits(float x) { return as<unsigned>(x); }

template <class T> HD T shuffle(unsigned mask, T x, unsigned from, Site at) {
    static_assert(sizeof(T) == 4, "a shuffle moves four bytes");
    return as<T>(static_cast<unsigned>(exchange(mask, as<unsigned>(x), from, false, at)));
}

// Any order is a right one, so it orders nothing.
template <class T> HD T atomic_add(T* at, T more) {
    return __atomic_fetch_add(at, more, __ATOMIC_RELAXED);
}

// An argument of a launch, from its slot of eight bytes.
template <class T> T argument(unsigned long long slot) {
    T x;
    memcpy(&x, &slot, sizeof x);
    return x;
}

// A kernel for given types, under the name the launcher asks for.
struct Kernel {
    typedef void (*Call)(const unsigned long long* slots);
    Kernel(const char* name, Call call, unsigned shared_bytes, unsigned arguments,
           unsigned max_threads = 1024);
    const char* name;
    Call call;
    unsigned shared_bytes, arguments, max_threads;
    Kernel* next;
};

}  // namespace simt

#define threadIdx (simt::thread_index())
#define blockIdx (simt::block_index())
#define blockDim (simt::block_size())
#define gridDim (simt::grid_size())
