// Which rows candidates of k-means++ may change, by a copy of the rows in bytes: a fourth or half of what seeding_filter.cu
// would read, and a hundredth of the rows is left to that. In plain C:
//
//     for (i = 0; i < n; i++) {
//         for (j = 0; j < d; j++) q[i][j] = clamp(rint((x[i][j] - offset[j]) * scale), -127, 127);    // byte_rows
//         norms[i] = dot(q[i], q[i]);
//         losses[i] = |(x[i] - offset) * scale - q[i]|;
//     }
//     for (i = 0; i < n; i++) {                                                                       // byte_doubts
//         for (t = 0; t < m; t++) {
//             square = norms[i] + norms[row[t]] - 2 * dot(q[i], q[row[t]]);
//             far = sqrt(square) - losses[i] - losses[row[t]] >= sqrt(closest_dist_sq[i]) * scale;
//             doubts[i] |= !far << t;
//         }
//     }
//
// Products of bytes are integers, exact on any tensor core, so that the only error is what bytes lose, which is known of
// each row: by the triangle inequality |x - c| scale >= |q_x - q_c| - losses of both. Candidates are rows. What is far from
// most has bytes that say nothing and large losses, and is always in doubt: offset and scale are those of a sample of the
// rows. (test_kernel_seeding.test_bytes_leave_out_no_row_that_a_candidate_takes fails without either loss.)
//
// Rounding: |q_x - q_c| is at most 254 sqrt(d), whose parts of 2^-22 that float32 loses the bound bears by 2^-19 of the
// square. losses have 2^-18 of themselves and 2^-18 more, which bears what (x - offset) * scale rounds by, what D does, (d
// + 3) 2^-53, and what of D underflows: scale is 2^404 at most (gpukmeans/engine/cuda/seeding_bytes.py).
//
// A warp gathers rows that are not left out by their owner's limit (seeding.cuh), multiplies 32 of them by all candidates,
// and keeps candidates in shared memory. Features come in any order that rows and candidates share: lane t of a row's four
// has 4 WORDS neighboring ones of every 16 WORDS.
//
// Launch: blocks of 256 threads, byte_rows four and byte_doubts three to a multiprocessor. Options: X_KIND; CANDIDATES, 8 or
// 16; WORDS, 1, 2 or 4, of 4 features of which a lane reads so many at once. By
// gpukmeans.engine.cuda.seeding_kernels.byte_rows and byte_doubts.
// A row: once the row, and its features in bytes written; then for each center 12 bytes, closest_dist_sq and owner, 2
// written, and if it is not left out, 8 and its features in bytes; 6 operations for each candidate.

#include "mma.cuh"
#include "seeding.cuh"

#ifndef CANDIDATES
#define CANDIDATES 8
#endif
#ifndef WORDS
#define WORDS 4
#endif
#define EIGHTS (CANDIDATES / 8)

// Of a row's 16 WORDS features those of a lane.
struct alignas(4 * WORDS) Part {
    unsigned word[WORDS];
};

// bytes: (n, parts, 4) Parts, zeros beyond d. offset: (d,). norms, losses: (n,). 4 WORDS lanes share a row, each of which
// makes a word.
extern "C" __global__ void __launch_bounds__(256, 4)
byte_rows(const X* __restrict__ x, long long n, int d, const double* __restrict__ offset, double scale, int parts,
          unsigned* __restrict__ bytes, int* __restrict__ norms, float* __restrict__ losses) {
    Rows rows(x, d);
    int lane = threadIdx.x % (4 * WORDS);
    int64 stride = (int64)gridDim.x * blockDim.x / (4 * WORDS), all = (n + 7) / 8 * 8;
    for (int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / (4 * WORDS); i < all; i += stride) {  // whole warps
        bool there = i < n;
        const X* row = x + (there ? i : 0) * d;
        int norm = 0;
        double lost = 0.0;
        for (int part = 0; part < parts; part++) {
            int j = (part * 4 * WORDS + lane) * 4;
            X raw[4];
            fetch_features(raw, row + j, d - j, rows.wide);
            unsigned word = 0;
#pragma unroll
            for (int f = 0; f < 4; f++) {
                if (j + f >= d) continue;
                double y = __dmul_rn(__dsub_rn(value(raw[f]), offset[j + f]), scale);
                double rounded = fmin(fmax(rint(y), -127.0), 127.0), loss = __dsub_rn(y, rounded);
                int q = (int)rounded;
                lost = __dadd_rn(lost, __dmul_rn(loss, loss));
                norm += q * q;
                word |= (unsigned)(q & 0xff) << 8 * f;
            }
            if (there) bytes[(i * parts + part) * 4 * WORDS + lane] = word;
        }
        for (int other = 1; other < 4 * WORDS; other *= 2) {
            lost = __dadd_rn(lost, __shfl_xor_sync(0xffffffffu, lost, other));
            norm += __shfl_xor_sync(0xffffffffu, norm, other);
        }
        if (lane == 0 && there) {
            norms[i] = norm;
            losses[i] = __double2float_ru(__dadd_rn(__dmul_rn(sqrt(lost), 1 + 0x1p-18), 0x1p-18));
        }
    }
}

// candidate_rows: (m,), up to CANDIDATES. Where totals[step] is zero there are none. doubts: (n,), which of them may
// be closer to a row than what is closest so far, by bits. The rest as byte_rows, and accept_least of
// kmeans_plusplus.cu, have it. Dynamic shared memory: (parts, EIGHTS, 32) Parts.
extern "C" __global__ void __launch_bounds__(256, 3)
byte_doubts(long long n, const Part* __restrict__ bytes, int parts, const int* __restrict__ norms,
            const float* __restrict__ losses, double scale, const long long* __restrict__ candidate_rows, int m,
            const double* __restrict__ closest_dist_sq, const int* __restrict__ owners,
            const unsigned long long* __restrict__ least, const unsigned long long* __restrict__ totals, int step,
            unsigned short* __restrict__ doubts) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    __shared__ int64 gathered[8][64];
    __shared__ float nears[8][64];  // of a row gathered, how near a candidate has to be, but for the candidate's loss
    __shared__ int candidate_norms[CANDIDATES];
    __shared__ float candidate_losses[CANDIDATES];
    if (totals[step] == 0) return;
    Part* table = (Part*)dynamic_shared;
    for (int p = threadIdx.x; p < parts * EIGHTS * 32; p += blockDim.x) {
        int candidate = p / 32 % EIGHTS * 8 + p % 32 / 4;
        Part zeros = {};
        table[p] = candidate < m ? bytes[(candidate_rows[candidate] * parts + p / 32 / EIGHTS) * 4 + p % 4] : zeros;
    }
    if (threadIdx.x < CANDIDATES) {
        bool there = threadIdx.x < m;
        candidate_norms[threadIdx.x] = there ? norms[candidate_rows[threadIdx.x]] : 0;
        candidate_losses[threadIdx.x] = there ? losses[candidate_rows[threadIdx.x]] : 0.0f;
    }
    __syncthreads();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int64* rows = gathered[warp];
    float* near = nears[warp];
    unsigned before = (1u << lane) - 1;
    int64 stride = (int64)gridDim.x * blockDim.x;
    int held = 0;
    for (int64 start = (int64)blockIdx.x * blockDim.x + warp * 32; start < n; start += stride) {
        int64 i = start + lane;
        bool last = start + stride >= n, doubt = i < n;
        double so_far = 0.0;
        if (doubt) {
            so_far = closest_dist_sq[i];
            doubt = so_far > least_of(least[owners[i]]);
            if (!doubt) doubts[i] = 0;
        }
        unsigned votes = __ballot_sync(0xffffffffu, doubt);
        if (doubt) {
            int place = held + __popc(votes & before);
            rows[place] = i;
            near[place] = __fadd_rn(__double2float_ru(__dmul_rn(sqrt(so_far), scale)), losses[i]);
        }
        held += __popc(votes);
        __syncwarp();
        // Fewer than 32 are held over, so that the next 32 find room.
        while (held >= 32 || (last && held)) {
            int count = min(held, 32);
            held -= count;
            const Part* from[4];  // of rows g, g + 8, g + 16, g + 24
            int dots[2][EIGHTS][4] = {};
#pragma unroll
            for (int r = 0; r < 4; r++) from[r] = bytes + rows[held + min(8 * r + g, count - 1)] * parts * 4 + t;
            const Part* own = table + lane;
#pragma unroll 1
            for (int part = 0; part < parts; part++) {
                Part y[4];
#pragma unroll
                for (int r = 0; r < 4; r++) y[r] = from[r][part * 4];
#pragma unroll
                for (int e = 0; e < EIGHTS; e++, own += 32) {
                    Part z = *own;
#pragma unroll
                    for (int w = 0; w < WORDS; w++) {
                        multiply_bytes(dots[0][e], y[0].word[w], y[1].word[w], z.word[w]);
                        multiply_bytes(dots[1][e], y[2].word[w], y[3].word[w], z.word[w]);
                    }
                }
            }
            unsigned bits[2] = {};  // of rows g and g + 8, 16 each, and of the two others
#pragma unroll
            for (int r = 0; r < 4; r++) {
                int place = held + min(8 * r + g, count - 1), norm = norms[rows[place]];
                float of_row = near[place];
#pragma unroll
                for (int e = 0; e < EIGHTS; e++) {
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        int candidate = 8 * e + 2 * t + c;
                        float square = (float)(norm + candidate_norms[candidate] - 2 * dots[r / 2][e][r % 2 * 2 + c]);
                        float bound = __fadd_rn(of_row, candidate_losses[candidate]);
                        bool far = square >= __fmul_rn(__fmul_rn(bound, bound), 1 + 0x1p-19f);
                        if (!far && candidate < m) bits[r / 2] |= 1u << (r % 2 * 16 + candidate);
                    }
                }
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                bits[h] |= __shfl_xor_sync(0xffffffffu, bits[h], 1);
                bits[h] |= __shfl_xor_sync(0xffffffffu, bits[h], 2);
            }
            int own_row = 8 * t + g;  // one of the four
            if (own_row < count) doubts[rows[held + own_row]] = (t < 2 ? bits[0] : bits[1]) >> t % 2 * 16;
            __syncwarp();  // all have read their rows, whose places are filled again
        }
    }
}
