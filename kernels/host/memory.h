// memory.h: arrays in global memory, so that an access can be held to the one it lies in.
#pragma once
#include <cstddef>

namespace memory {

struct Array { unsigned long long begin, bytes; };
constexpr Array NONE = {0, 0};

// Filled with NaN; null where there is no room.
void* allocate(size_t bytes);
void release(void* begin);

// The array that an address lies in, else NONE. What it says stays true of the arrays there are.
const Array* find(unsigned long long at);

inline bool holds(const Array* a, unsigned long long at, unsigned long long bytes) {
    return at - a->begin < a->bytes && a->bytes - (at - a->begin) >= bytes;
}

}  // namespace memory
