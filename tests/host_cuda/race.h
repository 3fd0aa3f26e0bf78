// Finds races: accesses to the same bytes by different threads that nothing orders, unless both read or both are
// atomic. What orders two accesses is a barrier of the block, or a __syncwarp of both threads, between them; nothing
// orders those of different blocks.
//
// Kernels are compiled with -fsanitize=thread for its calls before every access; the functions called are these, and
// not that sanitizer's library. They also let another thread run now and then, so that threads do interleave.
#pragma once

#include "fibers.h"

#include <dlfcn.h>

#include <map>

struct Access {
    unsigned block;   // counted over all launches, from 1; 0: none
    unsigned thread;
    unsigned clock;   // how many times threads of the block had waited for each other
    unsigned caller;  // where in the module
};

// A write not ordered after the one before is reported, so the last is enough. Reads, and atomics, go on side by side:
// of them the last is kept, and one of another thread, if possible of another block.
struct Cell {
    Access write, read[2], atomic[2];
};

enum Kind { READ, WRITE, ATOMIC };

// An array, with a cell for each of its numbers, or of their 4-byte parts: kernels do not take those apart.
struct Region {
    const char* name;
    char* start;
    size_t size;
    bool shared;  // each block has its own
    int shift;    // a cell holds 2**shift bytes
    Cell* cells;
};

std::map<char*, Region> regions;  // by start
Region* recent[4];                // found last
unsigned recent_next;

Dl_info module;  // the kernel's
u64 yields;      // a random state of its own: natural order is interleaved too

unsigned launch_start, launch_end;  // blocks of this launch lie between
unsigned block_clock, barrier_clock;
unsigned seen[MAX_THREADS][WARP];  // [t][lane]: t has seen what that lane of its warp did before this clock

void watch(const char* name, char* start, size_t size, size_t item, bool shared) {
    if (!size) return;
    int shift = item >= 4 ? 2 : item / 2;
    auto* cells = (Cell*)calloc((size >> shift) + 1, sizeof(Cell));  // touched, and so paid for, where kernels go
    if (!cells) fail("no memory to watch %zu bytes", size);
    regions[start] = {name, start, size, shared, shift, cells};
}

void forget(char* start) {
    auto found = regions.find(start);
    if (found == regions.end()) return;
    free(found->second.cells);
    regions.erase(found);
    memset(recent, 0, sizeof recent);
}

Region* region_of(char* address) {
    for (Region* r : recent) {
        if (r && (size_t)(address - r->start) < r->size) return r;
    }
    auto after = regions.upper_bound(address);
    if (after == regions.begin()) return nullptr;
    Region* r = &std::prev(after)->second;
    if ((size_t)(address - r->start) >= r->size) return nullptr;
    return recent[recent_next++ % 4] = r;
}

void start_launch(u64 blocks) {
    yields = random_state;
    dladdr((void*)kernel->call, &module);
    launch_start = launch_end;
    launch_end += blocks;
}

void start_block() {
    block_clock = barrier_clock = 0;
    memset(seen, 0, sizeof seen[0] * blockDim.x * blockDim.y * blockDim.z);
}

void after_barrier() { barrier_clock = ++block_clock; }

// Each of the lanes has seen what any of them had seen, and what they did themselves.
void after_warp(unsigned warp, unsigned lanes) {
    unsigned known[WARP] = {};
    block_clock++;
    for (unsigned t = 0; t < WARP; t++) {
        if (!(lanes >> t & 1)) continue;
        for (unsigned i = 0; i < WARP; i++) known[i] = std::max(known[i], seen[warp + t][i]);
    }
    for (unsigned t = 0; t < WARP; t++) {
        if (lanes >> t & 1) known[t] = block_clock;
    }
    for (unsigned t = 0; t < WARP; t++) {
        if (lanes >> t & 1) memcpy(seen[warp + t], known, sizeof known);
    }
}

bool unordered(const Region* r, const Access& before, const Access& now) {
    if (before.block <= launch_start) return false;  // none, or of an earlier launch
    if (before.block != now.block) return !r->shared;
    if (before.thread == now.thread || before.clock < barrier_clock) return false;
    return before.thread / WARP != now.thread / WARP || before.clock >= seen[now.thread][before.thread % WARP];
}

// "thread (1, 0, 0) of block (0, 0, 0)", where worker.py turns the address into a line of the kernel
void print_access(const char* what, const Access& access) {
    unsigned t = access.thread, b = access.block - launch_start - 1;
    fprintf(stderr, "  thread (%u, %u, %u) of block (%u, %u, %u) %s [%s+%#x]\n", t % blockDim.x,
            t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y, b % gridDim.x, b / gridDim.x % gridDim.y,
            b / gridDim.x / gridDim.y, what, module.dli_fname, access.caller);
}

[[noreturn]] void fail_race(Region* r, char* address, const Access& before, Kind kind_before, const Access& now,
                            Kind kind) {
    const char* verbs[] = {"reads", "writes", "updates atomically"};
    fprintf(stderr, "race on byte %zu of the %zu of ", address - r->start, r->size);
    for (unsigned i = 0; i < kernel->count; i++) {
        if (kernel->parameters[i].array && region_of((char*)arguments[i]) == r) fprintf(stderr, "argument %u, ", i);
    }
    fprintf(stderr, "%s\n", r->name);
    print_access(verbs[kind_before], before);
    print_access(verbs[kind], now);
    fail("no barrier of both lies between");
}

// Keeps the last, and of the others the one that says most.
void remember(Access (&kept)[2], const Access& now) {
    bool other = kept[0].block > launch_start && (kept[0].block != now.block || kept[0].thread != now.thread);
    bool other_block = kept[1].block > launch_start && kept[1].block != now.block;
    if (other && !other_block) kept[1] = kept[0];
    kept[0] = now;
}

void touch(void* where, size_t size, Kind kind, const void* caller) {
    if (!current || on_stack(where)) return;
    char* address = (char*)where;
    Region* r = region_of(address);
    if (!r) return;
    unsigned caller_offset = (char*)caller - (char*)module.dli_fbase;
    Access now = {launch_start + 1 + (unsigned)block_number, current->thread, block_clock, caller_offset};
    size_t first = address - r->start, last = std::min(first + size, r->size) - 1;
    for (size_t i = first >> r->shift; i <= last >> r->shift; i++) {
        Cell& cell = r->cells[i];
        auto check = [&](const Access& before, Kind kind_before) {
            if (unordered(r, before, now)) fail_race(r, r->start + (i << r->shift), before, kind_before, now, kind);
        };
        check(cell.write, WRITE);
        for (int other = 0; other < 2; other++) {
            if (kind != READ) check(cell.read[other], READ);
            if (kind != ATOMIC) check(cell.atomic[other], ATOMIC);
        }
        if (kind == WRITE) cell.write = now;
        if (kind == READ) remember(cell.read, now);
        if (kind == ATOMIC) remember(cell.atomic, now);
    }
    // One of 16 plain accesses lets other threads run first.
    yields = yields * 6364136223846793005ull + 1442695040888963407ull;
    if (kind != ATOMIC && queued && yields >> 60 == 0) {
        make_ready(current);
        wait_turn();
    }
}

#define HERE __builtin_return_address(0)

extern "C" {
void cuda_host_atomic(const void* address, unsigned long size, const void* caller) {
    touch((void*)address, size, ATOMIC, caller);
}

#define HOOKS(size)                                                                            \
    void __tsan_read##size(void* p) { touch(p, size, READ, HERE); }                            \
    void __tsan_write##size(void* p) { touch(p, size, WRITE, HERE); }                          \
    void __tsan_unaligned_read##size(void* p) { touch(p, size, READ, HERE); }                  \
    void __tsan_unaligned_write##size(void* p) { touch(p, size, WRITE, HERE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t size) { touch(p, size, READ, HERE); }
void __tsan_write_range(void* p, size_t size) { touch(p, size, WRITE, HERE); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
