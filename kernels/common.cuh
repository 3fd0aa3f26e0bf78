// What every family of kernels shares: the input's type, rows, the distance D, fixed-point terms, sums of 64 bits.
//
// Compiled at run time for one type of input and of weights, chosen by macros:
//   X_KIND        0 uint8, 1 float16, 2 float32, 3 float64
//   WEIGHT_KIND   0 all rows weigh one, 1 int64 (copies of a row), 2 float64
//   SPARSE        1 if rows are those of a CSR matrix, see Rows
// Indices of values are 64-bit: n * d may pass 2**31.
//
// The arithmetic is that of gpukmeans/exact/, operation by operation. The *_rn intrinsics are never
// contracted into a fused multiply-add, and no fast-math option is ever used: the bits are the contract.
#pragma once

typedef long long int64;
typedef unsigned long long uint64;

#if X_KIND == 0
typedef unsigned char X;
#elif X_KIND == 1
typedef unsigned short X;  // the bits of a float16, so that no header of CUDA's is needed
#elif X_KIND == 2
typedef float X;
#else
typedef double X;
#endif

#ifndef SPARSE
#define SPARSE 0
#endif

#if WEIGHT_KIND == 1
typedef int64 W;
#else
typedef double W;
#endif

// In place of a label: scores leave it to D, or the row has none yet.
#define UNCERTAIN (-1)

#if X_KIND != 3
__device__ __forceinline__ float single_value(X x) {
#if X_KIND == 1
    // Read as a float32, the bits are too small by 2**(127 - 15); the product is exact, for subnormals too.
    unsigned bits = (x & 0x7fffu) << 13, sign = (x & 0x8000u) << 16;
    float magnitude = __fmul_rn(__uint_as_float(bits), 5.192296858534827628530496329220096e33f);
    bits = bits >= 0x7c00u << 13 ? bits | 0x7f800000u : __float_as_uint(magnitude);  // infinity and NaN stay
    return __uint_as_float(bits | sign);
#else
    return (float)x;
#endif
}
#endif

__device__ __forceinline__ double value(X x) {
#if X_KIND == 1
    return (double)single_value(x);
#else
    return (double)x;
#endif
}

// ---------------------------------------------------------------- rows, four features at a time

// Four features of a row of x, as they lie in memory.
struct alignas(sizeof(X) < 4 ? 4 * sizeof(X) : 16) Four {
    X x[4];
};

// Whether fours are aligned in all rows of d features (test_kernels.test_rows_may_begin_at_any_address fails if the
// first is taken for aligned, test_kernels.test_fits_of_many_shapes_are_numpys if the others are).
__device__ __forceinline__ bool is_wide(const X* x, int d) { return d % 4 == 0 && (size_t)x % sizeof(Four) == 0; }

// `values` features of a row, from one on of which `left` are there; zeros beyond. wide: see is_wide.
template <int values>
__device__ __forceinline__ void fetch_features(X (&raw)[values], const X* row, int left, bool wide) {
#pragma unroll
    for (int e = 0; e < values; e++) raw[e] = 0;
    if (wide) {
#pragma unroll
        for (int f = 0; f < values; f += 4) {
            if (left > f) {
                Four word = *(const Four*)(row + f);
#pragma unroll
                for (int e = 0; e < 4; e++) raw[f + e] = word.x[e];
            }
        }
    } else {
#pragma unroll
        for (int e = 0; e < values; e++) {
            if (e < left) raw[e] = row[e];
        }
    }
}

// ---------------------------------------------------------------- rows, dense or sparse

// A kernel that reads both kinds has its rows as X_ROWS, and makes `Rows rows(GIVEN)` of them: `rows[i]` has `count`
// values `x`, of the features column(e) in ascending order. A dense row has all d; of a sparse one the others are zero.
#if SPARSE
// The entries of all rows, those of row i from starts[i] to starts[i + 1].
#define X_ROWS                                                                                                       \
    const X *__restrict__ values, const int *__restrict__ columns, const long long *__restrict__ starts, long long n, \
        int d
#define GIVEN values, columns, starts

struct Row {
    const X* x;
    int count;
    const int* columns;
    __device__ __forceinline__ int column(int e) const { return columns[e]; }
};

struct Rows {
    const X* values;
    const int* columns;
    const int64* starts;
    __device__ __forceinline__ Rows(const X* values, const int* columns, const long long* starts)
        : values(values), columns(columns), starts(starts) {}
    __device__ __forceinline__ int64 begin(int64 i) const { return starts[i]; }
    __device__ __forceinline__ Row operator[](int64 i) const {
        int64 start = begin(i);
        return {values + start, (int)(starts[i + 1] - start), columns + start};
    }
};
#else
// One row after another: x[i * d + j].
#define X_ROWS const X *__restrict__ x, long long n, int d
#define GIVEN x, d

struct Row {
    const X* x;
    int count;
    bool wide;  // see is_wide
    __device__ __forceinline__ int column(int e) const { return e; }
};

struct Rows {
    const X* x;
    int d;
    bool wide;
    __device__ __forceinline__ Rows(const X* x, int d) : x(x), d(d), wide(is_wide(x, d)) {}
    __device__ __forceinline__ int64 begin(int64 i) const { return i * d; }
    __device__ __forceinline__ Row operator[](int64 i) const { return {x + begin(i), d, wide}; }
};
#endif

// each(x, j) for all d features in order, also those that are zero since a row does not store them; x: float64.
template <class Each>
__device__ __forceinline__ void for_all_features(const Row& row, int d, Each each) {
#if SPARSE
    int e = 0, next = row.count ? row.columns[0] : d;
    for (int j = 0; j < d; j++) {
        double x = 0.0;
        if (j == next) {
            x = value(row.x[e]);
            next = ++e < row.count ? row.columns[e] : d;
        }
        each(x, j);
    }
#else
    for (int j = 0; j < d; j++) each(value(row.x[j]), j);
#endif
}

// Whether both are the same location; zeros may be stored or not
// (test_sparse_kernels.test_rows_are_equal_whatever_zeros_they_store fails if that counts).
__device__ __forceinline__ bool same_row(const Row& a, const Row& b) {
#if SPARSE
    int f = 0;
    for (int e = 0;; e++, f++) {
        while (e < a.count && value(a.x[e]) == 0.0) e++;
        while (f < b.count && value(b.x[f]) == 0.0) f++;
        if (e == a.count || f == b.count) return e == a.count && f == b.count;
        if (a.columns[e] != b.columns[f] || value(a.x[e]) != value(b.x[f])) return false;
    }
#else
    for (int j = 0; j < a.count; j++) {
        if (value(a.x[j]) != value(b.x[j])) return false;
    }
    return true;
#endif
}

// Whether a row is at a location (d,): what it stores first, which nearly always says no
// (test_sparse_kernels.test_rows_are_equal_whatever_zeros_they_store fails if that is all).
__device__ __forceinline__ bool is_at(const Row& row, const double* location, int d) {
    for (int e = 0; e < row.count; e++) {
        if (value(row.x[e]) != location[row.column(e)]) return false;
    }
#if SPARSE
    bool same = true;
    for_all_features(row, d, [&](double x, int j) { same = same && x == location[j]; });
    return same;
#else
    return true;
#endif
}

// ---------------------------------------------------------------- draws

// seeding.inverse_cdf_index: floor(uniform * total) for 53 bits of a uniform draw.
__device__ __forceinline__ int64 inverse_cdf_index(double uniform, uint64 total) {
    uint64 steps = (uint64)__dmul_rn(uniform, 9007199254740992.0);
    return (int64)(__umul64hi(steps, total) << 11 | steps * total >> 53);
}

// ---------------------------------------------------------------- distances

// One feature's share of D (Rule 1), added to the features before it.
__device__ __forceinline__ double add_square(double total, double x, double c) {
    double step = __dsub_rn(x, c);
    return __dadd_rn(total, __dmul_rn(step, step));
}

// D of a row and center c (d). The first square is added to zero, which changes nothing.
__device__ __forceinline__ double squared_distance(const Row& row, const double* c, int d) {
    double total = 0.0;
    for_all_features(row, d, [&](double x, int j) { total = add_square(total, x, c[j]); });
    return total;
}

// The distance that is summed or published is D, or, of sparse rows, E of gpukmeans/exact/sparse_rows.py. A center is
// then d + 1 numbers, of which the last is N; so are columns of centers, see coordinates.
__device__ __forceinline__ int coordinates(int d) { return SPARSE ? d + 1 : d; }

// One feature that a row stores, added to those before it, from zero on.
__device__ __forceinline__ double add_step(double total, double x, double c) {
#if SPARSE
    double step = __dsub_rn(x, c);
    return __dadd_rn(total, __dsub_rn(__dmul_rn(step, step), __dmul_rn(c, c)));
#else
    return add_square(total, x, c);
#endif
}

// The distance to c, of whose coordinates there is one every `stride`, when all of these are added.
__device__ __forceinline__ double distance_of(double total, const double* c, int d, int64 stride) {
#if SPARSE
    return fmax(__dadd_rn(total, c[d * stride]), 0.0);
#else
    return total;
#endif
}

__device__ __forceinline__ double distance_to(const Row& row, const double* c, int d) {
    double total = 0.0;
    for (int e = 0; e < row.count; e++) total = add_step(total, value(row.x[e]), c[row.column(e)]);
    return distance_of(total, c, d, 1);
}

// The power of two that brings a magnitude into [1/2, 1), within 2**-1022 to 2**1022. Of b, the exponent that the
// magnitude is stored with, 2**(1022 - b), which is stored with 2045 - b; subnormal numbers have b = 0.
__device__ __forceinline__ double scale_to_one(double magnitude) {
    int b = (int)(__double_as_longlong(magnitude) >> 52);
    return __longlong_as_double((int64)max(1, 2045 - b) << 52);
}

// ---------------------------------------------------------------- weights and terms

__device__ __forceinline__ W weight_of(const W* weights, int64 i) {
#if WEIGHT_KIND == 0
    return 1;
#else
    return weights[i];
#endif
}

// Inertia.sums of a row: adds its distance to the two sums. coarse, fine: the powers of two of these.
__device__ __forceinline__ void add_inertia(double distance, W weight, double coarse, double fine, int64& large,
                                            int64& small) {
    int64 copies = 1;
    double scaled = __dmul_rn(distance, coarse);
#if WEIGHT_KIND == 1
    copies = weight;
#elif WEIGHT_KIND == 2
    if (weight == rint(weight)) copies = (int64)weight;
    else scaled = __dmul_rn(scaled, weight);
#endif
    double whole = rint(scaled);
    large += (int64)whole * copies;
    small += (int64)rint(__dmul_rn(__dsub_rn(scaled, whole), fine)) * copies;
}

// fixed_point.weigh: `term` holds an integer; a whole weight counts copies of it, any other scales it before rounding.
__device__ __forceinline__ int64 weigh(double term, W weight) {
#if WEIGHT_KIND == 0
    return (int64)term;
#elif WEIGHT_KIND == 1
    return (int64)term * weight;
#else
    return weight == rint(weight) ? (int64)term * (int64)weight : (int64)rint(__dmul_rn(term, weight));
#endif
}

// Weights.integer_weights: the weight as sums count it. weight_scale: 2**exponent.
__device__ __forceinline__ int64 weight_mass(W weight, double weight_scale) {
#if WEIGHT_KIND == 2
    return (int64)rint(__dmul_rn(weight, weight_scale));
#else
    return (int64)weight;
#endif
}

// Scales.terms, one feature of one row.
__device__ __forceinline__ int64 fixed_term(X x, double offset, double scale, W weight) {
    return weigh(rint(__dmul_rn(__dsub_rn(value(x), offset), scale)), weight);
}

// ---------------------------------------------------------------- sums

// Shared memory has no 64-bit add of its own, only a loop that compares and swaps. Two 32-bit adds, the
// second with the first one's carry, are exact: whichever order they arrive in, each wrap is carried once.
__device__ __forceinline__ void add_shared(unsigned* sum, int64 amount) {
    unsigned low = (unsigned)amount;
    unsigned carry = atomicAdd(&sum[0], low) > 0xffffffffu - low;
    unsigned high = (unsigned)((uint64)amount >> 32) + carry;
    if (high) atomicAdd(&sum[1], high);
}

__device__ __forceinline__ void add_global(uint64* sum, int64 amount) { atomicAdd(sum, (uint64)amount); }

// The sum over a full warp, in its first lane. Unsigned, since the other lanes add some amounts twice and may wrap.
__device__ __forceinline__ uint64 warp_sum(uint64 amount) {
    for (int step = 16; step; step >>= 1) amount += __shfl_down_sync(0xffffffffu, amount, step);
    return amount;
}

// What the lanes of a full warp up to this one have together.
template <class T>
__device__ __forceinline__ T warp_scan(T amount) {
    for (int step = 1; step < 32; step *= 2) {
        T other = __shfl_up_sync(0xffffffffu, amount, step);
        if (threadIdx.x % 32 >= step) amount += other;
    }
    return amount;
}

// Adds every thread's amount to a sum in global memory. All threads of a block of full warps call it.
__device__ __forceinline__ void block_add(uint64* sum, int64 amount) {
    uint64 total = warp_sum((uint64)amount);
    if (threadIdx.x % 32 == 0 && total) atomicAdd(sum, total);
}

// ---------------------------------------------------------------- order

// Doubles, NaN excepted, as integers of the same order, for atomicMin and atomicMax.
__device__ __forceinline__ uint64 order_key(double x) {
    uint64 bits = (uint64)__double_as_longlong(x);
    return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}

// The largest in a full warp, in all of its lanes.
__device__ __forceinline__ uint64 warp_max(uint64 value) {
    for (int step = 16; step; step >>= 1) {
        uint64 other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value ? other : value;
    }
    return value;
}

// Raises a value in global memory to the largest of the threads'. All threads of a block of full warps call it.
__device__ __forceinline__ void block_max(uint64* largest, uint64 value) {
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) atomicMax(largest, value);
}
