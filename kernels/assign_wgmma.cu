// What assign_half.cu computes, by the instructions that compute capability 9.0 has for it (wgmma.cuh): the same scores
// with the same certificate, of rows and centers rounded in the same way (half.cuh); only products are summed in another
// order, and inexactly in another way, which the certificate allows for.
//
// mma.sync reaches some 60 % of the tensor cores' rate there, and has to bring its operands to registers. Here a block has
// 128 rows, all their features, in shared memory, as wgmma reads them; centers come through a ring (ring.cuh). Four warps
// each (a warpgroup) have 64 rows and take all centers: while one looks at its sums the other's products go on, or those
// of the multiprocessor's second block. So a row's best two are within four lanes. Nobody waits for all of a block: a
// slot's barriers say that it is full and that all eight warps have read it, and one of each warpgroup that its rows are
// written, or read.
//
// No GPU had run this when it was written. So known_product comes first on a device, in the same steps; if it is wrong, or
// not done after a while, assign_half serves (engine/cuda/known_products.py).
//
// Tried, by what ptxas says: a ninth warp that asks for copies (then a thread has 96 registers, too few); slots of 32
// features (spills); products in a loop of any length, or a way out of it (then it waits for each product); sums that
// begin as the first product and not as zeros (they keep their registers while rows are brought, and others spill).
//
// Launch: blocks of 256 threads, two to a multiprocessor up to 192 features; 128 rows a block; dynamic shared memory of
// 64 kB and 256 depth bytes, up to 640 features (device.SHARED_OF_HOPPER); less than 2^31 rows; for sm_90a. Options:
// X_KIND. By gpukmeans.engine.cuda.half_kernels.assign_wgmma, as launch_plans.half_plan has it, .wgmma_table and
// .known_product.
// A row: read once; 4 bytes written, with bounds 12; k depth products of float16; centers, 2 k depth bytes, from the
// second-level cache for each 128 rows.

#include "ring.cuh"
#include "wgmma.cuh"

#define ROWS 128
#define PIECES_OF_ROWS (ROWS * 16)

// together: of each warpgroup's four warps, passed once its rows are written, or read.
struct Ring {
    Slots slots;
    Barrier together[2];
};

// By all threads of a block: the barriers, and the first copies, of centers that come so many times. sender: in shared
// memory, of the first thread.
__device__ __forceinline__ void begin_all(const uint4* table, int slots_of_all, int blocks, Sender& sender,
                                          unsigned char* slots, Ring& ring, unsigned& patience) {
    if (threadIdx.x == 0) {
        for (int group = 0; group < 2; group++) make_barrier(&ring.together[group], 4);
        begin(table, slots_of_all, blocks, 8, sender, slots, ring.slots, patience);
    }
    __syncthreads();
}

// By a warpgroup: the four warps wait for each other. What they have written to shared memory is there for products.
__device__ __forceinline__ void wait_for_group(Barrier* together, unsigned& parity, unsigned& patience) {
    fence_for_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(together);
    wait_for(together, parity, patience);
    parity ^= 1;
}

// By a warpgroup: the sums of its 64 rows with all features of the next 128 centers. rows: a descriptor of their first
// 16 features.
__device__ __forceinline__ void multiply_tile(float (&sum)[64], unsigned long long rows, int depth, int slots_of_all,
                                              Sender& sender, unsigned char* slots, Slots& ring, Turn& turn,
                                              unsigned& patience) {
    int before = -1;
#pragma unroll
    for (int i = 0; i < 64; i++) sum[i] = 0.0f;
#pragma unroll 1
    for (int left = depth; left > 0; left -= FEATURES) {
        wait_for(&ring.full[turn.slot], turn.parity, patience);
        unsigned long long centers = matrix_descriptor(slots + turn.slot * SLOT, PIECES_OF_CENTERS, 128);
        fence_products();
#pragma unroll
        for (int at = 0; at < FEATURES / DEPTH; at++) {
            multiply_async(sum, further(rows, at * 2 * PIECES_OF_ROWS), further(centers, at * 2 * PIECES_OF_CENTERS));
        }
        rows = further(rows, FEATURES / 8 * PIECES_OF_ROWS);
        commit_products();
        wait_for_earlier_products();
        if (before >= 0 && threadIdx.x % 32 == 0) arrive(&ring.empty[before]);
        if (threadIdx.x == 0) send(sender, slots_of_all, slots, ring, turn.after(AHEAD), patience);
        __syncwarp();
        before = turn.slot;
        turn = turn.after(1);
    }
    wait_for_products(sum);
    if (threadIdx.x % 32 == 0) arrive(&ring.empty[before]);
}

// squares, downs: (tiles * 128,). table: (tiles, depth / 8, 128, 2) of 8 bytes, becomes the centers as wgmma reads them.
// of_centers: (tiles * 128,). The rest as center_as_halves has it. A warp a center.
extern "C" __global__ void __launch_bounds__(256)
wgmma_table(const float* __restrict__ centers, const float* __restrict__ squares, const float* __restrict__ downs, int k,
            int d, int depth, int tiles, float summing, float roundings, uint2* __restrict__ table,
            OfCenter* __restrict__ of_centers) {
    int64 warps = (int64)gridDim.x * blockDim.x / 32;
    for (int64 c = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32; c < (int64)tiles * CENTERS; c += warps) {
        OfCenter found = center_as_halves(centers, c, k, d, depth, squares[c], downs[c], summing, roundings,
                                          [&](int j, uint2 halves) {
                                              table[place_of_halves(c, j, depth)] = halves;
                                          });
        if (threadIdx.x % 32 == 0) of_centers[c] = found;
    }
}

// depth: d rounded up to a multiple of 64, as offset is. The rest as assign_half has it.
extern "C" __global__ void __launch_bounds__(256, 2)
assign_wgmma(const X* __restrict__ x, long long n, int d, int depth, const F* __restrict__ offset, F scale,
             const uint4* __restrict__ table, const OfCenter* __restrict__ of_centers, int tiles, float roundings,
             int* __restrict__ again, unsigned long long* __restrict__ again_length, float per_norm,
             const float* __restrict__ errors, int* __restrict__ tentative, int listed, const int* __restrict__ list,
             const unsigned long long* __restrict__ length, int bounded, const float* __restrict__ center_shift, int k,
             float* __restrict__ slack, float* __restrict__ lower_bound) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    __shared__ Ring ring;
    __shared__ Sender sender;
    __shared__ float norms[ROWS];  // |y|^2
    unsigned char* slots = dynamic_shared;
    uint2* ys = (uint2*)(dynamic_shared + SLOTS * SLOT);  // (depth / 8, ROWS, 2)
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned count = listed ? (unsigned)*length : (unsigned)n, step = gridDim.x * ROWS;  // of less than 2^31 rows
    int slots_of_all = tiles * (depth / FEATURES);
    unsigned patience = FOREVER;
    int blocks = (count + ROWS - 1) / ROWS;  // of rows
    begin_all(table, slots_of_all, (blocks - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x, sender, slots,
              ring, patience);
    Turn turn = {0, 0};
    bool wide = is_wide(x, d);
    Barrier* together = &ring.together[warp / 4];
    unsigned parity = 0;
    unsigned long long rows = matrix_descriptor(ys + warp / 4 * 64 * 2, PIECES_OF_ROWS, 128);
    for (unsigned base = blockIdx.x * ROWS; base < count; base += step) {
        auto keep = [&](int stage, const uint2(&halves)[2]) {
            int piece = 2 * stage + lane % 4 / 2, row = 16 * warp + lane / 4;
            ys[(piece * ROWS + row) * 2 + lane % 2] = halves[0];
            ys[(piece * ROWS + row + 8) * 2 + lane % 2] = halves[1];
        };
        TwoRows two = rows_as_halves(x, (int64)base + 16 * warp, count, listed, list, d, depth / DEPTH, offset, scale,
                                     roundings, wide, keep);
        if (lane % 4 == 0) {
            norms[16 * warp + lane / 4] = two.norm[0];
            norms[16 * warp + lane / 4 + 8] = two.norm[1];
        }
        wait_for_group(together, parity, patience);
        Nearest found[2] = {{NEVER, NEVER, 0}, {NEVER, NEVER, 0}};
        for (int first = 0; first < tiles * CENTERS; first += CENTERS) {
            float sum[64];
            multiply_tile(sum, rows, depth, slots_of_all, sender, slots, ring.slots, turn, patience);
            int center = first + lane % 4 * 2;
#pragma unroll
            for (int c = 0; c < CENTERS / 8; c++) {
                __syncwarp();  // as in assign_half
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    OfCenter z = of_centers[center + 8 * c + e];
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        look_at_sum(found[h], sum[4 * c + 2 * h + e], z, two.errs[h], center + 8 * c + e);
                    }
                }
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            found[h] = merge(found[h], from_lane(found[h], 1));
            found[h] = merge(found[h], from_lane(found[h], 2));
        }
        // Of the four lanes that have found the same the first has one row, and the second the other.
        bool second = lane % 2;
        int row = 16 * warp + lane / 4 + 8 * second;
        settle(second ? found[1] : found[0], norms[row], second ? two.errs[1] : two.errs[0],
               lane % 4 < 2 ? (int64)base + row : (int64)count, count, of_centers, again, again_length, per_norm, errors,
               tentative, listed, list, bounded, center_shift, k, slack, lower_bound);
        wait_for_group(together, parity, patience);  // all have read the rows
    }
}

// Products of 128 rows with centers, by a single block in the steps of assign_wgmma. rows: (depth / 8, 128) of 16 bytes,
// float16. table: as wgmma_table writes it. products: (128, tiles * 128), become the sums; what does not come in time
// stays as it is.
extern "C" __global__ void __launch_bounds__(256)
known_product(const uint4* __restrict__ rows, const uint4* __restrict__ table, int depth, int tiles,
              float* __restrict__ products) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    __shared__ Ring ring;
    __shared__ Sender sender;
    unsigned char* slots = dynamic_shared;
    uint4* ys = (uint4*)(dynamic_shared + SLOTS * SLOT);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int slots_of_all = tiles * (depth / FEATURES);
    unsigned patience = PATIENCE;
    begin_all(table, slots_of_all, 1, sender, slots, ring, patience);
    Turn turn = {0, 0};
    for (int at = lane; at < depth / 8 * 16; at += 32) {
        int place = at / 16 * ROWS + 16 * warp + at % 16;
        ys[place] = rows[place];
    }
    unsigned parity = 0;
    wait_for_group(&ring.together[warp / 4], parity, patience);
    unsigned long long descriptor = matrix_descriptor(ys + warp / 4 * 64, PIECES_OF_ROWS, 128);
    for (int tile = 0; tile < tiles; tile++) {
        float sum[64];
        multiply_tile(sum, descriptor, depth, slots_of_all, sender, slots, ring.slots, turn, patience);
        if (patience == 1) continue;
#pragma unroll
        for (int i = 0; i < 64; i++) {
            int row = 16 * warp + lane / 4 + i / 2 % 2 * 8;
            products[(row * tiles + tile) * CENTERS + i / 4 * 8 + lane % 4 * 2 + i % 2] = sum[i];
        }
    }
}
