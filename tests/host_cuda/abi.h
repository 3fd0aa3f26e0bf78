// What a module of kernels and the worker that runs it know of each other.
#pragma once

struct uint3 {
    unsigned x, y, z;
};

// A kernel may only read these, and may keep what it read: a thread's own never change. The worker sets them.
#ifdef CUDA_HOST_WORKER
extern uint3 threadIdx, blockIdx, blockDim, gridDim;
#else
extern const uint3 threadIdx, blockIdx, blockDim, gridDim;
#endif

struct Place {  // where a kernel waits
    const char *what, *file;
    int line;
};

extern "C" {
extern unsigned char* cuda_host_dynamic_shared;

// Waits for the block's other threads; returns how many of them gave a nonzero `vote`.
int cuda_host_barrier(const Place& place, int vote);

// Waits for the lanes of `mask`; returns what each of the 32 lanes gave, garbage for lanes outside the mask.
// Valid until the thread's next exchange.
const unsigned long long* cuda_host_exchange(const Place& place, unsigned mask, unsigned long long value);

// Lets other threads run, for one that asks until something has happened.
void cuda_host_yield(const Place& place);

// Called before every atomic operation, from `pc` in the kernel.
void cuda_host_atomic(const void* address, unsigned long size, const void* pc);
}

namespace cuda_host {

struct Parameter {
    char kind;            // as NumPy names them: b, i, u, f; V for what has no NumPy name, S for a struct
    unsigned short size;  // bytes, of what a pointer points to
    bool array;           // a pointer
};

struct Kernel {
    const char* name;
    unsigned threads;  // to a block, at most
    unsigned count;    // of parameters
    const Parameter* parameters;
    void (*call)(const unsigned long long* arguments);  // words of eight bytes: one each, a struct as many as it needs
};

// Every module exports one, as `cuda_host_module`.
struct Module {
    const Kernel* kernels;  // the last one has no name
    unsigned count;
    char *shared, *shared_end;  // the static __shared__ arrays of all kernels
};

}  // namespace cuda_host
