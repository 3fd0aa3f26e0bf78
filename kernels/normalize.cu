// Rows brought to length one (exact.distance.normalize), for metric="cosine":
//
//     for (i = 0; i < n; i++) {
//         scale = the power of two that brings max(|x[i][j]|) into [1/2, 1);
//         for (total = j = 0; j < d; j++) total += square(x[i][j] * scale);
//         for (j = 0; j < d; j++) normalized[i][j] = x[i][j] * scale / sqrt(total);
//     }
//
// The sum of squares is in the order of Rule 1, so a row is one thread's; the second and third pass over its values
// find them in the caches.
//
// Launch: blocks of 256 threads, four to a multiprocessor; a row a thread. Options: X_KIND, SPARSE. By
// gpukmeans.engine.cuda.kernels.normalize.
// A row: read once, 8 bytes a value written; 5 operations of float64 and a division for each value that it stores.

#include "common.cuh"

// normalized: (n, d), of sparse rows as many values as these. A row that is zero stays zero (test_cosine.test_kernels_make_numpys_rows fails without that, or
// without the limit of the power of two). One that is not finite becomes NaN: infinity by infinity, or NaN's own.
extern "C" __global__ void __launch_bounds__(256, 4)
normalize(X_ROWS, double* __restrict__ normalized) {
    Rows rows(GIVEN);
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        Row row = rows[i];
        double* made = normalized + rows.begin(i);
        double largest = 0.0;
        for (int e = 0; e < row.count; e++) largest = fmax(largest, fabs(value(row.x[e])));  // of NaN, the other one
        double scale = scale_to_one(largest), total = 0.0;
        for (int e = 0; e < row.count; e++) {
            double y = __dmul_rn(value(row.x[e]), scale);
            total = __dadd_rn(total, __dmul_rn(y, y));  // D to zero
        }
        double length = total == 0.0 ? 1.0 : __dsqrt_rn(total);
        for (int e = 0; e < row.count; e++) made[e] = __ddiv_rn(__dmul_rn(value(row.x[e]), scale), length);
    }
}
