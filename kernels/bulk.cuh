// What PTX has from compute capability 9.0 on, of shared memory: copies to it in bulk; barriers in it, which count both
// threads and bytes; and descriptors of matrices there, as wgmma and tcgen05 read them (wgmma.cuh, tcgen05.cuh). Where no
// CUDA compiler reads this, whoever runs the kernels defines these (tests/host_cuda/bulk.h).
//
// A matrix of float16 is read by a descriptor, in the layout without swizzling, of a matrix whose rows lie along the
// sum ("K-major"): in pieces of 8 rows and 8 numbers, 128 bytes one after another, a row 16 bytes. Of its 64 bits, from 0
// on, 14 are the address, from 16 on 14 how far pieces are apart along the sum, from 32 on 14 how far across, all by 16
// bytes.
#pragma once

typedef unsigned long long Barrier;  // 8 bytes of shared memory

#ifdef __CUDACC__

__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return (unsigned)__cvta_generic_to_shared(shared);
}

// A barrier is passed by a phase once so many arrivals have come, and all bytes that were announced.
__device__ __forceinline__ void make_barrier(Barrier* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and announces bytes of the copies that follow.
__device__ __forceinline__ void arrive_with_bytes(Barrier* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Whether the phase of this parity (0 of the first) has been passed; waits a while for it.
__device__ __forceinline__ bool passed(Barrier* barrier, unsigned parity) {
    unsigned done;
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
    return done != 0;
}

// Copies bytes, a multiple of 16, between addresses that are such; the barrier counts them as they come.
__device__ __forceinline__ void copy_in_bulk(void* shared, const void* global, unsigned bytes, Barrier* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// What the thread has written to shared memory before is there for copies in bulk and products after.
__device__ __forceinline__ void fence_for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#endif

// along, across: in bytes, see above.
__device__ __forceinline__ unsigned long long matrix_descriptor(const void* shared, unsigned along, unsigned across) {
    return (shared_address(shared) & 0x3ffff) >> 4 | (unsigned long long)(along >> 4) << 16 |
           (unsigned long long)(across >> 4) << 32;
}

// The same, so many bytes further: in its lower word, which a matrix's end does not leave.
__device__ __forceinline__ unsigned long long further(unsigned long long descriptor, unsigned bytes) {
    return (descriptor >> 32 << 32) | ((unsigned)descriptor + (bytes >> 4));
}
