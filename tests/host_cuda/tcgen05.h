// kernels/tcgen05.cuh for g++: products whose sums are in tensor memory, as the PTX ISA has them.
//
// Stricter than a device where that shows a kernel's errors. Products are done only once somebody asks the barrier that
// they were committed to, and their operands must not change before; what is read is NaN until it is waited for. Both who
// reads sums and who overwrites them have to be after the other, by both fences: whoever is not is refused, as is tensor
// memory that a block does not give back (by the next that takes it).
#pragma once

#include "bulk.h"

namespace cuda_host {

struct TensorProduct {
    unsigned sums, columns;
    unsigned long long a, b;
    bool add;
    unsigned short rows_of_a[128][16], columns_of_b[256][16];
};

struct Commit {
    unsigned long long* barrier;
    unsigned long long products;  // of how many, since the memory was taken
};

// What a thread reads, until it has waited and told of it.
struct Reading {
    unsigned column;
    float *target, values[32];
    bool waited;
};

struct TensorThread {
    Reading readings[8];
    int count;
    unsigned long long seen_products, seen_reads;  // at its last fence_after_sync
};

constexpr int MOST_PRODUCTS = 128, MOST_COMMITS = 64, TENSOR_COLUMNS = 512;

struct TensorMemory {
    float sums[TENSOR_COLUMNS][128];
    TensorProduct products[MOST_PRODUCTS];  // a ring, by number
    unsigned long long asked, done, reads;  // products so far, and reads that were told of
    Commit commits[MOST_COMMITS];
    int commit_count;
    // By column: the last product, which reads have been told of, and how many threads read.
    unsigned long long written[TENSOR_COLUMNS], read[TENSOR_COLUMNS];
    int readers[TENSOR_COLUMNS];
    TensorThread threads[1024];
    unsigned asks;  // the thread that asks for products, and one more
    bool taken;
};
inline TensorMemory* tensor_memory = {};

CUDA_HOST_UNSEEN inline TensorMemory& taken_memory() {
    if (!tensor_memory || !tensor_memory->taken) refuse("tensor memory that nobody has taken");
    return *tensor_memory;
}

CUDA_HOST_UNSEEN inline void read_operands(TensorProduct& product) {
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned r = 0; r < 128; r++) product.rows_of_a[r][i] = *place_in_matrix(product.a, r, i, 1ull << 46);
        for (unsigned c = 0; c < product.columns; c++) {
            product.columns_of_b[c][i] = *place_in_matrix(product.b, c, i, 1ull << 46);
        }
    }
}

CUDA_HOST_UNSEEN inline void do_product(TensorMemory& memory) {
    static TensorProduct again = {};
    TensorProduct& product = memory.products[memory.done++ % MOST_PRODUCTS];
    again.a = product.a;
    again.b = product.b;
    again.columns = product.columns;
    read_operands(again);
    if (__builtin_memcmp(product.rows_of_a, again.rows_of_a, sizeof again.rows_of_a) ||
        __builtin_memcmp(product.columns_of_b, again.columns_of_b, product.columns * sizeof *again.columns_of_b)) {
        refuse("operands of a product have changed before it was waited for");
    }
    for (unsigned c = 0; c < product.columns; c++) {
        double column[16];
        for (int i = 0; i < 16; i++) column[i] = factor(product.columns_of_b[c][i]);
        for (unsigned r = 0; r < 128; r++) {
            float& sum = memory.sums[product.sums + c][r];
            double each[16];
            for (int i = 0; i < 16; i++) each[i] = factor(product.rows_of_a[r][i]) * column[i];
            sum = add_products(product.add ? sum : 0.0f, each);
        }
    }
}

// Products that this barrier was to be told of come in now.
CUDA_HOST_UNSEEN inline void bring_products(unsigned long long* barrier) {
    TensorMemory* memory = tensor_memory;
    if (!memory || !memory->taken) return;
    int left = 0;
    for (int i = 0; i < memory->commit_count; i++) {
        Commit commit = memory->commits[i];
        if (commit.barrier != barrier) {
            memory->commits[left++] = commit;
            continue;
        }
        while (memory->done < commit.products) do_product(*memory);
        BarrierState& state = state_of(barrier);
        if (!state.pending) refuse("more arrivals than a barrier was made for");
        state.pending--;
        turn_if_complete(state);
    }
    memory->commit_count = left;
}

// Of all lanes of a warp the same.
inline void in_one_voice(const Place& place, unsigned long long value) {
    auto* given = cuda_host_exchange(place, ~0u, value);
    for (int i = 0; i < 32; i++) {
        if (given[i] != value) refuse("lanes ask for different things");
    }
}

CUDA_HOST_UNSEEN inline void take(unsigned* shared) {
    if (lane()) return;
    if (!tensor_memory) tensor_memory = (TensorMemory*)calloc(1, sizeof(TensorMemory));
    if (tensor_memory->taken) refuse("tensor memory that a block has not given back");
    __builtin_memset(tensor_memory, 0, sizeof *tensor_memory);
    tensor_memory->taken = true;
    *shared = 0;
}

CUDA_HOST_UNSEEN inline void give_back(unsigned address) {
    if (lane()) return;
    TensorMemory& memory = taken_memory();
    if (address) refuse("other tensor memory than was taken");
    if (memory.done < memory.asked) refuse("tensor memory is given back before products are done");
    for (int readers : memory.readers) {
        if (readers) refuse("tensor memory is given back while it is read");
    }
    memory.taken = false;
}

CUDA_HOST_UNSEEN inline void ask_for_product(TensorProduct product) {
    TensorMemory& memory = taken_memory();
    unsigned thread = thread_of_block();
    if (memory.asks && memory.asks != thread + 1) refuse("two threads ask for products");
    memory.asks = thread + 1;
    if (product.sums + product.columns > TENSOR_COLUMNS) refuse("sums beyond the tensor memory");
    if (memory.asked - memory.done == MOST_PRODUCTS) refuse("128 products that nobody waits for");
    memory.asked++;
    for (unsigned c = product.sums; c < product.sums + product.columns; c++) {
        if (memory.readers[c]) refuse("sums are overwritten while they are read");
        if (memory.read[c] > memory.threads[thread].seen_reads) refuse("sums are overwritten without fence_after_sync");
        memory.written[c] = memory.asked;
    }
    read_operands(product);
    memory.products[(memory.asked - 1) % MOST_PRODUCTS] = product;
}

CUDA_HOST_UNSEEN inline void commit(unsigned long long* barrier) {
    TensorMemory& memory = taken_memory();
    if (memory.asks != thread_of_block() + 1) refuse("a commit of another thread's products");
    if (memory.commit_count == MOST_COMMITS) refuse("64 commits that nobody asks for");
    memory.commits[memory.commit_count++] = {barrier, memory.asked};
}

CUDA_HOST_UNSEEN inline void begin_reading(float (&values)[32], unsigned address) {
    TensorMemory& memory = taken_memory();
    unsigned thread = thread_of_block(), first = address >> 16, column = address & 0xffff;
    TensorThread& own = memory.threads[thread];
    if (first != thread / 32 % 4 * 32 && first != thread / 32 % 4 * 32 + 16) refuse("lanes that are another warp's");
    if (column + 64 > TENSOR_COLUMNS) refuse("columns beyond the tensor memory");
    if (own.count == 8) refuse("8 reads that nobody waits for");
    Reading& reading = own.readings[own.count++];
    reading.column = column;
    reading.target = values;
    reading.waited = false;
    for (unsigned c = column; c < column + 64; c++) {
        if (!memory.written[c] || memory.written[c] > memory.done) refuse("sums are read that are not done");
        if (memory.written[c] > own.seen_products) refuse("sums are read without fence_after_sync");
        memory.readers[c]++;
    }
    for (unsigned i = 0; i < 32; i++) {
        unsigned row = first + lane() / 4 + i / 2 % 2 * 8, c = column + i / 4 * 8 + lane() % 4 * 2 + i % 2;
        reading.values[i] = memory.sums[c][row];
        values[i] = NAN;
    }
}

CUDA_HOST_UNSEEN inline void end_reading() {
    TensorThread& own = taken_memory().threads[thread_of_block()];
    for (int i = 0; i < own.count; i++) {
        if (!own.readings[i].waited) __builtin_memcpy(own.readings[i].target, own.readings[i].values, 32 * sizeof(float));
        own.readings[i].waited = true;
    }
}

CUDA_HOST_UNSEEN inline void tell() {
    TensorMemory* memory = tensor_memory;
    if (!memory || !memory->taken) return;
    TensorThread& own = memory->threads[thread_of_block()];
    int left = 0;
    for (int i = 0; i < own.count; i++) {
        if (!own.readings[i].waited) {
            own.readings[left++] = own.readings[i];
            continue;
        }
        memory->reads++;
        for (unsigned c = own.readings[i].column; c < own.readings[i].column + 64; c++) {
            memory->readers[c]--;
            memory->read[c] = memory->reads;
        }
    }
    own.count = left;
}

CUDA_HOST_UNSEEN inline void listen() {
    TensorMemory* memory = tensor_memory;
    if (!memory || !memory->taken) return;
    TensorThread& own = memory->threads[thread_of_block()];
    own.seen_products = memory->done;
    own.seen_reads = memory->reads;
}

}  // namespace cuda_host

inline void take_tensor_memory(unsigned* shared, CUDA_HOST_PLACE) {
    cuda_host::in_one_voice({"take_tensor_memory", file, line}, (unsigned long long)shared);
    cuda_host::take(shared);
}

inline void give_tensor_memory_back(unsigned address, CUDA_HOST_PLACE) {
    cuda_host::in_one_voice({"give_tensor_memory_back", file, line}, address);
    cuda_host::give_back(address);
}

inline void multiply_in_tensor_memory(unsigned sums, unsigned long long a, unsigned long long b, unsigned shape,
                                      bool add) {
    if ((shape & ~(0x3fu << 17)) != (1u << 4 | 128u / 16 << 24)) cuda_host::refuse("another product than of 128 rows");
    unsigned columns = shape >> 17 << 3 & 0x1f8;
    if (columns % 16 || !columns || columns > 256) cuda_host::refuse("a product of as many columns");
    cuda_host::ask_for_product({sums, columns, a, b, add});
}

inline void arrive_after_products(unsigned long long* barrier) { cuda_host::commit(barrier); }

inline void fence_before_sync() { cuda_host::tell(); }

inline void fence_after_sync() { cuda_host::listen(); }

inline void read_sums(float (&values)[32], unsigned address, CUDA_HOST_PLACE) {
    cuda_host::in_one_voice({"read_sums", file, line}, address);
    cuda_host::begin_reading(values, address);
}

inline void wait_for_sums(float (&)[2][32], CUDA_HOST_PLACE) {
    cuda_host::in_one_voice({"wait_for_sums", file, line}, 0);
    cuda_host::end_reading();
}
