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
    uint64* local = (uint64*)dynamic_shared;
    if (folded) {
        for (int e = threadIdx.x; e < 2 * d; e += blockDim.x) local[e] = e < d ? ~0ull : 0ull;
        __syncthreads();
    }
    int64 values = n * d;
    int64 thread = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    int64 stride = (int64)gridDim.x * blockDim.x / d * d;  // the launch has at least d threads
    if (thread < stride && thread < values) {
        double low = value(x[thread]), high = low;
        bool odd = low != low;
        for (int64 i = thread + stride; i < values; i += stride) {
            double v = value(x[i]);
            odd |= v != v;
            low = fmin(low, v);
            high = fmax(high, v);
        }
        if (odd) {
            atomicOr(nan, 1);
        } else {
            int j = (int)(thread % d);
            uint64* target = folded ? local : keys;
            atomicMin(&target[j], order_key(low));
            atomicMax(&target[d + j], order_key(high));
        }
    }
    if (folded) {
        __syncthreads();
        for (int e = threadIdx.x; e < 2 * d; e += blockDim.x) {
            if (e < d) atomicMin(&keys[e], local[e]);
            else atomicMax(&keys[e], local[e]);
        }
    }
}
