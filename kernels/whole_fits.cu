// Whole fits of small problems: a block takes one from its seeding to its end, and nothing of it is seen by the host
// before. In plain C, of a problem x (n, d) with weights; what each step computes is `seeding.greedy`, `lloyd.fit` and
// `cluster_means` (engine/numpy/numba_fits.py says the same in Python, step by step):
//
//     centers = seeded(x, draws), or those given;
//     for (i = 0; i < max_iter; i++) {
//         changed = label(x, centers, labels, sums);             // terms of rows that changed move
//         if (i > 0 && changed == 0) break;
//         centers = means(sums), shift = sum of D to those before;
//         if (shift == 0 || shift < tol * variance) break;
//     }
//     centers = each held to the range of its cluster's rows;
//     labels = label(x, rounded centers), inertia;               // publish_problems, when the host has rounded them
//
// A fit of a thousand rows is some hundred passes, and each of them, launched by itself, takes longer to launch than to
// run. Here a problem's centers, sums and scores' table stay in shared memory from its first draw to its last center,
// and the rows in the second-level cache; a block whose problem has ended makes room for the next. What is seldom, and
// what float64 cannot tell for certain, is not decided: n_iter becomes 0, and the problem is left to `lloyd.fit`
// (test_batched.test_what_compiled_fits_leave_open_is_left_to_the_driver fails if it is decided all the same).
//
// Scores, and when one is certain, are those of scores.cuh; D decides of the others, a warp to a row. Sums are integers
// in shared memory, so that threads may add in any order.
//
// Launch: a block of 256 threads a problem, two to a multiprocessor, or one (BLOCKS); dynamic shared memory of some
// 28 k d bytes, `problem_kernels.shared`. Options: X_KIND, WEIGHT_KIND, D_FEW: features rounded up to four, where a
// thread holds them in registers; 0 if it reads them for every eight centers, in the frame, where frame_rows has put them
// once a fit. By gpukmeans.engine.cuda.problem_kernels.
// A row and iteration: read once, of D_FEW 0 four bytes a feature for every eight centers; k (d + 6) operations, of
// float32; 4 bytes of its label. A row and candidate of k-means++: 3 d operations of float64; 8 bytes read and written.

#include "problem.cuh"

#define TOGETHER 4  // candidates measured at a time

// Far more than float64 sums of shifts and variances can be off by.
#define CERTAIN 0x1p-30

// cluster_means.FINE
#define FINE 0x1p-30

// ---------------------------------------------------------------- k-means++

// Sets prefix[t] to the sampling weights of all rows up to the end of thread t's, which has as many neighbouring rows
// as any other. scale: see sampling_weight.
__device__ __forceinline__ void scan_rows(const Problem& p, const double* closest, double scale, int64* prefix) {
    __shared__ int64 staged[THREADS / 32];
    int each = (p.n + THREADS - 1) / THREADS, first = threadIdx.x * each, end = min(first + each, p.n);
    int64 own = 0;
    for (int i = first; i < end; i++) {
        own += sampling_weight(scale == 0.0 ? 0.0 : closest[i], p.weight(i), scale, p.weight_scale());
    }
    own = warp_scan(own);
    __syncthreads();
    if (threadIdx.x % 32 == 31) staged[threadIdx.x / 32] = own;
    __syncthreads();
    for (int w = 0; w < (int)threadIdx.x / 32; w++) own += staged[w];
    prefix[threadIdx.x] = own;
    __syncthreads();
}

// The first row whose prefix sum exceeds the index, of the weights that were scanned last.
__device__ __forceinline__ int find_row(const Problem& p, const double* closest, double scale, const int64* prefix,
                                        int64 index) {
    int low = 0, high = THREADS - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (prefix[middle] > index) high = middle;
        else low = middle + 1;
    }
    int each = (p.n + THREADS - 1) / THREADS, i = low * each;
    int64 total = low ? prefix[low - 1] : 0;
    for (;; i++) {
        total += sampling_weight(scale == 0.0 ? 0.0 : closest[i], p.weight(i), scale, p.weight_scale());
        if (total > index || i + 1 >= p.n) return i;
    }
}

// Takes column `chosen` of candidates (d, padded) for center c; returns the largest D that remains.
__device__ __forceinline__ double accept(const Problem& p, const Shared& s, double* closest, int c, int chosen,
                                         int padded) {
    BLOCK_LOOP(j, p.d) s.columns[j * p.k + c] = s.means[j * padded + chosen] + 0.0;
    double farthest = 0.0;
    BLOCK_LOOP(i, p.n) {
        double distance = measure_one(p.row(i), s.means + chosen, padded, p.d);
        if (c > 0) distance = fmin(distance, closest[i]);
        closest[i] = distance;
        farthest = fmax(farthest, distance);
    }
    return largest_of_block(farthest);
}

// seeding.greedy. draws: (1 + (k - 1) * trials,). closest: (n,), becomes D to the closest center. prefix: (THREADS,).
// rows: (trials,), in shared memory.
__device__ __forceinline__ void seed(const Problem& p, const Shared& s, const double* draws, int trials,
                                     double* closest, int64* prefix, int* rows) {
    int padded = (trials + TOGETHER - 1) / TOGETHER * TOGETHER;
    auto place = [&](int m) {  // candidates at `rows`
        __syncthreads();
        BLOCK_LOOP(e, padded * p.d) {
            int t = min(e % padded, m - 1), j = e / padded;
            s.means[e] = value(p.x[(int64)rows[t] * p.d + j]);
        }
        __syncthreads();
    };
    auto find = [&](double scale, const double* own, int m, int64 total) {
        if ((int)threadIdx.x < m) {
            rows[threadIdx.x] = find_row(p, closest, scale, prefix, inverse_cdf_index(own[threadIdx.x], (uint64)total));
        }
        place(m);
    };
    scan_rows(p, closest, 0.0, prefix);
    find(0.0, draws, 1, p.total());
    double farthest = accept(p, s, closest, 0, 0, padded);
    for (int c = 1; c < p.k; c++) {
        const double* own = draws + 1 + (int64)(c - 1) * trials;
        int64 total = 0;
        double scale = 1.0;
        if (farthest > 0.0) {
            scale = ldexp(1.0, min(1000, SUM_BITS - p.weight_bits() - ceil_log2(farthest)));
            scan_rows(p, closest, scale, prefix);
            total = prefix[THREADS - 1];
        }
        if (total == 0) {  // by weight, and nothing is nearer then
            __syncthreads();
            scan_rows(p, closest, 0.0, prefix);
            find(0.0, own, 1, p.total());
            farthest = accept(p, s, closest, c, 0, padded);
            continue;
        }
        find(scale, own, trials, total);
        // A row drawn twice leaves as much twice, and the first counts.
        int best = 0;
        int64 least = 0;
        for (int a = 0; a < trials; a += TOGETHER) {
            int64 left[TOGETHER] = {};
            BLOCK_LOOP(i, p.n) {
                double distance[TOGETHER], near = closest[i];
                measure(distance, p.row(i), s.means + a, padded, p.d);
                W weight = p.weight(i);
#pragma unroll
                for (int e = 0; e < TOGETHER; e++) {
                    left[e] += sampling_weight(fmin(distance[e], near), weight, scale, p.weight_scale());
                }
            }
#pragma unroll
            for (int e = 0; e < TOGETHER; e++) {
                int64 all = sum_of_block(left[e]);
                if (a + e < trials && (a + e == 0 || all < least)) best = a + e, least = all;
            }
        }
        farthest = accept(p, s, closest, c, best, padded);
    }
    __syncthreads();
}

// ---------------------------------------------------------------- means

// Whether the means (k, d) of the sums can go on: no cluster is empty, and none is in doubt (protocol.Doubt). Then they
// are the centers, and shift becomes the sum of D to those of before.
__device__ __forceinline__ bool next_centers(const Problem& p, const Shared& s, double& shift) {
    int open = 0;
    double most = 0.0;
    BLOCK_LOOP(c, p.k) {
        double weight = p.weight_of_units(s.sum(c * (p.d + 1) + p.d));
        open |= weight == 0.0;
        double error = __dadd_rn(1.0, __ddiv_rn(p.fractions(), weight));
        most = fmax(most, __dmul_rn(__dmul_rn(error, error), p.limit()));
    }
    if (__syncthreads_or(open)) return false;
    most = largest_of_block(most);
    BLOCK_LOOP(e, p.k * p.d) {
        int c = e / p.d, j = e % p.d;
        double weight = p.weight_of_units(s.sum(c * (p.d + 1) + p.d));
        double mean = __ddiv_rn(__ddiv_rn((double)s.sum(c * (p.d + 1) + j), weight), p.scale(j));
        s.means[e] = __dadd_rn(mean, p.offset(j));
    }
    __syncthreads();
    if (p.limit() > 0.0) {  // test_batched.test_what_compiled_fits_leave_open_is_left_to_the_driver fails without
        BLOCK_LOOP(e, p.k * p.k) {
            int c = e / p.k, b = e % p.k;
            double gap = s.means[c * p.d + p.widest()] - s.means[b * p.d + p.widest()];
            open |= b < c && !(gap * gap >= most);
        }
    }
    BLOCK_LOOP(c, p.k) {
        double own = 0.0;
        for (int j = 0; j < p.d; j++) own = add_square(own, s.means[c * p.d + j], s.columns[j * p.k + c]);
        s.shifts[c] = own;
    }
    if (__syncthreads_or(open)) return false;
    shift = 0.0;
    for (int c = 0; c < p.k; c++) shift += s.shifts[c];
    BLOCK_LOOP(e, p.k * p.d) s.columns[e % p.d * p.k + e / p.d] = s.means[e];
    __syncthreads();
    return true;
}

// lloyd.Tolerance.shift without tol, but for its last roundings. Means are made room of.
__device__ __forceinline__ double variance_of(const Problem& p, const Shared& s) {
    BLOCK_LOOP(j, p.d) {
        int64 units = 0, total = 0;
        for (int c = 0; c < p.k; c++) units += s.sum(c * (p.d + 1) + p.d), total += s.sum(c * (p.d + 1) + j);
        double mean = (double)total / p.weight_of_units(units) / p.scale(j);
        s.means[j] = mean + p.offset(j);
    }
    __syncthreads();
    int bits = coarse_bits(p, s.means, 1);
    double coarse = ldexp(1.0, bits), fine = ldexp(1.0, SUM_BITS - p.copies_bits());
    int64 large, small;
    sum_inertia(p, s.means, 1, coarse, fine, large, small);
    __syncthreads();
    return ((double)large + (double)small / fine) / coarse / p.weight_of_units(p.total()) / p.d;
}

// ---------------------------------------------------------------- the end

// Numbers of order_key, or of its upper half, that a word holds: the least of these, and of complements of the largest.
__device__ __forceinline__ uint64 key_of(X x) {
#if X_KIND == 3
    return order_key(x);
#else
    unsigned bits = __float_as_uint(single_value(x));
    return (uint64)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32;
#endif
}

__device__ __forceinline__ double number_of(uint64 key) {
#if X_KIND == 3
    return __longlong_as_double((int64)(key >> 63 ? key & ~0x8000000000000000ull : ~key));
#else
    unsigned bits = (unsigned)(key >> 32);
    return (double)__uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
#endif
}

// lloyd.published_centers: hold each center to the range of its rows; false where one is too coarse. Ends what sums and
// means were for: their memory has the ranges' keys, upper words in that of sums, lower ones in that of means.
__device__ __forceinline__ bool certify(const Problem& p, const Shared& s) {
    int size = p.k * p.d;
    BLOCK_LOOP(c, p.k) s.shifts[c] = p.weight_of_units(s.sum(c * (p.d + 1) + p.d));
    __syncthreads();
    unsigned *upper = s.sums, *lower = (unsigned*)s.means;
    BLOCK_LOOP(e, 2 * size) upper[e] = lower[e] = ~0u;
    __syncthreads();
    // Shared memory has no 64-bit minimum: see feature_range.cu.
    for (int step = 0; step < (X_KIND == 3 ? 2 : 1); step++) {
        BLOCK_LOOP(i, p.n) {
            int at = p.labels[i] * p.d, turn = (int)(threadIdx.x % (unsigned)p.d);
            const X* x = p.x + (int64)i * p.d;
            for (int f = 0; f < p.d; f++) {
                int j = f + turn >= p.d ? f + turn - p.d : f + turn;
                uint64 key = key_of(x[j]), other = ~key;
                if (step == 0) {
                    atomicMin(&upper[at + j], (unsigned)(key >> 32));
                    atomicMin(&upper[size + at + j], (unsigned)(other >> 32));
                } else {
                    if ((unsigned)(key >> 32) == upper[at + j]) atomicMin(&lower[at + j], (unsigned)key);
                    if ((unsigned)(other >> 32) == upper[size + at + j]) {
                        atomicMin(&lower[size + at + j], (unsigned)other);
                    }
                }
            }
        }
        __syncthreads();
    }
    int coarse = 0;
    BLOCK_LOOP(e, size) {
        int c = e / p.d, j = e % p.d;
        double weight = s.shifts[c], error = p.fractions() > 0.0 ? 1.0 + p.fractions() / weight : 1.0;
        coarse |= p.fractions() > 0.0 && p.fractions() / 2 / p.weight_scale() > FINE * weight;
        double low = number_of((uint64)upper[e] << 32 | lower[e]);
        double high = number_of(~((uint64)upper[size + e] << 32 | lower[size + e]));
        double width = high - low;
        // test_batched.test_what_compiled_fits_leave_open_is_left_to_the_driver fails without
        coarse |= width > 0.0 && error * p.step(j) > width * FINE;
        s.columns[j * p.k + c] = fmin(fmax(s.columns[j * p.k + c], low), high) + 0.0;
    }
    return !__syncthreads_or(coarse);
}

// ---------------------------------------------------------------- kernels

// Fit each of b problems from centers (b, k, d), or, where there are trials, from those of k-means++ by draws (b, 1 +
// (k - 1) * trials). x, weights, labels: of all rows, one problem after another. counts, numbers: see Problem.
// starts: there is one problem, which all blocks fit, each with labels of its own. centers: become those to be
// published, not rounded yet. rows: of Shared. closest: as many as labels, if there are trials. n_iter: (b,), 0 where the
// problem is left to the driver. log: (room, b, 1 + k), of each iteration how many rows changed, of the first all, and
// the squared shifts of centers, as doubles.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
fit_problems(const X* __restrict__ x, const W* __restrict__ weights, const long long* __restrict__ counts,
             const double* __restrict__ numbers, int k, int d, int starts, double tol, int max_iter,
             const double* __restrict__ draws, int trials, int rows, double* closest, float4* framed,
             double* centers, int* labels, int* __restrict__ n_iter, int room, long long* __restrict__ log) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    __shared__ int64 prefix[THREADS];
    __shared__ int candidates[THREADS / 4];
    Problem p = problem_of(x, weights, labels, framed, k, d, starts, counts, numbers);
    Shared s = shared_of(dynamic_shared, k, d, rows);
    double* own = centers + (int64)blockIdx.x * k * d;
    BLOCK_LOOP(j, s.width) s.about[j] = j < d ? (F)p.about(j) : (F)0;
    BLOCK_LOOP(e, 2 * k * (d + 1)) s.sums[e] = 0;
    BLOCK_LOOP(i, p.n) p.labels[i] = UNCERTAIN;
    if (trials) {
        seed(p, s, draws + (int64)blockIdx.x * (1 + (int64)(k - 1) * trials), trials, closest + p.place, prefix,
             candidates);
    } else {
        BLOCK_LOOP(e, k * d) s.columns[e % d * k + e / d] = own[e];
        __syncthreads();
    }
    frame_rows(p, s);
    int taken = max_iter;
    double variance = -1.0;
    for (int i = 0; i < max_iter; i++) {
        // test_whole_fits.test_more_iterations_than_can_be_told_of_are_left_to_the_driver fails without
        if (room && i == room) {
            taken = 0;
            break;
        }
        bool scored = place_centers(p, s);
        int changed = label_rows(p, s, scored, true);
        long long* told = log + ((int64)i * gridDim.x + blockIdx.x) * (1 + k);
        if (room) {
            BLOCK_LOOP(e, 1 + k) told[e] = e ? 0 : changed;
        }
        if (i > 0 && changed == 0) {
            taken = i + 1;
            break;
        }
        double shift;
        if (!next_centers(p, s, shift)) {
            taken = 0;
            break;
        }
        if (room) {
            BLOCK_LOOP(c, k) told[1 + c] = __double_as_longlong(s.shifts[c]);
        }
        if (shift == 0.0) {
            taken = i + 1;
            break;
        }
        if (tol > 0.0 && shift <= tol * p.most() * (1 + CERTAIN)) {
            if (variance < 0.0) variance = variance_of(p, s);
            double ends = tol * variance;
            // test_batched.test_a_shift_next_to_the_tolerance_is_left_to_the_driver fails without
            if (fabs(shift - ends) <= CERTAIN * ends || !(ends > 0x1p-1000)) {
                taken = 0;
                break;
            }
            if (shift < ends) {
                taken = i + 1;
                break;
            }
        }
    }
    if (taken && !certify(p, s)) taken = 0;
    BLOCK_LOOP(e, k * d) own[e] = s.columns[e % d * k + e / d];
    if (threadIdx.x == 0) n_iter[blockIdx.x] = taken;
}

// Label the rows by centers (b, k, d) as they are published, and measure. found: (b, 4), the two sums of the inertia,
// its coarse bits, and how many clusters have rows. The rest as above.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
publish_problems(const X* __restrict__ x, const W* __restrict__ weights, const long long* __restrict__ counts,
                 const double* __restrict__ numbers, int k, int d, int starts, int rows, float4* framed,
                 const double* __restrict__ centers, int* labels, long long* __restrict__ found) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    Problem p = problem_of(x, weights, labels, framed, k, d, starts, counts, numbers);
    Shared s = shared_of(dynamic_shared, k, d, rows);
    const double* own = centers + (int64)blockIdx.x * k * d;
    BLOCK_LOOP(j, s.width) s.about[j] = j < d ? (F)p.about(j) : (F)0;
    BLOCK_LOOP(e, k * d) s.columns[e % d * k + e / d] = own[e];
    BLOCK_LOOP(c, k) s.sums[c] = 0;
    __syncthreads();
    bool scored = place_centers(p, s);
    __syncthreads();
    label_rows(p, s, scored, false);
    BLOCK_LOOP(i, p.n) atomicAdd(&s.sums[p.labels[i]], 1u);
    int bits = coarse_bits(p, s.columns, k);
    int64 large, small, occupied = 0;
    sum_inertia(p, s.columns, k, ldexp(1.0, bits), ldexp(1.0, SUM_BITS - p.copies_bits()), large, small);
    BLOCK_LOOP(c, k) occupied += s.sums[c] > 0;
    occupied = sum_of_block(occupied);
    if (threadIdx.x == 0) {
        long long* to = found + 4 * (int64)blockIdx.x;
        to[0] = large, to[1] = small, to[2] = bits, to[3] = occupied;
    }
}

// ranges: (b, 2, d), becomes the least and largest value of each feature, NaN if any value of the problem is.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
problem_ranges(const X* __restrict__ x, const long long* __restrict__ counts, int d, double* __restrict__ ranges) {
    __shared__ double lows[THREADS], highs[THREADS];
    const X* own = x + counts[COUNTS * (int64)blockIdx.x] * d;
    int64 values = counts[COUNTS * (int64)blockIdx.x + 1] * d;
    double* to = ranges + (int64)blockIdx.x * 2 * d;
    // Features of a turn, and how many threads have each.
    int few = min(d, THREADS), each = THREADS / few;
    int odd = 0;
    for (int a = 0; a < d; a += few) {
        int j = a + (int)threadIdx.x % few;
        double low = __longlong_as_double(0x7ff0000000000000ll), high = -low;
        if (j < d && (int)threadIdx.x < few * each) {
            for (int64 e = j + (int64)(threadIdx.x / few) * d; e < values; e += (int64)each * d) {
                double v = value(own[e]);
                odd |= v != v;
                low = fmin(low, v), high = fmax(high, v);
            }
        }
        lows[threadIdx.x] = low, highs[threadIdx.x] = high;
        __syncthreads();
        if ((int)threadIdx.x < few && j < d) {
            for (int t = threadIdx.x + few; t < few * each; t += few) {
                low = fmin(low, lows[t]), high = fmax(high, highs[t]);
            }
            to[j] = low, to[d + j] = high;
        }
        __syncthreads();
    }
    if (__syncthreads_or(odd)) {
        BLOCK_LOOP(e, 2 * d) to[e] = __longlong_as_double(0x7ff8000000000000ll);
    }
}
