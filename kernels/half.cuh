// What the kernels share that compare rows with centers by one product of float16 (assign_half.cu has the certificate):
// how rows and centers become float16, what a score errs by, and what is done with the best two.
#pragma once

#include "scores.cuh"
#include "mma.cuh"

#define DEPTH 16
#define CENTERS 128
#define UP 16384.0f                 // 2^14, what values are multiplied by, see assign_tensor.cu
#define SMALLEST 6.103515625e-5f    // 2^-14, of normal float16

// What a score needs of a center: |z|^2 less its error, the way back from products, and by what it errs for each unit of
// the row's |r| and |half(y)|.
struct alignas(16) OfCenter {
    float square, down, per_lost, per_length;
};

// Two numbers in float16, subnormal ones as zero, and what that loses of each.
__device__ __forceinline__ unsigned round_to_halves(float a, float b, float& lost_a, float& lost_b) {
    unsigned halves = to_halves(fabsf(a) < SMALLEST ? 0.0f : a, fabsf(b) < SMALLEST ? 0.0f : b);
    lost_a = __fsub_rn(a, low_half(halves));
    lost_b = __fsub_rn(b, high_half(halves));
    return halves;
}

// The sum over a warp, in all lanes.
__device__ __forceinline__ float warp_total(float amount) {
    for (int step = 16; step; step >>= 1) amount += __shfl_xor_sync(0xffffffffu, amount, step);
    return amount;
}

// Center c by a warp, times -2^14 over a power: store(j, halves) keeps four of its features, from j on. centers: (k, d),
// in the frame; of others all is zero. square, down: as tensor_table and assign_tensor have them. summing: by what the
// sum of products errs for each unit of both lengths. roundings: a factor that lengths, as float32 computes them, are
// multiplied by to be no less than they are.
template <class Store>
__device__ __forceinline__ OfCenter center_as_halves(const float* __restrict__ centers, int64 c, int k, int d, int depth,
                                                     float square, float down, float summing, float roundings,
                                                     Store store) {
    float up = -__uint_as_float((241u << 23) - __float_as_uint(down));  // of 2^-13 / down, exactly
    float lost = 0.0f, length = 0.0f;
    for (int j = 4 * (threadIdx.x % 32); j < depth; j += 128) {
        float z[4], r[4];
#pragma unroll
        for (int f = 0; f < 4; f++) z[f] = c < k && j + f < d ? centers[c * d + j + f] * up : 0.0f;
        uint2 halves;
        halves.x = round_to_halves(z[0], z[1], r[0], r[1]);
        halves.y = round_to_halves(z[2], z[3], r[2], r[3]);
#pragma unroll
        for (int f = 0; f < 4; f++) {
            lost = fmaf(r[f], r[f], lost);
            length = fmaf(z[f], z[f], length);
        }
        store(j, halves);
    }
    float back = down * 8192.0f * roundings;
    lost = sqrtf(warp_total(lost)) * back;
    length = sqrtf(warp_total(length)) * back;
    return {square, down, length, 2.0f * lost + summing * (length + lost)};
}

// Of two rows, in the four lanes that have them together: |y|^2, and bounds on 2 |r| and |half(y)|.
struct TwoRows {
    float norm[2];
    float2 errs[2];
};

// Sixteen rows by a warp, from the place `first` on; those from `count` on are the last once more. Lane 4 g + t has of
// rows g and g + 8 four features of each 16, from 4 t on: store(stage, halves) keeps these. The rest as assign_half has it.
template <class Store>
__device__ __forceinline__ TwoRows rows_as_halves(const X* __restrict__ x, int64 first, int64 count, int listed,
                                                  const int* __restrict__ list, int d, int stages,
                                                  const F* __restrict__ offset, F scale, float roundings, bool wide,
                                                  Store store) {
    float norm[2] = {}, lost[2] = {};
    const X* rows[2];
    int lane = threadIdx.x % 32, part = lane % 4 * 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int64 place = min(first + lane / 4 + 8 * h, count - 1);
        rows[h] = x + (listed ? list[place] : place) * d + part;
    }
#pragma unroll 2
    for (int stage = 0; stage < stages; stage++) {
        FourF offsets = *(const FourF*)(offset + stage * DEPTH + part);
        uint2 halves[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            X raw[4];
            fetch_features(raw, rows[h] + stage * DEPTH, d - part - stage * DEPTH, wide);
            float y[4], r[4];
#pragma unroll
            for (int e = 0; e < 4; e++) y[e] = in_frame(raw[e], offsets.x[e], scale);
            halves[h].x = round_to_halves(y[0], y[1], r[0], r[1]);
            halves[h].y = round_to_halves(y[2], y[3], r[2], r[3]);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                norm[h] = fmaf(y[e], y[e], norm[h]);
                lost[h] = fmaf(r[e], r[e], lost[h]);
            }
        }
        store(stage, halves);
    }
    TwoRows found;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        for (int step = 1; step < 4; step *= 2) {
            norm[h] += __shfl_xor_sync(0xffffffffu, norm[h], step);
            lost[h] += __shfl_xor_sync(0xffffffffu, lost[h], step);
        }
        float loss = sqrtf(lost[h]);
        found.norm[h] = norm[h] * (1.0f / UP / UP);
        found.errs[h] =
            make_float2(loss * roundings * (2.0f / UP), (sqrtf(norm[h]) + loss) * roundings * (1.0f / UP));
    }
    return found;
}

// A lower bound on a score, by what it errs by; no less than that of a lower score, or of larger errors.
__device__ __forceinline__ float less_errors(float score, float per_lost, float per_length, float2 errs) {
    return fmaf(-errs.y, per_length, fmaf(-errs.x, per_lost, score));
}

// The same by the sum of a row's products with a center.
__device__ __forceinline__ void look_at_sum(Nearest& found, float sum, const OfCenter& z, float2 errs, int center) {
    look_at(found, less_errors(fmaf(sum, z.down, z.square), z.per_lost, z.per_length, errs), center);
}

// The row at `place` has this best: its label, with its bounds, or a place on the list. Whole warps call it; what a
// thread has no row for has a place of `count` or more. The rest as assign_half has it.
__device__ __forceinline__ void settle(Nearest best, float norm, float2 errs, int64 place, int64 count,
                                       const OfCenter* __restrict__ of_centers, int* __restrict__ again,
                                       unsigned long long* __restrict__ again_length, float per_norm,
                                       const float* __restrict__ errors, int* __restrict__ tentative, int listed,
                                       const int* __restrict__ list, int bounded,
                                       const float* __restrict__ center_shift, int k, float* __restrict__ slack,
                                       float* __restrict__ lower_bound) {
    OfCenter z = of_centers[best.label];
    // From the lower bound on the best score to the upper one; a little more, for what that rounds.
    float error = fmaf(errs.x, z.per_lost, errs.y * z.per_length);
    best.best = fmaf(error, 2.0f + 9.5367431640625e-7f, best.best);
    float margin = margin_of(norm, best.label, per_norm, errors);
    int label = place < count ? certain_label(best, margin) : 0;
    append(label == UNCERTAIN, place, again, again_length);
    if (label != UNCERTAIN && place < count) {
        tentative[place] = label;
        if (bounded) {
            int64 i = listed ? list[place] : place;
            write_bounds(best, label, norm, margin, center_shift, k, slack[i], lower_bound[i]);
        }
    }
}
