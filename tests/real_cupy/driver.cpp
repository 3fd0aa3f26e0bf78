// The documented functions of CUDA's driver that CuPy calls: contexts, modules and launches. It looks for each by name,
// and does without those that are not here.
#include "machine.h"

#include <cuda.h>

#include <cstring>

using namespace machine;

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

struct Loaded {
    int device;  // which it was loaded for
    std::map<std::string, Kernel> kernels;
};

struct Function {
    const Loaded* module;
    const Kernel* kernel;
    int most_shared = 48 << 10;  // dynamic, of a block
};

char contexts[DEVICES];  // their addresses are what they are known by

unsigned long long launches;

CUresult refuse(const Function& function, const char* why) {
    return (CUresult)complain(CUDA_ERROR_INVALID_VALUE, "kernel %s: %s", function.kernel->name.c_str(), why);
}

// Whether an argument that the kernel takes for an array is one of the current device.
bool is_array(const Kernel& kernel, size_t i, const void* address) {
    const Allocation* found = holder(address);
    if (found && !found->pinned && found->device == current) return true;
    const char* what = !found ? "no device's" : found->pinned ? "pinned" : "another device's";
    complain(0, "kernel %s: the memory of argument %zu is %s", kernel.name.c_str(), i, what);
    return false;
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuGetErrorName(CUresult error, const char** name) {
    switch (error) {
        case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case CUDA_ERROR_NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
        case CUDA_ERROR_INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
        default: *name = "CUDA_ERROR_UNKNOWN";
    }
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = (CUcontext)(contexts + current);
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
    *device = current;
    return CUDA_SUCCESS;
}

// The image is what device.py has the compiler answer: the name of a shared library, and whether it flushes.
CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    Lock hold(lock);
    std::string path = (const char*)image, reason, flushing = "ftz:";
    bool flushes = path.compare(0, flushing.size(), flushing) == 0;
    auto* loaded = new Loaded{current, load(flushes ? path.substr(flushing.size()) : path, flushes, &reason)};
    *module = (CUmodule)loaded;
    if (reason.empty()) return CUDA_SUCCESS;
    return (CUresult)complain(CUDA_ERROR_INVALID_IMAGE, "a module: %s", reason.c_str());
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }  // work on its way may need it

CUresult cuModuleGetFunction(CUfunction* function, CUmodule handle, const char* name) {
    Lock hold(lock);
    const auto& module = *(const Loaded*)handle;
    auto found = module.kernels.find(name);
    if (found == module.kernels.end()) return CUDA_ERROR_NOT_FOUND;
    *function = (CUfunction) new Function{&module, &found->second};
    return CUDA_SUCCESS;
}

// Of an H100.
CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
    Lock hold(lock);
    auto& function = *(Function*)handle;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > 227 << 10) {
        return refuse(function, "no such attribute");
    }
    function.most_shared = value;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream_handle, void** given, void**) {
    Lock hold(lock);
    const auto& function = *(const Function*)handle;
    const Kernel& kernel = *function.kernel;
    bool by_default = !stream_handle || stream_handle == CU_STREAM_LEGACY || stream_handle == CU_STREAM_PER_THREAD;
    Stream& stream = by_default ? default_stream() : *(Stream*)stream_handle;
    if (function.module->device != current) return refuse(function, "its module is another device's");
    if (stream.device != current) return refuse(function, "its stream is another device's");
    if (!grid_x || !grid_y || !grid_z || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535) {
        return refuse(function, "no such grid");
    }
    if (!block_x || !block_y || !block_z || 1ull * block_x * block_y * block_z > kernel.threads) {
        return refuse(function, "no such block");
    }
    if ((int)shared > function.most_shared) return refuse(function, "more shared memory than a block has");
    unsigned long long seed = (++launches * 0x9e3779b97f4a7c15ull) | 1;  // another order for every launch
    std::vector<unsigned long long> how = {grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, seed};
    for (size_t i = 0; i < kernel.parameters.size(); i++) {
        const Parameter& parameter = kernel.parameters[i];
        how.resize(how.size() + parameter.words);
        memcpy(&how[how.size() - parameter.words], given[i], parameter.size);
        if (parameter.array && how.back() && !is_array(kernel, i, (const void*)how.back())) return CUDA_ERROR_INVALID_VALUE;
    }
    give(stream, [&kernel, how = std::move(how)] { run(kernel, how); });
    return CUDA_SUCCESS;
}

// Asked by NVRTC for what is not documented.
CUresult cuGetExportTable(const void** table, const CUuuid*) {
    *table = nullptr;
    return CUDA_ERROR_NOT_FOUND;
}
}
