// A picture's pixels: how often each color occurs, looking colors up, and ordered dithering.
//
// Pixels are 8-bit levels, CHANNELS of them one after another: pixels[i * CHANNELS + c], CHANNELS being 1 or 3. A code
// is a color's bytes as one little-endian number, so that there are 2**8 or 2**24 of them.
//
// Traffic: a pixel's bytes once. histogram adds to one 32-bit count a pixel, in the second-level cache where
// neighbours are alike; map_codes gathers from a table of 2**24 labels. dither compares with the whole palette, which a
// block holds in shared memory: integers, so that neither rounding nor order can show.

typedef long long int64;

__device__ __forceinline__ unsigned code_of(const unsigned char* pixels, int64 i) {
    unsigned code = 0;
    for (int c = 0; c < CHANNELS; c++) code |= (unsigned)pixels[i * CHANNELS + c] << (8 * c);
    return code;
}

// counts: (2**(8 * CHANNELS),), zeros at first. n is below 2**32.
extern "C" __global__ void __launch_bounds__(256, 4)
histogram(const unsigned char* __restrict__ pixels, long long n, unsigned* __restrict__ counts) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        atomicAdd(&counts[code_of(pixels, i)], 1u);
    }
}

// labels: (n,), those that the table has for the pixels' codes.
extern "C" __global__ void __launch_bounds__(256, 4)
map_codes(const unsigned char* __restrict__ pixels, long long n, const LABEL* __restrict__ table,
          LABEL* __restrict__ labels) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64)gridDim.x * blockDim.x) {
        labels[i] = table[code_of(pixels, i)];
    }
}

// labels: (n,), the nearest color of palette (k, CHANNELS) to each pixel's levels plus offsets (t, t, CHANNELS), which
// repeat over a picture of that width. tile: how many colors the dynamic shared memory holds at a time.
extern "C" __global__ void __launch_bounds__(256, 4)
dither(const unsigned char* __restrict__ pixels, long long n, long long width, const int* __restrict__ offsets, int t,
       const int* __restrict__ palette, int k, int tile, LABEL* __restrict__ labels) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    int* colors = (int*)dynamic_shared;
    int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < n; first += stride) {
        int64 i = first + threadIdx.x;
        int levels[CHANNELS];
        if (i < n) {
            const int* offset = offsets + ((i / width) % t * t + i % width % t) * CHANNELS;
            for (int c = 0; c < CHANNELS; c++) {
                levels[c] = min(max(pixels[i * CHANNELS + c] + offset[c], 0), 255);
            }
        }
        int least = 0x7fffffff, label = 0;
        for (int base = 0; base < k; base += tile) {
            int held = min(tile, k - base);
            // A palette that fits is loaded once.
            if (tile < k || first == (int64)blockIdx.x * blockDim.x) {
                __syncthreads();
                for (int e = threadIdx.x; e < held * CHANNELS; e += blockDim.x) colors[e] = palette[base * CHANNELS + e];
                __syncthreads();
            }
            if (i >= n) continue;
            for (int j = 0; j < held; j++) {
                int distance = 0;
                for (int c = 0; c < CHANNELS; c++) {
                    int step = levels[c] - colors[j * CHANNELS + c];
                    distance += step * step;
                }
                if (distance < least) {
                    least = distance;
                    label = base + j;
                }
            }
        }
        if (i < n) labels[i] = (LABEL)label;
    }
}
