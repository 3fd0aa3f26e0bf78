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
// Launch: a block of 256 threads a problem, two to a multiprocessor; dynamic shared memory of some 28 k d bytes,
// `problem_kernels.shared`. Options: X_KIND, WEIGHT_KIND, D_FEW: features rounded up to four, where a thread holds them
// in registers; 0 if it reads them again for every eight centers. By gpukmeans.engine.cuda.problem_kernels.
// A row and iteration: read once, k (d + 5) operations, of float32; 4 bytes of its label. A row and candidate of
// k-means++: 3 d operations of float64; 8 bytes read and written.

#include "scores.cuh"
#include "seeding.cuh"

#define THREADS 256
#define ROWS (D_FEW && D_FEW <= 16 ? 2 : 1)  // of a thread at a time; of more, or of wider ones, registers are too few
#define GROUP 8
#define FEW 16           // features, up to which a thread moves a row's terms by itself; see refine.cu
#define TOGETHER 4       // candidates measured at a time
#define SUM_BITS 62      // exact/fixed_point.py
#define TOO_FAR 0x1p+120 // exact/certificate.py
#define UNIT 0x1p-24     // U32 there

// Far more than float64 sums of shifts and variances can be off by.
#define CERTAIN 0x1p-30

// cluster_means.FINE
#define FINE 0x1p-30

// A row of `counts` (b, 4), `numbers` (b, 7) and `measures` (b, 6, d), as problem_kernels.Problems has them.
struct Problem {
    const X* x;
    const W* weights;
    int* labels;
    int n, d, k, widest, weight_bits, copies_bits;
    bool wide;
    int64 first, total;
    double limit, most, factor, fractions, weight_scale;
    const double *low, *high, *offset, *scale, *step, *about;

    __device__ __forceinline__ Row row(int i) const { return {x + (int64)i * d, d, wide}; }
    __device__ __forceinline__ W weight(int i) const { return weight_of(weights, i); }
    // A weight of the sums; their unit is 1 / weight_scale.
    __device__ __forceinline__ double weight_of_units(int64 units) const { return (double)units / weight_scale; }
};

__device__ __forceinline__ Problem problem_of(const X* x, const W* weights, int* labels, int k, int d,
                                              const long long* counts, const double* numbers, const double* measures) {
    int64 b = blockIdx.x, first = counts[4 * b];
    const double *own = numbers + 7 * b, *m = measures + 6 * d * b;
    Problem p;
    p.x = x + first * d, p.weights = WEIGHT_KIND ? weights + first : weights, p.labels = labels + first;
    p.first = first, p.n = (int)counts[4 * b + 1], p.total = counts[4 * b + 2], p.widest = (int)counts[4 * b + 3];
    p.k = k, p.d = d, p.wide = is_wide(p.x, d);
    p.limit = own[0], p.most = own[1], p.factor = own[2], p.weight_scale = own[3], p.fractions = own[4];
    p.weight_bits = (int)own[5], p.copies_bits = (int)own[6];
    p.low = m, p.high = m + d, p.offset = m + 2 * d, p.scale = m + 3 * d, p.step = m + 4 * d, p.about = m + 5 * d;
    return p;
}

// What a block keeps in shared memory. columns: (d, k), the centers. means: (k, d), those that follow; candidates of
// k-means++ (d, padded) before, and at the end words of ranges. sums: (k, d + 1) in two words, see add_shared. shifts:
// (k,). table: (padded, width) float32, -2 z in the frame; squares, slack: (padded,). about: (width,), the frame's
// offset.
struct Shared {
    double *columns, *means, *shifts;
    unsigned* sums;
    F* about;
    float *table, *squares, *slack;
    int padded, width;

    __device__ __forceinline__ int64 sum(int e) const { return (int64)((uint64)sums[2 * e + 1] << 32 | sums[2 * e]); }
};

// rows: of means, k or as many as there are candidates (problem_kernels.shared).
__device__ __forceinline__ Shared shared_of(unsigned char* memory, int k, int d, int rows) {
    Shared s;
    s.padded = (k + GROUP - 1) / GROUP * GROUP, s.width = (d + 3) / 4 * 4;
    s.table = (float*)memory;  // first, as its words of 16 bytes are aligned
    s.means = (double*)(s.table + s.padded * s.width);  // padded * width is a multiple of 32
    s.columns = s.means + rows * d + (rows * d & 1);
    s.shifts = s.columns + k * d;
    s.sums = (unsigned*)(s.shifts + k);
    s.about = (F*)(s.sums + 2 * k * (d + 1));
    s.squares = (float*)(s.about + s.width);
    s.slack = s.squares + s.padded;
    return s;
}

// ---------------------------------------------------------------- the block

// What all threads have together, in all of them.
__device__ __forceinline__ int64 sum_of_block(int64 amount) {
    __shared__ uint64 staged[THREADS / 32];
    uint64 own = warp_sum((uint64)amount), total = 0;
    __syncthreads();
    if (threadIdx.x % 32 == 0) staged[threadIdx.x / 32] = own;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) total += staged[w];
    return (int64)total;
}

// The largest of numbers that are not negative.
__device__ __forceinline__ double largest_of_block(double own) {
    __shared__ uint64 staged[THREADS / 32];
    uint64 largest = warp_max((uint64)__double_as_longlong(own));
    __syncthreads();
    if (threadIdx.x % 32 == 0) staged[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) largest = staged[w] > largest ? staged[w] : largest;
    return __longlong_as_double((int64)largest);
}

__device__ __forceinline__ int ceil_log2(double value) {
    int exponent;
    double mantissa = frexp(value, &exponent);
    return exponent - (mantissa == 0.5);
}

// ---------------------------------------------------------------- k-means++

// Sets prefix[t] to the sampling weights of all rows up to the end of thread t's, which has as many neighbouring rows
// as any other. scale: see sampling_weight.
__device__ __forceinline__ void scan_rows(const Problem& p, const double* closest, double scale, int64* prefix) {
    __shared__ int64 staged[THREADS / 32];
    int each = (p.n + THREADS - 1) / THREADS, first = threadIdx.x * each, end = min(first + each, p.n);
    int64 own = 0;
    for (int i = first; i < end; i++) {
        own += sampling_weight(scale == 0.0 ? 0.0 : closest[i], p.weight(i), scale, p.weight_scale);
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
        total += sampling_weight(scale == 0.0 ? 0.0 : closest[i], p.weight(i), scale, p.weight_scale);
        if (total > index || i + 1 >= p.n) return i;
    }
}

// Takes column `chosen` of candidates (d, padded) for center c; returns the largest D that remains.
__device__ __forceinline__ double accept(const Problem& p, const Shared& s, double* closest, int c, int chosen,
                                         int padded) {
    for (int j = threadIdx.x; j < p.d; j += THREADS) s.columns[j * p.k + c] = s.means[j * padded + chosen] + 0.0;
    double farthest = 0.0;
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
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
        for (int e = threadIdx.x; e < padded * p.d; e += THREADS) {
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
    find(0.0, draws, 1, p.total);
    double farthest = accept(p, s, closest, 0, 0, padded);
    for (int c = 1; c < p.k; c++) {
        const double* own = draws + 1 + (int64)(c - 1) * trials;
        int64 total = 0;
        double scale = 1.0;
        if (farthest > 0.0) {
            scale = ldexp(1.0, min(1000, SUM_BITS - p.weight_bits - ceil_log2(farthest)));
            scan_rows(p, closest, scale, prefix);
            total = prefix[THREADS - 1];
        }
        if (total == 0) {  // by weight, and nothing is nearer then
            __syncthreads();
            scan_rows(p, closest, 0.0, prefix);
            find(0.0, own, 1, p.total);
            farthest = accept(p, s, closest, c, 0, padded);
            continue;
        }
        find(scale, own, trials, total);
        // A row drawn twice leaves as much twice, and the first counts.
        int best = 0;
        int64 least = 0;
        for (int a = 0; a < trials; a += TOGETHER) {
            int64 left[TOGETHER] = {};
            for (int i = threadIdx.x; i < p.n; i += THREADS) {
                double distance[TOGETHER], near = closest[i];
                measure(distance, p.row(i), s.means + a, padded, p.d);
                W weight = p.weight(i);
#pragma unroll
                for (int e = 0; e < TOGETHER; e++) {
                    left[e] += sampling_weight(fmin(distance[e], near), weight, scale, p.weight_scale);
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

// ---------------------------------------------------------------- labels

// Makes the scores' table of the centers in columns; whether scores serve.
__device__ __forceinline__ bool place_centers(const Problem& p, const Shared& s) {
    if (p.factor == 0.0) return false;
    for (int e = threadIdx.x; e < s.padded * s.width; e += THREADS) {
        int c = e / s.width, j = e % s.width;
        double z = c < p.k && j < p.d ? (s.columns[j * p.k + c] - p.about[j]) * p.factor : 0.0;
        s.table[e] = (float)(-2.0 * z);
    }
    double part = 1.07 * UNIT * (2.03 * p.d + 14.1);
    int far = 0;
    for (int c = threadIdx.x; c < s.padded; c += THREADS) {
        double norm = 0.0;
        for (int j = 0; j < p.d && c < p.k; j++) {
            double z = (s.columns[j * p.k + c] - p.about[j]) * p.factor;
            norm += z * z;
        }
        far |= !(norm < TOO_FAR);
        s.squares[c] = c < p.k ? (float)(norm - norm * part) : NEVER;
        s.slack[c] = (float)(2 * (norm * part));
    }
    return !__syncthreads_or(far);
}

__device__ __forceinline__ void four_in_frame(float* y, const Row& row, int j, const Problem& p, const Shared& s) {
    X raw[4];
    fetch_features(raw, row.x + j, p.d - j, row.wide);
#pragma unroll
    for (int e = 0; e < 4; e++) y[e] = j + e < p.d ? in_frame(raw[e], s.about[j + e], (F)p.factor) : 0.0f;
}

// The label by D, found by the whole warp, which calls it with one row (refine.cu).
__device__ __forceinline__ int decide(const Problem& p, const Shared& s, int i) {
    const X* x = p.x + (int64)i * p.d;
    double least = 0.0;
    int label = p.k;  // of no center yet
    for (int c = threadIdx.x % 32; c < p.k; c += 32) {
        double distance = 0.0;
        for (int j = 0; j < p.d; j++) distance = add_square(distance, value(x[j]), s.columns[j * p.k + c]);
        if (label == p.k || distance < least) least = distance, label = c;
    }
    for (int step = 16; step; step >>= 1) {
        double other = __shfl_xor_sync(0xffffffffu, least, step);
        int other_label = __shfl_xor_sync(0xffffffffu, label, step);
        if (other_label == p.k) continue;
        if (label == p.k || other < least || (other == least && other_label < label)) {
            least = other, label = other_label;
        }
    }
    return label;
}

// Every step-th term of row i, from one on, round all of them; from: a cluster, or negative for none.
__device__ __forceinline__ void move_terms(const Problem& p, const Shared& s, int i, int to, int from, int first,
                                           int step) {
    W weight = p.weight(i);
    const X* x = p.x + (int64)i * p.d;
    // A thread alone begins at a feature of its own, so that those of a warp add in different places.
    int turn = step == 1 ? first % (p.d + 1) : 0;
    for (int e = step == 1 ? 0 : first; e <= p.d; e += step) {
        int j = e + turn > p.d ? e + turn - p.d - 1 : e + turn;
        int64 term = j < p.d ? fixed_term(x[j], p.offset[j], p.scale[j], weight) : weight_mass(weight, p.weight_scale);
        add_shared(s.sums + 2 * (to * (p.d + 1) + j), term);
        if (from >= 0) add_shared(s.sums + 2 * (from * (p.d + 1) + j), -term);
    }
}

// Points.assign by the centers in columns; returns how many rows changed. scored: by place_centers. moving: whether
// their terms move in the sums.
__device__ __forceinline__ int label_rows(const Problem& p, const Shared& s, bool scored, bool moving) {
    float per_norm = (float)(1.07 * UNIT * (2.04 * p.d + 24.2)), rest = (float)((p.d + 4) * 0x1p-118);
    int changed = 0, lane = threadIdx.x % 32;
    for (int base = 0; base < p.n; base += THREADS * ROWS) {
        Nearest found[ROWS];
        float norm[ROWS];
        Row row[ROWS];
#if D_FEW
        float y[ROWS][D_FEW];
#endif
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            row[r] = p.row(min(base + r * THREADS + (int)threadIdx.x, p.n - 1));
            found[r] = {NEVER, NEVER, 0};
            norm[r] = 0.0f;
#if D_FEW
#pragma unroll
            for (int j = 0; j < D_FEW; j += 4) four_in_frame(&y[r][j], row[r], j, p, s);
#pragma unroll
            for (int j = 0; j < D_FEW; j++) norm[r] = fmaf(y[r][j], y[r][j], norm[r]);
#endif
        }
        for (int c = 0; scored && c < s.padded; c += GROUP) {
            float score[ROWS][GROUP];
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
#pragma unroll
                for (int r = 0; r < ROWS; r++) score[r][g] = s.squares[c + g];
            }
#if D_FEW
#pragma unroll
            for (int j = 0; j < D_FEW; j += 4) {
#else
#pragma unroll 1
            for (int j = 0; j < s.width; j += 4) {
                float y[1][4];
                four_in_frame(y[0], row[0], j, p, s);
                for (int e = 0; e < 4 && c == 0; e++) norm[0] = fmaf(y[0][e], y[0][e], norm[0]);
#endif
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    FourF z = *(const FourF*)(s.table + (c + g) * s.width + j);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
#pragma unroll
                        for (int e = 0; e < 4; e++) score[r][g] = fmaf(z.x[e], y[r][D_FEW ? j + e : e], score[r][g]);
                    }
                }
            }
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
#pragma unroll
                for (int r = 0; r < ROWS; r++) look_at(found[r], score[r][g], c + g);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int i = base + r * THREADS + (int)threadIdx.x, after = UNCERTAIN;
            bool there = i < p.n;
            if (scored) {
                float most = found[r].best + s.slack[found[r].label];
                // test_batched.test_near_ties_are_decided_by_distance fails without
                if (found[r].second - most > norm[r] * per_norm + rest) after = found[r].label;
            }
            for (unsigned left = __ballot_sync(0xffffffffu, there && after == UNCERTAIN); left; left &= left - 1) {
                int turn = __ffs(left) - 1, label = decide(p, s, __shfl_sync(0xffffffffu, i, turn));
                if (lane == turn) after = label;
            }
            int before = there ? p.labels[i] : after;
            bool moves = after != before;
            if (moves) p.labels[i] = after, changed++;
            if (!moving) continue;
            if (p.d <= FEW) {
                if (moves) move_terms(p, s, i, after, before, lane, 1);
                continue;
            }
            for (unsigned left = __ballot_sync(0xffffffffu, moves); left; left &= left - 1) {
                int turn = __ffs(left) - 1;
                int theirs = __shfl_sync(0xffffffffu, i, turn), to = __shfl_sync(0xffffffffu, after, turn);
                move_terms(p, s, theirs, to, __shfl_sync(0xffffffffu, before, turn), lane, 32);
            }
        }
    }
    return (int)sum_of_block(changed);  // whose barriers also say that all terms are there
}

// ---------------------------------------------------------------- means

// Whether the means (k, d) of the sums can go on: no cluster is empty, and none is in doubt (protocol.Doubt). Then they
// are the centers, and shift becomes the sum of D to those of before.
__device__ __forceinline__ bool next_centers(const Problem& p, const Shared& s, double& shift) {
    int open = 0;
    double most = 0.0;
    for (int c = threadIdx.x; c < p.k; c += THREADS) {
        double weight = p.weight_of_units(s.sum(c * (p.d + 1) + p.d));
        open |= weight == 0.0;
        double error = __dadd_rn(1.0, __ddiv_rn(p.fractions, weight));
        most = fmax(most, __dmul_rn(__dmul_rn(error, error), p.limit));
    }
    if (__syncthreads_or(open)) return false;
    most = largest_of_block(most);
    for (int e = threadIdx.x; e < p.k * p.d; e += THREADS) {
        int c = e / p.d, j = e % p.d;
        double weight = p.weight_of_units(s.sum(c * (p.d + 1) + p.d));
        double mean = __ddiv_rn(__ddiv_rn((double)s.sum(c * (p.d + 1) + j), weight), p.scale[j]);
        s.means[e] = __dadd_rn(mean, p.offset[j]);
    }
    __syncthreads();
    if (p.limit > 0.0) {  // test_batched.test_what_compiled_fits_leave_open_is_left_to_the_driver fails without
        for (int e = threadIdx.x; e < p.k * p.k; e += THREADS) {
            int c = e / p.k, b = e % p.k;
            double gap = s.means[c * p.d + p.widest] - s.means[b * p.d + p.widest];
            open |= b < c && !(gap * gap >= most);
        }
    }
    for (int c = threadIdx.x; c < p.k; c += THREADS) {
        double own = 0.0;
        for (int j = 0; j < p.d; j++) own = add_square(own, s.means[c * p.d + j], s.columns[j * p.k + c]);
        s.shifts[c] = own;
    }
    if (__syncthreads_or(open)) return false;
    shift = 0.0;
    for (int c = 0; c < p.k; c++) shift += s.shifts[c];
    for (int e = threadIdx.x; e < p.k * p.d; e += THREADS) s.columns[e % p.d * p.k + e / p.d] = s.means[e];
    __syncthreads();
    return true;
}

// ---------------------------------------------------------------- the inertia

// Inertia.of, the coarse bits: columns (d, m).
__device__ __forceinline__ int coarse_bits(const Problem& p, const double* columns, int m) {
    double farthest = 0.0;
    for (int c = threadIdx.x; c < m; c += THREADS) {
        double total = 0.0;
        for (int j = 0; j < p.d; j++) {
            double center = columns[j * m + c];
            double reach = fmax(__dsub_rn(p.high[j], center), __dsub_rn(center, p.low[j]));
            total = __dadd_rn(total, __dmul_rn(reach, reach));
        }
        farthest = fmax(farthest, total);
    }
    farthest = largest_of_block(farthest);
    return farthest > 0.0 ? min(1000, SUM_BITS - p.weight_bits - ceil_log2(farthest)) : 0;
}

// Inertia.sums of rows and the columns (d, m) of their labels, or the only one, in all threads.
__device__ __forceinline__ void sum_inertia(const Problem& p, const double* columns, int m, double coarse, double fine,
                                            int64& large, int64& small) {
    large = small = 0;
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        const double* column = columns + (m == 1 ? 0 : p.labels[i]);
        double distance = measure_one(p.row(i), column, m, p.d);
        W weight = p.weight(i);
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
    large = sum_of_block(large);
    small = sum_of_block(small);
}

// lloyd.Tolerance.shift without tol, but for its last roundings. Means are made room of.
__device__ __forceinline__ double variance_of(const Problem& p, const Shared& s) {
    for (int j = threadIdx.x; j < p.d; j += THREADS) {
        int64 units = 0, total = 0;
        for (int c = 0; c < p.k; c++) units += s.sum(c * (p.d + 1) + p.d), total += s.sum(c * (p.d + 1) + j);
        double mean = (double)total / p.weight_of_units(units) / p.scale[j];
        s.means[j] = mean + p.offset[j];
    }
    __syncthreads();
    int bits = coarse_bits(p, s.means, 1);
    double coarse = ldexp(1.0, bits), fine = ldexp(1.0, SUM_BITS - p.copies_bits);
    int64 large, small;
    sum_inertia(p, s.means, 1, coarse, fine, large, small);
    __syncthreads();
    return ((double)large + (double)small / fine) / coarse / p.weight_of_units(p.total) / p.d;
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
    for (int c = threadIdx.x; c < p.k; c += THREADS) s.shifts[c] = p.weight_of_units(s.sum(c * (p.d + 1) + p.d));
    __syncthreads();
    unsigned *upper = s.sums, *lower = (unsigned*)s.means;
    for (int e = threadIdx.x; e < 2 * size; e += THREADS) upper[e] = lower[e] = ~0u;
    __syncthreads();
    // Shared memory has no 64-bit minimum: see feature_range.cu.
    for (int step = 0; step < (X_KIND == 3 ? 2 : 1); step++) {
        for (int i = threadIdx.x; i < p.n; i += THREADS) {
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
    for (int e = threadIdx.x; e < size; e += THREADS) {
        int c = e / p.d, j = e % p.d;
        double weight = s.shifts[c], error = p.fractions > 0.0 ? 1.0 + p.fractions / weight : 1.0;
        coarse |= p.fractions > 0.0 && p.fractions / 2 / p.weight_scale > FINE * weight;
        double low = number_of((uint64)upper[e] << 32 | lower[e]);
        double high = number_of(~((uint64)upper[size + e] << 32 | lower[size + e]));
        double width = high - low;
        // test_batched.test_what_compiled_fits_leave_open_is_left_to_the_driver fails without
        coarse |= width > 0.0 && error * p.step[j] > width * FINE;
        s.columns[j * p.k + c] = fmin(fmax(s.columns[j * p.k + c], low), high) + 0.0;
    }
    return !__syncthreads_or(coarse);
}

// ---------------------------------------------------------------- kernels

// Fit each of b problems from centers (b, k, d), or, where there are trials, from those of k-means++ by draws (b, 1 +
// (k - 1) * trials). x, weights, labels: of all rows, one problem after another. counts, numbers, measures: see Problem.
// centers: become those to be published, not rounded yet. rows: of Shared. closest: (rows of all,), if there are trials.
// n_iter: (b,), 0 where the problem is left to the driver.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
fit_problems(const X* __restrict__ x, const W* __restrict__ weights, const long long* __restrict__ counts,
             const double* __restrict__ numbers, const double* __restrict__ measures, int k, int d, double tol,
             int max_iter, const double* __restrict__ draws, int trials, int rows, double* closest, double* centers,
             int* labels, int* __restrict__ n_iter) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    __shared__ int64 prefix[THREADS];
    __shared__ int candidates[THREADS / 4];
    Problem p = problem_of(x, weights, labels, k, d, counts, numbers, measures);
    Shared s = shared_of(dynamic_shared, k, d, rows);
    double* own = centers + (int64)blockIdx.x * k * d;
    for (int j = threadIdx.x; j < s.width; j += THREADS) s.about[j] = j < d ? (F)p.about[j] : (F)0;
    for (int e = threadIdx.x; e < 2 * k * (d + 1); e += THREADS) s.sums[e] = 0;
    for (int i = threadIdx.x; i < p.n; i += THREADS) p.labels[i] = UNCERTAIN;
    if (trials) {
        seed(p, s, draws + (int64)blockIdx.x * (1 + (int64)(k - 1) * trials), trials, closest + p.first, prefix,
             candidates);
    } else {
        for (int e = threadIdx.x; e < k * d; e += THREADS) s.columns[e % d * k + e / d] = own[e];
        __syncthreads();
    }
    int taken = max_iter;
    double variance = -1.0;
    for (int i = 0; i < max_iter; i++) {
        bool scored = place_centers(p, s);
        int changed = label_rows(p, s, scored, true);
        if (i > 0 && changed == 0) {
            taken = i + 1;
            break;
        }
        double shift;
        if (!next_centers(p, s, shift)) {
            taken = 0;
            break;
        }
        if (shift == 0.0) {
            taken = i + 1;
            break;
        }
        if (tol > 0.0 && shift <= tol * p.most * (1 + CERTAIN)) {
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
    for (int e = threadIdx.x; e < k * d; e += THREADS) own[e] = s.columns[e % d * k + e / d];
    if (threadIdx.x == 0) n_iter[blockIdx.x] = taken;
}

// Label the rows by centers (b, k, d) as they are published, and measure. found: (b, 4), the two sums of the inertia,
// its coarse bits, and how many clusters have rows. The rest as above.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
publish_problems(const X* __restrict__ x, const W* __restrict__ weights, const long long* __restrict__ counts,
                 const double* __restrict__ numbers, const double* __restrict__ measures, int k, int d, int rows,
                 const double* __restrict__ centers, int* labels, long long* __restrict__ found) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    Problem p = problem_of(x, weights, labels, k, d, counts, numbers, measures);
    Shared s = shared_of(dynamic_shared, k, d, rows);
    const double* own = centers + (int64)blockIdx.x * k * d;
    for (int j = threadIdx.x; j < s.width; j += THREADS) s.about[j] = j < d ? (F)p.about[j] : (F)0;
    for (int e = threadIdx.x; e < k * d; e += THREADS) s.columns[e % d * k + e / d] = own[e];
    for (int c = threadIdx.x; c < k; c += THREADS) s.sums[c] = 0;
    __syncthreads();
    bool scored = place_centers(p, s);
    __syncthreads();
    label_rows(p, s, scored, false);
    for (int i = threadIdx.x; i < p.n; i += THREADS) atomicAdd(&s.sums[p.labels[i]], 1u);
    int bits = coarse_bits(p, s.columns, k);
    int64 large, small, occupied = 0;
    sum_inertia(p, s.columns, k, ldexp(1.0, bits), ldexp(1.0, SUM_BITS - p.copies_bits), large, small);
    for (int c = threadIdx.x; c < k; c += THREADS) occupied += s.sums[c] > 0;
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
    const X* own = x + counts[4 * (int64)blockIdx.x] * d;
    int64 values = counts[4 * (int64)blockIdx.x + 1] * d;
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
        for (int e = threadIdx.x; e < 2 * d; e += THREADS) to[e] = __longlong_as_double(0x7ff8000000000000ll);
    }
}
