// The rest of the assignment step: uncertain labels are decided by D (Rule 1), labels are replaced, and only the rows
// that changed cluster move their terms from one cluster's integer sums to the other's (Rule 3). In plain C:
//
//     for (i = 0; i < n; i++) {
//         to = tentative[i] != UNCERTAIN ? tentative[i] : argmin of squared_distance(x[i], centers[c]) over c;
//         from = labels[i];
//         if (to == from) continue;
//         labels[i] = to;
//         for (j = 0; j <= d; j++) {
//             term = j < d ? fixed_term(x[i][j], offset[j], scale[j], weights[i]) : weight_mass(weights[i]);
//             sums[to][j] += term;
//             if (from >= 0) sums[from][j] -= term;
//         }
//     }
//
// A thread takes one row, and the warp together those of its rows that D has to decide; of more than FEW features also
// those that move, so that neighboring lanes read neighboring values and add to neighboring sums (benchmarks/NOTES.md:
// by count a quarter to an eighth of what a thread alone takes). Sums gather in a block's shared memory where all of
// them fit, so that global memory sees one addition a block and sum; otherwise they go to global memory, whose 64-bit
// add needs no loop.
//
// Of sparse rows D looks at all d features, so E (common.cuh), which costs what a row stores, says first which centers
// may be the nearest. What a row does not store moves no sum: its term is zero (scales.Scales).
//
// Launch: blocks of 256 threads, four to a multiprocessor; a row a thread; dynamic shared memory of 8 k (d + 1) bytes
// where that is in 48 kB. Options: X_KIND, WEIGHT_KIND, SPARSE. By gpukmeans.engine.cuda.assignment_kernels.refine.
// A row: 8 bytes read, 4 written; the row itself only if it is uncertain (then 3 k d operations of float64) or changed
// (d + 1 terms, each added twice). A sparse row: if it is uncertain 7 to 14 k operations an entry, and 3 d for each of
// the centers that E leaves, if there are several; if it changed, a term an entry, and one.

#include "common.cuh"

#define FEW 16  // half a warp would have nothing to do

#if SPARSE
// Bounds on D from a row to centers (d + 1, k), by E. error: what these differ by is less than that times |x|^2 + |c|^2
// (sparse_rows.expansion_error), underflow apart.
struct Bounds {
    double low, high;
};

__device__ __forceinline__ Bounds bounds_of(const Row& row, const double* centers, int k, int d, int c, double error) {
    double total = 0.0, square = 0.0;
    for (int e = 0; e < row.count; e++) {
        double x = value(row.x[e]);
        total = add_step(total, x, centers[(int64)row.columns[e] * k + c]);
        square += x * x;
    }
    double distance = distance_of(total, centers + c, d, k);
    error = error * (square + centers[(int64)d * k + c]) + d * 1e-319;  // more than 2^-1060
    return {distance - error, distance + error};
}

// The least upper bound on D from a row to any of the centers, in all lanes of the warp, which calls it with one row.
__device__ __forceinline__ double least_bound(const Row& row, const double* centers, int k, int d, double error) {
    double least = 1.7976931348623157e308;
    for (int c = threadIdx.x % 32; c < k; c += 32) least = fmin(least, bounds_of(row, centers, k, d, c, error).high);
    for (int step = 16; step; step >>= 1) least = fmin(least, __shfl_xor_sync(0xffffffffu, least, step));
    return least;
}
#endif

// The label by D, found by the whole warp, which calls it with one row: D of one pair is a chain of 2 d dependent
// operations of float64, and one thread alone would take k of them after another, longer than all else in an iteration.
// centers: (d, k), so that lanes read neighbors; of sparse rows (d + 1, k), see coordinates, and error as bounds_of.
__device__ __forceinline__ int decide(const Row& row, const double* centers, int k, int d, double error) {
#if SPARSE
    // The only center that E leaves is the nearest; of several, D decides
    // (test_sparse_kernels.test_the_label_is_that_of_the_distance_and_not_of_its_expansion fails of E).
    double bound = least_bound(row, centers, k, d, error);
    int possible = 0, only = 0;
    for (int c = threadIdx.x % 32; c < k; c += 32) {
        if (bounds_of(row, centers, k, d, c, error).low > bound) continue;
        possible++;
        only = c;
    }
    unsigned some = __ballot_sync(0xffffffffu, possible > 0);
    bool several = __ballot_sync(0xffffffffu, possible > 1) != 0 || __popc(some) > 1;
    if (!several) return __shfl_sync(0xffffffffu, only, __ffs(some) - 1);
#endif
    double least = 0.0;
    int label = k;  // of no center yet
    for (int c = threadIdx.x % 32; c < k; c += 32) {
#if SPARSE
        if (bounds_of(row, centers, k, d, c, error).low > bound) continue;
#endif
        double distance = 0.0;
        for_all_features(row, d, [&](double x, int j) {
            distance = add_square(distance, x, centers[(int64)j * k + c]);
        });
        if (label == k || distance < least) {
            least = distance;
            label = c;
        }
    }
    for (int step = 16; step; step >>= 1) {
        double other = __shfl_xor_sync(0xffffffffu, least, step);
        int other_label = __shfl_xor_sync(0xffffffffu, label, step);
        if (other_label == k) continue;
        if (label == k || other < least || (other == least && other_label < label)) {
            least = other;
            label = other_label;
        }
    }
    return label;
}

// centers, error: see decide. tentative: (n,). labels: (n,), UNCERTAIN where a row has none yet. sums: (k, d + 1). summing: 0 if
// only labels are wanted, 1 for sums in global memory, 2 through the dynamic shared memory. counts: rows that changed
// label, rows that D decided, rows on the list. weight_scale: see weight_mass. listed, list: as assign_low_dim has
// them; counts[2] is then the list's length, and tentative is in its order.
extern "C" __global__ void __launch_bounds__(256, 4)
refine(X_ROWS, const double* __restrict__ centers, int k, double error, const W* __restrict__ weights,
       const double* __restrict__ offset, const double* __restrict__ scale, double weight_scale, int summing,
       const int* __restrict__ tentative, int* __restrict__ labels, unsigned long long* __restrict__ sums,
       unsigned long long* __restrict__ counts, int listed, const int* __restrict__ list) {
    Rows rows(GIVEN);
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    unsigned* local = (unsigned*)dynamic_shared;
    int size = k * (d + 1);
    if (summing == 2) {
        for (int e = threadIdx.x; e < 2 * size; e += blockDim.x) local[e] = 0;
        __syncthreads();
    }
    // Every step-th term of a row, from one on.
    auto move = [&](int64 i, int to, int from, int first, int step) {
        Row row = rows[i];
        W weight = weight_of(weights, i);
        for (int e = first; e <= row.count; e += step) {
            int j = e < row.count ? row.column(e) : d;
            int64 term = j < d ? fixed_term(row.x[e], offset[j], scale[j], weight) : weight_mass(weight, weight_scale);
            if (summing == 2) {
                add_shared(local + 2 * (to * (d + 1) + j), term);
                if (from >= 0) add_shared(local + 2 * (from * (d + 1) + j), -term);
            } else {
                add_global(sums + (int64)to * (d + 1) + j, term);
                if (from >= 0) add_global(sums + (int64)from * (d + 1) + j, -term);
            }
        }
    };
    int64 changed = 0, decided = 0;
    if (listed) n = (int64)counts[2];
    // Lanes beyond the last row go along with their warp.
    int64 own = (int64)blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    for (int64 start = own - lane; start < n; start += (int64)gridDim.x * blockDim.x) {
        int64 place = start + lane, i = place < n ? (listed ? list[place] : place) : 0;
        int after = place < n ? tentative[place] : 0;
        bool uncertain = place < n && after == UNCERTAIN;
        for (unsigned left = __ballot_sync(0xffffffffu, uncertain); left; left &= left - 1) {
            int turn = __ffs(left) - 1;
            int64 theirs = __shfl_sync(0xffffffffu, i, turn);
            int label = decide(rows[theirs], centers, k, d, error);
            if (lane == turn) after = label;
        }
        int before = place < n ? labels[i] : after;
        bool moves = after != before;
        decided += uncertain;
        if (moves) {
            changed++;
            labels[i] = after;
        }
        if (!summing) continue;
        if (d <= FEW) {
            if (moves) move(i, after, before, 0, 1);
            continue;
        }
        for (unsigned left = __ballot_sync(0xffffffffu, moves); left; left &= left - 1) {
            int turn = __ffs(left) - 1;
            int64 theirs = __shfl_sync(0xffffffffu, i, turn);
            int to = __shfl_sync(0xffffffffu, after, turn), from = __shfl_sync(0xffffffffu, before, turn);
            move(theirs, to, from, (int)lane, 32);
        }
    }
    // Both counts in one sum over the warp: its share of fewer than 2^32 rows each.
    uint64 both = warp_sum((uint64)decided << 32 | (uint64)changed);
    if (threadIdx.x % 32 == 0 && both) {
        if (both & 0xffffffffu) add_global(&counts[0], (int64)(both & 0xffffffffu));
        if (both >> 32) add_global(&counts[1], (int64)(both >> 32));
    }
    if (summing == 2) {
        __syncthreads();
        for (int e = threadIdx.x; e < size; e += blockDim.x) {
            uint64 amount = (uint64)local[2 * e + 1] << 32 | local[2 * e];
            if (amount) add_global(sums + e, (int64)amount);
        }
    }
}
