// sanitizer.h: what the sanitizers have to know of fibres. Without one, nothing.
//
// AddressSanitizer follows stacks. ThreadSanitizer takes every CUDA thread for a thread of its own:
// a switch orders nothing, a barrier is a release and an acquire, the end of a launch acquires
// all; so two threads that touch one place without a barrier between them are reported, in
// whatever order they ran. While bytes are on their way to a place, AddressSanitizer takes it for
// one that nobody may touch.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#include <sys/mman.h>
#define NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define NO_TSAN
#endif

// What touches nothing but registers of lanes.
#define UNWATCHED __attribute__((no_sanitize("thread"), no_sanitize("address"), \
                                 no_sanitize("undefined")))

namespace sanitizer {

struct Fibre {
    void* fake = nullptr;          // AddressSanitizer's stack of locals
    const void* bottom = nullptr;  // of the scheduler's stack
    size_t size = 0;
    void* thread = nullptr;  // ThreadSanitizer's
};

#if defined(__SANITIZE_ADDRESS__)

inline void make_scheduler(Fibre&) {}
inline void renew(void*, size_t) {}
inline void make(Fibre& f) { f.fake = nullptr; }
inline void end(Fibre&) {}
inline void enter(Fibre&, void* stack, size_t size, Fibre& scheduler) {
    __sanitizer_start_switch_fiber(&scheduler.fake, stack, size);
}
inline void back(Fibre& scheduler) {
    __sanitizer_finish_switch_fiber(scheduler.fake, nullptr, nullptr);
}
inline void leave(Fibre& f, Fibre& scheduler, bool for_good) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &f.fake, scheduler.bottom, scheduler.size);
}
inline void entered(Fibre& f, Fibre& scheduler) {
    __sanitizer_finish_switch_fiber(f.fake, &scheduler.bottom, &scheduler.size);
}
inline void release(void*) {}
inline void acquire(void*) {}
inline void close(void* place, size_t size) { ASAN_POISON_MEMORY_REGION(place, size); }
inline void open(void* place, size_t size) { ASAN_UNPOISON_MEMORY_REGION(place, size); }

#elif defined(__SANITIZE_THREAD__)

NO_TSAN inline void make_scheduler(Fibre& f) { f.thread = __tsan_get_current_fiber(); }
// A stack that another fibre had: what that one did there is forgotten.
NO_TSAN inline void renew(void* stack, size_t size) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    mmap(stack, size, PROT_READ | PROT_WRITE, flags, -1, 0);
}
NO_TSAN inline void make(Fibre& f) { f.thread = __tsan_create_fiber(0); }
NO_TSAN inline void end(Fibre& f) { __tsan_destroy_fiber(f.thread); }
NO_TSAN inline void enter(Fibre& f, void*, size_t, Fibre&) {
    __tsan_switch_to_fiber(f.thread, __tsan_switch_to_fiber_no_sync);
}
NO_TSAN inline void back(Fibre&) {}
NO_TSAN inline void leave(Fibre&, Fibre& scheduler, bool) {
    __tsan_switch_to_fiber(scheduler.thread, __tsan_switch_to_fiber_no_sync);
}
NO_TSAN inline void entered(Fibre&, Fibre&) {}
NO_TSAN inline void release(void* at) { __tsan_release(at); }
NO_TSAN inline void acquire(void* at) { __tsan_acquire(at); }
inline void close(void*, size_t) {}
inline void open(void*, size_t) {}

#else

inline void make_scheduler(Fibre&) {}
inline void renew(void*, size_t) {}
inline void make(Fibre&) {}
inline void end(Fibre&) {}
inline void enter(Fibre&, void*, size_t, Fibre&) {}
inline void back(Fibre&) {}
inline void leave(Fibre&, Fibre&, bool) {}
inline void entered(Fibre&, Fibre&) {}
inline void release(void*) {}
inline void acquire(void*) {}
inline void close(void*, size_t) {}
inline void open(void*, size_t) {}

#endif

}  // namespace sanitizer
