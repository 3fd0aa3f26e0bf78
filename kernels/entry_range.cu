// Least and largest value of each feature that sparse rows store, how many rows do, and whether all are numbers. Where
// fewer do than there are, zero is in the range too, which the host adds.
//
//     for (e = starts[0]; e < starts[n]; e++) {
//         j = columns[e];
//         low[j] = min(low[j], values[e]), high[j] = max(high[j], values[e]), stored[j]++;
//         nan |= values[e] != values[e];
//     }
//
// Launch: blocks of 256 threads, four to a multiprocessor; an entry a thread. Options: X_KIND, SPARSE. By
// gpukmeans.engine.cuda.kernels.entry_range.
// An entry: read once, and three operations that the second-level cache makes, none of which waits for an answer.

#include "common.cuh"

// keys: (2, d), the least as ~0 and the largest as 0 before. stored: (d,), 0 before. nan: 0 before, then whether there is
// one.
extern "C" __global__ void __launch_bounds__(256, 4)
entry_range(X_ROWS, unsigned long long* __restrict__ keys, unsigned long long* __restrict__ stored,
            int* __restrict__ nan) {
    int64 end = starts[n];
    for (int64 e = starts[0] + (int64)blockIdx.x * blockDim.x + threadIdx.x; e < end;
         e += (int64)gridDim.x * blockDim.x) {
        double v = value(values[e]);
        int j = columns[e];
        if (v != v) {
            atomicOr(nan, 1);
            continue;
        }
        uint64 key = order_key(v);
        atomicMin(keys + j, key);
        atomicMax(keys + d + j, key);
        add_global(stored + j, 1);
    }
}
