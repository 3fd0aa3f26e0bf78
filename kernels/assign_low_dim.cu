// Tentative labels for up to 16 features, D_FEW of them, known at compile time, by float32 scores of every center. The
// same in plain C, of rows y and centers z in the frame (scores.cuh), of D_FEW features:
//
//     for (i = 0; i < n; i++) {
//         best = second = NEVER, label = 0;
//         for (c = 0; c < k; c++) {
//             for (score = dot(z[c], z[c]), j = 0; j < D_FEW; j++) score -= 2 * z[c][j] * y[i][j];
//             if (score < best) second = best, best = score, label = c;
//             else if (score < second) second = score;
//         }
//         tentative[i] = second - best > margin_of(dot(y[i], y[i]), label) ? label : UNCERTAIN;
//     }
//
// A thread keeps ROWS neighboring rows in registers and runs along the centers, which the block loads to shared
// memory a tile at a time. Every pair of row and center must cost D_FEW fused multiply-adds; what else it costs decides
// the speed, since comparisons issue at half the rate. So centers go by groups of GROUP: of a group only its least
// score is found, (GROUP - 1) minima, and compared with the best and second of all groups, 5 more. Afterwards the best
// group's scores are computed again, the same bits, to see which of its centers it was, and its runner-up. That is
// 1.5 operations a pair.
//
// Tried, by count (benchmarks/NOTES.md), and dropped: comparing every score, 5 operations a pair; the center's index in
// the low bits of its score, 4 a pair, and a larger bound because of those bits. Four rows of more than 8 features
// spill.
//
// Launch: blocks of 256 threads, two to a multiprocessor; dynamic shared memory of `tile` times GROUP_SIZE float4.
// Options: X_KIND, D_FEW. By gpukmeans.engine.cuda.assignment_kernels.assign_low_dim, as launch_plans.low_dim has it.
// A row: read once, in words as wide as it is aligned unless it is on a list; 4 bytes written, with bounds 12;
// k (D_FEW + 1.5) operations.

#include "scores.cuh"

#define ROWS (D_FEW > 8 ? 2 : 4)  // with four, 9 features would spill
#define GROUP 8

// Four centers: a float4 of their |z|^2, then one of each feature. A group is two of these, and one float4 more, so
// that threads that look at different groups use different banks.
#define QUAD (D_FEW + 1)
#define GROUP_SIZE (2 * QUAD + 1)

// A thread's rows, in the widest words that they are a multiple of.
#define VALUES (ROWS * D_FEW)
constexpr int BYTES = VALUES * sizeof(X), WORD = BYTES % 16 == 0 ? 16 : BYTES & -BYTES;
struct alignas(WORD) Word {
    X x[WORD / sizeof(X)];
};

__device__ __forceinline__ void score_four(float (&score)[4], const float4* quad, const float (&y)[D_FEW]) {
    float4 squares = quad[0];
    score[0] = squares.x, score[1] = squares.y, score[2] = squares.z, score[3] = squares.w;
#pragma unroll
    for (int j = 0; j < D_FEW; j++) {
        float4 z = quad[1 + j];
        score[0] = fmaf(z.x, y[j], score[0]);
        score[1] = fmaf(z.y, y[j], score[1]);
        score[2] = fmaf(z.z, y[j], score[2]);
        score[3] = fmaf(z.w, y[j], score[3]);
    }
}

// columns: (1 + D_FEW, stride), |z|^2 first, then -2 z, stride a multiple of GROUP (prepare_centers.cu). tile: how many
// groups the dynamic shared memory holds. per_norm, errors: see margin_of. tentative: (n,), aligned to 16 bytes.
// listed: whether only the rows of `list` are compared, whose length is *length; tentative is then in its order.
// bounded: whether slack and lower_bound (n,) of these rows are written, by center_shift (4, k); see hamerly.cu.
// doubting: whether places of UNCERTAIN rows, in the order of tentative, go on a list `doubts`, *doubts_length long.
extern "C" __global__ void __launch_bounds__(256, 2)
assign_low_dim(const X* __restrict__ x, long long n, const F* __restrict__ offset, F scale,
               const float* __restrict__ columns, int stride, int tile, float per_norm,
               const float* __restrict__ errors, int* __restrict__ tentative, int listed, const int* __restrict__ list,
               const unsigned long long* __restrict__ length, int bounded, const float* __restrict__ center_shift,
               int k, float* __restrict__ slack, float* __restrict__ lower_bound, int doubting,
               int* __restrict__ doubts, unsigned long long* __restrict__ doubts_length) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    float4* centers = (float4*)dynamic_shared;
    int all = stride / GROUP, loaded = -1;  // the tile that shared memory holds
    if (listed) n = (int64)*length;
    // test_kernels.test_rows_may_begin_at_any_address fails of words anywhere.
    bool wide = !listed && (size_t)x % sizeof(Word) == 0;
    int64 block_rows = (int64)blockDim.x * ROWS;
    for (int64 base = blockIdx.x * block_rows; base < n; base += gridDim.x * block_rows) {
        int64 i = base + (int64)threadIdx.x * ROWS;
        X rows[VALUES];
        if (wide && i + ROWS <= n) {
            const Word* words = (const Word*)(x + i * D_FEW);
#pragma unroll
            for (int w = 0; w < BYTES / WORD; w++) {
                Word word = words[w];
#pragma unroll
                for (int e = 0; e < (int)(WORD / sizeof(X)); e++) rows[w * (int)(WORD / sizeof(X)) + e] = word.x[e];
            }
        } else {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int64 place = min(i + r, n - 1), row = listed ? list[place] : place;
#pragma unroll
                for (int j = 0; j < D_FEW; j++) rows[r * D_FEW + j] = x[row * D_FEW + j];
            }
        }
        float y[ROWS][D_FEW];
        Nearest found[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int j = 0; j < D_FEW; j++) y[r][j] = in_frame(rows[r * D_FEW + j], offset[j], scale);
            found[r] = {NEVER, NEVER, 0};
        }
        for (int first = 0; first < all; first += tile) {
            int groups = min(tile, all - first);
            if (loaded != first) {
                __syncthreads();  // nobody reads the tile before any more
                const float4* quads = (const float4*)columns + 2 * first;
                for (int e = threadIdx.x; e < 2 * groups * QUAD; e += blockDim.x) {
                    int quad = e % (2 * groups), j = e / (2 * groups);
                    centers[quad / 2 * GROUP_SIZE + quad % 2 * QUAD + j] = quads[j * (stride / 4) + quad];
                }
                __syncthreads();
                loaded = first;
            }
            // A group of this tile is known as ~group until its best center is.
            for (int g = 0; g < groups; g++) {
                float least[ROWS];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float4* quad = centers + g * GROUP_SIZE + half * QUAD;
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        float score[4];
                        score_four(score, quad, y[r]);
                        float least_of_four = fminf(fminf(score[0], score[1]), fminf(score[2], score[3]));
                        least[r] = half ? fminf(least[r], least_of_four) : least_of_four;
                    }
                }
#pragma unroll
                for (int r = 0; r < ROWS; r++) look_at(found[r], least[r], ~g);
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                if (found[r].label >= 0) continue;
                int g = ~found[r].label;
                Nearest within = {NEVER, found[r].second, 0};
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float score[4];
                    score_four(score, centers + g * GROUP_SIZE + half * QUAD, y[r]);
#pragma unroll
                    for (int c = 0; c < 4; c++) look_at(within, score[c], (first + g) * GROUP + half * 4 + c);
                }
                found[r] = within;
            }
        }
        int label[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float norm = 0.0f;
#pragma unroll
            for (int j = 0; j < D_FEW; j++) norm = fmaf(y[r][j], y[r][j], norm);
            float margin = margin_of(norm, found[r].label, per_norm, errors);
            label[r] = certain_label(found[r], margin);
            if (bounded && i + r < n) {
                int64 row = listed ? list[i + r] : i + r;
                write_bounds(found[r], label[r], norm, margin, center_shift, k, slack[row], lower_bound[row]);
            }
        }
        if (i + ROWS <= n) {
            // As plain stores these were taken apart into stores of 4 bytes. Labels begin where their allocation does
            // (test_kernels.test_fits_are_numpys fails if they do not).
            int* to = tentative + i;
            if (ROWS == 4) __stcg((int4*)to, make_int4(label[0], label[1], label[ROWS - 2], label[ROWS - 1]));
            else __stcg((int2*)to, make_int2(label[0], label[1]));
        } else {
            for (int r = 0; r < ROWS && i + r < n; r++) tentative[i + r] = label[r];
        }
        if (!doubting) continue;
#pragma unroll
        for (int r = 0; r < ROWS; r++) append(i + r < n && label[r] == UNCERTAIN, i + r, doubts, doubts_length);
    }
}
