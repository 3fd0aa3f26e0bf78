// Seeding: every row keeps D to its closest center so far; candidates are weighed by what would remain, and rows are
// picked by rank in the prefix sum of integer masses, in row order (Rule 4).
//
// Masses are summed over runs of RUN rows, a block each, and one block makes prefix sums of those: to pick a row is
// then a search among the runs' sums and a scan of one run. A scan takes few barriers: threads add up neighboring
// masses, lanes scan those by shuffles, and only the warps' sums go through shared memory.

#include "common.cuh"

#ifndef RUN
#define RUN 1024
#endif

// A row's mass: weight times `closest` at the scale `power`, or, for power 0, the weight alone.
__device__ __forceinline__ int64 mass(double closest, W weight, double power, double unit) {
    return power == 0.0 ? weight_mass(weight, unit) : weigh(rint(__dmul_rn(closest, power)), weight);
}

// sums: (m,), what each candidate would leave. Traffic: the rows, their weights and `closest` once for every AT_ONCE
// candidates.
#define AT_ONCE 4

extern "C" __global__ void __launch_bounds__(256, 3)
potentials(const X* __restrict__ x, long long n, int d, const W* __restrict__ weights,
           const double* __restrict__ closest, const double* __restrict__ candidates, int m, double power,
           unsigned long long* __restrict__ sums) {
    for (int first = 0; first < m; first += AT_ONCE) {
        const double* c = candidates + (int64)first * d;
        int64 sum[AT_ONCE] = {};
        for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
            const X* row = x + i * d;
            double distance[AT_ONCE] = {};
            for (int j = 0; j < d; j++) {
                double v = value(row[j]);
#pragma unroll
                for (int e = 0; e < AT_ONCE; e++) {
                    if (first + e < m) distance[e] = add_square(distance[e], v, c[(int64)e * d + j]);
                }
            }
            double so_far = closest[i];
            W weight = weight_of(weights, i);
#pragma unroll
            for (int e = 0; e < AT_ONCE; e++) sum[e] += mass(fmin(distance[e], so_far), weight, power, 0.0);
        }
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            if (first + e < m) block_add(&sums[first + e], sum[e]);
        }
    }
}

// closest: lowered to D to the center. largest: the bits of the largest that remains, 0 before.
extern "C" __global__ void __launch_bounds__(256, 4)
accept_center(const X* __restrict__ x, long long n, int d, const double* __restrict__ center, int first,
              double* __restrict__ closest, unsigned long long* __restrict__ largest) {
    uint64 most = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        double distance = squared_distance(x + i * d, center, d);
        if (!first) distance = fmin(distance, closest[i]);
        closest[i] = distance;
        uint64 bits = (uint64)__double_as_longlong(distance);
        most = bits > most ? bits : most;
    }
    block_max(largest, most);
}

// closest: lowered to D to the row's own center, of those (m, d) that labels were given by. largest: as above.
extern "C" __global__ void __launch_bounds__(256, 4)
accept_all(const X* __restrict__ x, long long n, int d, const double* __restrict__ centers,
           const int* __restrict__ labels, double* __restrict__ closest, unsigned long long* __restrict__ largest) {
    uint64 most = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        double distance = fmin(squared_distance(x + i * d, centers + (int64)labels[i] * d, d), closest[i]);
        closest[i] = distance;
        uint64 bits = (uint64)__double_as_longlong(distance);
        most = bits > most ? bits : most;
    }
    block_max(largest, most);
}

// runs: (ceil(n / RUN),), 0 before; the sum of each run's masses. A block to a run, blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(256, 4)
run_sums(long long n, const W* __restrict__ weights, const double* __restrict__ closest, double power, double unit,
         unsigned long long* __restrict__ runs) {
    for (int64 run = blockIdx.x; run * RUN < n; run += gridDim.x) {
        int64 sum = 0;
        for (int64 i = run * RUN + threadIdx.x; i < n && i < (run + 1) * RUN; i += blockDim.x) {
            sum += mass(power == 0.0 ? 0.0 : closest[i], weight_of(weights, i), power, unit);
        }
        block_add(&runs[run], sum);
    }
}

#define SCAN (RUN < 256 ? RUN : 256)  // threads of a block that scans a run
#define EACH (RUN / SCAN)             // neighboring masses of each

// What the block's threads before this one have together; all: what all of them have. warps: one for each warp.
__device__ __forceinline__ int64 before_in_block(int64 amount, int64 (&warps)[SCAN / 32], int64& all) {
    int64 scan = warp_scan(amount);
    __syncthreads();  // nobody reads the sums before any more
    if (threadIdx.x % 32 == 31) warps[threadIdx.x / 32] = scan;
    __syncthreads();
    int64 before = scan - amount;
    all = 0;
#pragma unroll
    for (int w = 0; w < SCAN / 32; w++) {
        if (w < threadIdx.x / 32) before += warps[w];
        all += warps[w];
    }
    return before;
}

// runs: (count,), from sums to inclusive prefix sums, in place. answer: the total. One block of SCAN threads.
extern "C" __global__ void __launch_bounds__(SCAN)
prefix_sums(unsigned long long* __restrict__ runs, long long count, unsigned long long* __restrict__ answer) {
    __shared__ int64 warps[SCAN / 32];
    int64 total = 0;
    for (int64 base = 0; base < count; base += RUN) {
        int64 first = base + (int64)threadIdx.x * EACH, own[EACH], sum = 0, all;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            own[e] = first + e < count ? (int64)runs[first + e] : 0;
            sum += own[e];
        }
        int64 prefix = total + before_in_block(sum, warps, all);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            prefix += own[e];
            if (first + e < count) runs[first + e] = (uint64)prefix;
        }
        total += all;
    }
    if (threadIdx.x == 0) *answer = (uint64)total;
}

// The first row whose prefix sum exceeds ranks[blockIdx.x], and its coordinates, (m, d). A block of SCAN threads to a
// rank.
extern "C" __global__ void __launch_bounds__(SCAN)
find(const X* __restrict__ x, long long n, int d, const W* __restrict__ weights, const double* __restrict__ closest,
     double power, double unit, const unsigned long long* __restrict__ prefix, long long count,
     const long long* __restrict__ ranks, double* __restrict__ rows) {
    __shared__ int64 warps[SCAN / 32];
    int64 rank = ranks[blockIdx.x];
    int64 run = 0;  // how many runs end at or before the rank
    for (int64 size = count; size > 0;) {
        int64 half = size / 2;
        if ((int64)prefix[run + half] <= rank) {
            run += half + 1;
            size -= half + 1;
        } else {
            size = half;
        }
    }
    int64 first = run * RUN + (int64)threadIdx.x * EACH, own[EACH], sum = 0, all;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int64 i = first + e;
        own[e] = i < n ? mass(power == 0.0 ? 0.0 : closest[i], weight_of(weights, i), power, unit) : 0;
        sum += own[e];
    }
    int64 end = (run ? (int64)prefix[run - 1] : 0) + before_in_block(sum, warps, all), row = -1;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        end += own[e];
        if (end > rank && end - own[e] <= rank) row = first + e;
    }
    if (row < 0) return;
    for (int j = 0; j < d; j++) rows[(int64)blockIdx.x * d + j] = value(x[row * d + j]);
}
