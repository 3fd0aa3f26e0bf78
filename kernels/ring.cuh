// How centers come to the shared memory of a block whose products read them there (assign_wgmma.cu, assign_tcgen05.cu):
// through the SLOTS slots of a ring, 64 features of 128 at a time, as the tables below lay them out: 16 kB, a single copy
// in bulk, that one thread asks for, AHEAD slots before they are read. Two barriers of a slot say that it is full and that
// all have read it.
#pragma once

#include "bulk.cuh"
#include "half.cuh"

#define SLOTS 4
#define AHEAD 2                           // copies under way, while two slots are read
#define FEATURES 64                       // of a slot
#define SLOT (FEATURES * CENTERS * 2)     // bytes
#define PIECES_OF_CENTERS (CENTERS * 16)  // bytes from eight features to the next
#define PATIENCE 65536                    // how often known_product asks for what does not come
#define FOREVER 0

// full, empty: of each slot, passed once its centers are there, and once all have read them.
struct Slots {
    Barrier full[SLOTS], empty[SLOTS];
};

// A slot, and the parity of the phase in which it is full.
struct Turn {
    int slot;
    unsigned parity;
    __device__ __forceinline__ Turn after(int steps) const {
        int next = slot + steps;
        return next < SLOTS ? Turn{next, parity} : Turn{next - SLOTS, parity ^ 1};
    }
};

// What is copied next, of centers that come once for each block of rows, and how many slots are left to fill: of those
// that all centers take, and of these for how many blocks. Of one thread.
struct Sender {
    const char* next;
    int slots, blocks;
};

// Until the phase has been passed, or there is no patience left, of which each question takes one; FOREVER: until it has.
__device__ __forceinline__ void wait_for(Barrier* barrier, unsigned parity, unsigned& patience) {
    while (!passed(barrier, parity) && patience != 1) {
        if (patience != FOREVER) patience--;
    }
}

// By one thread: has the next centers copied to the slot whose turn it is, once all have read what is there.
__device__ __forceinline__ void send(Sender& sender, int slots_of_all, unsigned char* slots, Slots& ring, Turn turn,
                                     unsigned& patience) {
    if (!sender.blocks) return;
    wait_for(&ring.empty[turn.slot], turn.parity ^ 1, patience);  // at once in the first round
    arrive_with_bytes(&ring.full[turn.slot], SLOT);
    copy_in_bulk(slots + turn.slot * SLOT, sender.next, SLOT, &ring.full[turn.slot]);
    sender.next += SLOT;
    if (!--sender.slots) {
        sender.slots = slots_of_all;
        sender.next -= (int64)slots_of_all * SLOT;
        sender.blocks--;
    }
}

// By one thread: the barriers, of which `readers` arrivals say that a slot has been read, and the first copies, of centers
// that come so many times.
__device__ __forceinline__ void begin(const uint4* table, int slots_of_all, int blocks, int readers, Sender& sender,
                                      unsigned char* slots, Slots& ring, unsigned& patience) {
    sender = {(const char*)table, slots_of_all, blocks};
    for (int slot = 0; slot < SLOTS; slot++) {
        make_barrier(&ring.full[slot], 1);
        make_barrier(&ring.empty[slot], readers);
    }
    fence_for_async();
    for (int slot = 0; slot < AHEAD; slot++) send(sender, slots_of_all, slots, ring, Turn{slot, 0}, patience);
}

// Where the halves of four features of center c go, from j on, in a table of depth features: (tiles, depth / 8, 128, 2)
// of 8 bytes.
__device__ __forceinline__ int64 place_of_halves(int64 c, int j, int depth) {
    int64 piece = c / CENTERS * (depth / 8) + j / 8;
    return (piece * CENTERS + c % CENTERS) * 2 + j / 4 % 2;
}
