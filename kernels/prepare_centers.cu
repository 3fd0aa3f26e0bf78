// Centers in the forms that kernels read, made on the device of the one form that crosses the bus, or of sums, where
// they are the next centers of a fit: float32 numbers in the frame (scores.cuh), their |z|^2, and columns for D; what
// scores of each and distances to it may err by; and how far all of them have moved, for bounds. Of next centers also
// what the host decides by, which comes down with the counts: D to the centers of before, and which means are in doubt,
// so that the host has to make the centers (cluster_means.py). In plain C:
//
//     for (c = 0; c < k; c++) {
//         if (summed) {
//             weight = sums[c][d] * 2**-exponent;
//             for (j = 0; j < d; j++) means[c][j] = sums[c][j] / weight / steps[j] + middle[j];
//             centers[c] = normalized ? normalize(means[c]), or the one of before if that is zero : means[c];
//         }
//         for (squares[c] = shifts[c] = j = 0; j < d; j++) {
//             shifts[c] += square(centers[c][j] - columns[j][c]);
//             framed[c][j] = (centers[c][j] - offset[j]) * scale;
//             squares[c] += square(framed[c][j]);
//             columns[j][c] = centers[c][j];
//         }
//         moved[c] = sqrt(shifts[c]) * scale;
//         errors[0][c] = 2 * per_center * squares[c] + rest, errors[1][c] = per_reach * sqrt(squares[c]) + absolute;
//         downs[c] = power of two of sqrt(squares[c]) * 2^-27;
//         squares[c] -= per_center * squares[c];
//         if (weight == 0 || normalized && squared_length(means[c]) <= reach(weight)) shifts[c] = -shifts[c];
//     }
//     for (c = 0; c < k; c++) {
//         others = the largest moved[b] of all b but c;
//         shift_sums[0][c] += moved[c] + others, shift_sums[1][c] += others;
//         for (b = 0; b < k && summed; b++) {
//             if (b != c && squared_distance(means[c], means[b]) < reach(weight of c)) shifts[c] = -shifts[c];
//         }
//     }
//
// Measured (benchmarks/NOTES.md): when the host made the forms, it took 45 us for an iteration of 64 colors instead of
// 20, and 16 ms instead of 5 for 8,192 centers of 128 features, longer than the device for all else. Writing the table
// of assign_low_dim here, where its values are in registers, saves a launch.
//
// Launch: blocks of 256 threads, for center_forms a warp to a center, four blocks to a multiprocessor; for movement a
// single block, and as many more as there are for 256 x 256 pairs of next centers each. Options: X_KIND, SPARSE. By
// gpukmeans.engine.cuda.assignment_kernels.center_forms and .movement.
// A value of a center: 8 bytes read, 20 or 24 written, in the second-level cache, as a mean 16 more; nothing of rows. A
// pair of next centers: two operations of float64, and D up to the feature that tells them apart where one does not.

#include "scores.cuh"

#define SHORTEST -64  // power of two of |z|

// The counts of refine, in front of the shifts in what comes down.
#define COUNTS 3

// In a shift's sign: the mean is in doubt.
#define DOUBT 0x8000000000000000ull

// The clusters' sums, (k, d + 1), and what means of them may be off by. inverse: 1 / weight_scale, 2**-exponent of
// weights. fractions: twice the number of weights that are no integers. limit: twice the square of Scales.step over that
// of COARSE, or 0 if no mean can be in doubt.
struct Sums {
    const uint64* sums;
    int d;
    double inverse, fractions, limit;

    __device__ __forceinline__ double weight(int c) const {
        return __dmul_rn((double)(int64)sums[(int64)c * (d + 1) + d], inverse);
    }
    // The square of how near another mean may be, at least what cluster_means._reach makes of it: that rounds the same,
    // but for results below 2^-1022, hence the limit's factor of two.
    __device__ __forceinline__ double reach(double weight) const {
        double error = __dadd_rn(1.0, __ddiv_rn(fractions, weight));
        return __dmul_rn(__dmul_rn(error, error), limit);
    }
};

// What 32 lanes have, added to a total in the order of lanes; in the first lane. staged: of the warp, in shared memory.
__device__ __forceinline__ double add_in_order(double total, double mine, double* staged) {
    staged[threadIdx.x % 32] = mine;
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        for (int l = 0; l < 32; l++) total = __dadd_rn(total, staged[l]);
    }
    __syncwarp();
    return total;
}

__device__ __forceinline__ double warp_add(double amount) {
    for (int other = 16; other; other >>= 1) amount += __shfl_xor_sync(0xffffffffu, amount, other);
    return amount;
}

// centers: (k, d), given, or set to the next centers if `summed`: the means of sums, see Sums, whose terms are measured
// from middle (d,) in steps (d,), the scales' offset and scale; if `normalized`, these brought to length one. means:
// (k, d), what that is of; the centers themselves if not. The center of an empty cluster stays where it was, and is in
// doubt, and so is one whose mean is zero. Scores serve for all others: where F weights are no integers, means are
// within 4 + 2 F times the range, as rounding to an integer at most doubles a number. offset, scale: the frame's.
// per_center to absolute: launch_plans.ErrorFactors. framed: (k, d). squares: (padded,), |z|^2 less per_center |z|^2,
// NEVER from k on. errors: (2, k), what the center's part of the gap between its score and a larger one has to be for
// that to be certain, and what a distance to it may err by (exact.certificate). downs: if `lifted`, (padded,), what
// products with it are multiplied by in assign_tensor. table: if `tabled`, (1 + d, padded), as assign_low_dim and
// assign_sparse read them. columns: (d, k), those of before until then; for sparse rows (d + 1, k), with the squares of
// whole centers, rounded in any order. moved: (k,), how far from those, in the frame and from above. counts: (3,),
// which go in front of the answer: if summed, (3 + k,), D to the centers of before, its sign set where in doubt.
extern "C" __global__ void __launch_bounds__(256, 4)
center_forms(const unsigned long long* __restrict__ sums, const double* __restrict__ middle,
             const double* __restrict__ steps, double inverse, double fractions, double limit, int summed,
             int normalized, double* centers, double* means, int k, int d,
             const F* __restrict__ offset, double scale, double per_center, double rest, double per_reach,
             double absolute, int padded, float* __restrict__ framed, float* __restrict__ squares,
             float* __restrict__ errors, float* __restrict__ downs, int lifted, float* __restrict__ table, int tabled,
             double* __restrict__ columns, double* __restrict__ moved, const unsigned long long* __restrict__ counts,
             unsigned long long* __restrict__ answer) {
    __shared__ double staged[8][32];
    double* own = staged[threadIdx.x / 32];
    int lane = threadIdx.x % 32;
    Sums of = {sums, d, inverse, fractions, limit};
    if (summed && blockIdx.x == 0 && threadIdx.x < COUNTS) answer[threadIdx.x] = counts[threadIdx.x];
    for (int center = (blockIdx.x * blockDim.x + threadIdx.x) / 32; center < padded;
         center += gridDim.x * blockDim.x / 32) {
        if (center >= k) {
            for (int j = lane; tabled && j < d; j += 32) table[(int64)(1 + j) * padded + center] = 0.0f;
            if (lane == 0) {
                squares[center] = NEVER;
                if (tabled) table[center] = NEVER;
                if (lifted) downs[center] = ldexpf(1.0f, -27);
            }
            continue;
        }
        double weight = summed ? of.weight(center) : 1.0, largest = 0.0, by = 1.0, length = 1.0;
        bool doubt = weight == 0.0;
        if (summed) {
            double norm = 0.0;
            for (int j = lane; j < d && !doubt; j += 32) {
                double mean = __ddiv_rn((double)(int64)sums[(int64)center * (d + 1) + j], weight);
                // By the inverse of a power of two, which is one whose exponent is stored as 2046 less.
                uint64 step = (uint64)__double_as_longlong(steps[j]) >> 52;
                mean = __dmul_rn(mean, __longlong_as_double((int64)(2046 - step) << 52));
                mean = __dadd_rn(mean, middle[j]);
                means[(int64)center * d + j] = mean;
                largest = fmax(largest, fabs(mean));
                norm += mean * mean;
            }
            if (normalized && !doubt) {
                for (int other = 16; other; other >>= 1) {
                    largest = fmax(largest, __shfl_xor_sync(0xffffffffu, largest, other));
                }
                by = scale_to_one(largest);
                double total = 0.0;
                for (int first = 0; first < d; first += 32) {
                    int j = first + lane;
                    double y = j < d ? __dmul_rn(means[(int64)center * d + j], by) : 0.0;
                    total = add_in_order(total, __dmul_rn(y, y), own);
                }
                length = __dsqrt_rn(__shfl_sync(0xffffffffu, total, 0));
                // Of sums of squares below 2^-900 the roundings are no parts of them.
                doubt = !(of.reach(weight) < warp_add(norm) * (1 - 9.3132257e-10) - 1e-271);
            }
        }
        double square = 0.0, shift = 0.0, whole = 0.0;
        for (int first = 0; first < d; first += 32) {
            int j = first + lane;
            double step = 0.0;
            if (j < d) {
                int64 at = (int64)center * d + j;
                double before = columns[(int64)j * k + center], value = before;
                if (!summed) value = centers[at];
                else if (weight == 0.0) means[at] = value;
                else if (!normalized) value = means[at];
                else if (largest > 0.0) value = __ddiv_rn(__dmul_rn(means[at], by), length);
                double z = __dmul_rn(__dsub_rn(value, (double)offset[j]), scale);
                if (summed) centers[at] = value;
                step = __dsub_rn(value, before);
                square = __dadd_rn(square, __dmul_rn(z, z));
                framed[at] = (float)z;
                if (tabled) table[(int64)(1 + j) * padded + center] = -2.0f * (float)z;
                columns[(int64)j * k + center] = value;
                if (SPARSE) whole += value * value;
            }
            shift = add_in_order(shift, __dmul_rn(step, step), own);
        }
        square = warp_add(square);
        if (SPARSE) whole = warp_add(whole);
        if (lane == 0) {
            squares[center] = (float)(square - per_center * square);
            if (tabled) table[center] = squares[center];
            if (SPARSE) columns[(int64)d * k + center] = whole;
            // |z| is from 2^length to twice that, unless it is shorter than anything that counts
            // (test_tensor.test_centers_of_any_length_are_compared_on_tensor_cores fails if all are taken for 1).
            if (lifted) downs[center] = ldexpf(1.0f, max(ilogb(square) >> 1, SHORTEST) - 27);
            errors[center] = (float)(2 * per_center * square + rest);
            errors[k + center] = (float)(per_reach * sqrt(square) + absolute);
            // 2^-30 is more than the roundings of up to 2^17 squares (hamerly.moved).
            moved[center] = sqrt(shift) * scale * (1 + 9.3132257e-10);
            if (summed) answer[COUNTS + center] = (uint64)__double_as_longlong(shift) | (doubt ? DOUBT : 0);
        }
    }
}

// Which of the next centers are in doubt because another mean is within reach: their shifts get a sign
// (cluster_means._crowded). By all blocks but the first, each for 256 centers and as many others at a time. Means that
// are far apart in the widest feature need no D.
__device__ __forceinline__ void mark_crowded(const Sums& of, const double* means, int k, int widest, uint64* shifts) {
    __shared__ double others[256];
    int d = of.d;
    int64 sides = (k + 255) / 256;
    for (int64 tile = blockIdx.x - 1; tile < sides * sides; tile += gridDim.x - 1) {
        int c = (int)(tile / sides) * 256 + threadIdx.x, first = (int)(tile % sides) * 256;
        int there = min(256, k - first);
        __syncthreads();
        if (threadIdx.x < there) others[threadIdx.x] = means[(int64)(first + threadIdx.x) * d + widest];
        __syncthreads();
        if (c >= k) continue;
        const double* mine = means + (int64)c * d;
        double reach = of.reach(of.weight(c)), along = mine[widest];
        bool crowded = false;
        for (int e = 0; e < there && !crowded; e++) {
            double gap = along - others[e];
            if (gap * gap >= reach || first + e == c) continue;
            const double* other = means + (int64)(first + e) * d;
            double distance = 0.0;
            for (int j = 0; j < d && distance < reach; j++) distance = add_square(distance, mine[j], other[j]);
            crowded = distance < reach;
        }
        if (crowded) atomicOr(shifts + c, DOUBT);
    }
}

// The two largest of some numbers, and whose the largest is.
struct Two {
    double first, second;
    int which;
};

__device__ __forceinline__ Two two_largest(const Two& a, const Two& b) {
    bool mine = a.first > b.first || (a.first == b.first && a.which < b.which);
    const Two &more = mine ? a : b, &less = mine ? b : a;
    return {more.first, fmax(more.second, less.first), more.which};
}

// What k centers moved, added to what they moved before; if these are the first, or the sums came to be `longest`, they
// begin anew, and if they did so before and no row was looked at since (`unused`), they do again
// (test_next_centers.test_shifts_that_were_begun_anew_stay_so_until_rows_are_looked_at fails without). moved: (k,).
// shift_sums: (2, k), A + M and M in double, and center_shift: (4, k), the same from above and from below, as hamerly.cu
// has them. counts: (3,), of the assignment that follows. By the first block; the others are there for next centers, see
// mark_crowded. sums, inverse, fractions, limit, means: see center_forms. shifts: (k,), as it writes them.
extern "C" __global__ void __launch_bounds__(256)
movement(const double* __restrict__ moved, int k, int first, int unused, double longest,
         double* __restrict__ shift_sums, float* __restrict__ center_shift, unsigned long long* __restrict__ counts,
         const unsigned long long* __restrict__ sums, int d, double inverse, double fractions, double limit,
         const double* __restrict__ means, int widest, unsigned long long* __restrict__ shifts) {
    __shared__ Two tops[8];
    if (blockIdx.x > 0) {
        mark_crowded({sums, d, inverse, fractions, limit}, means, k, widest, shifts);
        return;
    }
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Two nobody = {-1.0, -1.0, k};
    Two top = nobody;
    for (int c = threadIdx.x; c < k; c += blockDim.x) top = two_largest(top, {first ? 0.0 : moved[c], -1.0, c});
    for (int other = 16; other; other >>= 1) {
        top = two_largest(top, {__shfl_xor_sync(0xffffffffu, top.first, other),
                                __shfl_xor_sync(0xffffffffu, top.second, other),
                                __shfl_xor_sync(0xffffffffu, top.which, other)});
    }
    if (lane == 0) tops[warp] = top;
    __syncthreads();
    top = nobody;  // its own warp is among them
    for (int w = 0; w < 8; w++) top = two_largest(top, tops[w]);
    if (threadIdx.x < 3) counts[threadIdx.x] = 0;
    bool anew = first || (unused && center_shift[0] >= NEVER / 4);
    for (int c = threadIdx.x; !first && c < k; c += blockDim.x) {
        double others = c == top.which ? fmax(top.second, 0.0) : top.first;
        shift_sums[c] += moved[c] + others;
        shift_sums[k + c] += others;
        anew |= shift_sums[c] >= longest;
    }
    anew = __syncthreads_or(anew);
    for (int c = threadIdx.x; c < k; c += blockDim.x) {
        if (anew) shift_sums[c] = shift_sums[k + c] = 0.0;
        for (int e = 0; e < 2; e++) {
            // Twice what rounding to float32 may take away or add (test_hamerly.test_movement_adds_up_from_above fails
            // without it). Begun anew, no row stands by what was: beyond any distance, but not what hamerly has where
            // there is no row (test_hamerly.test_long_shifts_are_begun_anew fails without that).
            center_shift[2 * e * k + c] = anew ? NEVER / 4 : (float)(shift_sums[e * k + c] * (1 + 1.1920929e-07));
            center_shift[(2 * e + 1) * k + c] = (float)(shift_sums[e * k + c] * (1 - 1.1920929e-07));
        }
    }
}
