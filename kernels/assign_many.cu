// The assignment step's proposal for any number of features: float32 scores of every center, the least of them, the
// runner-up's, and whether the gap between them is certain (assign.cuh). No n x k array exists anywhere.
//
// A block compares TILE rows with TILE centers at a time, DEPTH features at a time through shared memory, a thread
// 8 x 8 of the pairs: for each feature 64 fused multiply-adds to 4 reads of 16 bytes. While it computes with one half of
// the shared memory, the next features are on their way to registers and then to the other half, one barrier for all.
// After the last feature, the 16 threads that share 8 rows fold their scores: a thread then knows the best and second of
// one row only, and keeps them in shared memory until the centers are done.
//
// The scores take 64 registers, and a thread may have 128 for two blocks to be resident. That decides much: pointers
// that advance rather than indices, centers laid out as they are read, no state of eight rows beside the scores.
// float64 rows take more on their way, and have a multiprocessor to themselves on some GPUs.
//
// Traffic: the rows and the centers once for every TILE of the other, mostly from the second-level cache; 4 bytes a
// row written.

#include "assign.cuh"

#define TILE 128
#define DEPTH 8
#define BLOCKS (X_KIND == 3 ? 1 : 2)
#define EACH 8  // rows, and centers, of a thread: four, and four half a tile further

// A row of the shared memory holds one feature. Four floats more than TILE: the threads that store features of one
// row of x then use different banks, and float4 stays aligned.
#define WIDTH (TILE + 4)

// Four features of a row of x, as they lie in memory.
struct alignas(sizeof(X) < 4 ? 4 * sizeof(X) : 16) Four {
    X x[4];
};

struct alignas(16) FourF {
    F x[4];
};

// The same of two disjoint sets of centers. Which of two equal scores wins does not matter: they are uncertain.
__device__ __forceinline__ Nearest merge(const Nearest& a, const Nearest& b) {
    return {fminf(a.best, b.best), fminf(fmaxf(a.best, b.best), fminf(a.second, b.second)),
            b.best < a.best ? b.label : a.label};
}

__device__ __forceinline__ Nearest from_lane(const Nearest& found, int step) {
    return {__shfl_xor_sync(0xffffffffu, found.best, step), __shfl_xor_sync(0xffffffffu, found.second, step),
            __shfl_xor_sync(0xffffffffu, found.label, step)};
}

// Of `rows` rows from r on, what 2 * rows neighboring threads found together of one: row r + t / 2 in the t-th of them.
// scan(r): what the thread itself found of row r.
template <int rows, class Scan>
__device__ __forceinline__ Nearest fold(Scan scan, int r) {
    if constexpr (rows == 1) {
        return scan(r);
    } else {
        Nearest low = fold<rows / 2>(scan, r), high = fold<rows / 2>(scan, r + rows / 2);
        bool upper = threadIdx.x & rows;
        Nearest keep = {upper ? high.best : low.best, upper ? high.second : low.second, upper ? high.label : low.label};
        Nearest give = {upper ? low.best : high.best, upper ? low.second : high.second, upper ? low.label : high.label};
        return merge(keep, from_lane(give, rows));
    }
}

__device__ __forceinline__ float4 load(const float* shared) { return *(const float4*)shared; }

// depth: d rounded up to a multiple of DEPTH. offset: (depth,), 0 beyond d. columns: (tiles, 1 + depth, TILE), the centers
// of each tile by themselves, |z|^2 first. Blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(256, BLOCKS)
assign_many(const X* __restrict__ x, long long n, int d, int depth, const F* __restrict__ offset, F scale,
            const float* __restrict__ columns, int tiles, float margin_norm, float margin, int* __restrict__ next) {
    __shared__ __align__(16) float ys[2][DEPTH][WIDTH], zs[2][DEPTH][WIDTH];
    __shared__ float norms[TILE];
    __shared__ Nearest kept[256];  // each thread's own: in registers there is no room beside the scores
    bool wide = d % 4 == 0 && (size_t)x % sizeof(Four) == 0;
    int along = threadIdx.x % 16, down = threadIdx.x / 16;
    int row = threadIdx.x / 2, part = threadIdx.x % 2 * 4;  // what of x it brings to shared memory
    for (unsigned tile = blockIdx.x; (int64)tile * TILE < n; tile += gridDim.x) {
        const X* x_next = x + min((int64)tile * TILE + row, n - 1) * d + part;
        const float* z_next = columns;  // DEPTH features of TILE centers, and the next DEPTH
        X raw[4];
        float4 z;
        auto fetch = [&](int from) {
            int left = d - part - from;
#pragma unroll
            for (int e = 0; e < 4; e++) raw[e] = 0;
            if (wide) {
                if (left > 0) {
                    Four four = *(const Four*)x_next;
#pragma unroll
                    for (int e = 0; e < 4; e++) raw[e] = four.x[e];
                }
            } else {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (e < left) raw[e] = x_next[e];
                }
            }
            z = ((const float4*)z_next)[threadIdx.x];
            z_next += DEPTH * TILE;
            x_next += DEPTH;
        };
        float norm = 0.0f;  // of half the features of `row`
        Nearest& best = kept[threadIdx.x];
        best = {NEVER, NEVER, 0};
        for (int first = 0; first < tiles * TILE; first += TILE) {
            const float* squares = z_next;
            z_next += TILE;
            fetch(0);
            float score[EACH][EACH];
#pragma unroll
            for (int c = 0; c < EACH; c++) {
                float square = squares[along * 4 + c / 4 * (TILE / 2) + c % 4];
#pragma unroll
                for (int r = 0; r < EACH; r++) score[r][c] = square;
            }
            norm = 0.0f;
            __syncthreads();  // nobody reads the tile before any more
            for (int from = 0; from < depth; from += DEPTH) {
                int stage = from / DEPTH % 2;
                FourF offsets = *(const FourF*)(offset + from + part);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float y = in_frame(raw[e], offsets.x[e], scale);
                    norm = fmaf(y, y, norm);
                    ys[stage][part + e][row] = y;
                }
                *(float4*)&zs[stage][threadIdx.x / 32][threadIdx.x % 32 * 4] = z;
                // Whoever passes has left the other half, and may fill it next.
                __syncthreads();
                if (from + DEPTH < depth) fetch(from + DEPTH);
#pragma unroll
                for (int f = 0; f < DEPTH; f++) {
                    float4 y0 = load(&ys[stage][f][down * 4]), y1 = load(&ys[stage][f][TILE / 2 + down * 4]);
                    float4 z0 = load(&zs[stage][f][along * 4]), z1 = load(&zs[stage][f][TILE / 2 + along * 4]);
                    float y[EACH] = {y0.x, y0.y, y0.z, y0.w, y1.x, y1.y, y1.z, y1.w};
                    float z[EACH] = {z0.x, z0.y, z0.z, z0.w, z1.x, z1.y, z1.z, z1.w};
#pragma unroll
                    for (int r = 0; r < EACH; r++) {
#pragma unroll
                        for (int c = 0; c < EACH; c++) score[r][c] = fmaf(y[r], z[c], score[r][c]);
                    }
                }
            }
            x_next -= depth;
            auto scan = [&](int r) {
                Nearest found = {NEVER, NEVER, 0};
#pragma unroll
                for (int c = 0; c < EACH; c++) {
                    look_at(found, score[r][c], first + along * 4 + c / 4 * (TILE / 2) + c % 4);
                }
                return found;
            };
            Nearest found = fold<EACH>(scan, 0);
            best = merge(best, merge(found, from_lane(found, 1)));
        }
        norm += __shfl_xor_sync(0xffffffffu, norm, 1);
        __syncthreads();  // nobody reads the norms before any more
        if (part == 0) norms[row] = norm;
        __syncthreads();
        // The row that `fold` left to this thread.
        int own_row = down * 4 + along / 8 * (TILE / 2) + along / 2 % 4;
        int64 i = (int64)tile * TILE + own_row;
        if (along % 2 == 0 && i < n) {
            next[i] = certain_label(best, norms[own_row], margin_norm, margin);
        }
    }
}
