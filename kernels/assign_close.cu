// Labels of rows that scores left in doubt, by sums of squared differences: what scores subtract from each other are
// squares of distances to the frame's offset, so that of rows in several groups far apart they tell nothing, whatever
// the group; a difference has the distance's own size. In plain C:
//
//     if (doubts_length < fewest) return;
//     for (p = 0; p < doubts_length; p++) {
//         y = x[row at doubts[p]] * scale;
//         best = second = NEVER;
//         for (c = 0; c < k; c++) {
//             for (j = sum = 0; j < d; j++) sum += square((high(y[j]) - high(z[c][j])) + (low(y[j]) - low(z[c][j])));
//             if (sum < best) second = best, best = sum, label = c;
//             else if (sum < second) second = sum;
//         }
//         margin = relative * (best + second) + per_norm * dot(y, y) + rest;
//         if (second - best > margin) tentative[doubts[p]] = label;
//     }
//
// high and low are float32 numbers whose sum has 48 bits; rows of float32 and narrower have no low. So a distance comes
// out within 1.04 d + 12 roundings of itself, wherever row and center are (exact.certificate.Frame.difference_errors;
// test_doubts.test_no_label_by_differences_is_wrong fails without it). What is left in doubt comes to D.
//
// The tiles are those of assign_tiled.cu, three operations a value instead of one, or four. Of float64 products, which
// NumPy has for this, a value takes one operation, but at half the rate on an A100, H100 or B200, and at a 64th on
// others. D takes three of these, and reads all centers for each row: of fewer rows than `fewest` that is quicker than
// a block that has 128 of them by itself (benchmarks/NOTES.md).
//
// Launch: blocks of 256 threads, one to a multiprocessor; ROWS rows a block; static shared memory alone. Options: X_KIND,
// CENTERS. By gpukmeans.engine.cuda.assignment_kernels.assign_close, as launch_plans.close_plan has it.
// A row on the list: read once for every tile of centers, and centers, 8 bytes a value, for every tile of rows, from the
// second-level cache; 3 k d operations, of float64 rows 4 k d, and 5 for each center.

#include "tiles.cuh"

#define PARTS (X_KIND == 3 ? 2 : 1)  // float32 numbers to a row's value
#define BRING (CENTERS * DEPTH / 256 > 1 ? CENTERS * DEPTH / 256 : 1)  // values of centers that a thread brings

// Rows of float64 are measured from the frame's offset, as float32 pairs have but 48 bits; others are as they are, but
// for a power of two.
__device__ __forceinline__ double from_offset(double value, double offset, double scale) {
    return __dmul_rn(X_KIND == 3 ? __dsub_rn(value, offset) : value, scale);
}

// depth: d rounded up to a multiple of DEPTH. offset, scale: the frame's. columns: (d, k), the centers. relative,
// per_norm, rest: of Frame.difference_errors. fewest: rows that there have to be. doubts: places of rows in the order of
// tentative, as many as *doubts_length says. The rest as assign_low_dim has it.
extern "C" __global__ void __launch_bounds__(256, 1)
assign_close(const X* __restrict__ x, long long n, int d, int depth, const F* __restrict__ offset, F scale,
             const double* __restrict__ columns, int centers, float relative, float per_norm, float rest, int fewest,
             int* __restrict__ tentative, int listed, const int* __restrict__ list,
             const unsigned long long* __restrict__ length, int bounded, const float* __restrict__ center_shift, int k,
             float* __restrict__ slack, float* __restrict__ lower_bound, int doubting, const int* __restrict__ doubts,
             const unsigned long long* __restrict__ doubts_length) {
    __shared__ __align__(16) float ys[2][PARTS][DEPTH][ROWS + PADDING], zs[2][2][DEPTH][CENTERS + PADDING];
    __shared__ float norms[ROWS];
    __shared__ int64 count;
    __shared__ Nearest kept[256];
    bool wide = is_wide(x, d);
    int along = threadIdx.x % ALONG, down = threadIdx.x / ALONG;
    int row = threadIdx.x / (DEPTH / PART), part = threadIdx.x % (DEPTH / PART) * PART;  // what of x it brings
    int feature = threadIdx.x * BRING / CENTERS, brought = threadIdx.x * BRING % CENTERS;  // and of the centers
    bool brings_z = feature < DEPTH;
    if (threadIdx.x == 0) count = (int64)*doubts_length;
    __syncthreads();
    if (count < fewest) return;
    for (unsigned tile = blockIdx.x; (int64)tile * ROWS < count; tile += gridDim.x) {
        int place_of_row = doubts[min((int64)tile * ROWS + row, count - 1)];
        const X* x_next = x + (int64)(listed ? list[place_of_row] : place_of_row) * d + part;
        X raw[PART];
        double z[BRING];
        float norm = 0.0f;  // of the features of `row` that this thread brings
        kept[threadIdx.x] = {NEVER, NEVER, 0};
        for (int first = 0; first < centers; first += CENTERS) {
            auto fetch = [&](int from) {
                fetch_features(raw, x_next + from, d - part - from, wide);
                int j = from + feature;
                bool there = brings_z && j < d;
#pragma unroll
                for (int e = 0; e < BRING; e++) {
                    int c = first + brought + e;
                    z[e] = there && c < centers ? columns[(int64)j * centers + c] : 0.0;
                }
            };
            fetch(0);
            float sum[EACH_ROWS][EACH_CENTERS];
#pragma unroll
            for (int c = 0; c < EACH_CENTERS; c++) {
                float least = first + within(CENTERS, EACH_CENTERS, along, c) < centers ? 0.0f : NEVER;
#pragma unroll
                for (int r = 0; r < EACH_ROWS; r++) sum[r][c] = least;
            }
            norm = 0.0f;
            __syncthreads();  // nobody reads the tile before any more
#pragma unroll 1
            for (int from = 0; from < depth; from += DEPTH) {
                int stage = from / DEPTH % 2;
#pragma unroll
                for (int f = 0; f < PART; f++) {
#if X_KIND == 3
                    // A feature that is nobody's is zero, and so is the offset.
                    double y = from_offset(raw[f], offset[from + part + f], scale);
                    float high = (float)y;
                    ys[stage][PARTS - 1][part + f][row] = (float)__dsub_rn(y, (double)high);
#else
                    float high = __fmul_rn(single_value(raw[f]), scale);
#endif
                    norm = fmaf(high, high, norm);
                    ys[stage][0][part + f][row] = high;
                }
                if (brings_z) {
                    double own = X_KIND == 3 ? (double)offset[from + feature] : 0.0;
#pragma unroll
                    for (int e = 0; e < BRING; e++) {
                        double value = from_offset(z[e], own, scale);
                        float high = (float)value;
                        zs[stage][0][feature][brought + e] = high;
                        zs[stage][1][feature][brought + e] = (float)__dsub_rn(value, (double)high);
                    }
                }
                // Whoever passes has left the other half, and may fill it next.
                __syncthreads();
                if (from + DEPTH < depth) fetch(from + DEPTH);
#pragma unroll
                for (int f = 0; f < DEPTH; f++) {
                    float y[PARTS][8];
#pragma unroll
                    for (int p = 0; p < PARTS; p++) {
                        float4 y0 = four(ys[stage][p][f], ROWS, EACH_ROWS, down, 0);
                        float4 y1 = four(ys[stage][p][f], ROWS, EACH_ROWS, down, 4);
                        y[p][0] = y0.x, y[p][1] = y0.y, y[p][2] = y0.z, y[p][3] = y0.w;
                        y[p][4] = y1.x, y[p][5] = y1.y, y[p][6] = y1.z, y[p][7] = y1.w;
                    }
#pragma unroll
                    for (int g = 0; g < EACH_CENTERS; g += 4) {
                        float4 z0 = four(zs[stage][0][f], CENTERS, EACH_CENTERS, along, g);
                        float4 z1 = four(zs[stage][1][f], CENTERS, EACH_CENTERS, along, g);
                        float high[4] = {z0.x, z0.y, z0.z, z0.w}, low[4] = {z1.x, z1.y, z1.z, z1.w};
#pragma unroll
                        for (int r = 0; r < EACH_ROWS; r++) {
#pragma unroll
                            for (int c = 0; c < 4; c++) {
                                float step = __fsub_rn(y[0][r], high[c]);
                                if (PARTS == 2) step = __fadd_rn(step, __fsub_rn(y[PARTS - 1][r], low[c]));
                                else step = __fsub_rn(step, low[c]);
                                sum[r][g + c] = fmaf(step, step, sum[r][g + c]);
                            }
                        }
                    }
                }
            }
            kept[threadIdx.x] = merge(kept[threadIdx.x], best_of_tile(sum, first, along));
        }
        if (PART < DEPTH) norm += __shfl_xor_sync(0xffffffffu, norm, 1);
        __syncthreads();  // nobody reads the norms before any more
        if (part == 0) norms[row] = norm;
        __syncthreads();
        // The row that `fold` left to this thread.
        int own_row = within(ROWS, EACH_ROWS, down, along / SHARING);
        int64 place = (int64)tile * ROWS + own_row;
        Nearest best = kept[threadIdx.x];
        float margin = fmaf(relative, best.best + best.second, fmaf(per_norm, norms[own_row], rest));
        int label = certain_label(best, margin);
        if (along % SHARING == 0 && place < count && label != UNCERTAIN) {
            int at = doubts[place];
            tentative[at] = label;
            if (bounded) {
                int64 i = listed ? list[at] : at;
                write_bounds(best, label, 0.0f, margin, center_shift, k, slack[i], lower_bound[i]);
            }
        }
    }
}
