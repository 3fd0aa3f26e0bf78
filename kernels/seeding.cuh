// What kernels of k-means++ share: sampling weights, the least of limits, D to columns of candidates, and candidates as
// float32 tables.
#pragma once

#include "common.cuh"

// A row's sampling weight: weight times closest_dist_sq at that scale, or, for scale 0, the weight alone.
__device__ __forceinline__ int64 sampling_weight(double closest_dist_sq, W weight, double scale, double weight_scale) {
    return scale == 0.0 ? weight_mass(weight, weight_scale) : weigh(rint(__dmul_rn(closest_dist_sq, scale)), weight);
}

// `scale`, or, if that is negative, 2 to fixed_point.power_for the largest D left; any if none is. spare_bits: what is
// left of the sums' bits when those of the total weight are taken off.
__device__ __forceinline__ double scale_of(double scale, const uint64* largest, int spare_bits) {
    if (scale >= 0.0) return scale;
    double left = __longlong_as_double((int64)*largest);
    if (left == 0.0) return 1.0;
    int exponent;
    double mantissa = frexp(left, &exponent);
    return ldexp(1.0, min(1000, spare_bits - (exponent - (mantissa == 0.5))));
}

// No limit is negative, so that their bits are in their order, and the least has the largest complement. Zero is none.
__device__ __forceinline__ uint64 least_key(double limit) { return ~(uint64)__double_as_longlong(limit); }
__device__ __forceinline__ double least_of(uint64 key) { return __longlong_as_double((int64)~key); }

// ---------------------------------------------------------------- D

template <int count>
struct alignas(count % 2 ? 8 : 16) Doubles {
    double x[count];
};

// each(x, j) for all features that a row stores, in order. Lanes have rows of their own, so each load touches as many
// lines: four features at a time mean a quarter of the loads.
template <class Each>
__device__ __forceinline__ void for_features(const Row& row, Each each) {
#if SPARSE
#pragma unroll 4
    for (int e = 0; e < row.count; e++) each(row.x[e], row.columns[e]);
#else
    int j = 0;
#pragma unroll 1
    for (; j + 4 <= row.count; j += 4) {
        X raw[4];
        fetch_features(raw, row.x + j, 4, row.wide);
#pragma unroll
        for (int f = 0; f < 4; f++) each(raw[f], j + f);
    }
#pragma unroll 1
    for (; j < row.count; j++) each(row.x[j], j);
#endif
}

// distance: from a row to neighboring candidates, columns of (coordinates(d), padded) doubles.
template <int count>
__device__ __forceinline__ void measure(double (&distance)[count], const Row& row, const double* columns, int padded,
                                        int d) {
#pragma unroll
    for (int e = 0; e < count; e++) distance[e] = 0.0;
    for_features(row, [&](X x, int j) {
        double v = value(x);
        Doubles<count> c = *(const Doubles<count>*)(columns + (int64)j * padded);
#pragma unroll
        for (int e = 0; e < count; e++) distance[e] = add_step(distance[e], v, c.x[e]);
    });
#pragma unroll
    for (int e = 0; e < count; e++) distance[e] = distance_of(distance[e], columns + e, d, padded);
}

// The distance of a row to a single column.
__device__ __forceinline__ double measure_one(const Row& row, const double* column, int padded, int d) {
    double distance[1];
    measure(distance, row, column, padded, d);
    return distance[0];
}

// ---------------------------------------------------------------- float32

// Rows and candidates for sums of float32 differences (exact.direct_bound.DirectBound): float64 less an offset, times a
// power of two; what is narrower only times that, which is exact.
#if X_KIND == 3
typedef double F;
__device__ __forceinline__ float single(X x, F offset, F scale) {
    return (float)__dmul_rn(__dsub_rn(x, offset), scale);
}
#else
typedef float F;
__device__ __forceinline__ float single(X x, F, F scale) { return __fmul_rn(single_value(x), scale); }
#endif

// Where feature j of a candidate stands in a table of floats. Four features at a time; `lanes` share a row, of which each
// has every `lanes`-th four; `width` candidates are looked at together: (candidates / width, fours / lanes, width,
// lanes, 4).
__device__ __forceinline__ int64 table_place(int candidate, int j, int fours, int lanes, int width) {
    int four = j / 4, group = candidate / width;
    int64 place = (int64)group * width * fours + (four / lanes * width + candidate % width) * lanes + four % lanes;
    return place * 4 + j % 4;
}
