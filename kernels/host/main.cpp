// main.cpp: the driver's twin. It serves one client over a pipe, command by command.
//
//   A bytes                                 -> pointer       filled with NaN
//   F pointer
//   W pointer bytes, then the bytes
//   R pointer bytes                         -> the bytes
//   C to from bytes                         copies
//   Z pointer bytes                         fills with zeros
//   S bytes of `struct Shared` of: length, name   -> bytes; 2^32 - 1 for a kernel that is not there
//   L length, name, order, 3 grid, 3 threads, n, n slots -> 0 when done
//
// Numbers are u64, little-endian. What a kernel breaks ends the process; why is on stderr.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "launch.h"
#include "memory.h"

namespace {

typedef unsigned long long u64;

void take(void* to, size_t bytes) {
    if (bytes && fread(to, 1, bytes, stdin) != bytes) exit(0);  // the client left
}

u64 number() {
    u64 x;
    take(&x, sizeof x);
    return x;
}

std::string name() {
    std::string text(number(), ' ');
    take(&text[0], text.size());
    return text;
}

void give(const void* from, size_t bytes) {
    if (bytes) fwrite(from, 1, bytes, stdout);
}

void give(u64 x) { give(&x, sizeof x); }

}  // namespace

int main() {
    for (;;) {
        char command;
        take(&command, 1);
        switch (command) {
        case 'A':
            give(reinterpret_cast<u64>(memory::allocate(number())));
            break;
        case 'F':
            memory::release(reinterpret_cast<void*>(number()));
            break;
        case 'W': {
            void* to = reinterpret_cast<void*>(number());
            take(to, number());
            break;
        }
        case 'R': {
            const void* from = reinterpret_cast<const void*>(number());
            give(from, number());
            break;
        }
        case 'C': {
            void* to = reinterpret_cast<void*>(number());
            const void* from = reinterpret_cast<const void*>(number());
            memmove(to, from, number());
            break;
        }
        case 'Z': {
            void* to = reinterpret_cast<void*>(number());
            memset(to, 0, number());
            break;
        }
        case 'S': {
            const simt::Kernel* kernel = simt::find(name().c_str());
            give(kernel ? kernel->shared_bytes : 0xffffffffull);
            break;
        }
        case 'L': {
            const std::string which = name();
            const auto order = static_cast<simt::Order>(number());
            unsigned sizes[6];
            for (unsigned& size : sizes) size = static_cast<unsigned>(number());
            std::vector<u64> slots(number());
            for (u64& slot : slots) slot = number();
            const simt::Kernel* kernel = simt::find(which.c_str());
            if (!kernel) {
                fprintf(stderr, "no kernel %s\n", which.c_str());
                return 2;
            }
            const unsigned threads = sizes[3] * sizes[4] * sizes[5];
            if (slots.size() != kernel->arguments || threads > kernel->max_threads) {
                fprintf(stderr, "%s takes %u arguments and at most %u threads, not %zu and %u\n",
                        kernel->name, kernel->arguments, kernel->max_threads, slots.size(),
                        threads);
                return 2;
            }
            simt::launch(*kernel, {sizes[0], sizes[1], sizes[2]}, {sizes[3], sizes[4], sizes[5]},
                         slots.data(), order);
            give(0);
            break;
        }
        default:
            fprintf(stderr, "no command %d\n", command);
            return 2;
        }
        fflush(stdout);
    }
}
