// Error diffusion that cannot pile up, as gpukmeans/image/diffusion.py has it. In plain C:
//
//     for (y = 0; y < height; y++) {
//         for (x = 0; x < width; x++) {
//             if (strength[y][x] == FIXED) { labels[y][x] = fixed_index; continue; }  // its error is 0
//             share = 7 * error[y][x - 1] + error[y - 1][x - 1] + 5 * error[y - 1][x] + 3 * error[y - 1][x + 1];
//             level = clamp(pixels[y][x] + (share * strength[y][x] + 2048 >> 12), 0, TOP);
//             labels[y][x] = l = the first of the colors nearest to level;
//             cap = strength[y][x] == FULL ? TOP : caps[l];
//             error[y][x] = clamp(clamp(level, low, high) - colors[l], -cap, cap);
//         }
//     }
//
// with levels, shares and errors of CHANNELS channels each: whole numbers throughout, so that there is one answer.
//
// A pixel waits for its left neighbour and for three above, of which the last is one further to the right: so a row may
// follow the one above by two pixels. A warp has a band of 32 rows, a lane a row, and goes through it askew: in step t
// lane r is at column t - 1 - 2 r, and has what it needs of lane r - 1, which was one further to the right a step ago,
// by a shuffle. Only the last row of a band writes its errors to memory, for the first row of the next. A word of them
// is zero until it is there, so that whoever reads it knows, without any fence; 32 are read at a time, a lane each.
// Warps take bands in ascending order while they run: what a warp waits for is done, or under way, however few run at
// once.
//
// The nearest color is looked for among candidates. Levels are cut into cells by their leading bits, and a color is a
// candidate of a cell unless another color's farthest distance from the cell is less than its nearest. They are listed
// in fours, which a lane reads at once.
//
// Launch: diffuse by blocks of four warps, one for each scheduler; the others by blocks of 256 threads, four to a
// multiprocessor. Options: CHANNELS (1, 3 or 4), LEVEL_BITS (8 or 16), LABEL (unsigned char or unsigned short). By the
// functions of the same names in gpukmeans.image.cuda.kernels.
// A pixel: its levels three times, a strength of 2 bytes written and read, a label; of each 32nd row 8 CHANNELS bytes for
// errors. Of three channels of 8 bits 15 bytes, for 100 megapixels 1.5 GB, or 0.5 ms on an H100. That is not what it
// takes, for each step waits for the one before: some 180 instructions, and 63 more for each four of the lane that has
// most of them (of photographs and 256 colors two). Predicted, in cycles: shuffles and levels 120; where the cell's
// list begins, and its first candidates, 540, as one of 32 lanes mostly has to ask the second-level cache; colors and
// distances 240; the error 120, and as much for what a single warp of a scheduler cannot hide: 1,150. A band begins 96
// steps after the one above, so that there are width + 3 height steps: of 10,000 x 10,000 pixels 40,000, or 26 ms at
// 1.755 GHz. A single row of as many would take a minute: thin pictures are the host's.

#include "common.cuh"  // its integers; X and W are of rows

#define ALL 0xffffffffu
#define TOP ((1 << LEVEL_BITS) - 1)

// A strength that is full: diffusion_plan.FULL.
#define FULL 256

// In place of a strength, where a pixel is fixed. Strengths have no sign, as to extend one would wait for its load.
#define FIXED 0xffff

// Rows of a band: a lane each.
#define ROWS 32

#if LEVEL_BITS == 8
typedef unsigned char Level;
typedef int Square;
#else
typedef unsigned short Level;
// For squares of 16 bits (test_diffusion_kernels.test_far_colors_of_16_bits fails of 32 bits).
typedef int64 Square;
#endif

// A color of the palette, four levels of which the last may be nothing.
struct alignas(4 * sizeof(Level)) Color {
    Level level[4];
};

__device__ __forceinline__ int clamped(int value, int low, int high) { return min(max(value, low), high); }

__device__ __forceinline__ Square square(int step) { return (Square)step * step; }

// ---------------------------------------------------------------- how much of their share pixels take

// The largest difference of pixel i, in any channel, from its four neighbours, of a picture of n pixels and that width.
__device__ __forceinline__ int most_different(const Level* __restrict__ pixels, int64 i, int64 n, unsigned width) {
    unsigned x = (unsigned)i % width;
    int most = 0;
    for (int c = 0; c < CHANNELS; c++) {
        int own = pixels[i * CHANNELS + c];
        if (x > 0) most = max(most, abs(own - pixels[(i - 1) * CHANNELS + c]));
        if (x + 1 < width) most = max(most, abs(own - pixels[(i + 1) * CHANNELS + c]));
        if (i >= width) most = max(most, abs(own - pixels[(i - width) * CHANNELS + c]));
        if (i + width < n) most = max(most, abs(own - pixels[(i + width) * CHANNELS + c]));
    }
    return most;
}

// count: (1,), zero at first; how many of the pixels (n, CHANNELS), n below 2**32, are within texture. A thread adds
// what it counted once.
extern "C" __global__ void __launch_bounds__(256, 4)
count_textured(const Level* __restrict__ pixels, long long n, unsigned width, int texture,
               unsigned* __restrict__ count) {
    unsigned own = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        own += most_different(pixels, i, n, width) >= texture;
    }
    if (own) atomicAdd(count, own);
}

// strength: (n,), diffusion_plan.local_strength of pixels (n, CHANNELS), n below 2**32, of a picture of that width,
// times scale; FIXED where fixed (n,), if there are any, is not zero. textured: of a pixel within texture.
extern "C" __global__ void __launch_bounds__(256, 4)
local_strength(const Level* __restrict__ pixels, long long n, unsigned width, int texture, int textured, int scale,
               const unsigned char* __restrict__ fixed, int has_fixed, unsigned short* __restrict__ strength) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        int most = min(most_different(pixels, i, n, width), texture);
        int own = FULL - (FULL - textured) * most / texture;
        strength[i] = has_fixed && fixed[i] ? FIXED : (unsigned short)(own * scale >> 8);
    }
}

// ---------------------------------------------------------------- candidates of cells

// The levels of a cell, channel 0 being its leading digit: from low to high in each.
struct Cell {
    int low[CHANNELS], high[CHANNELS];
    __device__ __forceinline__ Cell(int cell, int bits) {
        int shift = LEVEL_BITS - bits;
#pragma unroll
        for (int c = CHANNELS; c--;) {
            low[c] = (cell & ((1 << bits) - 1)) << shift;
            high[c] = low[c] + (1 << shift) - 1;
            cell >>= bits;
        }
    }
    __device__ __forceinline__ Square nearest(const Color& color) const {
        Square distance = 0;
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            distance += square(max(max(low[c] - color.level[c], color.level[c] - high[c]), 0));
        }
        return distance;
    }
    __device__ __forceinline__ Square farthest(const Color& color) const {
        Square distance = 0;
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            distance += square(max(color.level[c] - low[c], high[c] - color.level[c]));
        }
        return distance;
    }
    // The least of the colors' farthest distances: whatever color is nearer may be nearest.
    __device__ __forceinline__ Square reach(const Color* colors, int k) const {
        Square least = farthest(colors[0]);
        for (int i = 1; i < k; i++) least = min(least, farthest(colors[i]));
        return least;
    }
};

// fours: (cells,), how many fours the candidates of each cell take. colors: (k,).
extern "C" __global__ void __launch_bounds__(256, 4)
count_candidates(const Color* __restrict__ colors, int k, int bits, int cells, int* __restrict__ fours) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < cells; i += gridDim.x * blockDim.x) {
        Cell cell(i, bits);
        Square reach = cell.reach(colors, k);
        int count = 0;
        for (int j = 0; j < k; j++) count += cell.nearest(colors[j]) <= reach;
        fours[i] = (count + 3) / 4;
    }
}

// candidates: of each cell its fours, from starts (cells + 1,) on, ascending. The last one stands in what is left of
// four, where it is no nearer than itself.
extern "C" __global__ void __launch_bounds__(256, 4)
list_candidates(const Color* __restrict__ colors, int k, int bits, int cells, const int* __restrict__ starts,
                unsigned short* __restrict__ candidates) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < cells; i += gridDim.x * blockDim.x) {
        Cell cell(i, bits);
        Square reach = cell.reach(colors, k);
        int64 at = 4 * (int64)starts[i], end = 4 * (int64)starts[i + 1];
        int last = 0;
        for (int j = 0; j < k; j++) {
            if (cell.nearest(colors[j]) > reach) continue;
            last = j;
            candidates[at++] = (unsigned short)j;
        }
        while (at < end) candidates[at++] = (unsigned short)last;
    }
}

// ---------------------------------------------------------------- diffusion

// The nearest of a cell's candidates to a level, the first of equals.
__device__ __forceinline__ int nearest_color(const int (&level)[CHANNELS], int cell, const int* starts,
                                             const ushort4* candidates, const Color* colors) {
    int label = 0;
    Square best = (Square)1 << (8 * sizeof(Square) - 2);  // more than any
    for (int place = starts[cell], end = starts[cell + 1]; place < end; place++) {
        ushort4 four = candidates[place];
        const int candidate[4] = {four.x, four.y, four.z, four.w};
        Square distance[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Color color = colors[candidate[i]];
            distance[i] = 0;
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) distance[i] += square(level[c] - color.level[c]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // test_diffusion_kernels.test_ties_go_to_the_least_index fails of the last of equals.
            if (distance[i] < best) {
                best = distance[i];
                label = candidate[i];
            }
        }
    }
    return label;
}

// What is passed on to 32 columns from `first` on, a lane each, by the last row of the band before, once it is there.
__device__ __forceinline__ void wait_for_errors(int (&error)[CHANNELS], int* passed, int band, int first, int width) {
    int column = first + threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
        // Beyond the last column nothing is passed on
        // (test_diffusion_kernels.test_diffusion_is_the_hosts hangs if it is waited for).
        int word = column < width ? 0 : 1;
        int* from = passed + ((int64)(band - 1) * CHANNELS + c) * width + column;
        do {
            if (!word) word = atomicOr(from, 0);
        } while (!__all_sync(ALL, word != 0));
        error[c] = word >> 1;
    }
}

// labels: (height, width), for pixels (height, width, CHANNELS) with strength (height, width), by candidates of cells
// of so many leading bits. limits: (2, CHANNELS), the palette's range. caps: (k,). taken: how many bands were, zero at
// first. passed: (bands - 1, CHANNELS, width), zeros at first; then 2 error + 1 of the last row of each band.
extern "C" __global__ void __launch_bounds__(128, 8)
diffuse(const Level* __restrict__ pixels, const unsigned short* __restrict__ strength, int height, int width,
        const Color* __restrict__ colors, const int* __restrict__ limits, const int* __restrict__ caps,
        const int* __restrict__ starts, const ushort4* __restrict__ candidates, int bits, int fixed_index,
        int* __restrict__ taken, int* __restrict__ passed, LABEL* __restrict__ labels) {
    const int lane = threadIdx.x % 32, bands = (height + ROWS - 1) / ROWS;
    int low[CHANNELS], high[CHANNELS];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
        low[c] = limits[c];
        high[c] = limits[CHANNELS + c];
    }
    while (true) {
        int band = lane ? 0 : atomicAdd(taken, 1);
        band = __shfl_sync(ALL, band, 0);
        if (band >= bands) return;
        const int rows = min(ROWS, height - band * ROWS);
        const int64 row = ((int64)band * ROWS + lane) * width;
        // Errors of the pixel to the left; of those above, from the one to the left on; and those that lane 0 has yet
        // to get. What lies outside the picture has none.
        int left[CHANNELS] = {}, above[2][CHANNELS] = {}, given[CHANNELS] = {};
        int next[CHANNELS] = {}, next_strength = 0;  // a step ahead, so that they are there when they are needed
        for (int t = 0; t < width + 2 * rows - 1; t++) {
            if (band > 0 && t % 32 == 0) wait_for_errors(given, passed, band, t, width);
            const int x = t - 1 - 2 * lane;
            const bool inside = lane < rows && x >= 0 && x < width;
            int level[CHANNELS], share[CHANNELS];
            const int own = next_strength;
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) {
                int of_lane = __shfl_up_sync(ALL, left[c], 1), of_band = __shfl_sync(ALL, given[c], t % 32);
                int right = lane ? of_lane : of_band;
                share[c] = 7 * left[c] + above[0][c] + 5 * above[1][c] + 3 * right;
                above[0][c] = above[1][c];
                above[1][c] = right;
                level[c] = next[c];
                left[c] = 0;
            }
            if (lane < rows && x + 1 >= 0 && x + 1 < width) {
                next_strength = strength[row + x + 1];
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) next[c] = pixels[(row + x + 1) * CHANNELS + c];
            }
            if (inside) {
                int label = fixed_index;
                if (own != FIXED) {
                    int cell = 0;
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        level[c] = clamped(level[c] + ((share[c] * own + 2048) >> 12), 0, TOP);
                        cell = cell << bits | level[c] >> (LEVEL_BITS - bits);
                    }
                    label = nearest_color(level, cell, starts, candidates, colors);
                    Color color = colors[label];
                    int cap = own == FULL ? TOP : caps[label];
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        left[c] = clamped(clamped(level[c], low[c], high[c]) - color.level[c], -cap, cap);
                    }
                }
                labels[row + x] = (LABEL)label;
                if (lane == ROWS - 1 && band + 1 < bands) {
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        atomicExch(passed + ((int64)band * CHANNELS + c) * width + x, 2 * left[c] + 1);
                    }
                }
            }
        }
    }
}
