// Tentative labels by one product of float16 on tensor cores, a third of what assign_tensor.cu multiplies, with a
// certificate made of what float16 loses of each row and center. Rows that it leaves in doubt, one in a hundred or so, go
// on a list, which assign_tensor looks at, and what that leaves in doubt is decided by D. In plain C:
//
//     for (i = 0; i < n; i++) {
//         for (c = 0; c < k; c++) {
//             for (j = dot = 0; j < d; j++) dot += half(y[i][j]) * half(z[c][j]);
//             error[c] = lost(y[i]) * length(z[c]) + length(y[i]) * lost(z[c]);             // twice each, see below
//             score[c] = squares[c] - 2 * dot - error[c];                                    // a lower bound
//         }
//         best, second = the two least scores, best of center c;
//         if (second > best + 2 * error[c] + margin) tentative[i] = c;
//         else again[length++] = i;
//     }
//
// With half(y) = y - r and half(z) = z - s, 2 y.z is off by at most 2 (|r| |z| + |half(y)| |s|). Of r and s the lengths
// themselves are taken, which float16 of 11 bits makes 2^-11 of |y| at most, 2^-12.3 on average; a value that would be
// subnormal is lost as a whole, as PTX promises nothing of those. All of float16 about zero, or uint8, r is zero. Tensor
// cores add all d' features to one sum, by the bound of Frame.tensor_score_errors for each product by itself 6 d' u
// |half(y)| |half(z)|: with float32 for |r| one part in ten. All else that a score errs by is less than what
// assign_tensor's does, whose squares and margin serve here too.
// (test_tensor.test_no_label_of_one_product_is_wrong fails without either part of the error, as
// test_tensor.test_one_product_would_be_wrong_without_what_it_loses shows.)
//
// A block has ROWS rows, all their features, in shared memory as lanes hold them, read and rounded once; centers
// stream through, 128 at a time, 16 features at a time, and are on their way while those before are multiplied. Each of eight
// warps has 32 rows and 64 centers, or 32. Half the rows take twice as much from the second-level cache for centers, which
// then is what bounds it: so a block of 128 has a multiprocessor to itself before two of 64 share it.
//
// Launch: blocks of 256 threads, two to a multiprocessor as far as shared memory goes (up to 272 features on an A100, 400
// on others); ROWS rows a block, 128 or, for more than 608 features, 64; dynamic shared memory of 2 ROWS depth bytes and
// 8 kB, which may be more than is given unasked (device.MORE_SHARED); from compute capability 8.0 on. Options: X_KIND,
// ROWS. By gpukmeans.engine.cuda.half_kernels.assign_half, as launch_plans.half_plan has it, and .half_table.
// A row: read once; 4 bytes written, with bounds 12; k d products of float16; centers, 2 k d bytes, from the second-level
// cache for each ROWS rows.

#include "half.cuh"

#ifndef ROWS
#define ROWS 128
#endif
#define DOWN (ROWS / 32)            // warps beside each other along the rows
#define ALONG (8 / DOWN)            // and along the centers
#define GROUPS (CENTERS / 8 / ALONG)  // of eight centers, of a warp

// squares, downs: (tiles * 128,). table: (tiles, depth / 16, 8, 32) of 16 bytes, becomes the centers as lanes hold them:
// lane 4 g + t of 16 centers four features of center g, from 4 t on, and of center 8 + g. of_centers: (tiles * 128,). The
// rest as center_as_halves has it. A warp a center.
extern "C" __global__ void __launch_bounds__(256)
half_table(const float* __restrict__ centers, const float* __restrict__ squares, const float* __restrict__ downs, int k,
           int d, int depth, int tiles, float summing, float roundings, uint2* __restrict__ table,
           OfCenter* __restrict__ of_centers) {
    int64 warps = (int64)gridDim.x * blockDim.x / 32;
    for (int64 c = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32; c < (int64)tiles * CENTERS; c += warps) {
        int place = (int)(c % CENTERS);
        OfCenter found = center_as_halves(centers, c, k, d, depth, squares[c], downs[c], summing, roundings,
                                          [&](int j, uint2 halves) {
                                              int64 stage = c / CENTERS * (depth / DEPTH) + j / DEPTH;
                                              int word = place % 8 * 4 + j % DEPTH / 4;
                                              table[((stage * 8 + place / 16) * 32 + word) * 2 + place / 8 % 2] = halves;
                                          });
        if (threadIdx.x % 32 == 0) of_centers[c] = found;
    }
}

// depth: d rounded up to a multiple of 16. offset, scale: as assign_tensor has them. roundings: as center_as_halves has it.
// again: (n,), becomes the places, in the order of tentative, of rows in doubt, and again_length how many, 0 before; of
// those nothing else is written. The rest as assign_tensor has it.
extern "C" __global__ void __launch_bounds__(256, 2)
assign_half(const X* __restrict__ x, long long n, int d, int depth, const F* __restrict__ offset, F scale,
            const uint4* __restrict__ table, const OfCenter* __restrict__ of_centers, int tiles, float roundings,
            int* __restrict__ again, unsigned long long* __restrict__ again_length, float per_norm,
            const float* __restrict__ errors, int* __restrict__ tentative, int listed, const int* __restrict__ list,
            const unsigned long long* __restrict__ length, int bounded, const float* __restrict__ center_shift, int k,
            float* __restrict__ slack, float* __restrict__ lower_bound) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    __shared__ float norms[ROWS];    // |y|^2
    __shared__ float2 of_rows[ROWS];  // bounds on 2 |r| and |half(y)|
    __shared__ int64 base, count;  // the first row, and how many rows there are
    int stages = depth / DEPTH;
    uint4* zs = (uint4*)dynamic_shared;  // two halves, of 16 features of 128 centers
    uint4* ys = zs + 2 * 256;            // (ROWS / 16, stages, 32)
    Nearest* kept = (Nearest*)zs;        // in the end: (ALONG, ROWS)
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int down = warp % DOWN, along = warp / DOWN;
    bool wide = is_wide(x, d);
    if (threadIdx.x == 0) {
        count = listed ? (int64)*length : n;
        base = (int64)blockIdx.x * ROWS;
    }
    __syncthreads();
    while (base < count) {
        copy_to_shared(&zs[threadIdx.x], table + threadIdx.x);
        for (int group = warp; group < ROWS / 16; group += 8) {
            auto keep = [&](int stage, const uint2(&halves)[2]) {
                ys[(group * stages + stage) * 32 + lane] =
                    make_uint4(halves[0].x, halves[1].x, halves[0].y, halves[1].y);
            };
            TwoRows two = rows_as_halves(x, base + 16 * group, count, listed, list, d, stages, offset, scale, roundings,
                                         wide, keep);
            if (lane % 4 == 0) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    norms[16 * group + lane / 4 + 8 * h] = two.norm[h];
                    of_rows[16 * group + lane / 4 + 8 * h] = two.errs[h];
                }
            }
        }
        Nearest found[4];  // of rows lane / 4 and 8, 16, 24 more
#pragma unroll
        for (int r = 0; r < 4; r++) found[r] = {NEVER, NEVER, 0};
        const uint4* ahead = table + threadIdx.x;
        int left = tiles * stages, half = 0;  // steps, and where in shared memory the centers of this one are
        for (int first = 0; first < tiles * CENTERS; first += CENTERS) {
            float sum[2][GROUPS][4];  // of rows 16 m + ..., centers 8 c + ..., as multiply_matrices has them
#pragma unroll
            for (int e = 0; e < 8 * GROUPS; e++) sum[e / 4 / GROUPS][e / 4 % GROUPS][e % 4] = 0.0f;
            const uint4* y_now = ys + 2 * down * stages * 32 + lane;
#pragma unroll 1
            for (int stage = 0; stage < stages; stage++, y_now += 32) {
                wait_for_copies();
                // Whoever passes has left the other half, and may fill it next; and all rows are there.
                __syncthreads();
                const uint4* z_now = zs + half + GROUPS / 2 * along * 32 + lane;
                half ^= 256;
                ahead += 256;
                if (--left) copy_to_shared(&zs[half + threadIdx.x], ahead);
                uint4 y[2] = {y_now[0], y_now[32 * stages]};
#pragma unroll
                for (int c = 0; c < GROUPS; c += 2) {
                    uint4 z = z_now[c / 2 * 32];
#pragma unroll
                    for (int m = 0; m < 2; m++) {
                        multiply_matrices(sum[m][c], y[m], z.x, z.y);
                        multiply_matrices(sum[m][c + 1], y[m], z.z, z.w);
                    }
                }
            }
            int center = first + 8 * GROUPS * along + lane % 4 * 2;
#pragma unroll
            for (int c = 0; c < GROUPS; c++) {
                __syncwarp();  // or all of these are read at once, for which there are no registers
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    OfCenter z = of_centers[center + 8 * c + e];
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        look_at_sum(found[r], sum[r / 2][c][r % 2 * 2 + e], z, of_rows[32 * down + 8 * r + lane / 4],
                                    center + 8 * c + e);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            found[r] = merge(found[r], from_lane(found[r], 1));
            found[r] = merge(found[r], from_lane(found[r], 2));
        }
        __syncthreads();  // everybody has read the last centers
        if (lane % 4 == 0) {
#pragma unroll
            for (int r = 0; r < 4; r++) kept[along * ROWS + 32 * down + 8 * r + lane / 4] = found[r];
        }
        __syncthreads();
        if (threadIdx.x < ROWS) {
            int row = threadIdx.x;
            Nearest best = kept[row];
#pragma unroll
            for (int a = 1; a < ALONG; a++) best = merge(best, kept[a * ROWS + row]);
            settle(best, norms[row], of_rows[row], base + row, count, of_centers, again, again_length, per_norm, errors,
                   tentative, listed, list, bounded, center_shift, k, slack, lower_bound);
        }
        __syncthreads();  // all of that is written again
        if (threadIdx.x == 0) base += (int64)gridDim.x * ROWS;
        __syncthreads();
    }
}
