// Centers in the forms that kernels read, made on the device of the one form that crosses the bus, or of sums, where
// the host will come to the same: float32 numbers in the frame (scores.cuh), their |z|^2, and columns for D; what
// scores of each and distances to it may err by; and how far all of them have moved, for bounds. In plain C:
//
//     for (c = 0; c < k; c++) {
//         for (squares[c] = moved[c] = j = 0; j < d; j++) {
//             if (summed) centers[c][j] = sums[c][j] / (sums[c][d] / weight_scale) / steps[j] + middle[j];
//             moved[c] += square(centers[c][j] - columns[j][c]);
//             framed[c][j] = (centers[c][j] - offset[j]) * scale;
//             squares[c] += square(framed[c][j]);
//             columns[j][c] = centers[c][j];
//         }
//         moved[c] = sqrt(moved[c]) * scale;
//         errors[0][c] = 2 * per_center * squares[c] + rest, errors[1][c] = per_reach * sqrt(squares[c]) + absolute;
//         downs[c] = power of two of sqrt(squares[c]) * 2^-27;
//         squares[c] -= per_center * squares[c];
//     }
//     for (c = 0; c < k; c++) {
//         others = the largest moved[b] of all b but c;
//         shift_sums[0][c] += moved[c] + others, shift_sums[1][c] += others;
//     }
//
// Measured (benchmarks/NOTES.md): when the host made the forms, it took 45 us for an iteration of 64 colors instead of
// 20, and 16 ms instead of 5 for 8,192 centers of 128 features, longer than the device for all else. Writing the table
// of assign_low_dim here, where its values are in registers, saves a launch.
//
// Launch: blocks of 256 threads, for center_forms a warp to a center, four blocks to a multiprocessor; for movement a
// single block. Options: X_KIND, SPARSE. By gpukmeans.engine.cuda.assignment_kernels.center_forms and .movement.
// A value of a center: 8 bytes read, 20 or 24 written, in the second-level cache; nothing of rows.

#include "scores.cuh"

#define SHORTEST -64  // power of two of |z|

// centers: (k, d), given, or set to what Scales.centers makes of sums (k, d + 1) if `summed`, none of which is of an
// empty cluster. middle, steps: (d,) the scales' offset and scale. inverse: 1 / weight_scale, 2**-exponent of weights.
// offset, scale: the frame's. per_center to absolute: launch_plans.ErrorFactors. framed: (k, d). squares: (padded,),
// |z|^2 less per_center |z|^2, NEVER from k on. errors: (2, k), what the center's part of the gap between its score and
// a larger one has to be for that to be certain, and what a distance to it may err by (exact.certificate). downs: if
// `lifted`, (padded,), what products with it are multiplied by in assign_tensor. table: if `tabled`, (1 + d, padded), as
// assign_low_dim and assign_sparse read them. columns: (d, k), those of before until then; for sparse rows (d + 1, k),
// with the squares of whole centers, rounded in any order. moved: (k,), how far from those, in the frame and from above.
extern "C" __global__ void __launch_bounds__(256, 4)
center_forms(const unsigned long long* __restrict__ sums, const double* __restrict__ middle,
             const double* __restrict__ steps, double inverse, int summed, double* __restrict__ centers, int k, int d,
             const F* __restrict__ offset, double scale, double per_center, double rest, double per_reach,
             double absolute, int padded, float* __restrict__ framed, float* __restrict__ squares,
             float* __restrict__ errors, float* __restrict__ downs, int lifted, float* __restrict__ table, int tabled,
             double* __restrict__ columns, double* __restrict__ moved) {
    int lane = threadIdx.x % 32;
    for (int center = (blockIdx.x * blockDim.x + threadIdx.x) / 32; center < padded;
         center += gridDim.x * blockDim.x / 32) {
        double square = 0.0, shift = 0.0, weight = 0.0, whole = 0.0;
        if (summed && center < k) weight = __dmul_rn((double)(int64)sums[(int64)center * (d + 1) + d], inverse);
        for (int j = lane; j < d; j += 32) {
            if (center >= k) {
                if (tabled) table[(int64)(1 + j) * padded + center] = 0.0f;
                continue;
            }
            int64 at = (int64)center * d + j;
            if (summed) {
                double mean = __ddiv_rn((double)(int64)sums[(int64)center * (d + 1) + j], weight);
                centers[at] = __dadd_rn(__ddiv_rn(mean, steps[j]), middle[j]);
            }
            double value = centers[at], z = __dmul_rn(__dsub_rn(value, (double)offset[j]), scale);
            double step = __dsub_rn(value, columns[(int64)j * k + center]);
            square = __dadd_rn(square, __dmul_rn(z, z));
            shift = __dadd_rn(shift, __dmul_rn(step, step));
            framed[at] = (float)z;
            if (tabled) table[(int64)(1 + j) * padded + center] = -2.0f * (float)z;
            columns[(int64)j * k + center] = value;
            if (SPARSE) whole += value * value;
        }
        for (int other = 16; other; other >>= 1) {
            square += __shfl_xor_sync(0xffffffffu, square, other);
            shift += __shfl_xor_sync(0xffffffffu, shift, other);
            if (SPARSE) whole += __shfl_xor_sync(0xffffffffu, whole, other);
        }
        if (lane == 0) {
            squares[center] = center < k ? (float)(square - per_center * square) : NEVER;
            if (tabled) table[center] = squares[center];
            if (SPARSE && center < k) columns[(int64)d * k + center] = whole;
            // |z| is from 2^length to twice that, unless it is shorter than anything that counts
            // (test_tensor.test_centers_of_any_length_are_compared_on_tensor_cores fails if all are taken for 1).
            int length = max(ilogb(square) >> 1, SHORTEST);
            if (lifted) downs[center] = ldexpf(1.0f, (center < k ? length : 0) - 27);
            if (center >= k) continue;
            errors[center] = (float)(2 * per_center * square + rest);
            errors[k + center] = (float)(per_reach * sqrt(square) + absolute);
            // 2^-30 is more than the roundings of up to 2^17 squares (hamerly.moved).
            moved[center] = sqrt(shift) * scale * (1 + 9.3132257e-10);
        }
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
// begin anew. moved: (k,). shift_sums: (2, k), A + M and M in double, and center_shift: (4, k), the same from above and
// from below, as hamerly.cu has them. counts: (3,), of the assignment that follows.
extern "C" __global__ void __launch_bounds__(256)
movement(const double* __restrict__ moved, int k, int first, double longest, double* __restrict__ shift_sums,
         float* __restrict__ center_shift, unsigned long long* __restrict__ counts) {
    __shared__ Two tops[8];
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
    bool anew = first;
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
