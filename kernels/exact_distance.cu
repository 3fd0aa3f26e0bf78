// What is computed from D itself: inertia, distances to every center, the rows farthest from their own center. Of
// sparse rows, `distance` is E in the first two (common.cuh).
//
//     for (i = 0; i < n; i++) {
//         for (c = 0; c < k; c++) distances[i][c] = sqrt(factor * distance(x[i], centers[c]));  // distances
//         scaled = distance(x[i], centers[labels[i]]) * coarse * weights[i];                      // inertia
//         sums[0] += rint(scaled), sums[1] += rint((scaled - rint(scaled)) * fine);
//         distance[i] = squared_distance(x[i], centers[labels[i]]);                               // own_distances
//         if (distance[i] > largest) largest = distance[i], first = i;         // farthest, first_farthest
//     }
//     for (i = 0; i < n; i++) if (x[i] == x[first]) distance[i] = 0;           // take_farthest
//
// Launch: blocks of 256 threads, four to a multiprocessor; a row a thread, in distances a pair. Options: X_KIND,
// WEIGHT_KIND, SPARSE. By gpukmeans.engine.cuda.kernels.inertia, .distances, .own_distances, .farthest, .first_farthest
// and .take_farthest.
// A row: read once, 4 bytes for the label, 3 d operations of float64; in distances k times as many operations, and 8 k
// bytes written. farthest and first_farthest read 8 bytes of it. A sparse row: 5 operations an entry, each of which
// looks up its feature of a center; own_distances 3 d all the same.

#include "common.cuh"

// Inertia.sums. labelled: 0 if there is one center, that of all. coarse, fine: the powers of two of the two parts.
// sums: (2,).
extern "C" __global__ void __launch_bounds__(256, 4)
inertia(X_ROWS, const double* __restrict__ centers, const int* __restrict__ labels, int labelled,
        const W* __restrict__ weights, double coarse, double fine, unsigned long long* __restrict__ sums) {
    Rows rows(GIVEN);
    int64 large = 0, small = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        double distance = distance_to(rows[i], centers + (labelled ? (int64)labels[i] * coordinates(d) : 0), d);
        add_inertia(distance, weight_of(weights, i), coarse, fine, large, small);
    }
    block_add(&sums[0], large);
    block_add(&sums[1], small);
}

// distances: (n, k), the distance times the factor, or the root of that if rooted, as exact/metric.py has it. single:
// whether they are wanted rounded to float32, in `rounded` (n, k) and nowhere else: CuPy's own conversion takes what is
// subnormal there for zero (test_kernels.test_small_distances_are_rounded_and_not_zero). A thread a distance; neighbours
// share the row.
extern "C" __global__ void __launch_bounds__(256, 4)
distances(X_ROWS, const double* __restrict__ centers, int k, double factor, int rooted, int single,
          double* __restrict__ distances, float* __restrict__ rounded) {
    Rows rows(GIVEN);
    int64 pairs = n * k;
    for (int64 e = (int64)blockIdx.x * blockDim.x + threadIdx.x; e < pairs; e += (int64)gridDim.x * blockDim.x) {
        double scaled = __dmul_rn(factor, distance_to(rows[e / k], centers + e % k * coordinates(d), d));
        double answer = rooted ? __dsqrt_rn(scaled) : scaled;
        if (single) rounded[e] = __double2float_rn(answer);
        else distances[e] = answer;
    }
}

// ---------------------------------------------------------------- the farthest rows, for empty clusters

// distance: (n,) D to the own center.
extern "C" __global__ void __launch_bounds__(256, 4)
own_distances(X_ROWS, const double* __restrict__ centers, const int* __restrict__ labels,
              double* __restrict__ distance) {
    Rows rows(GIVEN);
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        distance[i] = squared_distance(rows[i], centers + (int64)labels[i] * coordinates(d), d);
    }
}

// found: the largest distance as its bits, 0 before; then, by first_farthest, the first row that has it, ~0 before.
extern "C" __global__ void __launch_bounds__(256, 4)
farthest(const double* __restrict__ distance, long long n, unsigned long long* __restrict__ found) {
    uint64 largest = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        uint64 bits = (uint64)__double_as_longlong(distance[i]);
        largest = bits > largest ? bits : largest;
    }
    block_max(&found[0], largest);
}

extern "C" __global__ void __launch_bounds__(256, 4)
first_farthest(const double* __restrict__ distance, long long n, unsigned long long* __restrict__ found) {
    uint64 first = 0;  // the complement of a row: the first row's is the largest
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n && !first; i += (int64)gridDim.x * blockDim.x) {
        if ((uint64)__double_as_longlong(distance[i]) == found[0]) first = ~(uint64)i;
    }
    first = warp_max(first);
    if (threadIdx.x % 32 == 0 && first) atomicMin(&found[1], ~first);
}

// Takes all rows where row `found[1]` is out of the search: their distance becomes zero. location: that row's
// coordinates (d,), 0 before; label: its label.
extern "C" __global__ void __launch_bounds__(256, 4)
take_farthest(X_ROWS, const int* __restrict__ labels, const unsigned long long* __restrict__ found,
              double* __restrict__ distance, double* __restrict__ location, int* __restrict__ label) {
    Rows rows(GIVEN);
    Row there = rows[(int64)found[1]];
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        if ((uint64)__double_as_longlong(distance[i]) != found[0]) continue;
        if (!same_row(rows[i], there)) continue;
        distance[i] = 0.0;
        if (i == (int64)found[1]) {
            for (int e = 0; e < there.count; e++) location[there.column(e)] = value(there.x[e]);
            label[0] = labels[i];
        }
    }
}
