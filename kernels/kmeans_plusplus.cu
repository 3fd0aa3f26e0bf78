// Seeding: every row keeps its distance to the closest center so far, D or of sparse rows E (common.cuh); candidates are
// weighed by what would remain, and rows are picked by inverse-CDF index in the prefix sum of integer sampling weights,
// in row order (Rule 4). In plain C:
//
//     for (i = 0; i < n; i++) sampling_weight[i] = rint(closest_dist_sq[i] * scale) * weights[i];  // or weights[i]
//     for (i = total = 0; i < n; i++) prefix[i] = total += sampling_weight[i];                    // run_, prefix_sums
//     for (t = 0; t < m; t++) {
//         index = floor(draws[t] * total);
//         for (i = 0; prefix[i] <= index; i++) continue;
//         candidates[t] = x[i];                                                                   // find
//         for (i = sums[t] = 0; i < n; i++) {
//             distance = min(distance(x[i], candidates[t]), closest_dist_sq[i]);
//             sums[t] += rint(distance * scale) * weights[i] - sampling_weight[i];                // potentials
//         }
//     }
//     chosen = argmin of sums[t] over t;
//     for (i = 0; i < n; i++)                                                                     // accept_least
//         closest_dist_sq[i] = min(closest_dist_sq[i], distance(x[i], candidates[chosen]));
//
// Steps of k-means++ follow each other without the host: what it would decide by answers that it has to wait for (the
// scale, inverse-CDF indices, which candidate is kept; gpukmeans/seeding.py) is found here, by the same integers. Then
// `scale` is negative, and what the steps before left is in arrays of an element for each step.
//
// Sampling weights are summed over runs of RUN rows, a block each, and one block makes prefix sums of those: to pick a
// row is then a search among the runs' sums and a scan of one run. A scan takes few barriers: threads add up
// neighboring sampling weights, lanes scan those by shuffles, and only the warps' sums go through shared memory.
//
// Tried (benchmarks/NOTES.md): steps decided by the host waited twice a center, 83 us of its time for each, where
// launches alone take a third; all rows read for every four candidates, a thread a row, touched 32 lines for each load,
// 1 to 2 ms a center for 10^6 rows of 128 features, where 0.4 to 0.5 are expected now. Leaving rows out by the triangle
// inequality leaves a tenth to a half of a picture's or well-parted blobs' rows, and all of overlapping ones.
//
// Where float32 can bound D (exact.direct_bound), candidates of dense rows are weighed by seeding_filter.cu instead of
// `potentials`, and accept_least reads rows that were in doubt there alone.
//
// Launch: blocks of 256 threads: potentials, accept_*, a row a thread, three and four to a multiprocessor; run_sums and
// find a block a run and a candidate, of RUN threads if RUN is below 256; prefix_sums a single one. Options: X_KIND,
// WEIGHT_KIND, SPARSE, RUN. By the functions of the same names in gpukmeans.engine.cuda.seeding_kernels.
// A row, in a step: 8 bytes for closest_dist_sq and 4 to 12 for owner and weight, three times; if it is not left out,
// the row once for every 16 candidates, 3 d operations of float64 for each, and 12 bytes written if it has a closer
// center.

#include "seeding.cuh"

#ifndef RUN
#define RUN 1024
#endif

// The triangle inequality leaves rows out: where D(c, z) from a candidate to a row's closest center so far is four
// times D(x, z), the candidate is not closer, since |x - c| >= |c - z| - |x - z| >= |x - z|. A computed D errs by (d +
// 2) 2^-53 of itself at most, or 2^-22 for d below 2^31. For the comparison of D(x, c) and D(x, z) that comes to 6 *
// 2^-22; that the limit on D(x, z) is lower by 2^-20 counts twice there. What underflows does not count: candidates are
// drawn by their sampling weight, not zero, so that D(c, z) is 2^-1001 or more.
// (test_kernel_seeding.test_seeding_leaves_out_no_row_that_a_candidate_takes fails without the quarter, and
// test_kernel_seeding.test_limits_of_seeding_bear_rounding without 2^-20.) E errs by parts of |x|^2 and |c|^2 instead,
// so that its limit is zero, which leaves out rows at a center alone.
__device__ __forceinline__ double limit_of(double between) {
    return SPARSE ? 0.0 : between * 0.25 * (1 - 9.5367431640625e-07);
}

#define AT_ONCE 4  // candidates of a lane
#define MOST 16    // of a warp

// sums: (m + 1,), how each candidate would change the sum of all sampling weights, and that sum. candidates:
// (coordinates(d), padded), columns, padded being 4, 8 or a multiple of 16. limited: whether rows with an owner, the number of their
// closest center so far, are left out by the least limit of that (owners so far,).
//
// A warp gathers rows that are not left out until they occupy its lanes, which are a row and four candidates each.
extern "C" __global__ void __launch_bounds__(256, 3)
potentials(X_ROWS, const W* __restrict__ weights, const double* __restrict__ closest_dist_sq,
           const double* __restrict__ candidates, int m, int padded,
           int limited, const int* __restrict__ owners, const unsigned long long* __restrict__ least, double scale,
           const unsigned long long* __restrict__ largest, int spare_bits, int step,
           unsigned long long* __restrict__ sums) {
    __shared__ int64 waiting[8][64];
    Rows all_rows(GIVEN);
    scale = scale_of(scale, largest + step, spare_bits);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64* rows = waiting[warp];
    int groups = min(padded, MOST) / AT_ONCE, places = 32 / groups, place = lane / groups;
    int64 stride = (int64)gridDim.x * blockDim.x;
    for (int first = 0; first < m; first += MOST) {
        const double* columns = candidates + first + lane % groups * AT_ONCE;
        uint64 all = 0, change[AT_ONCE] = {};
        int held = 0;
        for (int64 start = (int64)blockIdx.x * blockDim.x + warp * 32; start < n; start += stride) {
            int64 i = start + lane;
            bool doubt = i < n;
            if (doubt) {
                double so_far = closest_dist_sq[i];
                all += (uint64)sampling_weight(so_far, weight_of(weights, i), scale, 0.0);
                doubt = !limited || so_far > least_of(least[owners[i]]);
            }
            unsigned doubts = __ballot_sync(0xffffffffu, doubt);
            if (doubt) rows[held + __popc(doubts & ((1u << lane) - 1))] = i;
            held += __popc(doubts);
            __syncwarp();
            // Fewer than `places` are held over, so that the next 32 find room.
            while (held >= places || (held && start + stride >= n)) {
                int count = min(held, places);
                held -= count;
                int64 theirs = place < count ? rows[held + place] : 0;
                __syncwarp();
                if (place >= count) continue;
                double distance[AT_ONCE];
                measure(distance, all_rows[theirs], columns, padded, d);
                double so_far = closest_dist_sq[theirs];
                W weight = weight_of(weights, theirs);
                int64 now = sampling_weight(so_far, weight, scale, 0.0);
#pragma unroll
                for (int e = 0; e < AT_ONCE; e++) {
                    change[e] += (uint64)(sampling_weight(fmin(distance[e], so_far), weight, scale, 0.0) - now);
                }
            }
        }
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            for (int other = 16; other >= groups; other >>= 1) {
                change[e] += __shfl_down_sync(0xffffffffu, change[e], other);
            }
            int candidate = first + lane * AT_ONCE + e;
            if (lane < groups && candidate < m && change[e]) atomicAdd(&sums[candidate], change[e]);
        }
        if (first == 0) block_add(&sums[m], (int64)all);
    }
}

__device__ __forceinline__ uint64 larger(uint64 most, double distance) {
    uint64 bits = (uint64)__double_as_longlong(distance);
    return bits > most ? bits : most;
}

// closest_dist_sq: lowered to D to the candidate of that place, or set to it if that is the first center. largest: the
// bits of the largest that remains, 0 before. The rest as potentials has it.
extern "C" __global__ void __launch_bounds__(256, 4)
accept_center(X_ROWS, const double* __restrict__ candidates, int place, int padded, int first,
              double* __restrict__ closest_dist_sq, unsigned long long* __restrict__ largest) {
    Rows rows(GIVEN);
    uint64 most = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        double so_far = first ? 0.0 : closest_dist_sq[i];
        double distance = measure_one(rows[i], candidates + place, padded, d);
        if (first || distance < so_far) closest_dist_sq[i] = so_far = distance;
        most = larger(most, so_far);
    }
    block_max(largest, most);
}

// The same of the first of m candidates that leave the least sums, as center number step + 1, unless the total of the
// step is zero. owners: (n,), which of the centers is the closest. candidate_rows: which rows the candidates are, and
// center_rows: the centers, to which that of this one is added, as its coordinates are to centers (steps, d). limits:
// (step + 1, padded), for each candidate. doubts: (n,), of seeding_filter.cu, by which rows are left out if `filtered`,
// instead of by limits. largest: at step, and at step + 1, 0 before.
extern "C" __global__ void __launch_bounds__(256, 4)
accept_least(X_ROWS, const double* __restrict__ candidates, int padded, const unsigned long long* __restrict__ sums,
             int m, const unsigned long long* __restrict__ totals, int step,
             const long long* __restrict__ candidate_rows, const double* __restrict__ limits,
             int filtered, const unsigned short* __restrict__ doubts, double* __restrict__ closest_dist_sq,
             int* __restrict__ owners, long long* __restrict__ center_rows, double* __restrict__ centers,
             unsigned long long* __restrict__ largest) {
    Rows rows(GIVEN);
    int thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (totals[step] == 0) {  // as is that of the next, whose sampling weights are the same
        if (thread == 0) largest[step + 1] = largest[step];
        return;
    }
    int place = 0;
    for (int c = 1; c < m; c++) place = (int64)sums[c] < (int64)sums[place] ? c : place;
    for (int j = thread; j < d; j += gridDim.x * blockDim.x) {
        centers[(int64)step * d + j] = candidates[(int64)j * padded + place];
    }
    if (thread == 0) center_rows[step + 1] = candidate_rows[place];
    uint64 most = 0;
    for (int64 i = thread; i < n; i += (int64)gridDim.x * blockDim.x) {
        double so_far = closest_dist_sq[i];
        if (filtered ? doubts[i] >> place % 16 & 1 : so_far > limits[(int64)owners[i] * padded + place]) {
            double distance = measure_one(rows[i], candidates + place, padded, d);
            if (distance < so_far) {
                closest_dist_sq[i] = so_far = distance;
                owners[i] = step + 1;
            }
        }
        most = larger(most, so_far);
    }
    block_max(largest + step + 1, most);
}

// closest_dist_sq: lowered to D to the row's own center, of those (m, coordinates(d)) that labels were given by.
// largest: as above.
extern "C" __global__ void __launch_bounds__(256, 4)
accept_all(X_ROWS, const double* __restrict__ centers, const int* __restrict__ labels,
           double* __restrict__ closest_dist_sq, unsigned long long* __restrict__ largest) {
    Rows rows(GIVEN);
    uint64 most = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        double distance = measure_one(rows[i], centers + (int64)labels[i] * coordinates(d), 1, d);
        most = larger(most, closest_dist_sq[i] = fmin(distance, closest_dist_sq[i]));
    }
    block_max(largest, most);
}

#define SCAN (RUN < 256 ? RUN : 256)  // threads of a block that scans a run
#define EACH (RUN / SCAN)             // neighboring sampling weights of each
#define SHARING 8                     // lanes to an owner whose distance to a candidate is wanted, four features each
#define OWNERS (SCAN / SHARING)       // of a block at a time

// What the block's threads before this one have together; all: what all of them have. warps: one for each warp.
__device__ __forceinline__ int64 before_in_block(int64 amount, int64 (&warps)[SCAN / 32], int64& all) {
    int64 scan = warp_scan(amount);
    __syncthreads();  // nobody reads the sums before any more
    if (threadIdx.x % 32 == 31) warps[threadIdx.x / 32] = scan;
    __syncthreads();
    int64 before = scan - amount;
    all = 0;
#pragma unroll
    for (int w = 0; w < SCAN / 32; w++) {
        if (w < threadIdx.x / 32) before += warps[w];
        all += warps[w];
    }
    return before;
}

// runs: (ceil(n / RUN),), the sum of each run's sampling weights. A block of SCAN threads to a run.
extern "C" __global__ void __launch_bounds__(SCAN)
run_sums(long long n, const W* __restrict__ weights, const double* __restrict__ closest_dist_sq, double scale,
         double weight_scale, const unsigned long long* __restrict__ largest, int spare_bits, int step,
         unsigned long long* __restrict__ runs) {
    __shared__ int64 warps[SCAN / 32];
    scale = scale_of(scale, largest + step, spare_bits);
    for (int64 run = blockIdx.x; run * RUN < n; run += gridDim.x) {
        int64 sum = 0, all;
        for (int64 i = run * RUN + threadIdx.x; i < n && i < (run + 1) * RUN; i += SCAN) {
            sum += sampling_weight(scale == 0.0 ? 0.0 : closest_dist_sq[i], weight_of(weights, i), scale, weight_scale);
        }
        before_in_block(sum, warps, all);
        if (threadIdx.x == 0) runs[run] = (uint64)all;
    }
}

// runs: (count,), from sums to inclusive prefix sums, in place. totals: at step, their total. draws: (steps, m), by
// which indices (m,) are found, -1 if the total is zero; m is 0 if the host will. clear: (clears,), set to zero for
// kernels to come. One block of SCAN threads.
extern "C" __global__ void __launch_bounds__(SCAN)
prefix_sums(unsigned long long* __restrict__ runs, long long count, unsigned long long* totals, int step,
            const double* __restrict__ draws, int m, long long* __restrict__ indices,
            unsigned long long* __restrict__ clear, int clears) {
    __shared__ int64 warps[SCAN / 32];
    int64 total = 0;
    for (int64 base = 0; base < count; base += RUN) {
        int64 first = base + (int64)threadIdx.x * EACH, own[EACH], sum = 0, all;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            own[e] = first + e < count ? (int64)runs[first + e] : 0;
            sum += own[e];
        }
        int64 prefix = total + before_in_block(sum, warps, all);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            prefix += own[e];
            if (first + e < count) runs[first + e] = (uint64)prefix;
        }
        total += all;
    }
    if (threadIdx.x == 0) totals[step] = (uint64)total;
    for (int i = threadIdx.x; i < m; i += SCAN) {
        indices[i] = total ? inverse_cdf_index(draws[(int64)step * m + i], (uint64)total) : -1;
    }
    for (int i = threadIdx.x; i < clears; i += SCAN) clear[i] = 0;
}

// Of each of m inverse-CDF indices, below the total, the first row whose prefix sum exceeds it: its number, and its
// coordinates as a column of candidates (coordinates(d), padded); nothing of those below zero. table: the same in
// float32, if there is a width, see table_place; offset: (d,) for float64 rows, and frame_scale. center_rows: the
// numbers of those that own others so far. limits: (owners, padded), and their least, 0 before; see potentials. Blocks
// of SCAN threads, as many to each candidate as share the owners.
extern "C" __global__ void __launch_bounds__(SCAN)
find(X_ROWS, const W* __restrict__ weights, const double* __restrict__ closest_dist_sq, double scale, double weight_scale,
     const unsigned long long* __restrict__ largest, int spare_bits, int step,
     const unsigned long long* __restrict__ prefix, long long count, const long long* __restrict__ indices, int m,
     int padded, double* __restrict__ candidates, long long* __restrict__ candidate_rows, int fours, int lanes,
     int width, const F* __restrict__ offset, F frame_scale, float* __restrict__ table,
     const long long* __restrict__ center_rows, int owners, double* __restrict__ limits,
     unsigned long long* __restrict__ least) {
    __shared__ int64 warps[SCAN / 32];
    __shared__ int64 found;
    Rows rows(GIVEN);
    int candidate = blockIdx.x % m, part = blockIdx.x / m;
    int64 index = indices[candidate];
    if (index < 0) return;
    scale = scale_of(scale, largest + step, spare_bits);
    int64 run = 0;  // how many runs end at or before the index
    for (int64 size = count; size > 0;) {
        int64 half = size / 2;
        if ((int64)prefix[run + half] <= index) {
            run += half + 1;
            size -= half + 1;
        } else {
            size = half;
        }
    }
    int64 first = run * RUN + (int64)threadIdx.x * EACH, own[EACH], sum = 0, all;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int64 i = first + e;
        own[e] = i < n ? sampling_weight(scale == 0.0 ? 0.0 : closest_dist_sq[i], weight_of(weights, i), scale,
                                         weight_scale)
                       : 0;
        sum += own[e];
    }
    int64 end = (run ? (int64)prefix[run - 1] : 0) + before_in_block(sum, warps, all);
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        end += own[e];
        if (end > index && end - own[e] <= index) found = first + e;  // of one thread
    }
    __syncthreads();
    Row row = rows[found];
    if (part == 0) {
        double* column = candidates + candidate;
#if SPARSE
        for (int j = threadIdx.x; j < d; j += SCAN) column[(int64)j * padded] = 0.0;
        __syncthreads();
        if (threadIdx.x == 0) {  // of N, to which zeros add nothing
            double square = 0.0;
            for (int e = 0; e < row.count; e++) square = add_square(square, value(row.x[e]), 0.0);
            column[(int64)d * padded] = square;
        }
#endif
        for (int e = threadIdx.x; e < row.count; e += SCAN) column[(int64)row.column(e) * padded] = value(row.x[e]);
#if !SPARSE
        for (int j = threadIdx.x; width && j < d; j += SCAN) {
            table[table_place(candidate, j, fours, lanes, width)] =
                single(row.x[j], X_KIND == 3 ? offset[j] : (F)0, frame_scale);
        }
#endif
        if (threadIdx.x == 0) candidate_rows[candidate] = found;
    }
    // In any order, which limits bear.
    for (int start = part * OWNERS; start < owners; start += gridDim.x / m * OWNERS) {  // the same in a whole warp
        int o = start + threadIdx.x / SHARING, lane = threadIdx.x % SHARING;
        double between = 0.0;
#if !SPARSE
        Row center = rows[center_rows[min(o, owners - 1)]];
#pragma unroll 4
        for (int j = 4 * lane; j < d; j += 4 * SHARING) {
            X z[4], y[4];
            fetch_features(z, center.x + j, d - j, center.wide);
            fetch_features(y, row.x + j, d - j, row.wide);
#pragma unroll
            for (int f = 0; f < 4; f++) between = add_square(between, value(y[f]), value(z[f]));
        }
        for (int other = 1; other < SHARING; other *= 2) {
            between = __dadd_rn(between, __shfl_xor_sync(0xffffffffu, between, other));
        }
#endif
        if (lane || o >= owners) continue;
        double limit = limits[(int64)o * padded + candidate] = limit_of(between);
        atomicMax(&least[o], least_key(limit));
    }
}
