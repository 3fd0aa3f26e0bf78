// Centers of many features in the forms that kernels read, made on the device of the one form that crosses the bus:
// float32 numbers in the frame (assign.cuh), their |z|^2, and columns for D. The host would take longer to split and
// transpose them than the device takes for all else in an iteration.
//
// Traffic: 8 bytes a value read, 12 written, in the second-level cache.

#include "assign.cuh"

// centers: (k, d). scale: the frame's. framed: (k, d). squares: (padded,), NEVER from k on. columns: (d, k). A warp to
// a center, blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(256, 4)
center_forms(const double* __restrict__ centers, int k, int d, const F* __restrict__ offset, double scale, int padded,
             float* __restrict__ framed, float* __restrict__ squares, double* __restrict__ columns) {
    int lane = threadIdx.x % 32;
    for (int center = (blockIdx.x * blockDim.x + threadIdx.x) / 32; center < padded;
         center += gridDim.x * blockDim.x / 32) {
        double sum = 0.0;
        for (int j = lane; center < k && j < d; j += 32) {
            int64 at = (int64)center * d + j;
            double value = centers[at], z = __dmul_rn(__dsub_rn(value, (double)offset[j]), scale);
            sum = __dadd_rn(sum, __dmul_rn(z, z));
            framed[at] = (float)z;
            columns[(int64)j * k + center] = value;
        }
        for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane == 0) squares[center] = center < k ? (float)sum : NEVER;
    }
}
