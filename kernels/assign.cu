// The assignment step's proposal: float32 scores of every center, the least of them, the runner-up's, and whether
// the gap between them is certain under Rule 1 (exact.Frame states the bound). No n x k array exists anywhere.
//
// A score is |z|^2 - 2 y.z, with y the row and z the center in the frame: y = float((x - offset) * scale). columns
// holds a center as -2 z followed by |z|^2, (k, d + 1) float32. next[i] becomes the label where it is certain and
// UNCERTAIN where not; settle.cu decides those by D.
//
// assign_few, for up to 16 features: D_FEW of them, known at compile time. A thread keeps ROWS rows in registers and
// runs along the centers, which a block loads to shared memory a tile at a time; a center read from there serves ROWS
// rows. Traffic: the rows once, 4 bytes a row written.
//
// assign_many, for any number of features: a block compares 64 rows with 64 centers at a time, 16 features at a time
// through shared memory, a thread 4 x 4 of the pairs. Traffic: the rows once for every 64 centers, mostly from the
// second-level cache.

#include "common.cuh"

#define NEVER 3.402823466e38f  // above all scores, which stay below 2**121

// The best of the centers seen so far, its score, and the least score of all others.
struct Nearest {
    float best, second;
    int label;
};

__device__ __forceinline__ void look_at(Nearest& found, float score, int label) {
    bool nearer = score < found.best;
    found.second = nearer ? found.best : fminf(found.second, score);
    found.label = nearer ? label : found.label;
    found.best = nearer ? score : found.best;
}

// The same of two disjoint sets of centers. Which of two equal scores wins does not matter: they are uncertain.
__device__ __forceinline__ void merge(Nearest& found, const Nearest& other) {
    bool nearer = other.best < found.best;
    found.second = nearer ? fminf(found.best, other.second) : fminf(found.second, other.best);
    found.label = nearer ? other.label : found.label;
    found.best = nearer ? other.best : found.best;
}

__device__ __forceinline__ int certain_label(const Nearest& found, float norm, float margin_norm, float margin) {
    return found.second - found.best > __fadd_rn(__fmul_rn(norm, margin_norm), margin) ? found.label : UNCERTAIN;
}

__device__ __forceinline__ float in_frame(X x, double offset, double scale) {
    return (float)__dmul_rn(__dsub_rn(value(x), offset), scale);
}

#ifdef D_FEW

#define ROWS 4

// tile: how many centers the dynamic shared memory holds, (D_FEW + 1) floats each.
extern "C" __global__ void __launch_bounds__(256, 2)
assign_few(const X* __restrict__ x, long long n, const double* __restrict__ offset, double scale,
           const float* __restrict__ columns, int k, int tile, float margin_norm, float margin, int* __restrict__ next) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    float* centers = (float*)dynamic_shared;
    int64 block_rows = (int64)blockDim.x * ROWS;
    for (int64 base = blockIdx.x * block_rows; base < n; base += gridDim.x * block_rows) {
        float y[ROWS][D_FEW], norm[ROWS];
        Nearest found[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64 i = base + r * (int64)blockDim.x + threadIdx.x;
            norm[r] = 0.0f;
#pragma unroll
            for (int j = 0; j < D_FEW; j++) {
                y[r][j] = i < n ? in_frame(x[i * D_FEW + j], offset[j], scale) : 0.0f;
                norm[r] = fmaf(y[r][j], y[r][j], norm[r]);
            }
            found[r].best = found[r].second = NEVER;
            found[r].label = 0;
        }
        for (int first = 0; first < k; first += tile) {
            int count = min(tile, k - first);
            __syncthreads();  // nobody reads the tile before any more
            for (int e = threadIdx.x; e < count * (D_FEW + 1); e += blockDim.x) {
                centers[e] = columns[(int64)first * (D_FEW + 1) + e];
            }
            __syncthreads();
            for (int c = 0; c < count; c++) {
                const float* center = centers + c * (D_FEW + 1);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    float score = center[D_FEW];
#pragma unroll
                    for (int j = 0; j < D_FEW; j++) score = fmaf(center[j], y[r][j], score);
                    look_at(found[r], score, first + c);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64 i = base + r * (int64)blockDim.x + threadIdx.x;
            if (i < n) next[i] = certain_label(found[r], norm[r], margin_norm, margin);
        }
    }
}

#else

#define TILE 64   // rows, and centers, of a block
#define DEPTH 16  // features at a time
#define EACH 4    // rows, and centers, of a thread

// Blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(256, 3)
assign_many(const X* __restrict__ x, long long n, int d, const double* __restrict__ offset, double scale,
            const float* __restrict__ columns, int k, float margin_norm, float margin, int* __restrict__ next) {
    // One more than TILE, so that the threads that store a row's features side by side use different banks.
    __shared__ float ys[DEPTH][TILE + 1], zs[DEPTH][TILE + 1], norms[TILE];
    int along = threadIdx.x % 16, down = threadIdx.x / 16;
    for (int64 base = (int64)blockIdx.x * TILE; base < n; base += (int64)gridDim.x * TILE) {
        Nearest found[EACH];
        for (int r = 0; r < EACH; r++) {
            found[r].best = found[r].second = NEVER;
            found[r].label = 0;
        }
        float norm = 0.0f;  // of row threadIdx.x, in the first TILE threads
        for (int first = 0; first < k; first += TILE) {
            float score[EACH][EACH] = {};
            for (int from = 0; from < d; from += DEPTH) {
                __syncthreads();
                for (int e = threadIdx.x; e < TILE * DEPTH; e += 256) {
                    int row = e / DEPTH, f = e % DEPTH, j = from + f;
                    ys[f][row] = base + row < n && j < d ? in_frame(x[(base + row) * d + j], offset[j], scale) : 0.0f;
                    zs[f][row] = first + row < k && j < d ? columns[(int64)(first + row) * (d + 1) + j] : 0.0f;
                }
                __syncthreads();
                if (first == 0 && threadIdx.x < TILE) {
                    for (int f = 0; f < DEPTH; f++) norm = fmaf(ys[f][threadIdx.x], ys[f][threadIdx.x], norm);
                }
#pragma unroll
                for (int f = 0; f < DEPTH; f++) {
                    float y[EACH], z[EACH];
#pragma unroll
                    for (int r = 0; r < EACH; r++) {
                        y[r] = ys[f][down * EACH + r];
                        z[r] = zs[f][along * EACH + r];
                    }
#pragma unroll
                    for (int r = 0; r < EACH; r++) {
#pragma unroll
                        for (int c = 0; c < EACH; c++) score[r][c] = fmaf(y[r], z[c], score[r][c]);
                    }
                }
            }
            for (int c = 0; c < EACH; c++) {
                int label = first + along * EACH + c;
                if (label >= k) break;
                float square = columns[(int64)label * (d + 1) + d];
                for (int r = 0; r < EACH; r++) look_at(found[r], __fadd_rn(score[r][c], square), label);
            }
        }
        if (threadIdx.x < TILE) norms[threadIdx.x] = norm;
        __syncthreads();
        for (int r = 0; r < EACH; r++) {
            // The 16 threads of a row are neighbours in one warp.
            for (int step = 8; step; step >>= 1) {
                Nearest other;
                other.best = __shfl_xor_sync(0xffffffffu, found[r].best, step);
                other.second = __shfl_xor_sync(0xffffffffu, found[r].second, step);
                other.label = __shfl_xor_sync(0xffffffffu, found[r].label, step);
                merge(found[r], other);
            }
            int64 i = base + down * EACH + r;
            if (along == 0 && i < n) next[i] = certain_label(found[r], norms[down * EACH + r], margin_norm, margin);
        }
    }
}

#endif
