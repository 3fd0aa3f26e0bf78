// The threads of a block, as fibers of one OS thread: each has a stack and runs until it waits or ends. A thread that
// ends leaves its stack to the next one that begins, so that threads which never wait are calls in a loop.
//
// Which of the threads that could run comes next is drawn from the launch's seed; seed 0 takes them as they come.
// Three launches of four draw among those that have been ready for longest, about a warp, and one of four among all:
// then every switch is to a stack that the cache has lost, which takes three times as long.
// A block in which nobody can run and somebody still waits is a kernel's error: it would hang, or worse, on a device.
#pragma once

#define CUDA_HOST_WORKER
#include "abi.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

using u64 = unsigned long long;

constexpr unsigned MAX_THREADS = 1024, WARP = 32;
constexpr size_t STACK = 256 << 10, GUARD = 4096;
constexpr unsigned char GARBAGE = 0xa5;  // what memory holds that nobody has written

enum class State { Ready, Barrier, Warp, Done };

struct alignas(128) Fiber {
    uint3 index;
    unsigned thread;
    State state;
    char* stack;  // lowest byte; null before the first run
    void* resume_at;
    Place place;
    int vote, votes;
    unsigned mask;
    u64 given;
    const u64* answer;  // to its last exchange
};

// ---------------------------------------------------------------- the launch in progress

uint3 threadIdx, blockIdx, blockDim, gridDim;
unsigned char* cuda_host_dynamic_shared;

const cuda_host::Kernel* kernel;
const u64* arguments;
u64 block_number, random_state;  // random_state 0: natural order
unsigned choice;                 // how many of those who wait longest may come next

Fiber fibers[MAX_THREADS], *current;
unsigned threads, done, at_barrier;

// Threads that only ask for something run for ever: so often in a row means that nobody will do it.
constexpr unsigned MOST_QUESTIONS = 1 << 27;
unsigned questions;

// What full warps exchange: before it is written again, all have come back for more. Of other masks each thread has its
// own copy.
u64 exchanged[MAX_THREADS / WARP][WARP], exchanged_in_part[MAX_THREADS][WARP];
unsigned in_exchange[MAX_THREADS / WARP];  // a bit for each lane that waits in one

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    fflush(stderr);
    _Exit(1);
}

u64 draw() {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (random_state * 0x2545f4914f6cdd1dull) >> 32;
}

// What the race build learns: who has seen whose accesses.
void after_barrier();
void after_warp(unsigned warp, unsigned lanes);

// ---------------------------------------------------------------- switching stacks

#ifdef __x86_64__
// swapcontext would save the signal mask too, by a system call that takes longer than most kernels' barriers.
extern "C" void cuda_host_switch(void** leave, void* enter);
asm(R"(
.text
.globl cuda_host_switch
cuda_host_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");

void* scheduler;  // where the scheduler continues

void* fresh(Fiber* fiber, void (*entry)()) {
    void** top = (void**)(fiber->stack + STACK) - 8;  // six registers and where to return to: aligned as after a call
    memset(top, 0, 8 * sizeof(void*));
    top[6] = (void*)entry;
    return top;
}
#else
#include <ucontext.h>

ucontext_t contexts[MAX_THREADS + 1];  // by thread; the last is the scheduler's

void* scheduler;  // where the scheduler continues

void cuda_host_switch(void** leave, void* enter) {
    size_t thread = ((char*)leave - (char*)&fibers[0].resume_at) / sizeof(Fiber);
    ucontext_t* from = &contexts[leave == &scheduler ? MAX_THREADS : thread];
    *leave = from;
    swapcontext(from, (ucontext_t*)enter);
}

void* fresh(Fiber* fiber, void (*entry)()) {
    ucontext_t* context = &contexts[fiber->thread];
    getcontext(context);
    context->uc_stack.ss_sp = fiber->stack;
    context->uc_stack.ss_size = STACK;
    makecontext(context, entry, 0);
    return context;
}
#endif

// The address sanitizer is not told of these switches: it works without, and telling it doubles their cost.
char* stacks;  // of all fibers
std::vector<char*> free_stacks;

char* take_stack() {
    if (!stacks) {
        size_t size = MAX_THREADS * (STACK + GUARD);
        stacks = (char*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) fail("no memory for the stacks of threads");
        for (unsigned i = MAX_THREADS; i--;) {
            char* guard = stacks + i * (STACK + GUARD);
            mprotect(guard, GUARD, PROT_NONE);
            // Not all at the same distance: the tops of all stacks would share one set of the caches.
            free_stacks.push_back(guard + GUARD - i % 32 * 128);
        }
    }
    char* stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
}

bool on_stack(const void* address) { return (size_t)((char*)address - stacks) < MAX_THREADS * (STACK + GUARD); }

// ---------------------------------------------------------------- a block

Fiber* queue[MAX_THREADS];  // a ring of those that could run
unsigned queue_head, queued;

void make_ready(Fiber* fiber) {
    fiber->state = State::Ready;
    queue[(queue_head + queued++) % MAX_THREADS] = fiber;
}

Fiber* next_ready() {
    Fiber*& head = queue[queue_head % MAX_THREADS];
    // Of 32 bits the share that lies below the limit: a division takes as long as the rest of a switch.
    if (random_state) std::swap(head, queue[(queue_head + (draw() * std::min(queued, choice) >> 32)) % MAX_THREADS]);
    queue_head++;
    queued--;
    return head;
}

void become(Fiber* fiber) {
    current = fiber;
    threadIdx = fiber->index;
}

void fiber_main() {
    for (;;) {
        kernel->call(arguments);
        Fiber* self = current;
        self->state = State::Done;
        done++;
        Fiber* next = queued ? next_ready() : nullptr;
        if (next && !next->stack) {
            next->stack = self->stack;
            become(next);
            continue;
        }
        free_stacks.push_back(self->stack);
        become(next ? next : self);
        cuda_host_switch(&self->resume_at, next ? next->resume_at : scheduler);
    }
}

void start(Fiber* fiber) {
    fiber->stack = take_stack();
    fiber->resume_at = fresh(fiber, fiber_main);
}

// Lets others run until it is this thread's turn again. With nobody to run, the scheduler tells why.
void wait_turn() {
    Fiber *self = current, *next = queued ? next_ready() : nullptr;
    if (next == self) return;
    if (next) {
        if (!next->stack) start(next);
        become(next);
    }
    cuda_host_switch(&self->resume_at, next ? next->resume_at : scheduler);
}

const char* base_name(const char* path) { return strrchr(path, '/') ? strrchr(path, '/') + 1 : path; }

void print_wait(const Fiber& f) {
    fprintf(stderr, "  thread (%u, %u, %u) ", f.index.x, f.index.y, f.index.z);
    if (f.state == State::Done) {
        fprintf(stderr, "has returned\n");
    } else {
        fprintf(stderr, "waits at %s, %s:%d", f.place.what, base_name(f.place.file), f.place.line);
        fprintf(stderr, f.state == State::Warp ? ", for the lanes %08x\n" : "\n", f.mask);
    }
}

inline bool same(const char* a, const char* b) { return a == b || !strcmp(a, b); }
inline bool same(const Place& a, const Place& b) { return a.line == b.line && same(a.what, b.what) && same(a.file, b.file); }

// One thread for each way in which threads wait, or have returned.
[[noreturn]] void fail_divergent() {
    fprintf(stderr, "divergent barrier: in block (%u, %u, %u)\n", blockIdx.x, blockIdx.y, blockIdx.z);
    std::vector<Fiber*> told;
    for (Fiber* f = fibers; f < fibers + threads; f++) {
        bool known = f->state == State::Ready;
        for (Fiber* t : told) known |= t->state == f->state && (f->state == State::Done || same(t->place, f->place));
        if (known) continue;
        told.push_back(f);
        print_wait(*f);
    }
    fail("a barrier has to be reached by all threads of the block, a warp's operation by all lanes of its mask");
}

void run_block() {
    threads = blockDim.x * blockDim.y * blockDim.z;
    done = at_barrier = questions = 0;
    for (unsigned t = 0; t < threads; t++) {
        Fiber& f = fibers[t];
        f.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
        f.thread = t;
        f.stack = nullptr;
        make_ready(&f);
    }
    memset(in_exchange, 0, sizeof in_exchange);
    Fiber* first = next_ready();
    start(first);
    become(first);
    cuda_host_switch(&scheduler, first->resume_at);
    current = nullptr;
    if (done < threads) fail_divergent();
}

int cuda_host_barrier(const Place& place, int vote) {
    Fiber* self = current;
    questions = 0;
    self->place = place;
    self->vote = vote != 0;
    self->state = State::Barrier;
    if (++at_barrier == threads) {
        int votes = 0;
        for (unsigned t = 0; t < threads; t++) {
            if (!same(fibers[t].place, place)) fail_divergent();
            votes += fibers[t].vote;
        }
        after_barrier();
        at_barrier = 0;
        // Warps in turn from any of them, since the choice of the next is often among a few.
        unsigned first = random_state ? draw() % threads & -WARP : 0;
        for (unsigned i = 0; i < threads; i++) {
            Fiber& f = fibers[first + i < threads ? first + i : first + i - threads];
            f.votes = votes;
            make_ready(&f);
        }
    }
    wait_turn();
    return self->votes;
}

void cuda_host_yield(const Place& place) {
    if (++questions > MOST_QUESTIONS) {
        current->place = place;
        fail("a thread asks for ever at %s, %s:%d", place.what, base_name(place.file), place.line);
    }
    make_ready(current);
    wait_turn();
}

const unsigned long long* cuda_host_exchange(const Place& place, unsigned mask, unsigned long long value) {
    Fiber *self = current, *warp = self - self->thread % WARP;
    unsigned left = threads - warp->thread, lanes = left < WARP ? mask & ((1u << left) - 1) : mask;
    questions = 0;
    self->place = place;
    self->mask = mask;
    self->given = value;
    self->state = State::Warp;
    if (!(lanes >> self->thread % WARP & 1)) {
        fail("%s, %s:%d: the mask %08x leaves out the thread itself", place.what, base_name(place.file), place.line, mask);
    }
    unsigned& waiting = in_exchange[self->thread / WARP];
    waiting |= 1u << self->thread % WARP;
    bool complete = (waiting & lanes) == lanes;
    for (unsigned i = 0; complete && i < WARP; i++) complete = !(lanes >> i & 1) || warp[i].mask == mask;
    if (!complete) {
        wait_turn();
        return self->answer;
    }
    u64 some[WARP];
    bool all = lanes == ~0u;
    u64* values = all ? exchanged[self->thread / WARP] : some;
    if (!all) memset(some, GARBAGE, sizeof some);
    for (unsigned i = 0; i < WARP; i++) {
        if (!(lanes >> i & 1)) continue;
        if (!same(warp[i].place, place)) fail_divergent();
        values[i] = warp[i].given;
    }
    waiting &= ~lanes;
    if (same(place.what, "__syncwarp")) after_warp(warp->thread, lanes);  // the others order no memory
    for (unsigned i = 0; i < WARP; i++) {
        if (!(lanes >> i & 1)) continue;
        u64* own = exchanged_in_part[warp->thread + i];
        if (!all) memcpy(own, some, sizeof some);
        warp[i].answer = all ? values : own;
        make_ready(&warp[i]);
    }
    wait_turn();
    return self->answer;
}
