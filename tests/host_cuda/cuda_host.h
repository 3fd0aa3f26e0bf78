// CUDA's words for g++: what a .cu file finds in place of the compiler's built-in names.
//
// __global__, __launch_bounds__ and __shared__ are missing here: build.py reads them in the preprocessed source first.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include <type_traits>
#include <utility>

#include "abi.h"

#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))

constexpr int warpSize = 32;

// The wider type of two, as in CUDA: for integers the usual conversions, for floats the number rather than the NaN.
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return y < x || x != x ? y : x;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return x < y || x != x ? y : x;
}

// ---------------------------------------------------------------- vectors, for wide loads

#define CUDA_HOST_VECTORS(T, name, align2, align4)                                                        \
    struct alignas(align2) name##2 { T x, y; };                                                           \
    struct alignas(align4) name##4 { T x, y, z, w; };                                                     \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                            \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_HOST_VECTORS(unsigned char, uchar, 2, 4)
CUDA_HOST_VECTORS(unsigned short, ushort, 4, 8)
CUDA_HOST_VECTORS(int, int, 8, 16)
CUDA_HOST_VECTORS(unsigned, uint, 8, 16)
CUDA_HOST_VECTORS(float, float, 8, 16)
CUDA_HOST_VECTORS(double, double, 16, 16)
CUDA_HOST_VECTORS(long long, longlong, 16, 16)
CUDA_HOST_VECTORS(unsigned long long, ulonglong, 16, 16)

// ---------------------------------------------------------------- waiting

// A place in the source, not in the code: compilers copy calls when they unroll.
#define CUDA_HOST_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_HOST_PLACE) { cuda_host_barrier({"__syncthreads", file, line}, 0); }
inline int __syncthreads_count(int vote, CUDA_HOST_PLACE) {
    return cuda_host_barrier({"__syncthreads_count", file, line}, vote);
}
inline int __syncthreads_or(int vote, CUDA_HOST_PLACE) {
    return cuda_host_barrier({"__syncthreads_or", file, line}, vote) != 0;
}
inline int __syncthreads_and(int vote, CUDA_HOST_PLACE) {
    return cuda_host_barrier({"__syncthreads_and", file, line}, !vote) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_HOST_PLACE) {
    cuda_host_exchange({"__syncwarp", file, line}, mask, 0);
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// ---------------------------------------------------------------- warps

namespace cuda_host {

inline unsigned lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

// Lanes that the thread's warp has: the block's last warp may have fewer than 32.
inline unsigned lanes() {
    unsigned first = (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & -32;
    return min(32u, blockDim.x * blockDim.y * blockDim.z - first);
}

template <class To, class From>
inline To bits_of(From value) {
    To to = {};
    __builtin_memcpy(&to, &value, sizeof(to) < sizeof(value) ? sizeof(to) : sizeof(value));
    return to;
}

// What `source` gave; lanes that a shuffle may not reach are answered with the thread's own value.
template <class T>
T shuffle(const Place& place, unsigned mask, T value, unsigned source, bool reached) {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "shuffles take 32- and 64-bit numbers");
    auto* given = cuda_host_exchange(place, mask, bits_of<unsigned long long>(value));
    return reached ? bits_of<T>(given[source % 32]) : value;
}

template <class T, class Fold>
T reduce(const Place& place, unsigned mask, T value, Fold fold) {
    auto* given = cuda_host_exchange(place, mask, bits_of<unsigned long long>(value));
    for (unsigned i = 0; i < lanes(); i++) {
        if (mask >> i & 1 && i != lane()) value = fold(value, bits_of<T>(given[i]));
    }
    return value;
}

}  // namespace cuda_host

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUDA_HOST_PLACE) {
    unsigned start = cuda_host::lane() & -width;
    return cuda_host::shuffle({"__shfl_sync", file, line}, mask, value, start + (from & (width - 1)), true);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, CUDA_HOST_PLACE) {
    unsigned lane = cuda_host::lane(), source = lane ^ with;
    return cuda_host::shuffle({"__shfl_xor_sync", file, line}, mask, value, source, source < (lane & -width) + width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_HOST_PLACE) {
    unsigned lane = cuda_host::lane(), source = lane + by;
    return cuda_host::shuffle({"__shfl_down_sync", file, line}, mask, value, source, source < (lane & -width) + width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_HOST_PLACE) {
    unsigned lane = cuda_host::lane();
    return cuda_host::shuffle({"__shfl_up_sync", file, line}, mask, value, lane - by, lane - (lane & -width) >= by);
}

inline unsigned __ballot_sync(unsigned mask, int vote, CUDA_HOST_PLACE) {
    return cuda_host::reduce({"__ballot_sync", file, line}, mask, vote ? 1u << cuda_host::lane() : 0,
                             [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int vote, CUDA_HOST_PLACE) {
    return cuda_host::reduce({"__any_sync", file, line}, mask, vote != 0, [](int a, int b) { return a | b; });
}
inline int __all_sync(unsigned mask, int vote, CUDA_HOST_PLACE) {
    return cuda_host::reduce({"__all_sync", file, line}, mask, vote != 0, [](int a, int b) { return a & b; });
}
// Which lanes happen to run together is never known; a thread can only be sure of itself.
inline unsigned __activemask() { return 1u << cuda_host::lane(); }

// ---------------------------------------------------------------- numbers

#define CUDA_HOST_ROUNDED(T, f)                                       \
    inline T __##f##add_rn(T a, T b) { return a + b; }                \
    inline T __##f##sub_rn(T a, T b) { return a - b; }                \
    inline T __##f##mul_rn(T a, T b) { return a * b; }                \
    inline T __##f##div_rn(T a, T b) { return a / b; }                \
    inline T __##f##sqrt_rn(T a) { return sqrt(a); }
CUDA_HOST_ROUNDED(float, f)
CUDA_HOST_ROUNDED(double, d)
// The rounding error of a sum of two floats is one itself (Knuth): it tells on which side of the sum the true one lies.
inline float __fadd_rd(float a, float b) {
    float sum = a + b, part = sum - a, error = (a - (sum - part)) + (b - part);
    return error < 0 ? nextafterf(sum, -INFINITY) : sum;
}
inline float __fsub_rd(float a, float b) { return __fadd_rd(a, -b); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline double __ll2double_rn(long long a) { return (double)a; }
inline float __double2float_rn(double a) { return (float)a; }
inline float __double2float_ru(double a) { return (float)a < a ? nextafterf((float)a, INFINITY) : (float)a; }
inline float __double2float_rd(double a) { return (float)a > a ? nextafterf((float)a, -INFINITY) : (float)a; }
// The device saturates where C++ leaves the result open; NaN becomes the least number.
inline long long __double2ll_rn(double a) {
    if (a >= 0x1p63) return ~(1ull << 63);
    return a >= -0x1p63 ? (long long)rint(a) : (long long)(1ull << 63);
}

inline unsigned __float_as_uint(float a) { return cuda_host::bits_of<unsigned>(a); }
inline int __float_as_int(float a) { return cuda_host::bits_of<int>(a); }
inline float __uint_as_float(unsigned a) { return cuda_host::bits_of<float>(a); }
inline float __int_as_float(int a) { return cuda_host::bits_of<float>(a); }
inline long long __double_as_longlong(double a) { return cuda_host::bits_of<long long>(a); }
inline double __longlong_as_double(long long a) { return cuda_host::bits_of<double>(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz(a) : 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __clzll(long long a) { return a ? __builtin_clzll(a) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
template <class T>
T __ldg(const T* p) { return *p; }
template <class T>
void __stcg(T* p, T value) { *p = value; }

#define CUDA_HOST_REDUCE(T)                                                                                   \
    inline T __reduce_add_sync(unsigned mask, T value, CUDA_HOST_PLACE) {                                     \
        return cuda_host::reduce({"__reduce_add_sync", file, line}, mask, value,                              \
                                 [](T a, T b) { return (T)((unsigned)a + (unsigned)b); });                    \
    }                                                                                                         \
    inline T __reduce_min_sync(unsigned mask, T value, CUDA_HOST_PLACE) {                                     \
        return cuda_host::reduce({"__reduce_min_sync", file, line}, mask, value, min<T, T>);                  \
    }                                                                                                         \
    inline T __reduce_max_sync(unsigned mask, T value, CUDA_HOST_PLACE) {                                     \
        return cuda_host::reduce({"__reduce_max_sync", file, line}, mask, value, max<T, T>);                  \
    }
CUDA_HOST_REDUCE(int)
CUDA_HOST_REDUCE(unsigned)

// ---------------------------------------------------------------- atomics

namespace cuda_host {

// Fibers change only where a kernel waits or its plain accesses are watched, so no one comes between. A call of its
// own, because the race build watches all code around it; the address build checks it like any other.
template <class T, class Fold>
__attribute__((noinline, no_sanitize("thread"))) T update(T* p, T value, Fold fold) {
    cuda_host_atomic(p, sizeof(T), __builtin_return_address(0));
    T old = *p;
    *p = fold(old, value);
    return old;
}

}  // namespace cuda_host

#define CUDA_HOST_ATOMIC(name, T, body)                                                        \
    inline __attribute__((always_inline)) T name(T* p, T value) {                              \
        return cuda_host::update(p, value, [](T a, T b) -> T { return body; });                \
    }
#define CUDA_HOST_ATOMIC_BITS(T)                            \
    CUDA_HOST_ATOMIC(atomicMin, T, b < a ? b : a)           \
    CUDA_HOST_ATOMIC(atomicMax, T, a < b ? b : a)           \
    CUDA_HOST_ATOMIC(atomicOr, T, a | b)                    \
    CUDA_HOST_ATOMIC(atomicAnd, T, a & b)                   \
    CUDA_HOST_ATOMIC(atomicXor, T, a ^ b)                   \
    CUDA_HOST_ATOMIC(atomicExch, T, b)                      \
    inline __attribute__((always_inline)) T atomicCAS(T* p, T compare, T value) {                        \
        return cuda_host::update(p, value, [compare](T a, T b) -> T { return a == compare ? b : a; });   \
    }
CUDA_HOST_ATOMIC_BITS(int)
CUDA_HOST_ATOMIC_BITS(unsigned)
CUDA_HOST_ATOMIC_BITS(long long)
CUDA_HOST_ATOMIC_BITS(unsigned long long)
CUDA_HOST_ATOMIC(atomicAdd, int, (int)((unsigned)a + (unsigned)b))
CUDA_HOST_ATOMIC(atomicAdd, unsigned, a + b)
CUDA_HOST_ATOMIC(atomicAdd, unsigned long long, a + b)
CUDA_HOST_ATOMIC(atomicAdd, float, a + b)
CUDA_HOST_ATOMIC(atomicAdd, double, a + b)
CUDA_HOST_ATOMIC(atomicSub, int, (int)((unsigned)a - (unsigned)b))
CUDA_HOST_ATOMIC(atomicSub, unsigned, a - b)
CUDA_HOST_ATOMIC(atomicExch, float, b)

// ---------------------------------------------------------------- kernels, as the worker calls them

namespace cuda_host {

template <class P>
constexpr Parameter describe() {
    using T = std::remove_cv_t<std::remove_pointer_t<P>>;
    static_assert(std::is_pointer_v<P> || std::is_arithmetic_v<T> || std::is_class_v<T>);
    if constexpr (std::is_class_v<P>) {
        return {'S', sizeof(P), false};
    } else if constexpr (!std::is_arithmetic_v<T>) {
        return {'V', 0, true};
    } else {
        char kind = std::is_same_v<T, bool> ? 'b' : std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
        return {kind, sizeof(T), std::is_pointer_v<P>};
    }
}

template <class... P>
struct Parameters {
    static constexpr Parameter table[] = {describe<P>()..., {}};
};

template <class P>
P argument(const unsigned long long* words) {
    if constexpr (std::is_class_v<P>) {
        return *(const P*)words;
    } else {
        return bits_of<P>(*words);
    }
}

// Where each argument begins, in words.
template <class... P>
constexpr size_t place(size_t i) {
    size_t words[] = {(sizeof(P) + 7) / 8 ..., 0}, sum = 0;
    while (i--) sum += words[i];
    return sum;
}

template <class... P, size_t... i>
void apply(void (*kernel)(P...), const unsigned long long* arguments, std::index_sequence<i...>) {
    kernel(argument<P>(arguments + place<P...>(i))...);
}

template <auto kernel, class... P>
constexpr Kernel describe_kernel(const char* name, unsigned threads, void (*)(P...)) {
    return {name, threads, sizeof...(P), Parameters<P...>::table, [](const unsigned long long* arguments) {
                apply(kernel, arguments, std::index_sequence_for<P...>());
            }};
}

template <auto kernel>
constexpr Kernel describe_kernel(const char* name, unsigned threads) {
    return describe_kernel<kernel>(name, threads, kernel);
}

}  // namespace cuda_host

#include "tensor.h"
#include "wgmma.h"
#include "tcgen05.h"
