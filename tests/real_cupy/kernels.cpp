// Kernels as host_cuda compiles them, run by the fibers that its worker runs them by.
#define FAST
#include "../host_cuda/launch.h"

#include "machine.h"

#include <dlfcn.h>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace machine {

namespace {

// While it lives, subnormal numbers are zeros: of float32 as for a kernel compiled with -ftz=true, and of float64 too,
// which none of CuPy's own kernels that are used here computes with.
struct Flush {
#ifdef __SSE2__
    unsigned before = _mm_getcsr();
    explicit Flush(bool wanted) { _mm_setcsr(wanted ? before | 0x8040 : before); }
    ~Flush() { _mm_setcsr(before); }
#else
    explicit Flush(bool) {}
#endif
};

}  // namespace

std::map<std::string, Kernel> load(const std::string& path, bool flushes, std::string* reason) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    const auto* module = library ? (const cuda_host::Module*)dlsym(library, "cuda_host_module") : nullptr;
    std::map<std::string, Kernel> kernels;
    if (!module) {
        *reason = dlerror();
        return kernels;
    }
    for (const auto* k = module->kernels; k->name; k++) {
        Kernel kernel = {k->name, k->threads, {}, module, k, flushes};
        for (unsigned i = 0; i < k->count; i++) {
            const auto& p = k->parameters[i];
            size_t size = p.array ? sizeof(void*) : p.size;
            kernel.parameters.push_back({p.array, (size + 7) / 8, size});
        }
        kernels[k->name] = kernel;
    }
    return kernels;
}

void run(const Kernel& wanted, const std::vector<u64>& how) {
    Flush flush(wanted.flushes);
    kernel = (const cuda_host::Kernel*)wanted.row;
    launch(*(const cuda_host::Module*)wanted.module, *(const Launch*)how.data());
}

}  // namespace machine
