// memory.cpp: arrays in global memory.
#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

namespace memory {
namespace {

// Others keep pointers to these, so one that is released holds nothing until it is used again.
std::map<unsigned long long, Array*> arrays;
std::vector<Array*> spare;

}  // namespace

void* allocate(size_t bytes) {
    void* made = nullptr;
    if (posix_memalign(&made, 256, bytes ? bytes : 1)) return nullptr;
    memset(made, 0xff, bytes);
    if (spare.empty()) spare.push_back(new Array);
    Array* a = spare.back();
    spare.pop_back();
    *a = {reinterpret_cast<unsigned long long>(made), bytes};
    arrays[a->begin] = a;
    return made;
}

void release(void* begin) {
    const auto at = arrays.find(reinterpret_cast<unsigned long long>(begin));
    if (at != arrays.end()) {
        *at->second = NONE;
        spare.push_back(at->second);
        arrays.erase(at);
    }
    free(begin);
}

const Array* find(unsigned long long at) {
    const auto after = arrays.upper_bound(at);
    if (after == arrays.begin()) return &NONE;
    const Array* a = std::prev(after)->second;
    return holds(a, at, 1) ? a : &NONE;
}

}  // namespace memory
