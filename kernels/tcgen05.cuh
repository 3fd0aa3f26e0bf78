// What PTX has of compute capability 10.0 and 10.3 (sm_100a, sm_103a): products of large matrices that one thread asks
// for, of operands in shared memory, as bulk.cuh describes them, whose sums are in a memory of their own. Where no CUDA
// compiler reads this, whoever runs the kernels defines these (tests/host_cuda/tcgen05.h).
//
// Tensor memory has 128 lanes of 512 columns of 32 bits; an address has the lane from bit 16 on, and the column below.
// Row i of a product of 128 rows goes to lane i, and a warp w reads lanes 32 (w % 4) to 32 (w % 4) + 31. Products of one
// thread are done one after the other, some time. What orders them and reads with other threads' is a pair of fences,
// before one tells the other by a barrier, and after.
#pragma once

#include "bulk.cuh"

#define COLUMNS 512                  // of tensor memory
#define VERSION (1ull << 46)         // of descriptors of matrices
#define ONE_LANE 65536u              // between addresses

// Of a product: sums of float32 (bit 4 on), of float16 (7 and 10 on: 0), rows along the sum (15, 16: 0), 128 columns by
// eights (17 on), 128 rows by sixteens (24 on).
#define PRODUCT_128_128 (1u << 4 | 128u / 8 << 17 | 128u / 16 << 24)

#ifdef __CUDACC__

// By a warp: all of the tensor memory, once no other block of the multiprocessor has any; its address goes to shared
// memory. The block asks for no more.
__device__ __forceinline__ void take_tensor_memory(unsigned* shared) {
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(shared_address(shared)),
                 "n"(COLUMNS)
                 : "memory");
    asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
}

// By the same warp, once nobody uses it.
__device__ __forceinline__ void give_tensor_memory_back(unsigned address) {
    asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(address), "n"(COLUMNS) : "memory");
}

// By one thread: the sums at an address become the product of float16 matrices a (rows, 16) and b (16, columns), or that
// is added to them. shape: as above.
__device__ __forceinline__ void multiply_in_tensor_memory(unsigned sums, unsigned long long a, unsigned long long b,
                                                          unsigned shape, bool add) {
    asm volatile("{.reg .pred p; setp.ne.u32 p, %4, 0; tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, p;}" ::"r"(
                     sums),
                 "l"(a), "l"(b), "r"(shape), "r"((unsigned)add)
                 : "memory");
}

// By the same thread: the barrier has an arrival once all its products so far are done; no fence before is needed.
__device__ __forceinline__ void arrive_after_products(Barrier* barrier) {
    asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(
                     shared_address(barrier))
                 : "memory");
}

__device__ __forceinline__ void fence_before_sync() { asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory"); }

__device__ __forceinline__ void fence_after_sync() { asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory"); }

// By a warp: 64 columns of 16 lanes, the first at an address, there after wait_for_sums. Lane 4 g + t has of each eight
// columns lanes g, g, g + 8, g + 8 and columns 2 t, 2 t + 1, 2 t, 2 t + 1.
__device__ __forceinline__ void read_sums(float (&values)[32], unsigned address) {
    asm volatile(
        "tcgen05.ld.sync.aligned.16x256b.x8.b32 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];"
        : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3]),
          "=f"(values[4]), "=f"(values[5]), "=f"(values[6]), "=f"(values[7]),
          "=f"(values[8]), "=f"(values[9]), "=f"(values[10]), "=f"(values[11]),
          "=f"(values[12]), "=f"(values[13]), "=f"(values[14]), "=f"(values[15]),
          "=f"(values[16]), "=f"(values[17]), "=f"(values[18]), "=f"(values[19]),
          "=f"(values[20]), "=f"(values[21]), "=f"(values[22]), "=f"(values[23]),
          "=f"(values[24]), "=f"(values[25]), "=f"(values[26]), "=f"(values[27]),
          "=f"(values[28]), "=f"(values[29]), "=f"(values[30]), "=f"(values[31])
        : "r"(address));
}

// By a warp: what it reads is there.
__device__ __forceinline__ void wait_for_sums(float (&values)[2][32]) {
    asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
    // Or the compiler might use them before.
#pragma unroll
    for (int i = 0; i < 64; i++) asm volatile("" : "+f"(values[i / 32][i % 32])::"memory");
}

#endif

// a b + c of both numbers, each rounded as fmaf does: there one instruction.
__device__ __forceinline__ float2 multiply_add_two(float2 a, float2 b, float2 c) {
#ifdef __CUDACC__
    unsigned long long x, y, z;
    asm("mov.b64 %0, {%1, %2};" : "=l"(x) : "f"(a.x), "f"(a.y));
    asm("mov.b64 %0, {%1, %2};" : "=l"(y) : "f"(b.x), "f"(b.y));
    asm("mov.b64 %0, {%1, %2};" : "=l"(z) : "f"(c.x), "f"(c.y));
    asm("fma.rn.f32x2 %0, %0, %1, %2;" : "+l"(x) : "l"(y), "l"(z));
    asm("mov.b64 {%0, %1}, %2;" : "=f"(a.x), "=f"(a.y) : "l"(x));
    return a;
#else
    return {fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)};
#endif
}
