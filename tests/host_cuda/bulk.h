// kernels/bulk.cuh for g++: copies in bulk and barriers in memory, as the PTX ISA has them.
//
// What is copied is garbage until somebody asks the barrier that counts it. Not seen: a missing fence_for_async, and
// memory that barriers order (the race build takes copies in bulk, and barriers, for nobody's accesses).
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

void bring_products(unsigned long long* barrier);  // of tcgen05.h

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
    cuda_host::bring_products(barrier);
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

namespace cuda_host {

// Where number `along` the sum of row or column `across` is, by the descriptor's bits; all that are neither the address
// nor strides are `others`.
inline const unsigned short* place_in_matrix(unsigned long long descriptor, unsigned across, unsigned along,
                                             unsigned long long others) {
    unsigned start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
    unsigned stride = (descriptor >> 32 & 0x3fff) << 4;
    if ((descriptor & 0xffffc000c000c000ull) != others) refuse("a descriptor of another layout than without swizzling");
    unsigned at = start + along / 8 * leading + across / 8 * stride + across % 8 * 16 + along % 8 * 2;
    return (const unsigned short*)(cuda_host_dynamic_shared + (int)(at - 1024));
}

}  // namespace cuda_host
