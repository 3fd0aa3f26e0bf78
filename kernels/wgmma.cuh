// What PTX has of compute capability 9.0 alone (sm_90a): products of large matrices by four warps, of operands that lie
// in shared memory, as bulk.cuh describes them. Where no CUDA compiler reads this, whoever runs the kernels defines these
// (tests/host_cuda/wgmma.h).
#pragma once

#include "bulk.cuh"

#ifdef __CUDACC__

// Before products, if the thread has touched their sums since the last.
__device__ __forceinline__ void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// sum += a b of float16 matrices (64, 16) and (16, 128), in float32, by four warps, some time until wait_for_products.
// Of warp w lane 4 g + t holds, of each 8 columns, rows 16 w + g, the same, and twice 8
// further, of columns 2 t, 2 t + 1, 2 t, 2 t + 1.
__device__ __forceinline__ void multiply_async(float (&sum)[64], unsigned long long a, unsigned long long b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, 1, 1, 1, 0, 0;"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]),
          "+f"(sum[4]), "+f"(sum[5]), "+f"(sum[6]), "+f"(sum[7]),
          "+f"(sum[8]), "+f"(sum[9]), "+f"(sum[10]), "+f"(sum[11]),
          "+f"(sum[12]), "+f"(sum[13]), "+f"(sum[14]), "+f"(sum[15]),
          "+f"(sum[16]), "+f"(sum[17]), "+f"(sum[18]), "+f"(sum[19]),
          "+f"(sum[20]), "+f"(sum[21]), "+f"(sum[22]), "+f"(sum[23]),
          "+f"(sum[24]), "+f"(sum[25]), "+f"(sum[26]), "+f"(sum[27]),
          "+f"(sum[28]), "+f"(sum[29]), "+f"(sum[30]), "+f"(sum[31]),
          "+f"(sum[32]), "+f"(sum[33]), "+f"(sum[34]), "+f"(sum[35]),
          "+f"(sum[36]), "+f"(sum[37]), "+f"(sum[38]), "+f"(sum[39]),
          "+f"(sum[40]), "+f"(sum[41]), "+f"(sum[42]), "+f"(sum[43]),
          "+f"(sum[44]), "+f"(sum[45]), "+f"(sum[46]), "+f"(sum[47]),
          "+f"(sum[48]), "+f"(sum[49]), "+f"(sum[50]), "+f"(sum[51]),
          "+f"(sum[52]), "+f"(sum[53]), "+f"(sum[54]), "+f"(sum[55]),
          "+f"(sum[56]), "+f"(sum[57]), "+f"(sum[58]), "+f"(sum[59]),
          "+f"(sum[60]), "+f"(sum[61]), "+f"(sum[62]), "+f"(sum[63])
        : "l"(a), "l"(b));
}

// Makes a group of the products since the last.
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for all groups but the last.
__device__ __forceinline__ void wait_for_earlier_products() {
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
}

// Waits for all groups: the sums are there.
__device__ __forceinline__ void wait_for_products(float (&sum)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    // Or the compiler might read them before.
#pragma unroll
    for (int i = 0; i < 64; i++) asm volatile("" : "+f"(sum[i])::"memory");
}

#endif
