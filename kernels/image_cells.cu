// Cells of a picture's colors, on integers: adding points up in them, and the nearest centers. In plain C:
//
//     for (i = 0; i < n; i++) {                                     // add_points; whole_points has a bin for each
//         x = rint((points[i] - middle) * scale), mass = max(rint(weights[i] * mass_scale), 1);
//         for (j = 0; j < D; j++) table[bin_of(x)][j] += mass * x[j];
//         table[bin_of(x)][D] += mass;
//     }
//     for (i = 0; i < m; i++) {                                     // nearest_centers, second_centers
//         label = argmin of squares[c] - 2 * dot(centers[c], x[i]) over c;
//         for (j = 0; j <= D; j++) answers[label][j] += sums[i][j];
//     }
//
// The arithmetic of gpukmeans/image/grid.py and protocol.py. x and centers are integers within 2**10 of zero, so that
// float32 scores are exact, and whatever is added up is an integer: no order shows. D is the number of features, 1, 3
// or 4. Of a cell there are x, D float32 values; and sums, D + 1 of 64 bits: mass times coordinate, and mass.
//
// Counted (benchmarks/NOTES.md): a launch of some microseconds is most of the time of each; the nearest of 256 centers
// of 50,220 cells take 4 us, the second-nearest 7.
//
// Launch: blocks of 256 threads, four to a multiprocessor; a point, a cell or a bin a thread; in nearest_centers and
// second_centers dynamic shared memory of `tile` centers of 4 (D + 1) bytes. Options: X_KIND, WEIGHT_KIND, D. By the
// functions of the same names in gpukmeans.image.cuda.kernels.
// A cell: 4 D + 8 (D + 1) bytes, a few MB of all in the second-level cache; k (D + 4) instructions for the nearest of k
// centers. Sums are atomic additions to global memory, 64 bits each: D + 1 for a cell, to as many places as there are
// centers, or bins.

#include "common.cuh"

#define ROW (D + 1)

// geometry: (3, D), a GridScale's middle and half_range, and a grid's sizes.
__device__ __forceinline__ int64 bin_of(const float (&x)[D], const double* geometry, int shift) {
    int64 code = 0;
    for (int j = 0; j < D; j++) {
        code = code * (int64)geometry[2 * D + j] + ((int64)((double)x[j] + geometry[D + j]) >> shift);
    }
    return code;
}

__device__ __forceinline__ void take_cell(const float* x, int64 i, float (&own)[D]) {
    for (int j = 0; j < D; j++) own[j] = x[i * D + j];
}

// Point i as integers, and its mass.
__device__ __forceinline__ double integral(const X* points, const W* weights, int64 i, const double* geometry,
                                           double scale, double mass_scale, float (&x)[D]) {
    for (int j = 0; j < D; j++) x[j] = (float)rint(__dmul_rn(__dsub_rn(value(points[i * D + j]), geometry[j]), scale));
    return fmax(rint(__dmul_rn((double)weight_of(weights, i), mass_scale)), 1.0);
}

// Mass times |x|^2, in the order of NumPy's operations.
__device__ __forceinline__ int64 square_of(const float (&x)[D], double mass) {
    double sum = 0.0;
    for (int j = 0; j < D; j++) sum = __dadd_rn(sum, __dmul_rn(__dmul_rn(mass, x[j]), x[j]));
    return (int64)sum;
}

// Mass times |mean|^2, rounded, of a cell's sums.
__device__ __forceinline__ int64 mean_square(const int64 (&row)[ROW]) {
    double sum = __dmul_rn((double)row[0], (double)row[0]);
    for (int j = 1; j < D; j++) sum = __dadd_rn(sum, __dmul_rn((double)row[j], (double)row[j]));
    return (int64)rint(__ddiv_rn(sum, (double)row[D]));
}

// table: (bins, ROW), zeros at first, gets the sums of points (n, D). totals: mass times |x|^2, and mass, of all.
extern "C" __global__ void __launch_bounds__(256, 4)
add_points(const X* __restrict__ points, const W* __restrict__ weights, long long n,
           const double* __restrict__ geometry, double scale, double mass_scale, int shift,
           unsigned long long* __restrict__ table, unsigned long long* __restrict__ totals) {
    int64 square = 0, total = 0;
#pragma unroll 1  // copies of the loop would need more registers than there are
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        float x[D];
        double mass = integral(points, weights, i, geometry, scale, mass_scale, x);
        uint64* row = table + bin_of(x, geometry, shift) * ROW;
        for (int j = 0; j < D; j++) add_global(&row[j], (int64)mass * (int64)x[j]);
        add_global(&row[D], (int64)mass);
        square += square_of(x, mass);
        total += (int64)mass;
    }
    block_add(&totals[0], square);
    block_add(&totals[1], total);
}

// The same of finer cells.
extern "C" __global__ void __launch_bounds__(256, 4)
add_cells(const float* __restrict__ x, const long long* __restrict__ sums, long long m,
          const double* __restrict__ geometry, int shift, unsigned long long* __restrict__ table) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        float own[D];
        take_cell(x, i, own);
        uint64* row = table + bin_of(own, geometry, shift) * ROW;
        for (int j = 0; j < ROW; j++) add_global(&row[j], sums[i * ROW + j]);
    }
}

// All points as cells of their own: x (n, D), sums (n, ROW); totals: mass times |mean|^2, and mass.
extern "C" __global__ void __launch_bounds__(256, 4)
whole_points(const X* __restrict__ points, const W* __restrict__ weights, long long n,
             const double* __restrict__ geometry, double scale, double mass_scale, float* __restrict__ x,
             long long* __restrict__ sums, unsigned long long* __restrict__ totals) {
    int64 square = 0, total = 0;
#pragma unroll 1  // copies of the loop would need more registers than there are
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        float own[D];
        int64 row[ROW];
        row[D] = (int64)integral(points, weights, i, geometry, scale, mass_scale, own);
        for (int j = 0; j < D; j++) {
            row[j] = row[D] * (int64)own[j];
            x[i * D + j] = own[j];
        }
        for (int j = 0; j < ROW; j++) sums[i * ROW + j] = row[j];
        square += mean_square(row);
        total += row[D];
    }
    block_add(&totals[0], square);
    block_add(&totals[1], total);
}

// How many of each 256 bins have mass: found (bins / 256, rounded up). A block takes 256 at a time.
extern "C" __global__ void __launch_bounds__(256, 4)
used_bins(const long long* __restrict__ table, int bins, int* __restrict__ found) {
    for (int part = blockIdx.x; part * 256 < bins; part += gridDim.x) {
        int bin = part * 256 + threadIdx.x;
        int total = __syncthreads_count(bin < bins && table[(int64)bin * ROW + D]);
        if (threadIdx.x == 0) found[part] = total;
    }
}

// The bins that have mass, in order, as cells: x (m, D), sums (m, ROW). starts: (bins / 256,), how many lie before.
// total: mass times |mean|^2.
extern "C" __global__ void __launch_bounds__(256, 4)
gather_bins(const long long* __restrict__ table, int bins, const int* __restrict__ starts, float* __restrict__ x,
            long long* __restrict__ sums, unsigned long long* __restrict__ total) {
    __shared__ int before[8];  // of each warp
    int64 square = 0;
    for (int part = blockIdx.x; part * 256 < bins; part += gridDim.x) {
        int bin = part * 256 + threadIdx.x;
        int64 row[ROW] = {};
        if (bin < bins) {
            for (int j = 0; j < ROW; j++) row[j] = table[(int64)bin * ROW + j];
        }
        unsigned votes = __ballot_sync(0xffffffffu, row[D] != 0);
        if (threadIdx.x % 32 == 0) before[threadIdx.x / 32] = __popc(votes);
        __syncthreads();
        int place = starts[part] + __popc(votes & ((1u << threadIdx.x % 32) - 1));
        for (int w = 0; w < (int)threadIdx.x / 32; w++) place += before[w];
        __syncthreads();
        if (!row[D]) continue;
        int64 at = place;
        for (int j = 0; j < D; j++) x[at * D + j] = (float)rint(__ddiv_rn((double)row[j], (double)row[D]));
        for (int j = 0; j < ROW; j++) sums[at * ROW + j] = row[j];
        square += mean_square(row);
    }
    block_add(total, square);
}

// What the two kernels below share: the loop over the centers, a tile of them held in shared memory at a time. columns:
// (k, ROW), -2 times the center, and its square.
template <class Look>
__device__ __forceinline__ void each_center(const float (&x)[D], bool here, const float* columns, float* held, int k,
                                            int tile, bool load, Look look) {
    for (int base = 0; base < k; base += tile) {
        int count = min(tile, k - base);
        // Those that fit are loaded once (test_image_colors.test_tiles_pairs_and_strides_do_not_matter fails if others
        // are, too).
        if (tile < k || load) {
            __syncthreads();
            for (int e = threadIdx.x; e < count * ROW; e += blockDim.x) held[e] = columns[(int64)base * ROW + e];
            __syncthreads();
        }
        if (!here) continue;
        for (int c = 0; c < count; c++) {
            float score = held[c * ROW + D];
            for (int j = 0; j < D; j++) score = fmaf(held[c * ROW + j], x[j], score);
            look(score, base + c);
        }
    }
}

// labels: (m,), the nearest of k centers. answers: (k, ROW), gets the clusters' sums.
extern "C" __global__ void __launch_bounds__(256, 4)
nearest_centers(const float* __restrict__ x, const long long* __restrict__ sums, long long m,
                const float* __restrict__ columns, int k, int tile, int* __restrict__ labels,
                unsigned long long* __restrict__ answers) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    int64 stride = (int64)gridDim.x * blockDim.x, start = (int64)blockIdx.x * blockDim.x;
    for (int64 first = start; first < m; first += stride) {
        int64 i = first + threadIdx.x;
        float own[D] = {};
        if (i < m) take_cell(x, i, own);
        float least = __int_as_float(0x7f800000);
        int label = 0;
        each_center(own, i < m, columns, (float*)dynamic_shared, k, tile, first == start, [&](float score, int c) {
            if (score < least) {
                least = score;
                label = c;
            }
        });
        if (i >= m) continue;
        labels[i] = label;
        for (int j = 0; j < ROW; j++) add_global(&answers[(int64)label * ROW + j], sums[i * ROW + j]);
    }
}

// The same, and the next nearest: second (m,). cost: (k,), gets mass times how much larger the second's D is, times
// `coarse`, rounded. pairs: a bit for each k * label + second, unless `pairing` is 0.
extern "C" __global__ void __launch_bounds__(256, 4)
second_centers(const float* __restrict__ x, const long long* __restrict__ sums, long long m,
               const float* __restrict__ columns, int k, int tile, double coarse, int pairing, int* __restrict__ labels,
               int* __restrict__ second, unsigned long long* __restrict__ answers,
               unsigned long long* __restrict__ cost, unsigned* __restrict__ pairs) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    int64 stride = (int64)gridDim.x * blockDim.x, start = (int64)blockIdx.x * blockDim.x;
    for (int64 first = start; first < m; first += stride) {
        int64 i = first + threadIdx.x;
        float own[D] = {};
        if (i < m) take_cell(x, i, own);
        float least = __int_as_float(0x7f800000), next = least;
        int label = 0, other = 0;
        each_center(own, i < m, columns, (float*)dynamic_shared, k, tile, first == start, [&](float score, int c) {
            bool first = score < least;
            other = score < next ? c : other;
            other = first ? label : other;
            next = fminf(next, fmaxf(least, score));
            label = first ? c : label;
            least = fminf(least, score);
        });
        if (i >= m) continue;
        labels[i] = label;
        second[i] = other;
        for (int j = 0; j < ROW; j++) add_global(&answers[(int64)label * ROW + j], sums[i * ROW + j]);
        double more = __dmul_rn((double)(next - least), (double)sums[i * ROW + D]);
        add_global(&cost[label], (int64)rint(__dmul_rn(more, coarse)));
        if (pairing) {
            int64 pair = (int64)label * k + other;
            atomicOr(&pairs[pair / 32], 1u << pair % 32);
        }
    }
}

// spread: (k, D), gets the sum over each cluster's cells of mass times `fine` times the square of the distance from its
// mean (k, D) in each feature; each term rounded.
extern "C" __global__ void __launch_bounds__(256, 4)
spreads(const float* __restrict__ x, const long long* __restrict__ sums, long long m, const int* __restrict__ labels,
        const double* __restrict__ means, double fine, unsigned long long* __restrict__ spread) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        int64 label = labels[i];
        double mass = __dmul_rn((double)sums[i * ROW + D], fine);
        for (int j = 0; j < D; j++) {
            double off = __dsub_rn((double)x[i * D + j], means[label * D + j]);
            double term = __dmul_rn(__dmul_rn(mass, off), off);
            add_global(&spread[label * D + j], (int64)rint(term));
        }
    }
}

// answers: (2 k, ROW), gets the sums of each cluster's cells up to its mean, and beyond, along the feature of the
// largest spread, the first of equals.
extern "C" __global__ void __launch_bounds__(256, 4)
half_sums(const float* __restrict__ x, const long long* __restrict__ sums, long long m, const int* __restrict__ labels,
          const double* __restrict__ means, const unsigned long long* __restrict__ spread, int k,
          unsigned long long* __restrict__ answers) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        int64 label = labels[i];
        int axis = 0;
        for (int j = 1; j < D; j++) {
            if (spread[label * D + j] > spread[label * D + axis]) axis = j;
        }
        bool upper = (double)x[i * D + axis] > means[label * D + axis];
        uint64* row = answers + (upper ? label + k : label) * ROW;
        for (int j = 0; j < ROW; j++) add_global(&row[j], sums[i * ROW + j]);
    }
}
