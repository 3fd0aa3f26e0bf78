// kernels/mma.cuh for g++: what tensor cores compute, as inexactly as any is known to.
#pragma once

#include "cuda_host.h"

namespace cuda_host {

inline float half_to_float(unsigned half) {
    float magnitude = bits_of<float>((half & 0x7fff) << 13) * 0x1p112f;  // exact, for subnormals too
    if ((half & 0x7c00) == 0x7c00) magnitude = bits_of<float>((half & 0x7fff) << 13 | 0x7f800000u);
    return half & 0x8000 ? -magnitude : magnitude;
}

// To the nearest, ties to even; beyond the largest float16, infinity.
inline unsigned float_to_half(float value) {
    unsigned bits = bits_of<unsigned>(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7fff;
    if (magnitude < 0x38800000) return sign | (unsigned)rint(fabs((double)value) * 0x1p24);  // 2^-14: subnormal below
    unsigned rounded = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
    return sign | min(rounded, 0x7c00u);
}

// What tensor cores multiply: subnormal numbers count as zero, since PTX promises nothing else.
inline double factor(unsigned half) { return half & 0x7c00 ? half_to_float(half & 0xffff) : 0.0; }

// c + sum of products, as the least exact device known adds them: four at a time, all cut to the 24 bits of the largest
// (Fasi et al., Numerical behavior of NVIDIA tensor cores, 2021, of V100), and the sum cut to its own 24.
inline float add_products(float c, const double (&products)[16]) {
    auto exponent = [](double value) { return (int)(bits_of<unsigned long long>(value) >> 52 & 0x7ff); };
    auto power = [](int exponent) { return bits_of<double>((unsigned long long)exponent << 52); };
    for (int start = 0; start < 16; start += 4) {
        int largest = exponent(c);
        for (int i = 0; i < 4; i++) largest = max(largest, exponent(products[start + i]));
        if (!largest) continue;  // all are zero
        double up = power(2046 - (largest - 23));  // 2^-(largest - 1023 - 23)
        long long sum = (long long)(c * up);
        for (int i = 0; i < 4; i++) sum += (long long)(products[start + i] * up);
        double exact = (double)sum / up;
        c = (float)exact;
        if (fabs((double)c) > fabs(exact)) c = nextafterf(c, 0.0f);
    }
    return c;
}

}  // namespace cuda_host

inline unsigned to_halves(float low, float high) {
    return cuda_host::float_to_half(low) | cuda_host::float_to_half(high) << 16;
}
inline float low_half(unsigned halves) { return cuda_host::half_to_float(halves & 0xffff); }
inline float high_half(unsigned halves) { return cuda_host::half_to_float(halves >> 16); }

inline void multiply_matrices(float (&c)[4], const uint4& a, unsigned b0, unsigned b1, CUDA_HOST_PLACE) {
    using cuda_host::factor;
    unsigned g = cuda_host::lane() / 4, t = cuda_host::lane() % 4;
    double rows[2][16], columns[2][16];
    // Each lane gives two words at a time; what it needs is copied before the next are given.
    for (int half = 0; half < 2; half++) {
        unsigned low = half ? a.z : a.x, high = half ? a.w : a.y;
        auto* given = cuda_host_exchange({"multiply_matrices", file, line}, ~0u, (unsigned long long)high << 32 | low);
        for (unsigned s = 0; s < 4; s++) {
            unsigned long long words = given[4 * g + s];
            for (int h = 0; h < 2; h++) {
                rows[h][8 * half + 2 * s] = factor(words >> 32 * h);
                rows[h][8 * half + 2 * s + 1] = factor(words >> 32 * h >> 16);
            }
        }
    }
    auto* given = cuda_host_exchange({"multiply_matrices", file, line}, ~0u, (unsigned long long)b1 << 32 | b0);
    for (unsigned s = 0; s < 4; s++) {
        for (int column = 0; column < 2; column++) {
            unsigned long long words = given[4 * (2 * t + column) + s];
            for (int half = 0; half < 2; half++) {
                columns[column][8 * half + 2 * s] = factor(words >> 32 * half);
                columns[column][8 * half + 2 * s + 1] = factor(words >> 32 * half >> 16);
            }
        }
    }
    for (int e = 0; e < 4; e++) {
        double products[16];
        for (int i = 0; i < 16; i++) products[i] = rows[e / 2][i] * columns[e % 2][i];
        c[e] = cuda_host::add_products(c[e], products);
    }
}

inline void multiply_bytes(int (&c)[4], unsigned a0, unsigned a1, unsigned b, CUDA_HOST_PLACE) {
    unsigned g = cuda_host::lane() / 4, t = cuda_host::lane() % 4;
    auto* given = cuda_host_exchange({"multiply_bytes", file, line}, ~0u, (unsigned long long)a1 << 32 | a0);
    unsigned rows[2][4];
    for (unsigned s = 0; s < 4; s++) {
        rows[0][s] = (unsigned)given[4 * g + s];
        rows[1][s] = (unsigned)(given[4 * g + s] >> 32);
    }
    given = cuda_host_exchange({"multiply_bytes", file, line}, ~0u, b);
    for (int e = 0; e < 4; e++) {
        for (unsigned s = 0; s < 4; s++) {
            unsigned column = (unsigned)given[4 * (2 * t + e % 2) + s];
            for (int i = 0; i < 32; i += 8) c[e] += (signed char)(rows[e / 2][s] >> i) * (signed char)(column >> i);
        }
    }
}

namespace cuda_host {

// Copies that threads have begun, by thread. The target may change from the beginning on, so it holds garbage; it has
// what was copied once the thread has waited.
struct Copies {
    uint4* target[16];
    const uint4* source[16];
    int count;
};
inline Copies copies[1024] = {};

inline Copies& own_copies() { return copies[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)]; }

}  // namespace cuda_host

inline void copy_to_shared(uint4* shared, const uint4* global) {
    cuda_host::Copies& own = cuda_host::own_copies();
    if (own.count == 16) abort();  // nobody waits for them
    own.target[own.count] = shared;
    own.source[own.count++] = global;
    *shared = {0xa5a5a5a5u, 0xa5a5a5a5u, 0xa5a5a5a5u, 0xa5a5a5a5u};
}
inline void wait_for_copies() {
    cuda_host::Copies& own = cuda_host::own_copies();
    for (int i = 0; i < own.count; i++) *own.target[i] = *own.source[i];
    own.count = 0;
}
