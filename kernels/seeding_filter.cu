// What candidates of k-means++ would change, dense rows: `potentials` of kmeans_plusplus.cu, with D computed only where
// float32 leaves it open whether the candidate is closer than the closest center so far. In plain C:
//
//     for (i = 0; i < n; i++) {
//         doubts[i] = 0;
//         for (t = 0; t < m; t++) {
//             for (j = sum = 0; j < d; j++) sum += square(y[i][j] - z[t][j]);                  // float32
//             if (least(sum) >= closest_dist_sq[i]) continue;                  // exact.direct_bound.DirectBound
//             doubts[i] |= 1 << t % 16;
//             distance = min(distance(x[i], candidates[t]), closest_dist_sq[i]);               // float64
//             sums[t] += rint(distance * scale) * weights[i] - sampling_weight[i];
//         }
//     }
//
// The bound is within 2^-16 or so, since a candidate is a row and the difference of two float32 is exact but for its last
// bit. So D is computed of hardly more pairs than those in which the candidate is closer: of i centers each has the i-th
// part of the rows. And accept_least reads rows whose bit is set alone.
//
// Where seeding_bytes.cu has looked at all rows first, those that it leaves in doubt are looked at here alone.
//
// A warp gathers rows that are not left out by their owner's limit (seeding.cuh) until they occupy its lanes. 1 or 4
// lanes share a row, each four neighboring features at a time, so that a load touches a line for 16 or 64 bytes; a lane
// has ROWS rows, and all candidates. Pairs in doubt wait in shared memory until there is one for each lane.
//
// Launch: blocks of 256 threads, two to a multiprocessor. Options: X_KIND, WEIGHT_KIND, CANDIDATES, 4, 8, 12 or 16, which
// are looked at together. By gpukmeans.engine.cuda.seeding_kernels.filtered_potentials.
// A row: 8 bytes for closest_dist_sq, 4 for its owner, 2 written; if it is not left out, the row once, 2 operations of
// float32 for each value and candidate, and of each candidate in doubt the row again and 3 d operations of float64.

#include "mma.cuh"
#include "seeding.cuh"

#ifndef CANDIDATES
#define CANDIDATES 8
#endif
#define ROWS (CANDIDATES <= 8 && X_KIND != 3 ? 4 : 2)  // as registers have it

struct alignas(16) FourFloats {
    float x[4];
};

// y of four features of a row, of which `left` are there; offset: of these.
__device__ __forceinline__ void frame_four(float (&y)[4], const X (&raw)[4], const F* offset, F scale) {
#if X_KIND == 1
    unsigned words[2] = {(unsigned)raw[1] << 16 | raw[0], (unsigned)raw[3] << 16 | raw[2]};
#pragma unroll
    for (int f = 0; f < 4; f++) y[f] = __fmul_rn(f % 2 ? high_half(words[f / 2]) : low_half(words[f / 2]), scale);
#else
#pragma unroll
    for (int f = 0; f < 4; f++) y[f] = single(raw[f], X_KIND == 3 ? offset[f] : (F)0, scale);
#endif
}

// table: the candidates in float32, see table_place; of features and candidates that are nobody's zeros. fours: of a row,
// a multiple of `lanes`, 1 or 4. offset: (4 fours,) of float64 rows. frame_scale, relative, absolute, rest: of
// DirectBound; square_scale: the square of that scale. doubts: (n,), become the candidates in doubt, by bits; if `listed`,
// of up to CANDIDATES, rows whose bits are zero are left out, and no others, and what all have together is not added up.
// The rest as potentials has it.
extern "C" __global__ void __launch_bounds__(256, 2)
filtered_potentials(const X* __restrict__ x, long long n, int d, const W* __restrict__ weights,
                    const double* __restrict__ closest_dist_sq, const double* __restrict__ candidates, int m,
                    int padded, const FourFloats* __restrict__ table, int fours, int lanes,
                    const F* __restrict__ offset, F frame_scale, double square_scale, float relative, float absolute,
                    float rest, int listed, int limited, const int* __restrict__ owners,
                    const unsigned long long* __restrict__ least, double scale,
                    const unsigned long long* __restrict__ largest, int spare_bits, int step,
                    unsigned short* __restrict__ doubts, unsigned long long* __restrict__ sums) {
    __shared__ int64 gathered[8][32 * ROWS + 32];
    __shared__ int64 pairs_in_doubt[8][64];   // 16 times the row, and which of the candidates
    __shared__ unsigned changes[CANDIDATES][2];  // 64 bits each, see add_shared
    Rows all_rows(x, d);
    scale = scale_of(scale, largest + step, spare_bits);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned before = (1u << lane) - 1;
    int64 *rows = gathered[warp], *queue = pairs_in_doubt[warp];
    int places = 32 / lanes, place = lane / lanes, part = lane % lanes, batch = ROWS * places;
    int64 stride = (int64)gridDim.x * blockDim.x;
    for (int first = 0; first < m; first += CANDIDATES) {
        if (threadIdx.x < CANDIDATES) changes[threadIdx.x][0] = changes[threadIdx.x][1] = 0;
        __syncthreads();
        const FourFloats* own = table + (int64)first * fours + part;
        uint64 all = 0;
        int held = 0, waiting = 0;
        for (int64 start = (int64)blockIdx.x * blockDim.x + warp * 32; start < n; start += stride) {
            int64 i = start + lane;
            bool last = start + stride >= n, doubt = i < n && (!listed || doubts[i]);
            if (doubt && !listed) {
                double so_far = closest_dist_sq[i];
                all += (uint64)sampling_weight(so_far, weight_of(weights, i), scale, 0.0);
                doubt = so_far > (limited ? least_of(least[owners[i]]) : 0.0);
                if (!doubt && first == 0) doubts[i] = 0;
            }
            unsigned votes = __ballot_sync(0xffffffffu, doubt);
            if (doubt) rows[held + __popc(votes & before)] = i;
            held += __popc(votes);
            __syncwarp();
            // Fewer than a batch are held over, so that the next 32 find room.
            while (held >= batch || last) {
                int count = min(held, batch);
                held -= count;
                uint64 pairs = 0;  // of this lane's rows, by 16 bits each
                if (count) {
                    float sum[ROWS][CANDIDATES] = {};
                    const X* from[ROWS];
#pragma unroll
                    for (int r = 0; r < ROWS; r++) from[r] = x + rows[held + min(r * places + place, count - 1)] * d;
                    const FourFloats* z = own;
#pragma unroll 1
                    for (int four = 0; four < fours; four += lanes) {
                        int j = 4 * (four + part);
                        float y[ROWS][4];
#pragma unroll
                        for (int r = 0; r < ROWS; r++) {
                            X raw[4];
                            fetch_features(raw, from[r] + j, d - j, all_rows.wide);
                            frame_four(y[r], raw, offset + j, frame_scale);
                        }
#pragma unroll
                        for (int e = 0; e < CANDIDATES; e++, z += lanes) {
                            FourFloats c = *z;
#pragma unroll
                            for (int f = 0; f < 4; f++) {
#pragma unroll
                                for (int r = 0; r < ROWS; r++) {
                                    float difference = __fsub_rn(y[r][f], c.x[f]);
                                    sum[r][e] = fmaf(difference, difference, sum[r][e]);
                                }
                            }
                        }
                    }
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
#pragma unroll
                        for (int e = 0; e < CANDIDATES; e++) {
                            for (int other = 1; other < lanes; other *= 2) {
                                sum[r][e] += __shfl_xor_sync(0xffffffffu, sum[r][e], other);
                            }
                        }
                    }
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        if (r % lanes != part || r * places + place >= count) continue;
                        int64 i = rows[held + r * places + place];
                        float so_far = __double2float_ru(__dmul_rn(closest_dist_sq[i], square_scale));
                        unsigned bits = 0;
#pragma unroll
                        for (int e = 0; e < CANDIDATES; e++) {
                            // Of float32 rows `absolute` is zero. Infinite is what float32 does not hold
                            // (test_kernel_seeding.test_candidates_beyond_float32_are_measured fails if it is certain).
                            float bound = __fmul_rn(relative, sum[r][e]);
                            if (X_KIND == 3) bound = __fsub_rn(bound, __fmul_rn(absolute, sqrtf(sum[r][e])));
                            bound = __fsub_rn(bound, rest);
                            bool certain = bound >= so_far && bound <= 3.402823466e38f;
                            if (!certain && first + e < m) bits |= 1u << e;
                        }
                        doubts[i] = first ? doubts[i] | bits : bits;
                        pairs |= (uint64)bits << 16 * r;
                    }
                }
                bool drain = last && held == 0;
                while (true) {
                    unsigned votes = __ballot_sync(0xffffffffu, pairs != 0);
                    if (!votes && !(drain && waiting)) break;
                    if (pairs) {
                        int pair = __ffsll((int64)pairs) - 1;
                        pairs &= pairs - 1;
                        queue[waiting + __popc(votes & before)] =
                            rows[held + pair / 16 * places + place] * 16 + pair % 16;
                    }
                    waiting += __popc(votes);
                    __syncwarp();
                    if (waiting < 32 && votes) continue;
                    int count = min(waiting, 32);
                    waiting -= count;
                    if (lane < count) {
                        int64 i = queue[waiting + lane] / 16;
                        int e = queue[waiting + lane] % 16;
                        double so_far = closest_dist_sq[i];
                        double distance = measure_one(all_rows[i], candidates + first + e, padded, d);
                        W weight = weight_of(weights, i);
                        int64 now = sampling_weight(so_far, weight, scale, 0.0);
                        add_shared(changes[e], sampling_weight(fmin(distance, so_far), weight, scale, 0.0) - now);
                    }
                    __syncwarp();
                }
                __syncwarp();  // all have read their rows, whose places are filled again
                if (drain) break;
            }
        }
        __syncthreads();
        if (threadIdx.x < CANDIDATES && first + threadIdx.x < m) {
            uint64 change = (uint64)changes[threadIdx.x][1] << 32 | changes[threadIdx.x][0];
            if (change) atomicAdd(&sums[first + threadIdx.x], change);
        }
        if (first == 0) block_add(&sums[m], (int64)all);
    }
}
