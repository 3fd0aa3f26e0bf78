// Tentative labels for any number of features, by float32 scores of every center: the loop of assign_low_dim.cu, for d
// features. No n x k array exists anywhere.
//
// A block compares ROWS rows with CENTERS centers at a time, DEPTH features at a time through shared memory, a thread
// EACH_ROWS x EACH_CENTERS of the pairs. With many centers that is 8 x 8: for each feature 64 fused multiply-adds to 4
// reads of 16 bytes. While it computes with one half of the shared memory, the next features are on their way to
// registers and then to the other half, one barrier for all. After the last feature, the threads that share rows fold
// their scores: a thread then knows the best and second of one row only, and keeps them in shared memory until the
// centers are done.
//
// The scores take 64 registers, and a thread may have 128 for two blocks to be resident. That decides much: pointers
// that advance rather than indices, centers laid out as they are read, no state of eight rows beside the scores.
// float64 rows take more on their way, and have a multiprocessor to themselves on some GPUs. Counted (benchmarks/
// NOTES.md): 82 % of the loop is multiply-adds.
//
// Compiled for tiles of CENTERS: 128, or 16, 32 or 64 where there are no more, since a tile costs the same however many
// of its centers are anybody's. The threads then take more rows instead.
//
// Launch: blocks of 256 threads, two to a multiprocessor (of float64 one); ROWS rows a block; static shared memory
// alone. Options: X_KIND, CENTERS. By gpukmeans.engine.cuda.assignment_kernels.assign_tiled, as launch_plans.tiled has
// it, and .tiled_table, a thread a word. A row: read once for every tile of centers, mostly from the second-level
// cache, as centers are for every tile of rows; 4 bytes written, with bounds 12; k d multiply-adds, and 5 operations
// for each center.

#include "tiles.cuh"

#define BLOCKS (X_KIND == 3 ? 1 : 2)

// centers: (k, d), in the frame. squares: (tiles * CENTERS,), their |z|^2. columns: becomes what assign_tiled reads:
//
//     for (tile = 0; tile < tiles; tile++) for (j = 0; j <= depth; j++) for (c = 0; c < CENTERS; c++)
//         columns[tile][j][c] = j == 0 ? squares[tile * CENTERS + c] : -2 * centers[tile * CENTERS + c][j - 1];
//
// with 0 for features and centers that are nobody's.
extern "C" __global__ void __launch_bounds__(256, 4)
tiled_table(const float* __restrict__ centers, const float* __restrict__ squares, int k, int d, int depth, int tiles,
            float* __restrict__ columns) {
    int64 size = (int64)tiles * (depth + 1) * CENTERS;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (int64)gridDim.x * blockDim.x) {
        unsigned row = i / CENTERS;
        int j = row % (unsigned)(depth + 1), center = row / (unsigned)(depth + 1) * CENTERS + i % CENTERS;
        float z = j && j <= d && center < k ? centers[(int64)center * d + j - 1] : 0.0f;
        columns[i] = j ? -2.0f * z : squares[center];
    }
}

// depth: d rounded up to a multiple of DEPTH. offset: (depth,), 0 beyond d. columns: (tiles, 1 + depth, CENTERS), the
// centers of each tile by themselves, |z|^2 first. The rest as assign_low_dim has it. Blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(256, BLOCKS)
assign_tiled(const X* __restrict__ x, long long n, int d, int depth, const F* __restrict__ offset, F scale,
             const float* __restrict__ columns, int tiles, float per_norm,
             const float* __restrict__ errors, int* __restrict__ tentative, int listed, const int* __restrict__ list,
             const unsigned long long* __restrict__ length, int bounded, const float* __restrict__ center_shift, int k,
             float* __restrict__ slack, float* __restrict__ lower_bound, int doubting, int* __restrict__ doubts,
             unsigned long long* __restrict__ doubts_length) {
    __shared__ __align__(16) float ys[2][DEPTH][ROWS + PADDING], zs[2][DEPTH][CENTERS + PADDING];
    __shared__ float norms[ROWS];
    __shared__ int64 count;  // of rows; two registers fewer
    __shared__ Nearest kept[256];  // each thread's own: in registers there is no room beside the scores
    bool wide = is_wide(x, d);
    int along = threadIdx.x % ALONG, down = threadIdx.x / ALONG;
    int row = threadIdx.x / (DEPTH / PART), part = threadIdx.x % (DEPTH / PART) * PART;  // what of x it brings
    bool brings_z = CENTERS == 128 || threadIdx.x < DEPTH * CENTERS / 4;
    if (threadIdx.x == 0) count = listed ? (int64)*length : n;
    __syncthreads();
    for (unsigned tile = blockIdx.x; (int64)tile * ROWS < count; tile += gridDim.x) {
        int64 brought = min((int64)tile * ROWS + row, count - 1);
        const X* x_next = x + (listed ? list[brought] : brought) * d + part;
        const float* z_next = columns;  // DEPTH features of CENTERS centers, and the next DEPTH
        X raw[PART];
        float4 z;
        auto fetch = [&](int from) {
            fetch_features(raw, x_next, d - part - from, wide);
            if (brings_z) z = ((const float4*)z_next)[threadIdx.x];
            z_next += DEPTH * CENTERS;
            x_next += DEPTH;
        };
        float norm = 0.0f;  // of the features of `row` that this thread brings
        kept[threadIdx.x] = {NEVER, NEVER, 0};
        for (int first = 0; first < tiles * CENTERS; first += CENTERS) {
            const float* squares = z_next;
            z_next += CENTERS;
            fetch(0);
            float score[EACH_ROWS][EACH_CENTERS];
#pragma unroll
            for (int c = 0; c < EACH_CENTERS; c++) {
                float square = squares[within(CENTERS, EACH_CENTERS, along, c)];
#pragma unroll
                for (int r = 0; r < EACH_ROWS; r++) score[r][c] = square;
            }
            norm = 0.0f;
            __syncthreads();  // nobody reads the tile before any more
            for (int from = 0; from < depth; from += DEPTH) {
                int stage = from / DEPTH % 2;
#pragma unroll
                for (int f = 0; f < PART; f += 4) {
                    FourF offsets = *(const FourF*)(offset + from + part + f);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float y = in_frame(raw[f + e], offsets.x[e], scale);
                        norm = fmaf(y, y, norm);
                        ys[stage][part + f + e][row] = y;
                    }
                }
                if (brings_z) *(float4*)&zs[stage][threadIdx.x / (CENTERS / 4)][threadIdx.x % (CENTERS / 4) * 4] = z;
                // Whoever passes has left the other half, and may fill it next.
                __syncthreads();
                if (from + DEPTH < depth) fetch(from + DEPTH);
#pragma unroll
                for (int f = 0; f < DEPTH; f++) {
                    float4 y0 = four(ys[stage][f], ROWS, EACH_ROWS, down, 0);
                    float4 y1 = four(ys[stage][f], ROWS, EACH_ROWS, down, 4);
                    float4 z0 = four(zs[stage][f], CENTERS, EACH_CENTERS, along, 0);
                    float4 z1 = four(zs[stage][f], CENTERS, EACH_CENTERS, along, 4);
                    float y[8] = {y0.x, y0.y, y0.z, y0.w, y1.x, y1.y, y1.z, y1.w};
                    float z[8] = {z0.x, z0.y, z0.z, z0.w, z1.x, z1.y, z1.z, z1.w};
#pragma unroll
                    for (int r = 0; r < EACH_ROWS; r++) {
#pragma unroll
                        for (int c = 0; c < EACH_CENTERS; c++) score[r][c] = fmaf(y[r], z[c], score[r][c]);
                    }
                }
            }
            x_next -= depth;
            kept[threadIdx.x] = merge(kept[threadIdx.x], best_of_tile(score, first, along));
        }
        if (PART < DEPTH) norm += __shfl_xor_sync(0xffffffffu, norm, 1);
        __syncthreads();  // nobody reads the norms before any more
        if (part == 0) norms[row] = norm;
        __syncthreads();
        // The row that `fold` left to this thread.
        int own_row = within(ROWS, EACH_ROWS, down, along / SHARING);
        int64 place = (int64)tile * ROWS + own_row;
        Nearest best = kept[threadIdx.x];
        bool doubt = false;
        if (along % SHARING == 0 && place < count) {
            float norm_of_row = norms[own_row], margin = margin_of(norm_of_row, best.label, per_norm, errors);
            int label = tentative[place] = certain_label(best, margin);
            doubt = label == UNCERTAIN;
            if (bounded) {
                int64 i = listed ? list[place] : place;
                write_bounds(best, label, norm_of_row, margin, center_shift, k, slack[i], lower_bound[i]);
            }
        }
        if (doubting) append(doubt, place, doubts, doubts_length);
    }
}
