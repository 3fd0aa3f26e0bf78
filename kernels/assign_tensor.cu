// Tentative labels for many features and centers, by scores that tensor cores make: the loop of assign_low_dim.cu, for
// d features, with another bound on the error of scores (exact.certificate.Frame.tensor_score_errors).
//
// Rows and centers in the frame are float32 numbers, 24 bits; a float16 has 11. So each is the sum of two float16, and
// of the four products of such sums three are needed: high high, high low, low high; the fourth is below the last bit.
// Rows of uint8 are exact in one float16, as those of float16 are where the frame's offset is zero (AT_ZERO), and take
// two products. Values are multiplied by 2^14 first, so that parts that matter stay clear of float16's subnormal
// numbers, of which PTX promises nothing; centers, which may lie anywhere, also by a power of two each that makes their
// length about one. Tensor cores may cut off what they add at the last bit of the sum so far; so 16 features are summed
// by themselves, the small products first, and then added to those before by an addition that rounds.
//
// A block compares 128 rows with 128 centers at a time, 16 features at a time, each of its eight warps 32 rows with 64
// centers. Shared memory holds operands as lanes hold them, so that one load of 16 bytes brings a lane its share of 16
// rows, or of 8 centers both parts; features are numbered so that a lane's are four neighbors. While one half of the
// shared memory is worked on, the next features are on their way to registers and then to the other half.
//
// Up to 1,216 features it only looks at rows that a single product has left in doubt (assign_half.cu).
//
// Tried, by count (benchmarks/NOTES.md), and dropped: TF32, which has the same 11 bits at half the rate; one sum over all
// features, whose bound is ten times as large; operands in another order, of which each word is moved.
//
// Launch: blocks of 256 threads, two to a multiprocessor; 128 rows a block; static shared memory alone; from compute
// capability 8.0 on. Options: X_KIND, AT_ZERO. By gpukmeans.engine.cuda.assignment_kernels.assign_tensor, as
// launch_plans.tensor has it, and .tensor_table, a thread 16 bytes.
// A row: read as assign_tiled reads it; 4 bytes written, with bounds 12; 3 k d products of float16, or 2 k d.

#include "scores.cuh"
#include "mma.cuh"

#define DEPTH 16
#define ROWS 128
#define CENTERS 128
#ifndef AT_ZERO
#define AT_ZERO 0
#endif
#define PARTS (X_KIND == 0 || AT_ZERO ? 1 : 2)  // float16 numbers to a row's value
#define SQUARES_DOWN 3.725290298461914e-9f   // 2^-28, back from rows times 2^14

// centers: (k, d), in the frame. downs: (tiles * 128,), 2^-27 times a power of two of |z| (prepare_centers.cu). table:
// (tiles, depth / 16, 16, 32) of 16 bytes, becomes these as lanes hold them. Lane 4 g + t of 8 centers has four features
// of center g, from 4 t on, times -2^14 over that power: the high parts and the low ones.
extern "C" __global__ void __launch_bounds__(256)
tensor_table(const float* __restrict__ centers, const float* __restrict__ downs, int k, int d, int depth, int tiles,
             uint4* __restrict__ table) {
    unsigned stages = depth / DEPTH;
    int64 size = (int64)tiles * stages * 512;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (int64)gridDim.x * blockDim.x) {
        unsigned part = i / 512, stage = part % stages, lane = i % 32;
        int center = part / stages * CENTERS + i / 32 % 16 * 8 + lane / 4;
        float z[4], up = -__uint_as_float((241u << 23) - __float_as_uint(downs[center]));  // of 2^-13 / down, exactly
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int j = stage * DEPTH + lane % 4 * 4 + e;
            z[e] = center < k && j < d ? centers[(int64)center * d + j] * up : 0.0f;
        }
        uint2 high = make_uint2(to_halves(z[0], z[1]), to_halves(z[2], z[3]));
        table[i] = make_uint4(high.x, high.y, to_halves(z[0] - low_half(high.x), z[1] - high_half(high.x)),
                              to_halves(z[2] - low_half(high.y), z[3] - high_half(high.y)));
    }
}

// depth: d rounded up to a multiple of 16. offset: (depth,), 0 beyond d. scale: the frame's, times 2^14. centers: what
// tensor_table wrote. squares, downs: (tiles * 128,) see prepare_centers.cu. again: whether only the rows at these
// places, in the order of tentative, are looked at, as many as again_length says. The rest as assign_low_dim has it.
// Blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(256, 2)
assign_tensor(const X* __restrict__ x, long long n, int d, int depth, const F* __restrict__ offset, F scale,
              const uint4* __restrict__ centers, const float* __restrict__ squares, const float* __restrict__ downs,
              int tiles, float per_norm, const float* __restrict__ errors, int* __restrict__ tentative, int listed,
              const int* __restrict__ list, const unsigned long long* __restrict__ length, int bounded,
              const float* __restrict__ center_shift, int k, float* __restrict__ slack, float* __restrict__ lower_bound,
              int doubting, int* __restrict__ doubts, unsigned long long* __restrict__ doubts_length, int again,
              const int* __restrict__ places, const unsigned long long* __restrict__ again_length) {
    __shared__ uint4 ys[2][ROWS / 16][PARTS][32], zs[2][CENTERS / 8][32];
    __shared__ Nearest kept[4][256];  // each thread's own, of its rows; in the end all rows', by halves of the centers
    __shared__ int64 starts[ROWS];  // of the rows, in values of x
    __shared__ float norms[ROWS];
    __shared__ int64 base, count;  // the tile's first row, and how many rows there are
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int down = warp % 4, along = warp / 4;          // the warp's 32 rows and 64 centers
    int row = 16 * warp + lane / 4, part = lane % 4 * 4;  // it brings four features of this row and the eighth after it
    bool wide = is_wide(x, d);
    if (threadIdx.x == 0) {
        count = again ? (int64)*again_length : listed ? (int64)*length : n;
        base = (int64)blockIdx.x * ROWS;
    }
    __syncthreads();
    while (base < count) {
        if (threadIdx.x < ROWS) {
            int64 place = min(base + threadIdx.x, count - 1);
            if (again) place = places[place];
            starts[threadIdx.x] = (listed ? list[place] : place) * d;
        }
        __syncthreads();
        X raw[2][4];
        int step = 0;  // of 16 features and a tile of centers; they alternate between the halves of shared memory
        auto fetch = [&](int from) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                fetch_features(raw[h], x + starts[row + 8 * h] + from + part, d - part - from, wide);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                copy_to_shared(&zs[step % 2][8 * h + warp][lane], centers + 512 * step + 256 * h + threadIdx.x);
            }
        };
        fetch(0);
        float norm[2];
#pragma unroll
        for (int r = 0; r < 4; r++) kept[r][threadIdx.x] = {NEVER, NEVER, 0};
        for (int tile = 0; tile < tiles; tile++) {
            int first = tile * CENTERS;
            float sum[2][8][4];  // of rows 16 m + ..., centers 8 c + ..., as multiply_matrices has them
#pragma unroll
            for (int e = 0; e < 64; e++) sum[e / 32][e / 4 % 8][e % 4] = 0.0f;
            norm[0] = norm[1] = 0.0f;
            for (int from = 0; from < depth; from += DEPTH) {
                auto& y_now = ys[step % 2];
                auto& z_now = zs[step % 2];
                FourF offsets = *(const FourF*)(offset + from + part);
                uint2 high[2], low[2];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float y[4], square = 0.0f;
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        y[e] = in_frame(raw[h][e], offsets.x[e], scale);
                        square = fmaf(y[e], y[e], square);
                    }
                    norm[h] = __fadd_rn(norm[h], square);
                    high[h] = make_uint2(to_halves(y[0], y[1]), to_halves(y[2], y[3]));
                    low[h] = make_uint2(to_halves(y[0] - low_half(high[h].x), y[1] - high_half(high[h].x)),
                                        to_halves(y[2] - low_half(high[h].y), y[3] - high_half(high[h].y)));
                }
                y_now[warp][0][lane] = make_uint4(high[0].x, high[1].x, high[0].y, high[1].y);
                if (PARTS == 2) y_now[warp][PARTS - 1][lane] = make_uint4(low[0].x, low[1].x, low[0].y, low[1].y);
                wait_for_copies();
                // Whoever passes has left the other half, and may fill it next.
                __syncthreads();
                step++;
                int ahead = from + DEPTH < depth ? from + DEPTH : 0;
                if (ahead || tile + 1 < tiles) fetch(ahead);
                uint4 y[2][PARTS];
#pragma unroll
                for (int m = 0; m < 2 * PARTS; m++) {
                    y[m / PARTS][m % PARTS] = y_now[2 * down + m / PARTS][m % PARTS][lane];
                }
#pragma unroll
                for (int c = 0; c < 8; c++) {
                    uint4 z = z_now[8 * along + c][lane];
                    float step_sum[2][4] = {};
                    if (PARTS == 2) {
#pragma unroll
                        for (int m = 0; m < 2; m++) multiply_matrices(step_sum[m], y[m][PARTS - 1], z.x, z.y);
                    }
#pragma unroll
                    for (int m = 0; m < 2; m++) multiply_matrices(step_sum[m], y[m][0], z.z, z.w);
#pragma unroll
                    for (int m = 0; m < 2; m++) multiply_matrices(step_sum[m], y[m][0], z.x, z.y);
#pragma unroll
                    for (int e = 0; e < 8; e++) {
                        float& total = sum[e / 4][c][e % 4];
                        total = __fadd_rn(total, step_sum[e / 4][e % 4]);
                    }
                }
            }
            int center = first + 64 * along + lane % 4 * 2;
            if (PARTS == 1) __syncwarp();  // or these are read earlier, for which there are no registers
#pragma unroll
            for (int c = 0; c < 8; c++) {
                float2 square = *(const float2*)(squares + center + 8 * c);
                float2 down = *(const float2*)(downs + center + 8 * c);  // back from products
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    Nearest found = kept[r][threadIdx.x];
                    look_at(found, fmaf(sum[r / 2][c][r % 2 * 2], down.x, square.x), center + 8 * c);
                    look_at(found, fmaf(sum[r / 2][c][r % 2 * 2 + 1], down.y, square.y), center + 8 * c + 1);
                    kept[r][threadIdx.x] = found;
                }
            }
        }
        Nearest mine[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            mine[r] = kept[r][threadIdx.x];
            mine[r] = merge(mine[r], from_lane(mine[r], 1));
            mine[r] = merge(mine[r], from_lane(mine[r], 2));
        }
        __syncthreads();  // everybody has taken their own
        if (lane % 4 == 0) {
#pragma unroll
            for (int r = 0; r < 4; r++) kept[along][32 * down + 8 * r + lane / 4] = mine[r];
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            norm[h] += __shfl_xor_sync(0xffffffffu, norm[h], 1);
            norm[h] += __shfl_xor_sync(0xffffffffu, norm[h], 2);
            if (lane % 4 == 0) norms[row + 8 * h] = norm[h];
        }
        __syncthreads();
        int64 place = base + threadIdx.x;
        bool doubt = false;
        if (threadIdx.x < ROWS && place < count) {
            if (again) place = places[place];
            Nearest best = merge(kept[0][threadIdx.x], kept[1][threadIdx.x]);
            float square = __fmul_rn(norms[threadIdx.x], SQUARES_DOWN);
            float margin = margin_of(square, best.label, per_norm, errors);
            int label = tentative[place] = certain_label(best, margin);
            doubt = label == UNCERTAIN;
            if (bounded) {
                int64 i = listed ? list[place] : place;
                write_bounds(best, label, square, margin, center_shift, k, slack[i], lower_bound[i]);
            }
        }
        if (doubting) append(doubt, place, doubts, doubts_length);
        __syncthreads();  // all of that is written again
        if (threadIdx.x == 0) base += (int64)gridDim.x * ROWS;
        __syncthreads();
    }
}
