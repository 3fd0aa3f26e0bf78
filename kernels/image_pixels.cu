// A picture's pixels: how often each color occurs, looking colors up, the choice of ordered dithering, and what it
// errs by. In plain C:
//
//     for (i = 0; i < n; i++) {
//         counts[code_of(pixels[i])]++;                                              // histogram
//         labels[i] = table[code_of(pixels[i])];                                     // map_codes, after fill_table
//         if (ranks[row % t][column % t] >= counts[i]) first[i] = second[i];             // mix
//         total += square(pixels[i] - palette[labels[i]]);                           // squared_error
//     }
//     for (code = m = 0; code < bins; code++) if (counts[code]) codes[m] = code, times[m++] = counts[code];
//                                                                                    // used, gather_used
//
// Pixels are 8-bit levels, CHANNELS of them one after another: pixels[i * CHANNELS + c], CHANNELS being 1 or 3. A code
// is a color's bytes as one little-endian number, so that there are 2**8 or 2**24 of them.
//
// histogram adds to 32-bit counts in the second-level cache, where all colors' take 64 MB. Pictures are uneven: a sky's
// pixels would wait for one count, one after another. So a thread adds equal neighbours as one, and a warp whose 512
// pixels are equal adds once. map_codes gathers from a table of 2**24 labels. What mix
// chooses between is looked up for each color, not computed for each pixel.
//
// Launch: blocks of 256 threads, four to a multiprocessor; RUN pixels a thread, or 64 counts, or one pixel. Options:
// CHANNELS, LABEL. By the functions of the same names in gpukmeans.image.cuda.kernels.
// A pixel: its bytes once, 16 pixels a thread in loads of 16 bytes; histogram adds 4 bytes, map_codes reads and writes
// a label, mix reads two and a count, and writes one.

#include "common.cuh"  // its sums; X and W are of rows

#define FULL 0xffffffffu
#define RUN 16
#define WORDS (RUN * (int)sizeof(LABEL) / 4)  // of RUN labels

__device__ __forceinline__ unsigned code_of(const unsigned char* pixels, int64 i) {
    unsigned code = 0;
    for (int c = 0; c < CHANNELS; c++) code |= (unsigned)pixels[i * CHANNELS + c] << (8 * c);
    return code;
}

// The codes of pixels first to first + count, at most RUN.
__device__ __forceinline__ void codes_of(const unsigned char* pixels, int64 first, int count, unsigned (&code)[RUN]) {
    const unsigned char* here = pixels + first * CHANNELS;
    // The end, or a part of an array that begins anywhere (test_image_kernels.test_even_pictures_and_parts_of_arrays
    // fails if either is read in words).
    if (count < RUN || (uint64)here % 16) {
#pragma unroll
        for (int j = 0; j < RUN; j++) code[j] = j < count ? code_of(pixels, first + j) : 0;
        return;
    }
    const uint4* words = (const uint4*)here;
#if CHANNELS == 1
    uint4 w = words[0];
    const unsigned word[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < RUN; j++) code[j] = word[j / 4] >> (8 * (j % 4)) & 0xff;
#else
    uint4 a = words[0], b = words[1], c = words[2];
    const unsigned word[12] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, c.x, c.y, c.z, c.w};
#pragma unroll
    for (int q = 0; q < 4; q++) {  // four pixels are three words
        unsigned u = word[3 * q], v = word[3 * q + 1], w = word[3 * q + 2];
        code[4 * q] = u & 0xffffff;
        code[4 * q + 1] = u >> 24 | (v & 0xffff) << 8;
        code[4 * q + 2] = v >> 16 | (w & 0xff) << 16;
        code[4 * q + 3] = w >> 8;
    }
#endif
}

// counts: (2**(8 * CHANNELS),), zeros at first. n is below 2**32.
extern "C" __global__ void __launch_bounds__(256, 4)
histogram(const unsigned char* __restrict__ pixels, long long n, unsigned* __restrict__ counts) {
    int64 stride = (int64)gridDim.x * blockDim.x * RUN;
    for (int64 base = (int64)blockIdx.x * blockDim.x * RUN; base < n; base += stride) {
        int64 first = base + (int64)threadIdx.x * RUN;
        int count = (int)max((int64)0, min((int64)RUN, n - first));
        unsigned code[RUN];
        codes_of(pixels, first, count, code);
        unsigned last = code[0], length = 0;
        // All of one color, and RUN of them (test_image_kernels.test_even_pictures_and_parts_of_arrays fails of fewer,
        // test_image_kernels.test_a_single_pixel_within_an_even_picture_counts if only the last one is looked at).
        bool even = count == RUN;
#pragma unroll
        for (int j = 0; j < RUN; j++) {
            if (j >= count) continue;
            if (code[j] != last) {
                atomicAdd(&counts[last], length);
                last = code[j];
                length = 0;
                even = false;
            }
            length++;
        }
        // test_image_kernels.test_even_pictures_and_parts_of_arrays fails if another thread's color may be another.
        unsigned other = __shfl_sync(FULL, last, 0);
        if (__all_sync(FULL, even && last == other)) {
            if (threadIdx.x % 32 == 0) atomicAdd(&counts[last], 32u * RUN);
        } else if (length) {
            atomicAdd(&counts[last], length);
        }
    }
}

// Of counts (bins,), a multiple of 64, how many are not zero: a block looks at 256 times 64 at a time, and says of all
// of them in found (parts / 256, rounded up), and in starts (parts = bins / 64,) how many of those lie before each 64.
extern "C" __global__ void __launch_bounds__(256, 4)
used(const unsigned* __restrict__ counts, int bins, int* __restrict__ starts, int* __restrict__ found) {
    __shared__ int of_warp[8];
    int parts = bins / 64, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int first = blockIdx.x * 256; first < parts; first += gridDim.x * 256) {
        int part = first + threadIdx.x, own = 0;
        if (part < parts) {
            for (int j = 0; j < 16; j++) {
                uint4 four = ((const uint4*)counts)[part * 16 + j];
                own += (four.x != 0) + (four.y != 0) + (four.z != 0) + (four.w != 0);
            }
        }
        int end = warp_scan(own);
        if (lane == 31) of_warp[warp] = end;
        __syncthreads();
        int before = 0, total = 0;
        for (int w = 0; w < 8; w++) {
            if (w == warp) before = total;
            total += of_warp[w];
        }
        __syncthreads();
        if (part < parts) starts[part] = before + end - own;
        if (threadIdx.x == 0) found[first / 256] = total;
    }
}

// codes, times: (m,), the counts that are not zero, in the order of their codes. starts: as above. bases: how many lie
// before each 256 of these.
extern "C" __global__ void __launch_bounds__(256, 4)
gather_used(const unsigned* __restrict__ counts, int bins, const int* __restrict__ starts,
            const int* __restrict__ bases, unsigned* __restrict__ codes, long long* __restrict__ times) {
    for (int part = blockIdx.x * blockDim.x + threadIdx.x; part < bins / 64; part += gridDim.x * blockDim.x) {
        int at = bases[part / 256] + starts[part];
        for (int j = 0; j < 16; j++) {
            uint4 four = ((const uint4*)counts)[part * 16 + j];
            const unsigned count[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (!count[i]) continue;
                codes[at] = part * 64 + j * 4 + i;
                times[at++] = count[i];
            }
        }
    }
}

// table: (2**(8 * CHANNELS),), gets labels (m,) at codes (m,).
extern "C" __global__ void __launch_bounds__(256, 4)
fill_table(const unsigned* __restrict__ codes, const int* __restrict__ labels, long long m, LABEL* __restrict__ table) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        table[codes[i]] = (LABEL)labels[i];
    }
}

// labels: (n,), those that the table has for the pixels' codes.
extern "C" __global__ void __launch_bounds__(256, 4)
map_codes(const unsigned char* __restrict__ pixels, long long n, const LABEL* __restrict__ table,
          LABEL* __restrict__ labels) {
    int64 stride = (int64)gridDim.x * blockDim.x * RUN;
    for (int64 first = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * RUN; first < n; first += stride) {
        if (n - first < RUN) {  // test_image_kernels.test_counts_and_labels_are_numpys fails of words
            for (int64 i = first; i < n; i++) labels[i] = table[code_of(pixels, i)];
            continue;
        }
        unsigned code[RUN];
        codes_of(pixels, first, RUN, code);
        unsigned word[WORDS] = {};
#pragma unroll
        for (int j = 0; j < RUN; j++) {
            word[j * WORDS / RUN] |= (unsigned)table[code[j]] << (8 * (int)sizeof(LABEL) * j % 32);
        }
        // Labels begin where their allocation does
        // (test_image_kernels.test_counts_and_labels_are_numpys fails if they do not).
        uint4* out = (uint4*)(labels + first);
#pragma unroll
        for (int w = 0; w < WORDS; w += 4) out[w / 4] = make_uint4(word[w], word[w + 1], word[w + 2], word[w + 3]);
    }
}

// total: the sum over pixels of the squared differences of their levels from their colors' in palette (k, CHANNELS).
extern "C" __global__ void __launch_bounds__(256, 4)
squared_error(const unsigned char* __restrict__ pixels, long long n, const LABEL* __restrict__ labels,
              const int* __restrict__ palette, unsigned long long* __restrict__ total) {
    uint64 sum = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        const int* color = palette + (int64)labels[i] * CHANNELS;
        for (int c = 0; c < CHANNELS; c++) {
            int step = pixels[i * CHANNELS + c] - color[c];
            sum += step * step;
        }
    }
    block_add(total, (int64)sum);
}

// colors: (n, 3), what pixels (n, 4) are without alpha. clear: set where one is not opaque
// (test_image_kernels.test_alpha_is_left_out_where_every_pixel_is_opaque fails if it is for less alpha only).
extern "C" __global__ void __launch_bounds__(256, 4)
without_alpha(const unsigned char* __restrict__ pixels, long long n, unsigned char* __restrict__ colors,
              int* __restrict__ clear) {
    bool opaque = true;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        for (int c = 0; c < 3; c++) colors[3 * i + c] = pixels[4 * i + c];
        opaque &= pixels[4 * i + 3] == 255;
    }
    if (!opaque) atomicOr(clear, 1);
}

// first: (n,), gets the second label where the pixel's rank, of ranks (t, t), which repeat over a picture of that width,
// is not below its count. n is below 2**32.
extern "C" __global__ void __launch_bounds__(256, 4)
mix(LABEL* __restrict__ first, const LABEL* __restrict__ second, const unsigned short* __restrict__ counts, long long n,
    unsigned width, const int* __restrict__ ranks, int t) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        unsigned row = (unsigned)i / width, column = (unsigned)i - row * width;
        int rank = ranks[row % (unsigned)t * (unsigned)t + column % (unsigned)t];
        if (rank >= counts[i]) first[i] = second[i];
    }
}
