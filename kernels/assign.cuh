// What both kernels of the assignment step share: rows in the frame, the best center so far, and what is certain.
//
// A score is |z|^2 - 2 y.z, with y the row and z the center in the frame (exact.Frame, which also bounds its error):
// y = float((x - offset) * scale). columns holds the centers, |z|^2 and -2 z, a column a center; where their number or
// d are rounded up, centers that are nobody's have a |z|^2 of NEVER, and features that are nobody's are 0.
// next[i] becomes the label where the gap to the runner-up is above the bound, and UNCERTAIN where not; settle.cu
// decides those by D.
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

__device__ __forceinline__ int certain_label(const Nearest& found, float norm, float margin_norm, float margin) {
    return found.second - found.best > __fadd_rn(__fmul_rn(norm, margin_norm), margin) ? found.label : UNCERTAIN;
}
