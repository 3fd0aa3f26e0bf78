// What kernels share in which a block has a problem to itself: the problem, what of it is kept in shared memory, labels of
// its rows and the sums that follow them, and its inertia.
#pragma once

#include "scores.cuh"
#include "seeding.cuh"

#ifndef D_FEW
#define D_FEW 0
#endif

#define THREADS 256
#define ROWS (D_FEW && X_KIND < 3 ? 2 : 1)  // of a thread at a time; of more, or of float64, registers are too few

// To a multiprocessor: of float64 more registers are needed, and compilers for Blackwell take more in a loop over features.
#if X_KIND == 3 || WEIGHT_KIND == 2 || (!D_FEW && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000)
#define BLOCKS 1
#else
#define BLOCKS 2
#endif

#define GROUP 8
#define FEW 16           // features, up to which a thread moves a row's terms by itself; see refine.cu
#define SUM_BITS 62      // exact/fixed_point.py
#define TOO_FAR 0x1p+120 // exact/certificate.py
#define UNIT 0x1p-24     // U32 there

// A row of `counts` (b, 3) and `numbers` (b, NUMBERS + 6 d), as problem_kernels.ProblemArrays has them.
#define COUNTS 3
#define NUMBERS 8
struct Problem {
    const X* x;
    const W* weights;
    int* labels;
    float4* framed;
    int64 place;  // of its labels among those of all
    int n, d, k;
    bool wide;
    const long long* counts;
    const double *numbers, *measures;

    __device__ __forceinline__ int64 total() const { return counts[2]; }
    __device__ __forceinline__ double limit() const { return numbers[0]; }
    __device__ __forceinline__ double most() const { return numbers[1]; }
    __device__ __forceinline__ double factor() const { return numbers[2]; }
    __device__ __forceinline__ double weight_scale() const { return numbers[3]; }
    __device__ __forceinline__ double fractions() const { return numbers[4]; }
    __device__ __forceinline__ int weight_bits() const { return (int)numbers[5]; }
    __device__ __forceinline__ int copies_bits() const { return (int)numbers[6]; }
    __device__ __forceinline__ int widest() const { return (int)numbers[7]; }
    __device__ __forceinline__ double low(int j) const { return measures[j]; }
    __device__ __forceinline__ double high(int j) const { return measures[d + j]; }
    __device__ __forceinline__ double offset(int j) const { return measures[2 * d + j]; }
    __device__ __forceinline__ double scale(int j) const { return measures[3 * d + j]; }
    __device__ __forceinline__ double step(int j) const { return measures[4 * d + j]; }
    __device__ __forceinline__ double about(int j) const { return measures[5 * d + j]; }
    __device__ __forceinline__ Row row(int i) const { return {x + (int64)i * d, d, wide}; }
    __device__ __forceinline__ W weight(int i) const { return weight_of(weights, i); }
    // A weight of the sums; their unit is 1 / weight_scale.
    __device__ __forceinline__ double weight_of_units(int64 units) const { return (double)units / weight_scale(); }
};

// starts: all blocks have the same problem, the only one, and labels of their own. framed: see frame_rows.
__device__ __forceinline__ Problem problem_of(const X* x, const W* weights, int* labels, float4* framed, int k, int d,
                                              int starts, const long long* counts, const double* numbers) {
    int64 b = starts ? 0 : blockIdx.x, first = counts[COUNTS * b];
    Problem p;
    p.place = starts ? blockIdx.x * (int64)counts[1] : first;
    p.x = x + first * d, p.weights = WEIGHT_KIND ? weights + first : weights, p.labels = labels + p.place;
    p.framed = D_FEW ? framed : framed + p.place * ((d + 3) / 4 + 1);
    p.n = (int)counts[COUNTS * b + 1], p.d = d, p.k = k, p.wide = is_wide(p.x, d);
    p.counts = counts + COUNTS * b, p.numbers = numbers + (NUMBERS + 6 * d) * b, p.measures = p.numbers + NUMBERS;
    return p;
}

// What a block keeps in shared memory. columns: (d, k), the centers. means: (k, d), those that follow; candidates of
// k-means++ (d, padded) before, and at the end words of ranges. sums: (k, d + 1) in two words, see add_shared. shifts:
// (k,). table: (padded / GROUP, width / 4, GROUP, 4) float32, -2 z in the frame; squares, slack: (padded,). about:
// (width,), the frame's offset.
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

// A loop that the block's threads share. None of copies: compilers make four of each, which gain nothing where a turn is
// short and seldom, and a first fit would wait twice as long for its kernels.
#define BLOCK_LOOP(e, end) _Pragma("unroll 1") for (int e = threadIdx.x; e < (end); e += THREADS)

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

// ---------------------------------------------------------------- labels

// Makes the scores' table of the centers in columns; whether scores serve.
__device__ __forceinline__ bool place_centers(const Problem& p, const Shared& s) {
    if (p.factor() == 0.0) return false;
    BLOCK_LOOP(e, s.padded * s.width) {
        int within = e % (GROUP * s.width), c = e / (GROUP * s.width) * GROUP + within % (4 * GROUP) / 4;
        int j = within / (4 * GROUP) * 4 + within % 4;
        double z = c < p.k && j < p.d ? (s.columns[j * p.k + c] - p.about(j)) * p.factor() : 0.0;
        s.table[e] = (float)(-2.0 * z);
    }
    double part = 1.07 * UNIT * (2.03 * p.d + 14.1);
    int far = 0;
    BLOCK_LOOP(c, s.padded) {
        double norm = 0.0;
        for (int j = 0; j < p.d && c < p.k; j++) {
            double z = (s.columns[j * p.k + c] - p.about(j)) * p.factor();
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
    for (int e = 0; e < 4; e++) y[e] = j + e < p.d ? in_frame(raw[e], s.about[j + e], (F)p.factor()) : 0.0f;
}

// Rows of more features than a thread holds, in the frame, four neighbouring features of all rows and then the next four,
// so that threads of neighbouring rows read neighbouring words: (width / 4 + 1, n), of which the last has |y|^2 first.
__device__ __forceinline__ void frame_rows(const Problem& p, const Shared& s) {
#if !D_FEW
    BLOCK_LOOP(i, p.n) {
        Row row = p.row(i);
        float norm = 0.0f;
#pragma unroll 1
        for (int j = 0; j < s.width; j += 4) {
            float y[4];
            four_in_frame(y, row, j, p, s);
            for (int e = 0; e < 4; e++) norm = fmaf(y[e], y[e], norm);
            p.framed[j / 4 * p.n + i] = {y[0], y[1], y[2], y[3]};
        }
        p.framed[s.width / 4 * p.n + i].x = norm;
    }
    __syncthreads();
#endif
}

// The label by D, found by the whole warp, which calls it with one row (refine.cu).
__device__ __forceinline__ int decide(const Problem& p, const Shared& s, int i) {
    const X* x = p.x + (int64)i * p.d;
    double least = 0.0;
    int label = p.k;  // of no center yet
#pragma unroll 1
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
#pragma unroll 1
    for (int e = step == 1 ? 0 : first; e <= p.d; e += step) {
        int j = e + turn > p.d ? e + turn - p.d - 1 : e + turn;
        int64 term = j < p.d ? fixed_term(x[j], p.offset(j), p.scale(j), weight) : weight_mass(weight, p.weight_scale());
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
#if D_FEW
        float y[ROWS][D_FEW];
#else
        const float4* framed = p.framed + min(base + (int)threadIdx.x, p.n - 1);
#endif
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            found[r] = {NEVER, NEVER, 0};
            norm[r] = 0.0f;
#if D_FEW
            Row row = p.row(min(base + r * THREADS + (int)threadIdx.x, p.n - 1));
#pragma unroll
            for (int j = 0; j < D_FEW; j += 4) four_in_frame(&y[r][j], row, j, p, s);
#pragma unroll
            for (int j = 0; j < D_FEW; j++) norm[r] = fmaf(y[r][j], y[r][j], norm[r]);
#else
            if (scored) norm[r] = framed[s.width / 4 * p.n].x;
#endif
        }
        for (int c = 0; scored && c < s.padded; c += GROUP) {
            const float4* four = (const float4*)(s.table + c * s.width);
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
                float4 own = framed[j / 4 * p.n];
                float y[1][4] = {{own.x, own.y, own.z, own.w}};
#endif
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    float4 z = four[g + j / 4 * GROUP];
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        const float* own = &y[r][D_FEW ? j : 0];
                        score[r][g] = fmaf(z.x, own[0], score[r][g]);
                        score[r][g] = fmaf(z.y, own[1], score[r][g]);
                        score[r][g] = fmaf(z.z, own[2], score[r][g]);
                        score[r][g] = fmaf(z.w, own[3], score[r][g]);
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

// ---------------------------------------------------------------- the inertia

// Inertia.of, the coarse bits: columns (d, m).
__device__ __forceinline__ int coarse_bits(const Problem& p, const double* columns, int m) {
    double farthest = 0.0;
    BLOCK_LOOP(c, m) {
        double total = 0.0;
        for (int j = 0; j < p.d; j++) {
            double center = columns[j * m + c];
            double reach = fmax(__dsub_rn(p.high(j), center), __dsub_rn(center, p.low(j)));
            total = __dadd_rn(total, __dmul_rn(reach, reach));
        }
        farthest = fmax(farthest, total);
    }
    farthest = largest_of_block(farthest);
    return farthest > 0.0 ? min(1000, SUM_BITS - p.weight_bits() - ceil_log2(farthest)) : 0;
}

// Inertia.sums of rows and the columns (d, m) of their labels, or the only one, in all threads.
__device__ __forceinline__ void sum_inertia(const Problem& p, const double* columns, int m, double coarse, double fine,
                                            int64& large, int64& small) {
    large = small = 0;
    BLOCK_LOOP(i, p.n) {
        const double* column = columns + (m == 1 ? 0 : p.labels[i]);
        double distance = measure_one(p.row(i), column, m, p.d);
        add_inertia(distance, p.weight(i), coarse, fine, large, small);
    }
    large = sum_of_block(large);
    small = sum_of_block(small);
}
