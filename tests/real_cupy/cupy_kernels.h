// What CuPy's own kernels find in front of them, beside cuda_host.h.
#pragma once

#define __CUDACC_VER_MAJOR__ 13

// CuPy adds overloads to these, which would hide those that are there.
using ::atomicAdd;
using ::atomicMax;
using ::atomicMin;
