// Least and largest value of each feature, and whether all are numbers.
//
// Every thread reads values of one feature: the stride is a multiple of d. Blocks fold theirs in shared memory,
// where d is small enough, and then into keys in global memory whose integer order is the doubles'.
// Traffic: n * d values read once; nothing of size n written.

#include "common.cuh"

// keys: (2, d), the least as ~0 and the largest as 0 before. not_finite: 0 before, then whether there is a NaN
// (infinities show in the extremes). folded: whether 2 * d keys fit the dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256, 4)
extent(const X* __restrict__ x, long long n, int d, int folded,
       unsigned long long* __restrict__ keys, int* __restrict__ nan) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    // The upper words of 2 * d keys, then the lower; those of the largest are complements, so that all seek the least.
    unsigned* upper = (unsigned*)dynamic_shared;
    unsigned* lower = upper + 2 * d;
    if (folded) {
        for (int e = threadIdx.x; e < 4 * d; e += blockDim.x) upper[e] = ~0u;
        __syncthreads();
    }
    int64 values = n * d;
    int64 thread = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    int64 stride = (int64)gridDim.x * blockDim.x / d * d;  // the launch has at least d threads
    int j = (int)(thread % d);
    bool taking = thread < stride && thread < values;
    double low = 0.0, high = 0.0;
    if (taking) {
        low = high = value(x[thread]);
        bool odd = low != low;
        for (int64 i = thread + stride; i < values; i += stride) {
            double v = value(x[i]);
            odd |= v != v;
            low = fmin(low, v);
            high = fmax(high, v);
        }
        if (odd) atomicOr(nan, 1);
        taking = !odd;
    }
    if (folded) {
        least_shared(&upper[j], &lower[j], order_key(low), taking);
        least_shared(&upper[d + j], &lower[d + j], ~order_key(high), taking);
        for (int e = threadIdx.x; e < 2 * d; e += blockDim.x) {
            uint64 key = (uint64)upper[e] << 32 | lower[e];
            if (e < d) atomicMin(&keys[e], key);
            else atomicMax(&keys[e], ~key);
        }
    } else if (taking) {
        atomicMin(&keys[j], order_key(low));
        atomicMax(&keys[d + j], order_key(high));
    }
}
