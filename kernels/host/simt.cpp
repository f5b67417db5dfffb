// simt.cpp: fibres and their scheduler.
#include "simt.h"

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <sys/mman.h>
#include <vector>

#include "context.h"
#include "launch.h"
#include "sanitizer.h"

namespace simt {
namespace {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 << 10;
constexpr int COPIES = 256;  // packets of a thread that are on their way at once
constexpr unsigned UNHELD = 64;  // accesses to shared memory before one is held, at most

enum class State { ready, held, barrier, warp, done };

struct Copy {
    void* to;
    Packet packet;
    int group;
};

struct Fibre {
    context::Context context;
    sanitizer::Fibre sanitizer;
    void* stack;
    uint3 thread;
    unsigned index;
    State state;
    Site at;               // where it waits
    size_t call;           // which of all waits it is
    unsigned mask, from;   // of a warp operation
    unsigned long long mine, got;
    void (*act)(void* const*);
    unsigned barrier_turn;
    unsigned turn;         // how many waits that order memory, modulo 2
    unsigned turns;        // those of the lanes it was released with, a bit each
    char order[2];         // what its waits release, turn by turn
    Copy* copies;          // a ring of COPIES
    int first_copy, end_copy, group;
};

struct Block {
    uint3 index;
    unsigned threads;
    void* memory;
    char order[2];  // what barriers release, turn by turn
};

const Kernel* first = nullptr;
const Kernel* running = nullptr;
const unsigned long long* slots = nullptr;
uint3 size_of_block, size_of_grid;
std::vector<Fibre> fibres;
Block block;
Fibre* self = nullptr;  // the fibre that runs
context::Context scheduler;
sanitizer::Fibre scheduler_sanitizer;
std::minstd_rand holds;

NO_TSAN void say(const Fibre& f) {
    const char* states[] = {"runs", "is held", "waits at a barrier", "waits at a warp operation",
                            "has ended"};
    fprintf(stderr, "  thread (%u, %u, %u) %s", f.thread.x, f.thread.y, f.thread.z,
            states[static_cast<int>(f.state)]);
    if (f.state != State::done) fprintf(stderr, ", %s:%d", f.at.file, f.at.line);
    fprintf(stderr, "\n");
}

[[noreturn]] NO_TSAN void fail(const char* what, const Fibre& a, const Fibre* b = nullptr) {
    fprintf(stderr, "%s: %s, block (%u, %u, %u)\n", running->name, what, block.index.x,
            block.index.y, block.index.z);
    say(a);
    if (b) say(*b);
    fflush(stderr);
    _Exit(3);
}

NO_TSAN void enter(Fibre& f) {
    self = &f;
    sanitizer::enter(f.sanitizer, f.stack, STACK, scheduler_sanitizer);
    context::swap(scheduler, f.context);
    sanitizer::back(scheduler_sanitizer);
    self = nullptr;
}

// Which wait it is. The line of a function that is inlined stands for several, which return to
// different places.
NO_TSAN size_t call(Site at, void* returns) {
    return at.is_one ? static_cast<size_t>(at.line) : reinterpret_cast<size_t>(returns);
}

// Gives control to the scheduler until it comes back.
NO_TSAN void wait() {
    Fibre& f = *self;
    sanitizer::leave(f.sanitizer, scheduler_sanitizer, f.state == State::done);
    context::swap(f.context, scheduler);
    sanitizer::entered(f.sanitizer, scheduler_sanitizer);
}

NO_TSAN void body() {
    sanitizer::entered(self->sanitizer, scheduler_sanitizer);
    sanitizer::acquire(&block);
    running->call(slots);
    self->state = State::done;
    sanitizer::release(&fibres);
    wait();
}

NO_TSAN void begin(Fibre& f, unsigned index) {
    f.index = index;
    f.thread = {index % size_of_block.x, index / size_of_block.x % size_of_block.y,
                index / (size_of_block.x * size_of_block.y)};
    f.state = State::ready;
    f.turn = f.barrier_turn = 0;
    f.first_copy = f.end_copy = f.group = 0;
    sanitizer::make(f.sanitizer);
    context::make(f.context, f.stack, STACK, body);
}

// Lets the lanes go that wait for each other at one warp operation. Whether any did.
NO_TSAN bool release_warps() {
    bool any = false;
    for (unsigned w = 0; w < block.threads; w += WARP) {
        for (unsigned i = w; i < w + WARP && i < block.threads; i++) {
            Fibre& a = fibres[i];
            if (a.state != State::warp) continue;
            bool whole = true;
            for (unsigned lane = 0; lane < WARP; lane++) {
                if (!(a.mask >> lane & 1)) continue;
                const unsigned j = w + lane;
                if (j >= block.threads) fail("a mask names a lane that is not there", a);
                const Fibre& b = fibres[j];
                if (b.state == State::done) fail("a lane of the mask has left", a, &b);
                if (b.state == State::warp && b.call == a.call && b.mask != a.mask)
                    fail("lanes at one operation have different masks", a, &b);
                whole = whole && b.state == State::warp && b.call == a.call;
            }
            if (!whole) continue;
            const unsigned mask = a.mask;
            unsigned turns = 0;
            for (unsigned lane = 0; lane < WARP; lane++)
                if (mask >> lane & 1) turns |= fibres[w + lane].turn << lane;
            if (a.act) {
                void* given[WARP];
                for (unsigned lane = 0; lane < WARP; lane++)
                    given[lane] = reinterpret_cast<void*>(fibres[w + lane].mine);
                a.act(given);
            }
            for (unsigned lane = 0; lane < WARP; lane++) {
                if (!(mask >> lane & 1)) continue;
                Fibre& b = fibres[w + lane];
                if (b.from >= WARP || !(mask >> b.from & 1)) {
                    fail("reads a lane outside the mask", b);
                }
                b.got = fibres[w + b.from].mine;
                b.turns = turns;
                b.state = State::ready;
            }
            any = true;
        }
    }
    return any;
}

// Lets those go that are held. Whether any was.
NO_TSAN bool release_held() {
    bool any = false;
    for (unsigned i = 0; i < block.threads; i++)
        if (fibres[i].state == State::held) fibres[i].state = State::ready, any = true;
    return any;
}

// Lets all threads go that have not ended, if they wait at one barrier.
NO_TSAN bool release_block() {
    const Fibre* waiting = nullptr;
    const Fibre* ended = nullptr;
    for (unsigned i = 0; i < block.threads; i++) {
        const Fibre& f = fibres[i];
        if (f.state == State::done) {
            ended = &f;
            continue;
        }
        if (!waiting) waiting = &f;
        const Fibre& a = *waiting;
        if (f.state != a.state) fail("a barrier meets a warp operation", a, &f);
        if (f.state == State::barrier && f.call != a.call)
            fail("threads wait at two barriers", a, &f);
    }
    if (!waiting) return false;
    if (waiting->state == State::warp) fail("lanes wait for lanes that wait elsewhere", *waiting);
    if (ended) fail("a barrier that some threads never reach", *waiting, ended);
    for (unsigned i = 0; i < block.threads; i++) fibres[i].state = State::ready;
    return true;
}

NO_TSAN void run_block(const std::vector<unsigned>& order) {
    for (unsigned i = 0; i < block.threads; i++) begin(fibres[i], i);
    for (;;) {
        for (unsigned i : order)
            if (fibres[i].state == State::ready) enter(fibres[i]);
        if (release_warps() || release_held()) continue;
        if (!release_block()) return;
    }
}

// A stack, and what the sanitizers know of it, outlives a thread: by lot it goes to another.
NO_TSAN void change_stacks(std::mt19937& random) {
    for (unsigned i = block.threads; i > 1; i--) {
        Fibre &a = fibres[i - 1], &b = fibres[random() % i];
        std::swap(a.stack, b.stack);
        std::swap(a.sanitizer, b.sanitizer);
    }
}

std::vector<unsigned> ordered(unsigned n, Order order, std::mt19937& random) {
    std::vector<unsigned> all(n);
    for (unsigned i = 0; i < n; i++) all[i] = order == Order::backwards ? n - 1 - i : i;
    if (order >= Order::shuffled)
        for (unsigned i = n; i > 1; i--) std::swap(all[i - 1], all[random() % i]);
    return all;
}

}  // namespace

NO_TSAN uint3 thread_index() { return self->thread; }
NO_TSAN uint3 block_index() { return block.index; }
NO_TSAN uint3 block_size() { return size_of_block; }
NO_TSAN uint3 grid_size() { return size_of_grid; }
NO_TSAN unsigned lane() { return self->index % WARP; }
NO_TSAN void* block_memory() { return block.memory; }

long long accesses_left;

NO_TSAN void hold() {
    accesses_left = 1 + holds() % UNHELD;
    self->state = State::held;
    wait();
}

NO_TSAN __attribute__((noinline)) void barrier(Site at) {
    Fibre& f = *self;
    f.state = State::barrier;
    f.at = at;
    f.call = call(at, __builtin_return_address(0));
    // Turn by turn: a thread that runs ahead to the next barrier must not seem to be behind it.
    char* order = &block.order[f.barrier_turn ^= 1];
    sanitizer::release(order);
    wait();
    sanitizer::acquire(order);
}

NO_TSAN __attribute__((noinline)) unsigned long long exchange(unsigned mask,
                                                               unsigned long long mine,
                                                               unsigned from, bool orders,
                                                               Site at) {
    Fibre& f = *self;
    f.state = State::warp;
    f.at = at;
    f.call = call(at, __builtin_return_address(0));
    f.mask = mask;
    f.mine = mine;
    f.act = nullptr;
    f.from = from;
    if (!(mask >> lane() & 1)) fail("a lane is not in its own mask", f);
    if (orders) sanitizer::release(&f.order[f.turn ^= 1]);
    wait();
    Fibre* warp = &fibres[f.index / WARP * WARP];
    for (unsigned lane = 0; orders && lane < WARP; lane++)
        if (mask >> lane & 1) sanitizer::acquire(&warp[lane].order[f.turns >> lane & 1]);
    return f.got;
}

NO_TSAN __attribute__((noinline)) void together(void* mine, void (*act)(void* const*),
                                                 Site at) {
    Fibre& f = *self;
    f.state = State::warp;
    f.at = at;
    f.call = call(at, __builtin_return_address(0));
    f.mask = 0xffffffffu;
    f.mine = reinterpret_cast<unsigned long long>(mine);
    f.act = act;
    f.from = lane();
    wait();
}

NO_TSAN void stop(const char* what, Site at) {
    self->at = at;
    fail(what, *self);
}

NO_TSAN const void* on_16_bytes(const void* p, Site at) {
    if (reinterpret_cast<unsigned long long>(p) % 16 == 0) return p;
    stop("an address that is not on 16 bytes", at);
}

NO_TSAN void copy(void* to, Packet packet, Site at) {
    Fibre& f = *self;
    if (f.end_copy - f.first_copy == COPIES)
        stop("more copies on their way than the host keeps", at);
    f.copies[f.end_copy++ % COPIES] = {to, packet, f.group};
    sanitizer::close(to, sizeof packet);
}

NO_TSAN void commit() { self->group++; }

NO_TSAN void* landed(int groups, Packet* packet) {
    Fibre& f = *self;
    const Copy& oldest = f.copies[f.first_copy % COPIES];
    if (f.first_copy == f.end_copy || oldest.group >= f.group - groups) return nullptr;
    f.first_copy++;
    *packet = oldest.packet;
    sanitizer::open(oldest.to, sizeof *packet);
    return oldest.to;
}

NO_TSAN Kernel::Kernel(const char* name, Call call, unsigned shared_bytes, unsigned arguments,
                       unsigned max_threads)
    : name(name), call(call), shared_bytes(shared_bytes), arguments(arguments),
      max_threads(max_threads), next(const_cast<Kernel*>(first)) {
    first = this;
}

NO_TSAN const Kernel* find(const char* name) {
    const Kernel* k = first;
    while (k && strcmp(k->name, name)) k = k->next;
    return k;
}

NO_TSAN void launch(const Kernel& kernel, uint3 grid, uint3 threads, const unsigned long long* args,
                    Order order) {
    running = &kernel;
    slots = args;
    size_of_grid = grid;
    size_of_block = threads;
    block.threads = threads.x * threads.y * threads.z;
    sanitizer::make_scheduler(scheduler_sanitizer);
    while (fibres.size() < block.threads) {
        const int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
        Fibre f = {};
        f.stack = mmap(nullptr, STACK, protection, flags, -1, 0);
        f.copies = new Copy[COPIES];
        fibres.push_back(f);
    }
    holds.seed(1);
    accesses_left = order == Order::interrupted ? UNHELD : std::numeric_limits<long long>::max();
    std::mt19937 random(1);
    std::vector<void*> used;  // until nobody can be reading it
    const unsigned blocks = grid.x * grid.y * grid.z;
    for (unsigned b : ordered(blocks, order, random)) {
        block.index = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        // As large as it is said to be and no larger, so that a sanitizer sees a step outside.
        block.memory = kernel.shared_bytes ? malloc(kernel.shared_bytes) : nullptr;
        if (block.memory) memset(block.memory, 0xff, kernel.shared_bytes);
        sanitizer::release(&block);
        change_stacks(random);
        run_block(ordered(block.threads, order, random));
        used.push_back(block.memory);
    }
    sanitizer::acquire(&fibres);
    for (void* memory : used) free(memory);
}

}  // namespace simt
