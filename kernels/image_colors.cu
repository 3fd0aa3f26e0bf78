// A picture's distinct colors as points to cluster, and what a palette errs by: a thread a color of three bytes.
//
//     for (i = 0; i < m; i++) {
//         points[i] = levels(codes[i]);                                              // rgb_points
//         points[i] = to_lab * cube_root(to_cones * linear(levels(codes[i])));       // oklab_points
//         points[i] = factors * levels(codes[i]);                                    // ycbcr_points
//         total += counts[i] * square(levels(codes[i]) - palette[labels[i]]);        // color_error
//     }
//
// gpukmeans/image/color_space.py in the same order of single IEEE operations, from the same tables: so the points have
// its bits. Counted (benchmarks/NOTES.md): Oklab takes 1,024 instructions a color, 25 us for 700,000 of them.
//
// Launch: blocks of 256 threads, four to a multiprocessor; a color a thread. By the functions of the same names in
// gpukmeans.image.cuda.kernels.
// A color: 4 bytes read and 3 or 12 written. Oklab's three roots are 18 steps of two divisions in float64, some 600
// operations of it.

#include "common.cuh"  // its sums; X and W are of rows

__device__ __forceinline__ int level_of(unsigned code, int channel) { return code >> (8 * channel) & 0xff; }

// points: (m, 3), the levels of codes (m,).
extern "C" __global__ void __launch_bounds__(256, 4)
rgb_points(const unsigned* __restrict__ codes, long long m, unsigned char* __restrict__ points) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        unsigned code = codes[i];
        for (int c = 0; c < 3; c++) points[3 * i + c] = (unsigned char)level_of(code, c);
    }
}

__device__ __forceinline__ double dot(const double* row, const double (&x)[3]) {
    double sum = __dadd_rn(__dmul_rn(row[0], x[0]), __dmul_rn(row[1], x[1]));
    return __dadd_rn(sum, __dmul_rn(row[2], x[2]));
}

// color_space._root for n = 3: x = mantissa * 2**e, the mantissa in [1/2, 1); x is zero or a normal number
// (test_image_colors.test_every_root_is_numpys fails if zero is not left out, or of fewer steps).
__device__ __forceinline__ double cube_root(double x) {
    if (x == 0.0) return 0.0;
    int e = (int)(__double_as_longlong(x) >> 52) - 1022;
    int third = e > 0 ? (e + 2) / 3 : e / 3;  // rounded up
    double y = __longlong_as_double((int64)(1023 + third) << 52);
    for (int step = 0; step < 6; step++) {
        double off = __dsub_rn(y, __ddiv_rn(x, __dmul_rn(y, y)));
        y = __dsub_rn(y, __ddiv_rn(off, 3.0));
    }
    return y;
}

// points: (m, 3), Oklab of codes (m,). tables: color_space.oklab_tables.
extern "C" __global__ void __launch_bounds__(256, 4)
oklab_points(const unsigned* __restrict__ codes, long long m, const double* __restrict__ tables,
             float* __restrict__ points) {
    const double *to_cones = tables + 256, *to_lab = tables + 265;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        unsigned code = codes[i];
        double linear[3], cones[3];
        for (int c = 0; c < 3; c++) linear[c] = tables[level_of(code, c)];
        for (int c = 0; c < 3; c++) cones[c] = cube_root(dot(to_cones + 3 * c, linear));
        for (int c = 0; c < 3; c++) points[3 * i + c] = __double2float_rn(dot(to_lab + 3 * c, cones));
    }
}

// points: (m, 3), YCbCr of codes (m,): whole numbers below 2**18. factors: (3, 3), color_space.ycbcr_factors.
extern "C" __global__ void __launch_bounds__(256, 4)
ycbcr_points(const unsigned* __restrict__ codes, long long m, const int* __restrict__ factors,
             float* __restrict__ points) {
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        unsigned code = codes[i];
        int red = level_of(code, 0), green = level_of(code, 1), blue = level_of(code, 2);
        for (int c = 0; c < 3; c++) {
            const int* row = factors + 3 * c;
            points[3 * i + c] = (float)(row[0] * red + row[1] * green + row[2] * blue);
        }
    }
}

// total: the sum over colors of their counts times the squared differences of their levels from their labels' in
// palette (k, 3).
extern "C" __global__ void __launch_bounds__(256, 4)
color_error(const unsigned* __restrict__ codes, const long long* __restrict__ counts, long long m,
            const int* __restrict__ labels, const int* __restrict__ palette, unsigned long long* __restrict__ total) {
    uint64 sum = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < m; i += (int64)gridDim.x * blockDim.x) {
        const int* color = palette + (int64)labels[i] * 3;
        int squares = 0;
        for (int c = 0; c < 3; c++) {
            int step = level_of(codes[i], c) - color[c];
            squares += step * step;
        }
        sum += (uint64)squares * (uint64)counts[i];
    }
    block_add(total, (int64)sum);
}
