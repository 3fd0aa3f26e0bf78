// kernels/wgmma.cuh for g++: products of warpgroups, copies in bulk and barriers in memory, as the PTX ISA has them.
//
// Stricter than a device where that shows a kernel's errors: sums are NaN until they are waited for, operands must not
// change before that, what is copied is garbage until somebody asks the barrier that counts it. What the layouts are is
// decoded from the descriptor's bits. Not seen: a missing fence_for_async, and memory that barriers order
// (the race build takes copies in bulk, and barriers, for nobody's accesses).
#pragma once

#include <stdio.h>

namespace cuda_host {

[[noreturn]] inline void refuse(const char* why) {
    fprintf(stderr, "%s\n", why);
    fflush(stderr);
    abort();
}

inline unsigned thread_of_block() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

// Eight bytes of shared memory, as nobody but these functions knows.
struct BarrierState {
    unsigned arrivals : 10, pending : 10, parity : 1, made : 11;  // made: MADE, or nobody has made it
    int bytes;                                                   // announced, less those that have come
};
constexpr unsigned MADE = 0x35b;

// Bytes on their way to each barrier, by its address.
struct BulkCopy {
    char* target;
    const char* source;
    unsigned bytes;
    void* barrier;
};
inline BulkCopy bulk_copies[64] = {};
inline int bulk_count = {};

#define CUDA_HOST_UNSEEN __attribute__((noinline, no_sanitize("thread")))

CUDA_HOST_UNSEEN inline BarrierState& state_of(unsigned long long* barrier) {
    auto* state = (BarrierState*)barrier;
    if ((size_t)barrier % 8) refuse("a barrier is aligned to 8 bytes");
    if (state->made != MADE) refuse("a barrier that nobody has made");
    return *state;
}

CUDA_HOST_UNSEEN inline void turn_if_complete(BarrierState& state) {
    if (state.pending || state.bytes) return;
    state.parity ^= 1;
    state.pending = state.arrivals;
}

// Copies that this barrier counts come in now.
CUDA_HOST_UNSEEN inline void bring_copies(unsigned long long* barrier) {
    BarrierState& state = state_of(barrier);
    for (int i = bulk_count; i--;) {
        BulkCopy copy = bulk_copies[i];
        if (copy.barrier != barrier) continue;
        bulk_copies[i] = bulk_copies[--bulk_count];
        for (unsigned b = 0; b < copy.bytes; b++) copy.target[b] = copy.source[b];
        state.bytes -= copy.bytes;
        turn_if_complete(state);
    }
}

}  // namespace cuda_host

// Its address as instructions have it: dynamic shared memory begins at 1 kB, and no block has 256.
inline unsigned shared_address(const void* shared) {
    return 1024 + (unsigned)((const unsigned char*)shared - cuda_host_dynamic_shared);
}

CUDA_HOST_UNSEEN inline void make_barrier(unsigned long long* barrier, unsigned arrivals) {
    if (!arrivals || arrivals > 1023) cuda_host::refuse("a barrier of as many arrivals");
    cuda_host::BarrierState state = {};
    state.arrivals = state.pending = arrivals;
    state.made = cuda_host::MADE;
    *(cuda_host::BarrierState*)barrier = state;
}

CUDA_HOST_UNSEEN inline void arrive(unsigned long long* barrier) {
    cuda_host::BarrierState& state = cuda_host::state_of(barrier);
    if (!state.pending) cuda_host::refuse("more arrivals than a barrier was made for");
    state.pending--;
    cuda_host::turn_if_complete(state);
}

CUDA_HOST_UNSEEN inline void arrive_with_bytes(unsigned long long* barrier, unsigned bytes) {
    cuda_host::state_of(barrier).bytes += bytes;
    arrive(barrier);
}

CUDA_HOST_UNSEEN inline bool phase_passed(unsigned long long* barrier, unsigned parity) {
    cuda_host::bring_copies(barrier);
    return cuda_host::state_of(barrier).parity != parity;
}

// Others run before the answer is no.
inline bool passed(unsigned long long* barrier, unsigned parity, CUDA_HOST_PLACE) {
    if (phase_passed(barrier, parity)) return true;
    cuda_host_yield({"passed", file, line});
    return phase_passed(barrier, parity);
}

CUDA_HOST_UNSEEN inline void copy_in_bulk(void* shared, const void* global, unsigned bytes, unsigned long long* barrier) {
    using namespace cuda_host;
    if ((size_t)shared % 16 || (size_t)global % 16 || bytes % 16) refuse("copies in bulk are by 16 bytes");
    if (bulk_count == 64) refuse("64 copies in bulk that nobody asks for");
    bulk_copies[bulk_count++] = {(char*)shared, (const char*)global, bytes, barrier};
    for (unsigned b = 0; b < bytes; b++) ((char*)shared)[b] = (char)0xa5;
}

inline void fence_for_async() {}

// ---------------------------------------------------------------- products

namespace cuda_host {

// A product under way: its operands as they were, of the thread's two rows and 32 columns.
struct Product {
    unsigned long long a, b;
    unsigned group;
    unsigned short rows[2][16], columns[32][16];
};

// Of a thread: products in their order, the sums that they are added to, and what these are meanwhile.
struct Products {
    float* target;
    float held[64];
    Product* some;  // MOST of them
    int count;
    unsigned groups;  // committed so far
    bool fenced;
};
constexpr int MOST = 32;
inline Products* products[1024] = {};

inline Products& own_products() {
    Products*& own = products[thread_of_block()];
    if (!own) {
        own = (Products*)calloc(1, sizeof(Products));
        own->some = (Product*)calloc(MOST, sizeof(Product));
    }
    return *own;
}

// Number `along` the sum of row or column `across`, by the descriptor's bits.
inline unsigned short of_matrix(unsigned long long descriptor, unsigned across, unsigned along) {
    unsigned start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
    unsigned stride = (descriptor >> 32 & 0x3fff) << 4;
    if (descriptor & 0xfffec000c000c000ull) refuse("a descriptor of another layout than without swizzling");
    unsigned at = start + along / 8 * leading + across / 8 * stride + across % 8 * 16 + along % 8 * 2;
    return *(unsigned short*)(cuda_host_dynamic_shared + (int)(at - 1024));
}

inline void read_operands(Product& product) {
    unsigned warp = thread_of_block() / 32 % 4, g = lane() / 4, t = lane() % 4;
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned h = 0; h < 2; h++) product.rows[h][i] = of_matrix(product.a, 16 * warp + g + 8 * h, i);
        for (unsigned c = 0; c < 32; c++) product.columns[c][i] = of_matrix(product.b, c / 2 * 8 + 2 * t + c % 2, i);
    }
}

// Does all but the last so many groups.
inline void finish_products(unsigned but) {
    Products& own = own_products();
    int done = 0;
    for (; done < own.count && own.some[done].group + but < own.groups; done++) {
        Product &product = own.some[done], again = product;
        read_operands(again);
        if (__builtin_memcmp(product.rows, again.rows, sizeof again.rows) ||
            __builtin_memcmp(product.columns, again.columns, sizeof again.columns)) {
            refuse("operands of a product have changed before it was waited for");
        }
        for (unsigned c = 0; c < 32; c++) {
            for (unsigned h = 0; h < 2; h++) {
                double each[16];
                for (int i = 0; i < 16; i++) each[i] = factor(product.rows[h][i]) * factor(product.columns[c][i]);
                float& sum = own.held[c / 2 * 4 + 2 * h + c % 2];
                sum = add_products(sum, each);
            }
        }
    }
    own.count -= done;
    for (int i = 0; i < own.count; i++) own.some[i] = own.some[i + done];
    if (done && !own.count) __builtin_memcpy(own.target, own.held, sizeof own.held);
}

}  // namespace cuda_host

inline void fence_products(CUDA_HOST_PLACE) {
    cuda_host_exchange({"fence_products", file, line}, ~0u, 0);
    cuda_host::own_products().fenced = true;
}

inline void multiply_async(float (&sum)[64], unsigned long long a, unsigned long long b, CUDA_HOST_PLACE) {
    using namespace cuda_host;
    Products& own = own_products();
    for (unsigned long long descriptor : {a, b}) {
        auto* given = cuda_host_exchange({"multiply_async", file, line}, ~0u, descriptor);
        for (int i = 0; i < 32; i++) {
            if (given[i] != descriptor) refuse("lanes have different descriptors");
        }
    }
    if (!own.fenced) refuse("a product without fence_products before it");
    if (own.count == MOST) refuse("32 products that nobody waits for");
    if (own.count && own.target != sum) refuse("products of two sums at a time");
    if (!own.count) {
        __builtin_memcpy(own.held, sum, sizeof own.held);
        own.target = sum;
        for (float& value : sum) value = NAN;
    }
    Product& product = own.some[own.count++];
    product.a = a;
    product.b = b;
    product.group = own.groups;
    read_operands(product);
}

inline void commit_products(CUDA_HOST_PLACE) {
    cuda_host_exchange({"commit_products", file, line}, ~0u, 0);
    cuda_host::own_products().groups++;
}

inline void wait_for_earlier_products(CUDA_HOST_PLACE) {
    cuda_host_exchange({"wait_for_earlier_products", file, line}, ~0u, 0);
    cuda_host::finish_products(1);
}

inline void wait_for_products(float (&sum)[64], CUDA_HOST_PLACE) {
    cuda_host_exchange({"wait_for_products", file, line}, ~0u, 0);
    cuda_host::finish_products(0);
    cuda_host::own_products().fenced = false;
}
