// Which rows the assignment step has to look at again: those whose bounds no longer tell their label. In plain C:
//
//     for (i = 0; i < n; i++) {
//         c = labels[i];
//         if (A[c] + M[c] < slack[i]) continue;
//         own = distance(x[i], centers[c]);
//         if (own < lower_bound[i] - M[c]) slack[i] = lower_bound[i] - own + A[c];
//         else rows[listed++] = i;
//     }
//
// Hamerly, "Making k-means even faster" (SDM 2010), see gpukmeans/engine/numpy/hamerly.py: from the distance to a row's
// own center and the one to the runner-up, and from how far centers have moved since. What is kept for a row is written
// when the row is looked at, and not at each move: with A the distance that its center has moved in all, and M the
// most that another has in each iteration,
//
//   slack       = (distance to others - distance to own) + A + M, as of then: the label stands while A + M is below
//   lower_bound = distance to others + M, as of then: the label stands while the distance to its own center is below
//                 lower_bound - M
//
// so most rows cost one comparison, 8 bytes read; the rest measure the distance to their own center; and those for
// which that is not enough go on the list. All roundings are directed so that a bound stays a bound. The list is in
// the order of rows within a block's share, so that what reads those rows finds them side by side.
// test_hamerly.test_rows_just_past_the_middle_change_sides fails if either sum of movements is left out or halved,
// test_hamerly.test_what_is_kept_of_rows_bounds_their_distances_in_rationals if distances are not taken from above, and
// test_hamerly.test_bounds_are_rounded_so_that_they_stay_bounds if any sum is rounded to the nearest.
//
// Up to 16 features, D_FEW of them, known at compile time, a thread measures its own rows; of more, the warp together
// those of its rows that are in doubt, and the words that it reads of a row are neighbors.
//
// Counted (benchmarks/NOTES.md): clustered rows of 128 features are all compared for some four to six iterations, and
// hardly any later; Gaussian noise nearly always. On NumPy, measuring rows that only the farthest-moving centers keep
// in doubt to those alone saved passes and no time.
//
// Launch: blocks of 256 threads, four to a multiprocessor; EACH rows a thread. Options: X_KIND, and D_FEW up to 16
// features. By gpukmeans.engine.cuda.assignment_kernels.hamerly.
// A row: 8 bytes read; in doubt, its values and 4 bytes more, 3 d operations, and 4 bytes written.

#include "scores.cuh"

#define EACH 4  // neighboring rows of a thread, whose labels and slacks are read in one word each

// |y - z|^2 of row i and its center, where in doubt. All lanes of a warp call it, each with a row of its own.
__device__ __forceinline__ float norm_between(const X* x, int d, const F* offset, F scale, const float* centers,
                                              int64 i, int label, bool doubt) {
    float norm = 0.0f;
#ifdef D_FEW
    if (doubt) {
#pragma unroll
        for (int j = 0; j < D_FEW; j++) {
            float step = __fsub_rn(in_frame(x[i * D_FEW + j], offset[j], scale), centers[(int64)label * D_FEW + j]);
            norm = fmaf(step, step, norm);
        }
    }
#else
    int lane = threadIdx.x % 32;
    for (unsigned left = __ballot_sync(0xffffffffu, doubt); left; left &= left - 1) {
        int turn = __ffs(left) - 1;
        const X* row = x + __shfl_sync(0xffffffffu, i, turn) * d;
        const float* center = centers + (int64)__shfl_sync(0xffffffffu, label, turn) * d;
        float sum = 0.0f;
        for (int j = lane; j < d; j += 32) {
            float step = __fsub_rn(in_frame(row[j], offset[j], scale), center[j]);
            sum = fmaf(step, step, sum);
        }
        for (int other = 16; other; other >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane == turn) norm = sum;
    }
#endif
    return norm;
}

// centers: (k, d), in the frame. labels, slack: aligned to 16 bytes (test_hamerly.test_any_walk_of_the_centers fails if
// they are not). slack, lower_bound: (n,). center_shift: (4, k), A + M from above and from below, M from above and from
// below. relative: of launch_plans.ErrorFactors. errors: (2, k), see prepare_centers.cu. rows: (n,), the list; listed: its
// length, 0 before.
extern "C" __global__ void __launch_bounds__(256, 4)
hamerly(const X* __restrict__ x, long long n, int d, const F* __restrict__ offset, F scale,
        const float* __restrict__ centers, const int* __restrict__ labels, float* __restrict__ slack,
        const float* __restrict__ lower_bound, const float* __restrict__ center_shift, int k,
        float relative, const float* __restrict__ errors, int* __restrict__ rows,
        unsigned long long* __restrict__ listed) {
    __shared__ unsigned warps[8];
    __shared__ uint64 start;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64 block_rows = (int64)blockDim.x * EACH;
    for (int64 base = blockIdx.x * block_rows; base < n; base += gridDim.x * block_rows) {
        int64 first = base + (int64)threadIdx.x * EACH;
        int label_of[EACH];
        float slack_of[EACH];
        if (first + EACH <= n) {
            int4 label = *(const int4*)(labels + first);
            float4 has = *(const float4*)(slack + first);
            label_of[0] = label.x, label_of[1] = label.y, label_of[2] = label.z, label_of[3] = label.w;
            slack_of[0] = has.x, slack_of[1] = has.y, slack_of[2] = has.z, slack_of[3] = has.w;
        } else {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                label_of[e] = first + e < n ? labels[first + e] : 0;
                slack_of[e] = first + e < n ? slack[first + e] : NEVER;
            }
        }
        unsigned mine = 0;  // a bit for each of the thread's rows
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64 i = first + e;
            int label = label_of[e];
            bool doubt = !(center_shift[label] < slack_of[e]);
            float norm = norm_between(x, d, offset, scale, centers, i, label, doubt);
            if (!doubt) continue;
            float distance = fmaf(__fsqrt_rn(norm), relative, errors[k + label]);
            float bound = __fsub_rd(lower_bound[i], center_shift[2 * k + label]);
            if (distance < bound) {
                slack[i] = __fadd_rd(__fsub_rd(bound, distance), center_shift[k + label]);
            } else {
                mine |= 1u << e;
            }
        }
        // Places in the list: of the thread within its warp, of the warp within the block, of the block within all.
        unsigned count = __popc(mine), before = warp_scan(count);
        if (lane == 31) warps[warp] = before;
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned total = 0;
            for (int w = 0; w < 8; w++) {
                unsigned own = warps[w];
                warps[w] = total;
                total += own;
            }
            start = total ? atomicAdd(listed, (uint64)total) : 0;
        }
        __syncthreads();
        uint64 place = start + warps[warp] + before - count;
        for (int e = 0; e < EACH; e++) {
            if (mine >> e & 1) rows[place++] = (int)(first + e);
        }
        __syncthreads();  // warps and start are written again
    }
}
