"""The harness that runs CUDA kernels on the CPU: right kernels are right, and each kind of wrong one is caught."""

from __future__ import annotations

import numpy as np
import pytest
from host_cuda import build as building
from host_cuda.runtime import HostCuda

pytestmark = pytest.mark.kernels

WATCHED = ["address", "race"]
BUILDS = [*WATCHED, "fast"]

WORKING = r"""
#define BLOCK 256
typedef unsigned long long uint64;

extern "C" __global__ void __launch_bounds__(BLOCK, 2)
add(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ sum, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) sum[i] = a[i] + b[i];
}

// The sum of a block in static shared memory; after the last barrier one thread adds it to global memory.
extern "C" __global__ void block_sum(const long long* values, int n, uint64* total) {
    __shared__ long long part[BLOCK];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = i < n ? values[i] : 0;
    for (int step = blockDim.x / 2; step; step /= 2) {
        __syncthreads();
        if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    }
    if (threadIdx.x == 0) atomicAdd(total, (uint64)part[0]);
}

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int step = 16; step; step >>= 1) value += __shfl_down_sync(0xffffffffu, value, step);
    return value;
}

extern "C" __global__ void warp_sums(const long long* values, uint64* total, double* totals) {
    long long sum = warp_sum(values[threadIdx.x]);
    double real = warp_sum((double)values[threadIdx.x]);
    if (threadIdx.x % 32 == 0) {
        atomicAdd(total, (uint64)sum);
        totals[threadIdx.x / 32] = real;
    }
}

// Every way to ask a warp, written out for each lane: (32, 12).
extern "C" __global__ void warp_words(int* out) {
    int lane = threadIdx.x;
    int* row = out + 12 * lane;
    unsigned even = 0x55555555u, mine = lane % 2 ? ~even : even;
    row[0] = __shfl_sync(~0u, lane, 5);
    row[1] = __shfl_sync(~0u, lane, 3, 8);
    row[2] = __shfl_xor_sync(~0u, lane, 1);
    row[3] = __shfl_up_sync(~0u, lane, 2);
    row[4] = __shfl_down_sync(~0u, lane, 2, 16);
    row[5] = (int)__ballot_sync(mine, lane < 6);
    row[6] = __any_sync(mine, lane == 3);
    row[7] = __all_sync(mine, lane % 2);
    row[8] = (int)__reduce_add_sync(~0u, (unsigned)lane);
    row[9] = __reduce_max_sync(~0u, -lane) - __reduce_min_sync(~0u, -lane);
    row[10] = __popc(mine) + __clz(1) + __ffs(8);
    row[11] = __activemask() >> lane & 1;
}

extern "C" __global__ void votes(int* out) {
    out[0 + 3 * threadIdx.x] = __syncthreads_count(threadIdx.x < 7);
    out[1 + 3 * threadIdx.x] = __syncthreads_or(threadIdx.x == 40);
    out[2 + 3 * threadIdx.x] = __syncthreads_and(threadIdx.x < 40);
}

extern "C" __global__ void atomics(uint64* sums, int* extremes, float* real, unsigned* lock) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&sums[i % 3], (uint64)i << 32);
    atomicMax(&sums[3], (uint64)i);
    atomicMin(&extremes[0], -i);
    atomicMax(&extremes[1], i);
    atomicOr(&extremes[2], 1 << (i % 31));
    atomicAdd(&extremes[3], 1);
    atomicAdd(real, 1.0f);
    if (atomicCAS(lock, 0u, 1u + i) == 0u) atomicExch(&extremes[4], i);
}

// Reverses each block's part through dynamic shared memory.
extern "C" __global__ void reverse(const double* in, double* out) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    double* tile = (double*)dynamic_shared;
    tile[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void indices(int* out) {
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

// The order in which threads come, which no right answer may depend on.
extern "C" __global__ void order(unsigned* count, unsigned* place) {
    place[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(count, 1u);
}

// What memory holds before anyone writes to it.
extern "C" __global__ void unwritten(unsigned* out) {
    extern __shared__ unsigned char dynamic_shared[];
    __shared__ unsigned fixed[64];
    out[threadIdx.x] = ((unsigned*)dynamic_shared)[threadIdx.x];
    out[blockDim.x + threadIdx.x] = fixed[threadIdx.x];
    __syncthreads();
    ((unsigned*)dynamic_shared)[threadIdx.x] = fixed[threadIdx.x] = 0;
}

__device__ unsigned calls = 0, seen_at[2] = {7, 8};

extern "C" __global__ void rounding(const double* x, float* out, long long* whole) {
    out[3 * threadIdx.x + 0] = __double2float_rn(x[threadIdx.x]);
    out[3 * threadIdx.x + 1] = __double2float_ru(x[threadIdx.x]);
    out[3 * threadIdx.x + 2] = __double2float_rd(x[threadIdx.x]);
    whole[threadIdx.x] = __double2ll_rn(x[threadIdx.x]);
    if (threadIdx.x == 0) calls += seen_at[1];
}

template <int N>
__global__ void twice(int* out) {
    __shared__ int part[N];
    part[threadIdx.x] = N * threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = part[N - 1 - threadIdx.x];
}
"""

PLANTED = r"""
// Everything wrong is wrong by `off` = 1, and right by 0.
extern "C" __global__ void read_global(const int* a, int* out, int off) { out[0] = a[threadIdx.x + off]; }
extern "C" __global__ void write_global(int* a, int off) { a[threadIdx.x + off] = 1; }
extern "C" __global__ void write_before(int* a, int off) { a[(int)threadIdx.x - off] = 1; }
extern "C" __global__ void atomic_global(unsigned long long* a, int off) { atomicAdd(&a[threadIdx.x + off], 1ull); }
extern "C" __global__ void read_dynamic(int* out, int off) {
    extern __shared__ unsigned char dynamic_shared[];
    int* a = (int*)dynamic_shared;
    a[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = a[threadIdx.x + off];
}
extern "C" __global__ void write_dynamic(int off) {
    extern __shared__ unsigned char dynamic_shared[];
    ((int*)dynamic_shared)[threadIdx.x + off] = 1;
}
__device__ void put(int* a, int i) { a[i] = 1; }
__device__ int take(const int* a, int i) { return a[i]; }
extern "C" __global__ void read_static(int* out, int off) {
    __shared__ int before[32], a[32], after[32];
    put(before, threadIdx.x);
    put(a, threadIdx.x);
    put(after, threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = take(a, threadIdx.x + off) + before[threadIdx.x] + after[threadIdx.x];
}
extern "C" __global__ void write_static(int* out, int off) {
    __shared__ int a[32];
    put(a, threadIdx.x + off);
    __syncthreads();
    out[threadIdx.x] = a[threadIdx.x];
}
__device__ __noinline__ void put_from_afar(int* a, int i) { a[i] = 1; }
template <int N> __device__ void fill(int* out, int off) {
    __shared__ int a[N];
    put_from_afar(a, threadIdx.x + off);
    __syncthreads();
    out[threadIdx.x] = a[threadIdx.x];
}
extern "C" __global__ void write_template(int* out, int off) { fill<32>(out, off); }
extern "C" __global__ void local_array(int* out, int off) {
    int a[32];
    for (int i = 0; i < 32; i++) put(a, i + off);
    out[threadIdx.x] = take(a, threadIdx.x);
}
extern "C" __global__ void overflow(int* out, int off) { out[0] = 2147483647 - (int)threadIdx.x * (1 - off) + off; }
extern "C" __global__ void misaligned(unsigned char* a, int off) { *(unsigned*)(a + 2 * off) = 1; }
extern "C" __global__ void cast(int* out, int off) { out[0] = (int)(off ? 3e9 : 1.0); }
extern "C" __global__ void stuck(int off) { for (volatile int i = off; i;) {} }

extern "C" __global__ void returned(int off) {
    if (off && threadIdx.x == 5) return;
    __syncthreads();
}
extern "C" __global__ void two_barriers(int off) {
    if (threadIdx.x < 32 || !off) __syncthreads();
    else
        __syncthreads();
}
extern "C" __global__ void half_warp(int* out, int off) {
    if (threadIdx.x < 16 || !off) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
extern "C" __global__ void two_shuffles(int* out, int off) {
    if (threadIdx.x < 16 || !off) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
    else
        out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1, 1);
}
extern "C" __global__ void not_in_mask(int* out, int off) {
    out[threadIdx.x] = __any_sync(off ? 0x7fffffffu : 0xffffffffu, 1);
}

extern "C" __global__ void no_barrier(int* out, int off) {
    __shared__ int a[64];
    a[threadIdx.x] = threadIdx.x;
    if (!off) __syncthreads();
    out[threadIdx.x] = a[63 - threadIdx.x];
}
// A barrier before the next turn's writes is missing.
extern "C" __global__ void no_second_barrier(int* out, int off) {
    __shared__ int a[64];
    for (int turn = 0; turn < 2; turn++) {
        a[threadIdx.x] = turn;
        __syncthreads();
        out[threadIdx.x] = a[63 - threadIdx.x];
        if (!off) __syncthreads();
    }
}
extern "C" __global__ void add_shared(int* out, int off) {
    extern __shared__ unsigned char dynamic_shared[];
    int* sum = (int*)dynamic_shared;
    if (threadIdx.x == 0) *sum = 0;
    __syncthreads();
    if (off) *sum += 1;
    else atomicAdd(sum, 1);
    __syncthreads();
    out[threadIdx.x] = *sum;
}
extern "C" __global__ void add_global(int* out, int off) {
    if (off) out[3] += 1;
    else atomicAdd(&out[3], 1);
}
extern "C" __global__ void read_of_atomic(unsigned* out, int off) {
    atomicAdd(&out[0], 1u);
    if (!off) return;
    if (out[0] == 100) out[1] = 1;
}
extern "C" __global__ void bytes(unsigned char* out, int off) { out[threadIdx.x / (1 + off)] = 1; }
// Within a warp, __syncwarp is enough; between warps it is not, and a shuffle never is.
extern "C" __global__ void warp_exchange(int* out, int off) {
    __shared__ int a[64];
    a[threadIdx.x] = threadIdx.x;
    if (off) __shfl_sync(0xffffffffu, 1, 1);
    else __syncwarp();
    out[threadIdx.x] = a[threadIdx.x ^ 1];
}
extern "C" __global__ void across_warps(int* out, int off) {
    __shared__ int a[64];
    a[threadIdx.x] = threadIdx.x;
    __syncwarp();
    if (!off) __syncthreads();
    out[threadIdx.x] = a[threadIdx.x ^ 32];
}
"""


@pytest.fixture(params=BUILDS, scope="module")
def cp(request):
    return HostCuda(build=request.param)


@pytest.fixture(scope="module")
def kernel(cp):
    """kernel(name) of WORKING."""
    names = ("twice<8>", "twice<64>")
    return cp.RawModule(code=WORKING, options=("--std=c++17", "-DX=3"), name_expressions=names).get_function


@pytest.fixture(scope="module")
def planted():
    """planted(build, name): a kernel of PLANTED on an object of its own kind, and that object."""
    hosts = {build: HostCuda(build=build, timeout=3) for build in WATCHED}
    modules = {build: host.RawModule(code=PLANTED, options=()) for build, host in hosts.items()}
    return lambda build, name: (hosts[build], modules[build].get_function(name))


# ---------------------------------------------------------------- what kernels compute


def test_adds_vectors(cp, kernel):
    a, b = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    total = cp.empty(1000, np.float32)
    kernel("add")((4,), (256,), (cp.asarray(a), cp.asarray(b), total, np.int64(1000)))
    np.testing.assert_array_equal(cp.asnumpy(total), a + b)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_sums_are_the_same_in_every_order(cp, kernel, seed):
    cp.seed = seed
    values = np.random.default_rng(0).integers(-(2**50), 2**50, 1000)
    total = cp.zeros(1, np.uint64)
    kernel("block_sum")((4,), (256,), (cp.asarray(values), np.int32(1000), total))
    assert total.get().view(np.int64)[0] == np.add.reduce(values)

    total, totals = cp.zeros(1, np.uint64), cp.empty(4, np.float64)
    kernel("warp_sums")((1,), (128,), (cp.asarray(values[:128]), total, totals))
    assert total.get().view(np.int64)[0] == np.add.reduce(values[:128])
    tree = values[:128].astype(np.float64).reshape(4, 32)
    while tree.shape[1] > 1:
        tree = tree[:, : tree.shape[1] // 2] + tree[:, tree.shape[1] // 2 :]
    np.testing.assert_array_equal(totals.get(), tree[:, 0])
    cp.seed = 0


def test_words_of_a_warp(cp, kernel):
    out = cp.empty((32, 12), np.int32)
    kernel("warp_words")((1,), (32,), (out,))
    i = np.arange(32)
    mine = np.where(i % 2, 0b101010, 0b010101)
    expected = [0 * i + 5, i // 8 * 8 + 3, i ^ 1, np.where(i < 2, i, i - 2), np.where(i % 16 < 14, i + 2, i), mine]
    expected += [i % 2, i % 2, 0 * i + 496, 0 * i + 31, 0 * i + 16 + 31 + 4, 0 * i + 1]
    np.testing.assert_array_equal(out.get(), np.transpose(expected))


def test_barriers_that_vote(cp, kernel):
    out = cp.empty((64, 3), np.int32)
    kernel("votes")((1,), (64,), (out,))
    np.testing.assert_array_equal(out.get(), [[7, 1, 0]] * 64)


@pytest.mark.parametrize("seed", [0, 5])
def test_atomics(cp, kernel, seed):
    cp.seed = seed
    sums, extremes, real, lock = cp.zeros(4, np.uint64), cp.zeros(5, np.int32), cp.zeros(1, np.float32), None
    lock = cp.zeros(1, np.uint32)
    kernel("atomics")((3,), (100,), (sums, extremes, real, lock))
    i = np.arange(300)
    np.testing.assert_array_equal(sums.get(), [*(i[r::3].sum() << 32 for r in range(3)), 299])
    first = lock.get()[0] - 1
    np.testing.assert_array_equal(extremes.get(), [-299, 299, 2**31 - 1, 300, first])
    assert real.get()[0] == 300
    assert seed or first == 0
    cp.seed = 0


def test_dynamic_shared_memory(cp, kernel):
    x = np.arange(128.0)
    out = cp.empty(128, np.float64)
    kernel("reverse")((4,), (32,), (cp.asarray(x), out), shared_mem=256)
    np.testing.assert_array_equal(out.get(), x.reshape(4, 32)[:, ::-1].ravel())


def test_grids_and_blocks_of_three_dimensions(cp, kernel):
    out = cp.empty((24, 30), np.int32)
    kernel("indices")((2, 3, 4), (5, 3, 2), (out,))
    np.testing.assert_array_equal(out.get(), 1000 * np.arange(24)[:, None] + np.arange(30))


def test_templates_by_name_expression(cp, kernel):
    for n in (8, 64):
        out = cp.empty(n, np.int32)
        kernel(f"twice<{n}>")((1,), (n,), (out,))
        np.testing.assert_array_equal(out.get(), n * np.arange(n)[::-1])


def test_conversions_round_as_the_device_does(cp, kernel):
    x = np.array([0.1, -0.1, 1.5, 2.5, 1e300, -1e300, np.nan])
    out, whole = cp.empty((7, 3), np.float32), cp.empty(7, np.int64)
    kernel("rounding")((1,), (7,), (cp.asarray(x), out, whole))
    nearest, up, down = out.get().T
    big = np.finfo(np.float32).max
    np.testing.assert_array_equal(nearest, np.array([0.1, -0.1, 1.5, 2.5, np.inf, -np.inf, np.nan], np.float32))
    np.testing.assert_array_equal(up[4:6], np.array([np.inf, -big], np.float32))
    np.testing.assert_array_equal(down[4:6], np.array([big, -np.inf], np.float32))
    assert (down[:2] <= x[:2]).all()
    assert (up[:2] >= x[:2]).all()
    assert (np.nextafter(down[:2], np.float32(1)) == up[:2]).all()
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    np.testing.assert_array_equal(whole.get(), [0, 0, 2, 2, high, low, low])


def test_orders_follow_the_seed(cp, kernel):
    def order(seed):
        cp.seed = seed
        cp.launches.clear()
        place = cp.empty(4 * 64, np.uint32)
        kernel("order")((4,), (64,), (cp.zeros(1, np.uint32), place))
        cp.seed = 0
        return place.get().tolist()

    natural, one, two = order(0), order(1), order(2)
    assert natural == list(range(256))
    assert sorted(one) == sorted(two) == natural
    assert one == order(1) != two
    assert np.argmin(one) // 64 or np.argmin(two) // 64  # blocks are shuffled too


def test_unwritten_memory_is_garbage(cp, kernel):
    assert (cp.empty(9, np.uint8).get() == 0xA5).all()
    out = cp.empty((2, 64), np.uint32)
    kernel("unwritten")((1,), (64,), (out,), shared_mem=256)
    np.testing.assert_array_equal(out.get(), np.full((2, 64), 0xA5A5A5A5, np.uint32))
    if cp.build == "address":  # two blocks that write the same are a race
        kernel("unwritten")((3,), (64,), (out,), shared_mem=256)
        np.testing.assert_array_equal(out.get(), np.full((2, 64), 0xA5A5A5A5, np.uint32))


# ---------------------------------------------------------------- what is caught

# One sanitizer or the other is first, as the compiler sees more or less of the code.
OUTSIDE = "buffer-overflow on address|insufficient space for an object of type"

# name, threads, blocks, arguments but `off`, shared memory, what the report says
ADDRESS = [
    ("read_global", 8, 1, [(8, np.int32), (1, np.int32)], 0, OUTSIDE),
    ("write_global", 8, 1, [(8, np.int32)], 0, OUTSIDE),
    ("write_before", 8, 1, [(8, np.int32)], 0, OUTSIDE),
    ("atomic_global", 8, 1, [(8, np.uint64)], 0, OUTSIDE),
    ("read_dynamic", 8, 1, [(8, np.int32)], 32, OUTSIDE),
    ("write_dynamic", 8, 1, [], 32, OUTSIDE),
    ("read_static", 32, 1, [(32, np.int32)], 0, OUTSIDE),
    ("write_static", 32, 1, [(32, np.int32)], 0, OUTSIDE),
    ("write_template", 32, 1, [(32, np.int32)], 0, OUTSIDE),
    ("local_array", 1, 1, [(1, np.int32)], 0, OUTSIDE),
    ("overflow", 1, 1, [(1, np.int32)], 0, "signed integer overflow"),
    ("misaligned", 1, 1, [(8, np.uint8)], 0, "misaligned address"),
    ("cast", 1, 1, [(1, np.int32)], 0, "outside the range of representable values"),
    ("stuck", 1, 1, [], 0, "has not ended after 3 s"),
]
DIVERGENT = [
    ("returned", 64, 1, [], 0, r"thread \(5, 0, 0\) has returned"),
    ("two_barriers", 64, 1, [], 0, r"thread \(32, 0, 0\) waits at __syncthreads, code.cu:\d+"),
    ("half_warp", 32, 1, [(32, np.int32)], 0, r"thread \(16, 0, 0\) has returned"),
    ("two_shuffles", 32, 1, [(32, np.int32)], 0, r"thread \(16, 0, 0\) waits at __shfl_down_sync"),
    ("not_in_mask", 32, 1, [(32, np.int32)], 0, "leaves out the thread itself"),
]
RACE = [
    ("no_barrier", 64, 1, [(64, np.int32)], 0, "static shared memory"),
    ("no_second_barrier", 64, 1, [(64, np.int32)], 0, "static shared memory"),
    ("add_shared", 64, 1, [(64, np.int32)], 4, "byte 0 of the 4 of dynamic shared memory"),
    ("add_global", 2, 1, [(4, np.int32)], 0, "byte 12 of the 16 of argument 0, global memory"),
    ("add_global", 1, 2, [(4, np.int32)], 0, r"of block \(1, 0, 0\)"),
    ("read_of_atomic", 2, 1, [(2, np.uint32)], 0, "updates atomically"),
    ("bytes", 8, 1, [(8, np.uint8)], 0, "argument 0"),
    ("warp_exchange", 64, 1, [(64, np.int32)], 0, "static shared memory"),
    ("across_warps", 64, 1, [(64, np.int32)], 0, "static shared memory"),
]
CASES = [("address", *c) for c in ADDRESS + DIVERGENT] + [("race", *c) for c in DIVERGENT + RACE]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[3]}")
def test_planted_errors_are_caught(planted, case):
    build, name, threads, blocks, arrays, shared, report = case
    host, function = planted(build, name)

    def launch(off):
        arguments = [host.zeros(*array) for array in arrays]
        function((blocks,), (threads,), (*arguments, np.int32(off)), shared_mem=shared)

    launch(off=0)
    with pytest.raises(host.cuda.runtime.CUDARuntimeError, match=report) as caught:
        launch(off=1)
    assert f"kernel {name}" in str(caught.value)
    if build == "race" and "race on" in str(caught.value):
        assert str(caught.value).count("at code.cu:") == 2
    launch(off=0)  # a new worker


def test_an_array_is_lost_with_its_worker():
    host = HostCuda()
    lost = host.zeros(8, np.int32)
    module = host.RawModule(code=PLANTED, options=())
    with pytest.raises(host.cuda.runtime.CUDARuntimeError, match="kernel write_global"):
        module.get_function("write_global")((1,), (9,), (lost, np.int32(0)))
    with pytest.raises(
        host.cuda.runtime.CUDARuntimeError, match="the array is on another device, or its worker has ended"
    ):
        module.get_function("write_global")((1,), (8,), (lost, np.int32(0)))
    with pytest.raises(host.cuda.runtime.CUDARuntimeError, match="worker that held the array has ended"):
        lost.get()


# ---------------------------------------------------------------- what a launch refuses


def test_arguments_have_the_kernel_s_types(cp, kernel):
    a, n = cp.zeros(4, np.float32), np.int64(4)
    add = kernel("add")
    for arguments, problem in [
        ((a, a, a), "takes 4 arguments, not 3"),
        ((a, a, a, n, n), "takes 4 arguments, not 5"),
        ((a, a, a, 4), "argument 3 of kernel add is a NumPy scalar of int64, not 4"),
        ((a, a, a, np.int32(4)), r"argument 3 .* not np.int32\(4\)"),
        ((a, a, a, np.uint64(4)), "argument 3"),
        ((a, a, a, a), "argument 3 .* not an array of float32"),
        ((a, a, n, n), "argument 2 of kernel add is an array of float32"),
        ((a, cp.zeros(4, np.float64), a, n), "argument 1 .* not an array of float64"),
        ((a, cp.zeros(4, np.int32), a, n), "argument 1 .* not an array of int32"),
        ((np.zeros(4, np.float32), a, a, n), "argument 0"),
    ]:
        with pytest.raises(TypeError, match=problem):
            add((1,), (32,), arguments)
    add((1,), (32,), (a, a, a, n))


def test_launches_keep_within_the_device_s_limits(cp, kernel):
    out = cp.zeros(1, np.int32)
    reverse, indices, add = kernel("reverse"), kernel("indices"), kernel("add")
    x, s, n = cp.zeros(32, np.float64), cp.zeros(1, np.float32), np.int64(1)
    error = cp.cuda.driver.CUDADriverError
    for grid, block in [((0,), (1,)), ((1,), (1025,)), ((1, 65536), (1,)), ((2**31,), (1,)), ((1,), (32, 64))]:
        with pytest.raises(error, match="kernel indices"):
            indices(grid, block, (out,))
    with pytest.raises(error, match=r"__launch_bounds__\(256\)"):
        add((1,), (257,), (s, s, s, n))
    with pytest.raises(error, match="49152 allowed"):
        reverse((1,), (32,), (x, x), shared_mem=48 * 1024 + 1)
    reverse.max_dynamic_shared_size_bytes = 64 * 1024
    reverse((1,), (32,), (x, x), shared_mem=64 * 1024)
    reverse.max_dynamic_shared_size_bytes = 2**20
    with pytest.raises(error, match="max_dynamic_shared_size_bytes=1048576"):
        reverse((1,), (32,), (x, x))
    with pytest.raises(error, match="no kernel absent"):
        kernel("absent")


def test_the_device_describes_itself(cp):
    attributes = cp.cuda.Device().attributes
    assert attributes["WarpSize"] == 32
    assert attributes["MaxThreadsPerBlock"] == 1024
    assert attributes["MaxSharedMemoryPerBlockOptin"] >= 48 * 1024
    attributes["MultiProcessorCount"] = 3  # a test's own
    assert cp.cuda.Device().attributes["MultiProcessorCount"] == 3
    cp.cuda.get_current_stream().synchronize()


def test_source_that_does_not_compile_is_an_error(cp):
    with pytest.raises(cp.cuda.compiler.CompileException, match=r"code\.cu:2.*'?nonsense"):
        cp.RawModule(code='\nextern "C" __global__ void f() { nonsense(); }').get_function("f")
    with pytest.raises(cp.cuda.compiler.CompileException, match="--use_fast_math"):
        cp.RawModule(code=WORKING, options=("--use_fast_math",)).get_function("add")
    code = 'extern "C" __global__ void f() { extern __shared__ float tile[]; tile[0] = 1; }'
    with pytest.raises(cp.cuda.compiler.CompileException, match="dynamic_shared"):
        cp.RawModule(code=code).get_function("f")


# ---------------------------------------------------------------- arrays and memory


def test_arrays(cp):
    x = np.arange(12, dtype=np.int16).reshape(4, 3)
    a = cp.asarray(x)
    assert (a.shape, a.dtype, a.ndim, a.size, a.nbytes, len(a)) == ((4, 3), np.int16, 2, 12, 24, 4)
    part = a[1:3]
    np.testing.assert_array_equal(part.get(), x[1:3])
    sevens, negative = np.full((2, 3), 7, np.int16), -x[3:]
    part.set(sevens)
    a[3:].set(negative)
    np.testing.assert_array_equal(a.reshape(-1).get(), [0, 1, 2, 7, 7, 7, 7, 7, 7, -9, -10, -11])
    np.testing.assert_array_equal(a.reshape(2, 6)[:1].get(), [[0, 1, 2, 7, 7, 7]])
    assert cp.empty((0, 3), np.float64).get().shape == (0, 3)
    assert (cp.zeros((), np.float64).get(), cp.zeros(3, np.uint8)[2:2].size) == (0.0, 0)
    for wrong in [
        *(lambda: a[0], lambda: a[::2], lambda: a + a, lambda: a == a, lambda: bool(a), lambda: list(a)),
        *(lambda: np.asarray(a), lambda: np.sum(a), lambda: x + a, lambda: cp.asarray([1.0])),
    ]:
        with pytest.raises(TypeError):
            wrong()
    for wrong in (x[:2], x.T, x.astype(np.int32)):
        with pytest.raises(ValueError, match="set takes a C-contiguous array of int16"):
            a.set(wrong)
    for name in ("sum", "T", "max"):
        assert not hasattr(a, name)
    assert not hasattr(cp, "arange")


def test_what_is_copied_must_live_until_it_is(cp):
    """On machines where the GPU reads the host's memory by itself, nothing else keeps it."""
    a = cp.asarray(np.zeros(4, np.uint8))
    a.set(np.arange(4, dtype=np.uint8))
    assert a.get().tolist() == [0xA5] * 4
    x = np.arange(4, dtype=np.uint8)
    a.set(x)
    assert a.get().tolist() == [0, 1, 2, 3]


def test_transfers_and_launches_are_counted():
    host = HostCuda()
    a = host.asarray(np.zeros(100, np.float32))
    assert (host.bytes_uploaded, host.bytes_downloaded, host.launches.total()) == (400, 0, 0)
    a[:10].get()
    host.zeros(5, np.int64).data.memset_async(1, 40)
    host.RawModule(code=WORKING).get_function("add")((1,), (32,), (a, a, a, np.int64(3)))
    assert (host.bytes_uploaded, host.bytes_downloaded, host.launches) == (400, 40, {"add": 1})


def test_memory_ends():
    host = HostCuda(memory=1000)
    a = host.empty(100, np.float64)
    view = a[10:]
    assert host.cuda.runtime.memGetInfo() == (200, 1000)
    with pytest.raises(host.cuda.memory.OutOfMemoryError, match="201 bytes"):
        host.empty(201, np.uint8)
    del a
    assert host.cuda.runtime.memGetInfo() == (200, 1000)
    del view
    assert host.cuda.runtime.memGetInfo() == (1000, 1000)
    host.empty(125, np.float64)
    assert (host.used_bytes, host.peak_bytes) == (0, 1000)


# ---------------------------------------------------------------- compiling


def test_nothing_is_compiled_twice(tmp_path, monkeypatch):
    program = building.worker("address")
    monkeypatch.setattr(building, "worker", lambda build: program)
    monkeypatch.setattr(building, "CACHE", tmp_path / "cache")
    header = tmp_path / "shared.cuh"
    code = '#include "shared.cuh"\nextern "C" __global__ void f(int* out) { *out = VALUE; }'

    def value():
        """What the kernel answers, and how many files it took to compile."""
        compiled = len(building.compiled)
        host = HostCuda()
        out = host.zeros(1, np.int32)
        host.RawModule(code=code, options=(f"-I{tmp_path}",)).get_function("f")((1,), (1,), (out,))
        return int(out.get()[0]), len(building.compiled) - compiled

    header.write_text("#define VALUE 3")
    assert value() == (3, 1)
    assert value() == (3, 0)
    header.write_text("#define VALUE 4")
    assert value() == (4, 1)


def test_a_missing_compiler_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    building.compiler.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="apt install g"):
            HostCuda().zeros(1, np.int32)
    finally:
        building.compiler.cache_clear()
