// kernels/wgmma.cuh for g++: products of warpgroups, as the PTX ISA has them.
//
// Stricter than a device where that shows a kernel's errors: sums are NaN until they are waited for, operands must not
// change before that. What the layouts are is decoded from the descriptor's bits.
#pragma once

#include "bulk.h"

namespace cuda_host {

// A product under way: its operands as they were, of the thread's two rows and 32 columns.
struct Product {
    unsigned long long a, b;
    unsigned group;
    unsigned short rows[2][16], columns[32][16];
};

// Of a thread: products in their order, the sums that they are added to, and what these are meanwhile.
struct Products {
    float* target;
    float held[64];
    Product* some;  // MOST of them
    int count;
    unsigned groups;  // committed so far
    bool fenced;
};
constexpr int MOST = 32;
inline Products* products[1024] = {};

inline Products& own_products() {
    Products*& own = products[thread_of_block()];
    if (!own) {
        own = (Products*)calloc(1, sizeof(Products));
        own->some = (Product*)calloc(MOST, sizeof(Product));
    }
    return *own;
}

inline unsigned short of_matrix(unsigned long long descriptor, unsigned across, unsigned along) {
    return *place_in_matrix(descriptor, across, along, 0);
}

inline void read_operands(Product& product) {
    unsigned warp = thread_of_block() / 32 % 4, g = lane() / 4, t = lane() % 4;
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned h = 0; h < 2; h++) product.rows[h][i] = of_matrix(product.a, 16 * warp + g + 8 * h, i);
        for (unsigned c = 0; c < 32; c++) product.columns[c][i] = of_matrix(product.b, c / 2 * 8 + 2 * t + c % 2, i);
    }
}

// Does all but the last so many groups.
inline void finish_products(unsigned but) {
    Products& own = own_products();
    int done = 0;
    for (; done < own.count && own.some[done].group + but < own.groups; done++) {
        Product &product = own.some[done], again = product;
        read_operands(again);
        if (__builtin_memcmp(product.rows, again.rows, sizeof again.rows) ||
            __builtin_memcmp(product.columns, again.columns, sizeof again.columns)) {
            refuse("operands of a product have changed before it was waited for");
        }
        for (unsigned c = 0; c < 32; c++) {
            for (unsigned h = 0; h < 2; h++) {
                double each[16];
                for (int i = 0; i < 16; i++) each[i] = factor(product.rows[h][i]) * factor(product.columns[c][i]);
                float& sum = own.held[c / 2 * 4 + 2 * h + c % 2];
                sum = add_products(sum, each);
            }
        }
    }
    own.count -= done;
    for (int i = 0; i < own.count; i++) own.some[i] = own.some[i + done];
    if (done && !own.count) __builtin_memcpy(own.target, own.held, sizeof own.held);
}

}  // namespace cuda_host

inline void fence_products(CUDA_HOST_PLACE) {
    cuda_host_exchange({"fence_products", file, line}, ~0u, 0);
    cuda_host::own_products().fenced = true;
}

inline void multiply_async(float (&sum)[64], unsigned long long a, unsigned long long b, CUDA_HOST_PLACE) {
    using namespace cuda_host;
    Products& own = own_products();
    for (unsigned long long descriptor : {a, b}) {
        auto* given = cuda_host_exchange({"multiply_async", file, line}, ~0u, descriptor);
        for (int i = 0; i < 32; i++) {
            if (given[i] != descriptor) refuse("lanes have different descriptors");
        }
    }
    if (!own.fenced) refuse("a product without fence_products before it");
    if (own.count == MOST) refuse("32 products that nobody waits for");
    if (own.count && own.target != sum) refuse("products of two sums at a time");
    if (!own.count) {
        __builtin_memcpy(own.held, sum, sizeof own.held);
        own.target = sum;
        for (float& value : sum) value = NAN;
    }
    Product& product = own.some[own.count++];
    product.a = a;
    product.b = b;
    product.group = own.groups;
    read_operands(product);
}

inline void commit_products(CUDA_HOST_PLACE) {
    cuda_host_exchange({"commit_products", file, line}, ~0u, 0);
    cuda_host::own_products().groups++;
}

inline void wait_for_earlier_products(CUDA_HOST_PLACE) {
    cuda_host_exchange({"wait_for_earlier_products", file, line}, ~0u, 0);
    cuda_host::finish_products(1);
}

inline void wait_for_products(float (&sum)[64], CUDA_HOST_PLACE) {
    cuda_host_exchange({"wait_for_products", file, line}, ~0u, 0);
    cuda_host::finish_products(0);
    cuda_host::own_products().fenced = false;
}
