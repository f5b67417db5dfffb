// context.h: a stack of its own, and the switch from one to another.
//
// On x86-64 a switch is a dozen instructions; elsewhere the C library's, which asks the system for
// the signal mask each time.
#pragma once
#include <cstddef>
#include <cstdint>

#include "sanitizer.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace context {

#if defined(__x86_64__)

struct Context {
    void* stack_pointer;
};

// Keeps the registers a function must keep, on the stack it leaves.
extern "C" void simt_switch(void** from, void* to);
asm(R"(
.text
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

// `entry` never returns.
NO_TSAN inline void make(Context& c, void* stack, size_t size, void (*entry)()) {
    uint64_t* top = reinterpret_cast<uint64_t*>(static_cast<char*>(stack) + size);
    for (int i = 1; i <= 8; i++) top[-i] = 0;
    top[-2] = reinterpret_cast<uint64_t>(entry);  // above six registers; the stack as after a call
    c.stack_pointer = top - 8;
}

NO_TSAN inline void swap(Context& from, Context& to) {
    simt_switch(&from.stack_pointer, to.stack_pointer);
}

#else

struct Context {
    ucontext_t context;
};

NO_TSAN inline void make(Context& c, void* stack, size_t size, void (*entry)()) {
    getcontext(&c.context);
    c.context.uc_stack.ss_sp = stack;
    c.context.uc_stack.ss_size = size;
    c.context.uc_link = nullptr;
    makecontext(&c.context, entry, 0);
}

NO_TSAN inline void swap(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

#endif

}  // namespace context
