// Least and largest value of each feature, and whether all are numbers; and some of the rows, to tell where most are.
//
//     for (i = 0; i < n; i++) for (j = 0; j < d; j++) {
//         low[j] = min(low[j], x[i][j]), high[j] = max(high[j], x[i][j]);
//         nan |= x[i][j] != x[i][j];
//     }
//
// Values are read as one row after another lies in memory, 16 bytes at a time where they begin at a multiple of that,
// and otherwise one by one (test_kernels.test_rows_may_begin_at_any_address fails of words anywhere). A thread's words
// are a multiple of d values apart, so that each place in them is always the same feature's. Rows narrower than float64
// are compared as float32, which holds them without loss. Blocks fold what they found in shared memory, where d is
// small enough, and then into keys in global memory whose integer order is the doubles'.
//
// Launch: blocks of 256 threads, at least d threads in all, four blocks to a multiprocessor, of values of one or two
// bytes two; dynamic shared memory of 16 d bytes where that is in 48 kB; of a sample a value a thread. Options: X_KIND.
// By gpukmeans.engine.cuda.kernels.feature_range and .sample_rows.
// A row: read once, nothing written; 3 d operations. A value of a sample is read and written as it is.

#include "common.cuh"

#if X_KIND == 3
typedef double Value;
__device__ __forceinline__ Value value_of(X x) { return x; }
__device__ __forceinline__ Value lesser(Value a, Value b) { return fmin(a, b); }
__device__ __forceinline__ Value larger(Value a, Value b) { return fmax(a, b); }
#else
typedef float Value;
__device__ __forceinline__ Value value_of(X x) { return single_value(x); }
__device__ __forceinline__ Value lesser(Value a, Value b) { return fminf(a, b); }
__device__ __forceinline__ Value larger(Value a, Value b) { return fmaxf(a, b); }
#endif

// 16 bytes hold 16 extremes of either kind, or 8, for which a thread then has more registers; half as many threads read
// as many bytes at once as four blocks do of single values.
#define BLOCKS (X_KIND < 2 ? 2 : 4)

template <int size>
struct alignas(size * sizeof(X)) Values {
    X x[size];
};

// Of the values from start to end, `size` at a time. All threads of the block call it; see `feature_range`.
template <int size>
__device__ __forceinline__ void extremes(const X* x, int64 start, int64 end, int d, int folded, uint64* keys, int* nan,
                                         unsigned* upper, unsigned* lower) {
    int64 thread = (int64)blockIdx.x * blockDim.x + threadIdx.x, words = (end - start) / size;
    int64 period = d;  // words after which features come again at the same places: d over what it shares with `size`
    for (int s = size; s > 1 && period % 2 == 0; s /= 2) period /= 2;
    int64 stride = (int64)gridDim.x * blockDim.x / period * period;  // the launch has at least d threads
    bool taking = thread < stride && thread < words;
    Value low[size], high[size];
    if (taking) {
        const Values<size>* from = (const Values<size>*)(x + start);
        Values<size> word = from[thread];
        bool odd = false;
#pragma unroll
        for (int e = 0; e < size; e++) {
            low[e] = high[e] = value_of(word.x[e]);
            if (X_KIND) odd |= low[e] != low[e];
        }
        for (int64 i = thread + stride; i < words; i += stride) {
            word = from[i];
#pragma unroll
            for (int e = 0; e < size; e++) {
                Value v = value_of(word.x[e]);
                if (X_KIND) odd |= v != v;
                low[e] = lesser(low[e], v);
                high[e] = larger(high[e], v);
            }
        }
        if (odd) atomicOr(nan, 1);
        taking = !odd;
    }
    int first = (int)((start + thread * size) % d);
    // Places of one feature are one: rows of few features have several in a word.
#pragma unroll
    for (int e = 0; e < size; e++) {
#pragma unroll
        for (int f = 0; f < e; f++) {
            if (f < d && (e - f) % d == 0 && taking) {
                low[f] = lesser(low[f], low[e]);
                high[f] = larger(high[f], high[e]);
            }
        }
    }
    // Shared memory has no 64-bit minimum: the upper words of all keys first, then the lower words of those who have
    // the least upper. Those of the largest are complements, so that all seek the least.
    for (int step = 0; step < (folded ? 2 : 1); step++) {
#pragma unroll
        for (int e = 0; e < size; e++) {
            if (!taking || e >= d) continue;
            int j = (first + e) % d;
            uint64 least = order_key((double)low[e]), largest = order_key((double)high[e]);
            if (!folded) {
                atomicMin(&keys[j], least);
                atomicMax(&keys[d + j], largest);
            } else if (step == 0) {
                atomicMin(&upper[j], (unsigned)(least >> 32));
                atomicMin(&upper[d + j], (unsigned)(~largest >> 32));
            } else {
                if ((unsigned)(least >> 32) == upper[j]) atomicMin(&lower[j], (unsigned)least);
                if ((unsigned)(~largest >> 32) == upper[d + j]) atomicMin(&lower[d + j], (unsigned)~largest);
            }
        }
        __syncthreads();
    }
}

// keys: (2, d), the least as ~0 and the largest as 0 before. nan: 0 before, then whether there is one (infinities show
// in the extremes). folded: whether 2 * d keys fit the dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256, BLOCKS)
feature_range(const X* __restrict__ x, long long n, int d, int folded, unsigned long long* __restrict__ keys,
              int* __restrict__ nan) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    unsigned* upper = (unsigned*)dynamic_shared;  // of 2 * d keys, then the lower words
    unsigned* lower = upper + 2 * d;
    if (folded) {
        for (int e = threadIdx.x; e < 4 * d; e += blockDim.x) upper[e] = ~0u;
        __syncthreads();
    }
    constexpr int size = 16 / sizeof(X);
    int64 values = n * d, wide = (size_t)x % 16 == 0 ? values / size * size : 0;
    if (wide) extremes<size>(x, 0, wide, d, folded, keys, nan, upper, lower);
    // The lower words in shared memory belong to the upper words found first: what is left over passes them by
    // (test_kernels.test_extremes_behind_the_last_whole_word_are_seen_to_the_bit fails if it does not).
    if (wide < values) extremes<1>(x, wide, values, d, folded && !wide, keys, nan, upper, lower);
    if (folded) {
        for (int e = threadIdx.x; e < 2 * d; e += blockDim.x) {
            uint64 key = (uint64)upper[e] << 32 | lower[e];
            if (e < d) atomicMin(&keys[e], key);
            else atomicMax(&keys[e], ~key);
        }
    }
}

// sample: becomes `values` numbers, every step-th row of d.
extern "C" __global__ void __launch_bounds__(256, 4)
sample_rows(const X* __restrict__ x, long long step, int d, int values, double* __restrict__ sample) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned)values; i += gridDim.x * blockDim.x) {
        sample[i] = value(x[i / (unsigned)d * step * d + i % (unsigned)d]);
    }
}
