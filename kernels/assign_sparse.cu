// Tentative labels of sparse rows (scores.cuh), by their entries:
//
//     for (i = 0; i < n; i++) {
//         for (c = 0; c < k; c++) {
//             score[c] = table[0][c];
//             for (e = starts[i]; e < starts[i + 1]; e++) score[c] += y[e] * table[1 + columns[e]][c];
//         }
//         tentative[i] = argmin of score, or UNCERTAIN if the runner-up is within the margin;
//     }
//
// A few neighboring lanes take a row, each of them four neighboring centers, so that an entry is a load of up to 128
// bytes of the table, and a warp has up to 32 rows at once. Where centers are more than the lanes take, they pass over
// the row again, whose entries are then in a cache. No bounds are kept: they would need rows measured by themselves.
// (test_sparse_kernels.test_no_certain_label_is_wrong fails without the margin, or without the norm's part of it.)
//
// Launch: blocks of 256 threads, four to a multiprocessor; 1, 2, 4 or 8 lanes a row. Options: X_KIND, SPARSE. By
// gpukmeans.engine.cuda.assignment_kernels.assign_sparse.
// An entry: read once, 5 to 12 bytes, and 4 k bytes of the table, by which the kernel is bound where that is larger than
// the caches; a multiply-add for each center. A row: 8 bytes for where it begins, 4 written.

#include "scores.cuh"

#define AT_ONCE 4  // centers of a lane

struct alignas(16) Scores {
    float of[AT_ONCE];
};

// scale: the frame's, whose offset is zero. table: (1 + d, padded), |z|^2 and -2 z, padded being a multiple of what
// `lanes` lanes take. per_norm, errors: see margin_of. tentative: (n,).
extern "C" __global__ void __launch_bounds__(256, 4)
assign_sparse(X_ROWS, F scale, const float* __restrict__ table, int padded, int lanes,
              float per_norm, const float* __restrict__ errors, int* __restrict__ tentative) {
    Rows rows(GIVEN);
    int lane = threadIdx.x % 32, mine = lane % lanes * AT_ONCE;
    int64 places = 32 / lanes, stride = (int64)gridDim.x * (blockDim.x / 32) * places;
    int64 start = ((int64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * places;
    for (; start < n; start += stride) {
        int64 i = start + lane / lanes;
        Row row = i < n ? rows[i] : Row{};  // lanes beyond the last row go along with their warp
        Nearest found = {NEVER, NEVER, 0};
        float norm = 0.0f;
        for (int first = mine; first < padded; first += lanes * AT_ONCE) {
            const float* centers = table + first;
            Scores scores = *(const Scores*)centers;
            float square = 0.0f;
            for (int e = 0; e < row.count; e++) {
                float y = in_frame(row.x[e], 0, scale);
                Scores z = *(const Scores*)(centers + (int64)(1 + row.columns[e]) * padded);
                square = fmaf(y, y, square);
#pragma unroll
                for (int s = 0; s < AT_ONCE; s++) scores.of[s] = fmaf(y, z.of[s], scores.of[s]);
            }
            norm = square;
#pragma unroll
            for (int s = 0; s < AT_ONCE; s++) look_at(found, scores.of[s], first + s);
        }
        for (int step = lanes / 2; step; step >>= 1) found = merge(found, from_lane(found, step));
        if (i < n && mine == 0) {
            tentative[i] = certain_label(found, margin_of(norm, found.label, per_norm, errors));
        }
    }
}
