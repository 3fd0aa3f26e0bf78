// What assign_half.cu computes, by the instructions that compute capability 10.0 has for it (tcgen05.cuh): the same scores
// with the same certificate, of rows and centers rounded in the same way (half.cuh); only products are summed in another
// order, and inexactly in another way, which the certificate allows for.
//
// A block has 256 rows, all their features, in shared memory; centers come through a ring (ring.cuh), 128 at a time with
// what scores need of them. One thread asks for all products, of whose sums tensor memory holds two tiles of 256 x 128: so
// the next tile is multiplied while eight warps look at one. Centers cross the second-level cache for each 256 rows, which
// bounds it where there are many.
//
// To choose takes ten instructions a pair, as in assign_wgmma.cu, and would take twice as long as the products. So of 16
// centers at a time only the least score is made first, of each row, and with the largest errors among them a bound on all
// of theirs. Unless that is below the runner-up so far of one of a warp's rows, none of them can be either of the best two,
// and the warp goes on. What is found is the same as if all had been looked at, to the bit
// (test_own_products.test_scores_are_those_of_mma_sync fails with a bound that is too high).
//
// No GPU had run this when it was written. So known_sums comes first on a device, in the same steps; if it is wrong, or not
// done after a while, assign_half serves (engine/cuda/known_products.py).
//
// Launch: blocks of 288 threads, one to a multiprocessor, as each takes all its tensor memory; 256 rows a block; dynamic
// shared memory of 68 kB and 512 depth bytes, up to 256 features (device.SHARED_OF_HOPPER); less than 2^31 rows; for
// sm_100a and sm_103a. Options: X_KIND. By gpukmeans.engine.cuda.half_kernels.assign_tcgen05, as
// launch_plans.half_plan has it, .tcgen05_table and .known_sums.
// A row: read once; 4 bytes written, with bounds 12; k depth products of float16; centers, 2 k depth bytes, from the
// second-level cache for each 256 rows.

#include "ring.cuh"
#include "tcgen05.cuh"

#define ROWS 256                   // two products of 128 rows
#define PIECES_OF_ROWS (ROWS * 16)
#define LOOKERS 8                  // warps that bring rows and look at sums; another asks for products
#define SUMS (2 * CENTERS)         // columns of tensor memory, of a tile

// Of 128 centers, by pairs as lanes read them: down and square of both; what their scores err by, per_lost and per_length
// of both; and of each eight the largest per_lost and per_length.
struct alignas(16) OfTile {
    float4 scores[CENTERS / 2], errors[CENTERS / 2];
    float2 most[CENTERS / 8];
};

// rows: passed once a block's rows are written. done, read: of each half of the tensor memory, passed once its sums, and
// what comes with them, are there, and once eight warps have looked at them.
struct Ring {
    Slots slots;
    Barrier rows, done[2], read[2];
};

// Which half of the tensor memory, and the parity of the phase in which its sums are done.
struct Half {
    int half;
    unsigned parity;
    __device__ __forceinline__ Half next() const { return {half ^ 1, parity ^ half}; }
};

// What a block has in dynamic shared memory.
struct Shared {
    unsigned char slots[SLOTS * SLOT];
    OfTile tiles[2];
    uint4 rows[1];  // (depth / 8, ROWS), of eight float16
};

// By the first thread of the last warp: the barriers, and the first copies.
__device__ __forceinline__ void begin_all(const uint4* table, int slots_of_all, int blocks, Sender& sender, Shared& shared,
                                          Ring& ring, unsigned& patience) {
    make_barrier(&ring.rows, LOOKERS);
    for (int half = 0; half < 2; half++) {
        make_barrier(&ring.done[half], 2);  // products, and what is copied
        make_barrier(&ring.read[half], LOOKERS);
    }
    begin(table, slots_of_all, blocks, 1, sender, shared.slots, ring.slots, patience);
}

// By the same: products of all centers with so many blocks of rows, one after the other. memory: the tensor memory's
// address.
__device__ __forceinline__ void multiply_all(const OfTile* of_tiles, int depth, int tiles, int blocks, unsigned memory,
                                             Sender& sender, Shared& shared, Ring& ring, unsigned& patience) {
    int slots_of_all = tiles * (depth / FEATURES);
    Turn turn = {0, 0};
    Half now = {0, 0};
    for (int block = 0; block < blocks; block++) {
        wait_for(&ring.rows, block & 1, patience);
        for (int tile = 0; tile < tiles; tile++) {
            wait_for(&ring.read[now.half], now.parity ^ 1, patience);  // at once in the first round
            fence_after_sync();
            arrive_with_bytes(&ring.done[now.half], sizeof(OfTile));
            copy_in_bulk(&shared.tiles[now.half], of_tiles + tile, sizeof(OfTile), &ring.done[now.half]);
            unsigned sums = memory + now.half * SUMS;
            unsigned long long rows = matrix_descriptor(shared.rows, PIECES_OF_ROWS, 128) | VERSION;
#pragma unroll 1
            for (int first = 0; first < depth; first += FEATURES) {
                wait_for(&ring.slots.full[turn.slot], turn.parity, patience);
                fence_after_sync();
                unsigned long long centers =
                    matrix_descriptor(shared.slots + turn.slot * SLOT, PIECES_OF_CENTERS, 128) | VERSION;
#pragma unroll
                for (int at = 0; at < FEATURES / DEPTH; at++) {
#pragma unroll
                    for (int part = 0; part < 2; part++) {
                        multiply_in_tensor_memory(sums + part * CENTERS,
                                                  further(rows, at * 2 * PIECES_OF_ROWS + part * (ROWS / 2 * 16)),
                                                  further(centers, at * 2 * PIECES_OF_CENTERS), PRODUCT_128_128,
                                                  first > 0 || at > 0);
                    }
                }
                rows = further(rows, FEATURES / 8 * PIECES_OF_ROWS);
                arrive_after_products(&ring.slots.empty[turn.slot]);
                send(sender, slots_of_all, shared.slots, ring.slots, turn.after(AHEAD), patience);
                turn = turn.after(1);
            }
            arrive_after_products(&ring.done[now.half]);
            now = now.next();
        }
    }
}

// By each of eight warps: its rows are written.
__device__ __forceinline__ void tell_of_rows(Ring& ring) {
    fence_for_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(&ring.rows);
}

// By each of eight warps: look(part, sums) for the next tile, in two parts of 64 centers. sums: [m][4 e + 2 h + i] of the
// warp's row 16 m + 8 h + lane / 4 and the part's center 8 e + lane % 4 * 2 + i. memory: of the warp's lanes and columns.
template <class Look>
__device__ __forceinline__ void look_at_tile(unsigned memory, Half& now, Ring& ring, unsigned& patience, Look look) {
    wait_for(&ring.done[now.half], now.parity, patience);
    fence_after_sync();
    if (patience != 1) {
#pragma unroll 1
        for (int part = 0; part < 2; part++) {
            float sums[2][32];
            unsigned address = memory + now.half * SUMS + part * 64;
            read_sums(sums[0], address);
            read_sums(sums[1], address + 16 * ONE_LANE);
            wait_for_sums(sums);
            look(part, sums);
        }
    }
    fence_before_sync();
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(&ring.read[now.half]);
    now = now.next();
}

// By all threads: the tensor memory, and barriers and first copies, before anybody uses them. Returns the memory's address.
__device__ __forceinline__ unsigned begin_block(const uint4* table, int slots_of_all, int blocks, Sender& sender,
                                                Shared& shared, Ring& ring, unsigned& address, unsigned& patience) {
    if (threadIdx.x / 32 == LOOKERS) {
        take_tensor_memory(&address);
        if (threadIdx.x % 32 == 0) begin_all(table, slots_of_all, blocks, sender, shared, ring, patience);
        __syncwarp();
    }
    fence_before_sync();
    __syncthreads();
    fence_after_sync();
    return address;
}

// By all threads: nobody needs the tensor memory any more.
__device__ __forceinline__ void end_block(unsigned memory) {
    fence_before_sync();
    __syncthreads();
    fence_after_sync();
    if (threadIdx.x / 32 == LOOKERS) give_tensor_memory_back(memory);
}

// The warp's lanes of the tensor memory, and of each half the first of its columns.
__device__ __forceinline__ unsigned of_warp(unsigned memory, int warp) {
    return memory + warp % 4 * 32 * ONE_LANE + warp / 4 * CENTERS;
}

// squares, downs: (tiles * 128,). table: (tiles, depth / 8, 128, 2) of 8 bytes, becomes the centers as tcgen05 reads them.
// of_centers: (tiles * 128,), and after it (tiles,) of OfTile. The rest as center_as_halves has it. A warp a center.
extern "C" __global__ void __launch_bounds__(256)
tcgen05_table(const float* __restrict__ centers, const float* __restrict__ squares, const float* __restrict__ downs, int k,
              int d, int depth, int tiles, float summing, float roundings, uint2* __restrict__ table,
              OfCenter* __restrict__ of_centers) {
    __shared__ float2 errors[8];  // of as many centers
    OfTile* of_tiles = (OfTile*)(of_centers + (int64)tiles * CENTERS);
    int64 warps = (int64)gridDim.x * blockDim.x / 32;
    for (int64 c = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32; c < (int64)tiles * CENTERS; c += warps) {
        OfCenter found = center_as_halves(centers, c, k, d, depth, squares[c], downs[c], summing, roundings,
                                          [&](int j, uint2 halves) {
                                              table[place_of_halves(c, j, depth)] = halves;
                                          });
        OfTile& tile = of_tiles[c / CENTERS];
        int place = (int)(c % CENTERS);
        if (threadIdx.x % 32 == 0) {
            of_centers[c] = found;
            float* scores = (float*)&tile.scores[place / 2] + place % 2;
            float* own_errors = (float*)&tile.errors[place / 2] + place % 2;
            scores[0] = found.down;
            scores[2] = found.square;
            own_errors[0] = found.per_lost;
            own_errors[2] = found.per_length;
            errors[place % 8] = make_float2(found.per_lost, found.per_length);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            float2 most = errors[0];
            for (int i = 1; i < 8; i++) most = make_float2(fmaxf(most.x, errors[i].x), fmaxf(most.y, errors[i].y));
            tile.most[place / 8] = most;
        }
        __syncthreads();  // they are written again
    }
}

// depth: d rounded up to a multiple of 64, as offset is. of_centers: as tcgen05_table writes it. The rest as assign_half
// has it.
extern "C" __global__ void __launch_bounds__(288, 1)
assign_tcgen05(const X* __restrict__ x, long long n, int d, int depth, const F* __restrict__ offset, F scale,
               const uint4* __restrict__ table, const OfCenter* __restrict__ of_centers, int tiles, float roundings,
               int* __restrict__ again, unsigned long long* __restrict__ again_length, float per_norm,
               const float* __restrict__ errors, int* __restrict__ tentative, int listed, const int* __restrict__ list,
               const unsigned long long* __restrict__ length, int bounded, const float* __restrict__ center_shift, int k,
               float* __restrict__ slack, float* __restrict__ lower_bound) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    __shared__ Ring ring;
    __shared__ unsigned address;
    Shared& shared = *(Shared*)dynamic_shared;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned count = listed ? (unsigned)*length : (unsigned)n, step = gridDim.x * ROWS;  // of less than 2^31 rows
    int blocks = (int)((count + ROWS - 1) / ROWS);                                         // of rows, of all
    blocks = (blocks - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    unsigned patience = FOREVER;
    Sender sender;
    unsigned memory = begin_block(table, tiles * (depth / FEATURES), blocks, sender, shared, ring, address, patience);
    if (warp == LOOKERS) {
        if (lane == 0) {
            multiply_all((const OfTile*)(of_centers + (int64)tiles * CENTERS), depth, tiles, blocks, memory, sender, shared,
                         ring, patience);
        }
        __syncwarp();
    } else {
        bool wide = is_wide(x, d);
        Half now = {0, 0};
        for (unsigned base = blockIdx.x * ROWS; base < count; base += step) {
            float2 errs[4];  // of rows 8 r + lane / 4 of the warp's
            float norm = 0.0f;  // |y|^2 of the one that the lane will settle, r = lane % 4
#pragma unroll
            for (int m = 0; m < 2; m++) {
                int first = 32 * warp + 16 * m;
                auto keep = [&](int stage, const uint2(&halves)[2]) {
                    uint2* ys = (uint2*)shared.rows + ((2 * stage + lane % 4 / 2) * ROWS + first + lane / 4) * 2 + lane % 2;
                    ys[0] = halves[0];
                    ys[8 * 2] = halves[1];
                };
                TwoRows two = rows_as_halves(x, (int64)base + first, count, listed, list, d, depth / DEPTH, offset, scale,
                                             roundings, wide, keep);
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    errs[2 * m + h] = two.errs[h];
                    if (lane % 4 == 2 * m + h) norm = two.norm[h];
                }
            }
            tell_of_rows(ring);
            Nearest found[4] = {{NEVER, NEVER, 0}, {NEVER, NEVER, 0}, {NEVER, NEVER, 0}, {NEVER, NEVER, 0}};
            float limit[4] = {NEVER, NEVER, NEVER, NEVER};  // no less than the runner-up so far, of all four lanes
            for (int tile = 0; tile < tiles; tile++) {
                const OfTile& z = shared.tiles[now.half];
                bool changed = false;
                look_at_tile(of_warp(memory, warp), now, ring, patience, [&](int part, const float(&sums)[2][32]) {
#pragma unroll
                    for (int c = 0; c < 8; c += 2) {
                        int pair = (8 * part + c) * 4 + lane % 4;
                        float4 of[2] = {z.scores[pair], z.scores[pair + 4]};
                        float4 most = *(const float4*)&z.most[8 * part + c];
                        float lost = fmaxf(most.x, most.z), longest = fmaxf(most.y, most.w);
                        float2 scores[4][2];
                        bool near = false;
#pragma unroll
                        for (int r = 0; r < 4; r++) {
#pragma unroll
                            for (int e = 0; e < 2; e++) {
                                const float* sum = &sums[r / 2][4 * (c + e) + r % 2 * 2];
                                scores[r][e] = multiply_add_two({sum[0], sum[1]}, {of[e].x, of[e].y}, {of[e].z, of[e].w});
                            }
                            float least = fminf(fminf(scores[r][0].x, scores[r][0].y), fminf(scores[r][1].x, scores[r][1].y));
                            near |= !(less_errors(least, lost, longest, errs[r]) >= limit[r]);
                        }
                        if (!__any_sync(0xffffffffu, near)) continue;
                        changed = true;
                        int center = tile * CENTERS + 64 * part + 8 * c + lane % 4 * 2;
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            float4 err = z.errors[pair + 4 * e];
#pragma unroll
                            for (int r = 0; r < 4; r++) {
                                // As less_errors does.
                                float2 score = multiply_add_two({-errs[r].x, -errs[r].x}, {err.x, err.y}, scores[r][e]);
                                score = multiply_add_two({-errs[r].y, -errs[r].y}, {err.z, err.w}, score);
                                look_at(found[r], score.x, center + 8 * e);
                                look_at(found[r], score.y, center + 8 * e + 1);
                            }
                        }
                    }
                });
                if (!changed) continue;
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    Nearest of_two = merge(found[r], from_lane(found[r], 1));
                    limit[r] = merge(of_two, from_lane(of_two, 2)).second;
                }
            }
#pragma unroll
            for (int r = 0; r < 4; r++) {
                found[r] = merge(found[r], from_lane(found[r], 1));
                found[r] = merge(found[r], from_lane(found[r], 2));
            }
            // The four lanes that have found the same have a row each.
            Nearest best = lane & 2 ? (lane & 1 ? found[3] : found[2]) : (lane & 1 ? found[1] : found[0]);
            float2 err = lane & 2 ? (lane & 1 ? errs[3] : errs[2]) : (lane & 1 ? errs[1] : errs[0]);
            settle(best, norm, err, (int64)base + 32 * warp + lane % 4 * 8 + lane / 4, count, of_centers, again,
                   again_length, per_norm, errors, tentative, listed, list, bounded, center_shift, k, slack, lower_bound);
        }
    }
    end_block(memory);
}

// Products of 256 rows with centers, by a single block in the steps of assign_tcgen05, each with the `down` of its center
// added. rows: (depth / 8, 256) of 16 bytes, float16. table: as tcgen05_table writes it. of_tiles: (tiles,). products:
// (256, tiles * 128), become the sums; what does not come in time stays as it is.
extern "C" __global__ void __launch_bounds__(288, 1)
known_sums(const uint4* __restrict__ rows, const uint4* __restrict__ table, const float* __restrict__ of_tiles, int depth,
           int tiles, float* __restrict__ products) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    __shared__ Ring ring;
    __shared__ unsigned address;
    Shared& shared = *(Shared*)dynamic_shared;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned patience = PATIENCE;
    Sender sender;
    unsigned memory = begin_block(table, tiles * (depth / FEATURES), 1, sender, shared, ring, address, patience);
    if (warp == LOOKERS) {
        if (lane == 0) {
            multiply_all((const OfTile*)of_tiles, depth, tiles, 1, memory, sender, shared, ring, patience);
        }
        __syncwarp();
    } else {
        for (int piece = 0; piece < depth / 8; piece++) {
            int place = piece * ROWS + 32 * warp + lane;
            shared.rows[place] = rows[place];
        }
        tell_of_rows(ring);
        Half now = {0, 0};
        for (int tile = 0; tile < tiles; tile++) {
            const OfTile& z = shared.tiles[now.half];
            look_at_tile(of_warp(memory, warp), now, ring, patience, [&](int part, const float(&sums)[2][32]) {
#pragma unroll
                for (int i = 0; i < 64; i++) {
                    int row = 32 * warp + i / 32 * 16 + i / 2 % 2 * 8 + lane / 4;
                    int pair = (8 * part + i % 32 / 4) * 4 + lane % 4;
                    float down = i % 2 ? z.scores[pair].y : z.scores[pair].x;
                    products[((int64)row * tiles + tile) * CENTERS + 2 * pair + i % 2] = sums[i / 32][i % 32] + down;
                }
            });
        }
    }
    end_block(memory);
}
