// launch.h: kernels by name, run block by block.
#pragma once
#include "simt.h"

namespace simt {

// In which order blocks, and threads between two waits, take their turns. Interrupted: shuffled,
// and now and then a thread is held at an access to shared memory until no other can go on, so that
// what no barrier keeps apart meets. Compiled kernels alone tell of their accesses.
enum class Order { forwards, backwards, shuffled, interrupted };

const Kernel* find(const char* name);

// Runs all blocks. A kernel that breaks a rule ends the process with 3 and a line on stderr.
void launch(const Kernel& kernel, uint3 grid, uint3 threads, const unsigned long long* args,
            Order order);

}  // namespace simt
