// How a block that compares ROWS rows with CENTERS centers shares them among its threads: the tiles of assign_tiled.cu and
// assign_close.cu, DEPTH features at a time.
#pragma once

#include "scores.cuh"

#ifndef CENTERS
#define CENTERS 128
#endif

#define DEPTH 8
#define EACH_CENTERS (CENTERS >= 64 ? 8 : 4)  // of a thread: four, and if it is eight, four half a tile further
#define EACH_ROWS (CENTERS >= 32 ? 8 : 4)
#define ALONG (CENTERS / EACH_CENTERS)  // threads that share rows
#define ROWS (256 / ALONG * EACH_ROWS)
#define SHARING (ALONG / EACH_ROWS)  // threads to each row of those they share
#define PART (ROWS * DEPTH / 256)    // features that a thread brings to shared memory, of one row

// A row of the shared memory holds one feature. Four floats more than the tile: the threads that store features of one
// row of x then use different banks, and float4 stays aligned.
#define PADDING 4

// Of `rows` rows from r on, what rows * SHARING neighboring threads found together of one: row r + t / SHARING in the
// t-th of them. scan(r): what the thread itself found of row r.
template <int rows, class Scan>
__device__ __forceinline__ Nearest fold(Scan scan, int r) {
    if constexpr (rows == 1) {
        return scan(r);
    } else {
        constexpr int step = rows / 2 * SHARING;
        Nearest low = fold<rows / 2>(scan, r), high = fold<rows / 2>(scan, r + rows / 2);
        bool upper = threadIdx.x & step;
        Nearest keep = {upper ? high.best : low.best, upper ? high.second : low.second, upper ? high.label : low.label};
        Nearest give = {upper ? low.best : high.best, upper ? low.second : high.second, upper ? low.label : high.label};
        return merge(keep, from_lane(give, step));
    }
}

// Where a thread's r-th row, or c-th center, is in its tile of `size`, of which it has `each`, `place` being its own.
__device__ __forceinline__ int within(int size, int each, int place, int i) {
    return place * 4 + i / 4 * (size / (each / 4)) + i % 4;
}

// The best two, among a tile's centers from `first` on, of the row that `fold` leaves to the thread. found: by the thread's
// rows and centers.
__device__ __forceinline__ Nearest best_of_tile(const float (&found)[EACH_ROWS][EACH_CENTERS], int first, int along) {
    auto scan = [&](int r) {
        Nearest best = {NEVER, NEVER, 0};
#pragma unroll
        for (int c = 0; c < EACH_CENTERS; c++) {
            look_at(best, found[r][c], first + within(CENTERS, EACH_CENTERS, along, c));
        }
        return best;
    };
    Nearest best = fold<EACH_ROWS>(scan, 0);
    return SHARING == 2 ? merge(best, from_lane(best, 1)) : best;
}

// Four values of a row of the shared memory, from the thread's i-th on. If it has but four, the second four are these.
__device__ __forceinline__ float4 four(const float* shared, int size, int each, int place, int i) {
    return *(const float4*)(shared + within(size, each, place, i % each));
}
