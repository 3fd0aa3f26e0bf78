// What the kernels of the assignment step share: rows in the frame, the best center so far, what is certain, and what
// is kept for the next time.
//
// A score is |z|^2 - 2 y.z, with y the row and z the center in the frame (exact.certificate.Frame, which also bounds
// its error): y = float((x - offset) * scale). columns holds the centers, |z|^2 and -2 z, a column a center; where
// their number or d are rounded up, centers that are nobody's have a |z|^2 of NEVER, and features that are nobody's are
// 0. Of |z|^2 what the center's own score may err by is taken off (prepare_centers.cu), so that a score is a lower
// bound but for what the row adds. tentative[i] becomes the label where the runner-up's is beyond the upper bound of
// the best, and UNCERTAIN where not, and the row's place goes on a list if one is kept: if many are on it, assign_close.cu
// decides most of those by float32 differences; refine.cu decides what is left by D.
//
// Only the rows of a list are looked at if there is one (hamerly.cu), and what their bounds are is written if anybody
// will ask: the runner-up's score, less the error of both, is the distance that others have at least.
#pragma once

#include "common.cuh"

#define NEVER 3.402823466e38f  // above all scores, which stay below 2**121

// Unless x is float64, the offset and the scale are float32 numbers, and a difference rounds once: no float64 then,
// which most GPUs compute at a sixty-fourth of the speed.
#if X_KIND == 3
typedef double F;
__device__ __forceinline__ float in_frame(X x, F offset, F scale) {
    return (float)__dmul_rn(__dsub_rn(x, offset), scale);
}
#else
typedef float F;
__device__ __forceinline__ float in_frame(X x, F offset, F scale) {
    return __fmul_rn(__fsub_rn(single_value(x), offset), scale);
}
#endif

// The best of the centers seen so far, its score, and the least score of all others.
struct Nearest {
    float best, second;
    int label;
};

__device__ __forceinline__ void look_at(Nearest& found, float score, int label) {
    found.second = fminf(found.second, fmaxf(found.best, score));
    found.label = score < found.best ? label : found.label;
    found.best = fminf(found.best, score);
}

// The gap above which another center than `label`, whose score is the least, is certain to be farther. per_norm: of
// exact.certificate.ScoreErrors, errors: see prepare_centers.cu (test_kernels.test_no_certain_label_is_wrong fails
// without it; on kernels, so does test_certificate.test_near_ties_far_from_all_centers_are_decided_by_distance without
// the norm's part, and test_certificate.test_near_ties_are_decided_by_distance without the center's).
__device__ __forceinline__ float margin_of(float norm, int label, float per_norm, const float* errors) {
    return __fadd_rn(__fmul_rn(norm, per_norm), errors[label]);
}

__device__ __forceinline__ int certain_label(const Nearest& found, float margin) {
    return found.second - found.best > margin ? found.label : UNCERTAIN;
}

// Puts the places of rows in doubt on a list. Whole warps call it.
__device__ __forceinline__ void append(bool doubt, int64 place, int* list, unsigned long long* length) {
    unsigned votes = __ballot_sync(0xffffffffu, doubt), lane = threadIdx.x % 32;
    if (!votes) return;
    int64 end = 0;
    if (lane == 0) end = (int64)atomicAdd(length, (uint64)__popc(votes));
    end = __shfl_sync(0xffffffffu, end, 0);
    if (doubt) list[end + __popc(votes & ((1u << lane) - 1))] = (int)place;
}

// What hamerly.cu keeps of a row. Its label stands while D tells the two distances apart, which it does if they differ
// by 2^-20 (engine/numpy/hamerly.py): hence a little less than the distance to others. An uncertain row has no bounds
// (test_hamerly.test_any_walk_of_the_centers fails if it has, and
// test_hamerly.test_what_is_kept_of_rows_bounds_their_distances_in_rationals without the margin in either distance).
__device__ __forceinline__ void write_bounds(const Nearest& found, int label, float norm, float margin,
                                             const float* center_shift, int k, float& slack, float& lower_bound) {
    if (label == UNCERTAIN) {
        slack = lower_bound = -NEVER;
        return;
    }
    // Both sums, the root and the product round by u of a squared distance, or of a distance: hence 4 u.
    float own = sqrtf(fmaxf(found.best + norm + margin, 0.0f)) * (1 + 4 * 5.9604645e-8f);
    float others = sqrtf(fmaxf(found.second + norm - margin, 0.0f)) * (1 - 4 * 5.9604645e-8f - 1.9073486e-6f);
    lower_bound = __fadd_rd(others, center_shift[3 * k + label]);
    slack = __fadd_rd(__fsub_rd(others, own), center_shift[k + label]);
}

// ---------------------------------------------------------------- many features, and centers by tiles

// The same of two disjoint sets of centers. Which of two equal scores wins does not matter: they are uncertain.
__device__ __forceinline__ Nearest merge(const Nearest& a, const Nearest& b) {
    return {fminf(a.best, b.best), fminf(fmaxf(a.best, b.best), fminf(a.second, b.second)),
            b.best < a.best ? b.label : a.label};
}

__device__ __forceinline__ Nearest from_lane(const Nearest& found, int step) {
    return {__shfl_xor_sync(0xffffffffu, found.best, step), __shfl_xor_sync(0xffffffffu, found.second, step),
            __shfl_xor_sync(0xffffffffu, found.label, step)};
}

struct alignas(16) FourF {
    F x[4];
};
