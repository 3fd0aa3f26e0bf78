// Greedy k-means++ on the cells of image_cells.cu, all steps in one launch, as gpukmeans/seeding.py's `greedy` makes
// them. In plain C:
//
//     for (step = 0; step < k; step++) {
//         if (step) for (i = total = 0; i < m; i++) prefix[i] = total += mass[i] * closest[i];
//         drawn_by_mass = !step || total == 0;  // or every cell is at a center
//         if (drawn_by_mass) for (i = total = 0; i < m; i++) prefix[i] = total += mass[i];
//         for (t = 0; t < (drawn_by_mass ? 1 : trials); t++) {
//             for (i = 0; prefix[i] <= floor(draws[step][t] * total); i++) continue;
//             candidates[t] = i;
//             for (i = potentials[t] = 0; i < m; i++)
//                 potentials[t] += mass[i] * min(squared(x[i], x[candidates[t]]), closest[i]);
//         }
//         chosen = candidates[argmin of potentials];
//         centers[step] = x[chosen];
//         for (i = 0; i < m; i++) closest[i] = min(closest[i], squared(x[i], x[chosen]));
//     }
//
// A block alone has no need to wait for others or for the host, which otherwise would have to say for each of 64 seeds
// which candidate it takes. A thread has a run of cells, of which it alone keeps D to the closest center so far.
// Counted (benchmarks/NOTES.md): 64 steps over 8,296 cells take 0.3 to 0.6 ms.
//
// Launch: a single block of up to 1,024 threads. Options: D. By gpukmeans.image.cuda.kernels.seed_cells.
// A cell, in a step: x, the mass and the closest D, some 100 kB for thousands of cells, three times, from the caches.

#include "common.cuh"

#define ROW (D + 1)

// The most candidates of a step.
#define TRIALS 16

// A cell's mass, less `bits` bits and rounded up
// (test_image_colors.test_cells_that_weigh_next_to_nothing_are_seeds_too fails if it is rounded down).
__device__ __forceinline__ uint64 mass_of(const long long* sums, int64 i, int bits) {
    return (uint64)((sums[i * ROW + D] + ((1ll << bits) - 1)) >> bits);
}

__device__ __forceinline__ int squared(const float* one, const float* other) {
    int distance = 0;
    for (int j = 0; j < D; j++) {
        int off = (int)one[j] - (int)other[j];
        distance += off * off;
    }
    return distance;
}

// centers: (k, D), from draws (k, trials) in [0, 1), of which the first step takes one. closest: (m,), the kernel's
// own.
extern "C" __global__ void __launch_bounds__(1024, 1)
seed_cells(const float* __restrict__ x, const long long* __restrict__ sums, long long m,
           const double* __restrict__ draws, int k, int trials, int bits, int* __restrict__ closest,
           float* __restrict__ centers) {
    __shared__ uint64 of_warp[32], potentials[32][TRIALS];
    __shared__ int64 candidates[TRIALS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int64 each = (m + blockDim.x - 1) / blockDim.x;
    int64 first = min(m, (int64)threadIdx.x * each), last = min(m, first + each);
    for (int step = 0; step < k; step++) {
        bool by_mass = step == 0;
        uint64 own, end, total;
        while (true) {
            own = 0;
            for (int64 i = first; i < last; i++) own += mass_of(sums, i, bits) * (by_mass ? 1 : closest[i]);
            end = warp_scan(own);
            if (lane == 31) of_warp[warp] = end;
            __syncthreads();
            total = 0;
            for (int w = 0; w < warps; w++) {
                if (w == warp) end += total;
                total += of_warp[w];
            }
            // test_image_colors.test_cells_at_centers_are_drawn_by_mass fails without.
            if (by_mass || total) break;
            by_mass = true;
            __syncthreads();
        }
        int count = by_mass ? 1 : trials;
        for (int t = 0; t < count; t++) {
            uint64 index = (uint64)inverse_cdf_index(draws[step * trials + t], total);
            // Another thread's cell (test_image_colors.test_cells_are_numpys fails if those before count as its own).
            if (index >= end || index < end - own) continue;
            uint64 before = end - own;
            for (int64 i = first; i < last; i++) {
                before += mass_of(sums, i, bits) * (by_mass ? 1 : closest[i]);
                if (before > index) {
                    candidates[t] = i;
                    break;
                }
            }
        }
        __syncthreads();
        for (int t = 0; t < count && !by_mass; t++) {
            uint64 sum = 0;
            for (int64 i = first; i < last; i++) {
                int distance = squared(x + i * D, x + candidates[t] * D);
                sum += mass_of(sums, i, bits) * min(distance, closest[i]);
            }
            sum = warp_sum(sum);
            if (lane == 0) potentials[warp][t] = sum;
        }
        __syncthreads();
        int best = 0;
        uint64 least = ~0ull;
        for (int t = 0; t < count && !by_mass; t++) {
            uint64 sum = 0;
            for (int w = 0; w < warps; w++) sum += potentials[w][t];
            if (sum < least) {
                least = sum;
                best = t;
            }
        }
        int64 chosen = candidates[best];
        for (int64 i = first; i < last; i++) {
            int distance = squared(x + i * D, x + chosen * D);
            closest[i] = step ? min(distance, closest[i]) : distance;
        }
        if (threadIdx.x < D) centers[step * D + threadIdx.x] = x[chosen * D + threadIdx.x];
        __syncthreads();
    }
}
