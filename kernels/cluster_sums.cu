// The rows of some clusters looked at once more: their ranges, and their sums at scales of the clusters' own. Asked for
// where the sums that refine.cu keeps up are too coarse for a cluster, and of all clusters at the end of a fit.
//
//     for (i = 0; i < n; i++) {
//         c = place[labels[i]];
//         if (c < 0 || x[i] is at one of the locations `without`) continue;
//         for (j = 0; j < d; j++) {
//             low[c][j] = min(low[c][j], x[i][j]), high[c][j] = max(high[c][j], x[i][j]);    // cluster_ranges
//             sums[c][j] += fixed_term(x[i][j], offset[c][j], scale[c][j], weight);          // cluster_sums
//         }
//         sums[c][d] += weight;
//     }
//
// Launch: blocks of 256 threads, four to a multiprocessor; a row a thread. Options: X_KIND, WEIGHT_KIND. By
// gpukmeans.engine.cuda.kernels.cluster_ranges and .cluster_sums.
// A row: 4 bytes for the label; if its cluster is asked for, the row once, and for each value two comparisons, or an
// addition, that the second-level cache makes: none of them waits for an answer.

#include "common.cuh"

// The place of a row's cluster among those asked for, -1 if it is none of these, or if the row is at one of the
// locations `without` (p, d). place: (k,).
__device__ __forceinline__ int place_of(const X* row, int d, int label, const int* place, const double* without,
                                        int p) {
    int found = place[label];
    for (int l = 0; l < p && found >= 0; l++) {
        const double* there = without + (int64)l * d;
        bool same = true;
        for (int j = 0; j < d && same; j++) same = value(row[j]) == there[j];
        if (same) found = -1;
    }
    return found;
}

// keys: (2, m, d), the least as ~0 and the largest as 0 before, of m clusters.
extern "C" __global__ void __launch_bounds__(256, 4)
cluster_ranges(const X* __restrict__ x, long long n, int d, const int* __restrict__ labels,
               const int* __restrict__ place, const double* __restrict__ without, int p, int m,
               unsigned long long* keys) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        const X* row = x + i * d;
        int at = place_of(row, d, labels[i], place, without, p);
        if (at < 0) continue;
        uint64* least = keys + (int64)at * d;
        uint64* largest = least + (int64)m * d;
        for (int j = 0; j < d; j++) {
            uint64 key = order_key(value(row[j]));
            atomicMin(least + j, key);
            atomicMax(largest + j, key);
        }
    }
}

// OwnScales.terms, added up. offset, scale: (m, d); shift, exponent: (m,). sums: (m, d + 1), 0 before.
extern "C" __global__ void __launch_bounds__(256, 4)
cluster_sums(const X* __restrict__ x, long long n, int d, const int* __restrict__ labels, const int* __restrict__ place,
             const double* __restrict__ without, int p, const W* __restrict__ weights,
             const double* __restrict__ offset, const double* __restrict__ scale, const int* __restrict__ shift,
             const int* __restrict__ exponent, unsigned long long* __restrict__ sums) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        const X* row = x + i * d;
        int at = place_of(row, d, labels[i], place, without, p);
        if (at < 0) continue;
        W weight = weight_of(weights, i);
#if WEIGHT_KIND == 2
        weight = ldexp(weight, shift[at]);
        int64 mass = (int64)rint(ldexp(weight, exponent[at]));
#else
        int64 mass = weight;
#endif
        uint64* sum = sums + (int64)at * (d + 1);
        const double* from = offset + (int64)at * d;
        const double* by = scale + (int64)at * d;
        for (int j = 0; j < d; j++) add_global(sum + j, fixed_term(row[j], from[j], by[j], weight));
        add_global(sum + d, mass);
    }
}
