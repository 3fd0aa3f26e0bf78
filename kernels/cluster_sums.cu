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
// Of sparse rows, those that store a feature are counted beside its range: zero is in the range of the others. What they
// do not store adds nothing to sums (scales.OwnScales measures from zero there).
//
// Launch: blocks of 256 threads, four to a multiprocessor; a row a thread. Options: X_KIND, WEIGHT_KIND, SPARSE. By
// gpukmeans.engine.cuda.kernels.cluster_ranges and .cluster_sums.
// A row: 4 bytes for the label; if its cluster is asked for, the row once, and for each value two comparisons, or an
// addition, that the second-level cache makes: none of them waits for an answer.

#include "common.cuh"

// The place of a row's cluster among those asked for, -1 if it is none of these, or if the row is at one of the
// locations `without` (p, d). place: (k,).
__device__ __forceinline__ int place_of(const Row& row, int d, int label, const int* place, const double* without,
                                        int p) {
    int found = place[label];
    for (int l = 0; l < p && found >= 0; l++) {
        if (is_at(row, without + (int64)l * d, d)) found = -1;
    }
    return found;
}

// keys: (2, m, d), the least as ~0 and the largest as 0 before, of m clusters. stored: (m, d + 1), 0 before, of sparse
// rows: how many store a feature, and how many there are.
extern "C" __global__ void __launch_bounds__(256, 4)
cluster_ranges(X_ROWS, const int* __restrict__ labels, const int* __restrict__ place,
               const double* __restrict__ without, int p, int m, unsigned long long* keys,
               unsigned long long* stored) {
    Rows rows(GIVEN);
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        Row row = rows[i];
        int at = place_of(row, d, labels[i], place, without, p);
        if (at < 0) continue;
        uint64* least = keys + (int64)at * d;
        uint64* largest = least + (int64)m * d;
        for (int e = 0; e < row.count; e++) {
            uint64 key = order_key(value(row.x[e]));
            atomicMin(least + row.column(e), key);
            atomicMax(largest + row.column(e), key);
            if (SPARSE) add_global(stored + (int64)at * (d + 1) + row.column(e), 1);
        }
        if (SPARSE) add_global(stored + (int64)at * (d + 1) + d, 1);
    }
}

// OwnScales.terms, added up. offset, scale: (m, d); shift, exponent: (m,). sums: (m, d + 1), 0 before.
extern "C" __global__ void __launch_bounds__(256, 4)
cluster_sums(X_ROWS, const int* __restrict__ labels, const int* __restrict__ place, const double* __restrict__ without,
             int p, const W* __restrict__ weights, const double* __restrict__ offset,
             const double* __restrict__ scale, const int* __restrict__ shift, const int* __restrict__ exponent,
             unsigned long long* __restrict__ sums) {
    Rows rows(GIVEN);
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        Row row = rows[i];
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
#if SPARSE
#pragma unroll 2  // four would not fit the registers
#endif
        for (int e = 0; e < row.count; e++) {
            int j = row.column(e);
            add_global(sum + j, fixed_term(row.x[e], from[j], by[j], weight));
        }
        add_global(sum + d, mass);
    }
}
