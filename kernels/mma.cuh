// What PTX has from compute capability 8.0 on: products of small matrices by a warp's tensor cores, float16 in pairs,
// and copies to shared memory that take no registers on their way. (7.5 has all but the latter, of smaller matrices.)
// Where no CUDA compiler reads this, whoever runs the kernels defines them (tests/host_cuda).
#pragma once

#ifdef __CUDACC__

// c += a b, of float16 matrices (16, 16) and (16, 8), in float32. Lane 4 g + t holds two neighboring numbers in each
// word: of a, rows g, g + 8, g, g + 8 and columns 2 t, 2 t, 2 t + 8, 2 t + 8; of b, column g and rows 2 t, 2 t + 8; of
// c, rows g, g, g + 8, g + 8 and columns 2 t, 2 t + 1, 2 t, 2 t + 1.
__device__ __forceinline__ void multiply_matrices(float (&c)[4], const uint4& a, unsigned b0, unsigned b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// c += a b, of signed bytes (16, 16) and (16, 8), in integers: exact. Lane 4 g + t holds four neighboring numbers in each
// word: of a, rows g, g + 8 and columns from 4 t; of b, column g and rows from 4 t; of c what multiply_matrices has.
__device__ __forceinline__ void multiply_bytes(int (&c)[4], unsigned a0, unsigned a1, unsigned b) {
#if __CUDA_ARCH__ >= 800
    asm(
        "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
#else
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[0]), "+r"(c[1])
        : "r"(a0), "r"(b));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[2]), "+r"(c[3])
        : "r"(a1), "r"(b));
#endif
}

// Two numbers rounded to float16, the first in the lower half of the word.
__device__ __forceinline__ unsigned to_halves(float low, float high) {
    unsigned halves;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(high), "f"(low));
    return halves;
}

__device__ __forceinline__ float low_half(unsigned halves) {
    float value;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(value) : "r"(halves));
    return value;
}

__device__ __forceinline__ float high_half(unsigned halves) {
    float value;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high;}" : "=f"(value) : "r"(halves));
    return value;
}

// 16 bytes of global memory, to be in shared memory after the thread's next `wait_for_copies`.
__device__ __forceinline__ void copy_to_shared(uint4* shared, const uint4* global) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
