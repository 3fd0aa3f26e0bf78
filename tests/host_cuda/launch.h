// A launch: memory, and the blocks one after the other.
#pragma once

#include "fibers.h"

#include <numeric>

#ifdef RACE
#include "race.h"
#else
void after_barrier() {}
void after_warp(unsigned, unsigned) {}
void cuda_host_atomic(const void*, unsigned long, const void*) {}
void watch(const char*, char*, size_t, size_t, bool) {}
void forget(char*) {}
void start_launch(u64) {}
void start_block() {}
#endif

// Exactly as long as asked, so that the sanitizer sees every access beyond it; aligned as cudaMalloc aligns.
char* allocate(const char* name, size_t size, size_t item, bool shared) {
    void* memory = nullptr;
    if (size && posix_memalign(&memory, 256, size)) fail("no memory for %zu bytes", size);
    if (size) memset(memory, GARBAGE, size);
    watch(name, (char*)memory, size, item, shared);
    return (char*)memory;
}

void release(char* memory) {
    forget(memory);
    free(memory);
}

// Not memset: between the arrays lie the sanitizer's red zones, which memset may not touch.
void fill_with_garbage(char* from, char* to) {
    u64 word;
    memset(&word, GARBAGE, sizeof word);
    volatile char* p = from;
    for (; p < to && (size_t)p % sizeof word; p++) *p = GARBAGE;
    for (; p + sizeof word <= to; p += sizeof word) *(volatile u64*)p = word;
    for (; p < to; p++) *p = GARBAGE;
}

struct Launch {
    u64 grid[3], block[3], shared, seed, arguments[];
};

void launch(const cuda_host::Module& module, const Launch& how) {
    arguments = how.arguments;
    gridDim = {(unsigned)how.grid[0], (unsigned)how.grid[1], (unsigned)how.grid[2]};
    blockDim = {(unsigned)how.block[0], (unsigned)how.block[1], (unsigned)how.block[2]};
    random_state = how.seed;
    choice = how.seed % 8 < 6 ? WARP : MAX_THREADS;  // seeds are odd
    u64 blocks = how.grid[0] * how.grid[1] * how.grid[2], first = 0, stride = 1;
    if (how.seed) {
        // Blocks in steps of a stride prime to their number: each comes once, and no list of them is needed.
        first = draw() % blocks;
        do stride = 1 + draw() % blocks;
        while (std::gcd(stride, blocks) != 1);
    }
    start_launch(blocks);
    cuda_host_dynamic_shared = (unsigned char*)allocate("dynamic shared memory", how.shared, 1, true);
    watch("static shared memory", module.shared, module.shared_end - module.shared, 1, true);
    for (u64 b = 0; b < blocks; b++) {
        block_number = (first + b * stride) % blocks;
        blockIdx = {(unsigned)(block_number % gridDim.x), (unsigned)(block_number / gridDim.x % gridDim.y),
                    (unsigned)(block_number / gridDim.x / gridDim.y)};
        memset(cuda_host_dynamic_shared, GARBAGE, how.shared);
        fill_with_garbage(module.shared, module.shared_end);
        start_block();
        run_block();
    }
    forget(module.shared);
    release((char*)cuda_host_dynamic_shared);
}
