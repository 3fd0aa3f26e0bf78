// The documented functions of CUDA's runtime that CuPy calls and the tests reach. build.py adds the others that CuPy names:
// they say that they are not here.
#include "machine.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

using namespace machine;

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

constexpr int VERSION = 13020;

thread_local cudaError_t last;

cudaError_t answer(cudaError_t error) { return error == cudaSuccess ? error : last = error; }

cudaError_t wrong(const char* text) { return answer((cudaError_t)complain(cudaErrorInvalidValue, "%s", text)); }

Stream* stream_of(cudaStream_t stream) {
    if (stream == cudaStreamPerThread) complain(0, "a stream for each thread: there is none here");
    return !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread ? &default_stream() : (Stream*)stream;
}

// Whether work may be given to the stream now. A device would refuse some of it, and do the rest elsewhere.
bool is_current(const Stream& stream, const char* what) {
    if (stream.device == current) return true;
    complain(0, "%s on a stream of device %d while %d is current", what, stream.device, current);
    return false;
}

// Whether these bytes are the device's, any device's: one copies from and to the memory of another.
bool on_device(const void* address, size_t size, const char* what) {
    const Allocation* found = holder(address);
    if (found && !found->pinned && (const char*)address + size <= found->begin + found->size) return true;
    complain(0, "%s of %zu bytes at %p, which are not a device's", what, size, address);
    return false;
}

cudaError_t copy(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t handle) {
    Lock hold(lock);
    Stream& stream = *stream_of(handle);
    const Allocation *target = holder(to), *source = holder(from);
    bool up = kind == cudaMemcpyHostToDevice, down = kind == cudaMemcpyDeviceToHost;
    if (kind == cudaMemcpyDefault) {
        up = !source || source->pinned;
        down = !target || target->pinned;
    }
    if (!is_current(stream, "a copy")) return answer(cudaErrorInvalidResourceHandle);
    if ((!down && !on_device(to, size, "a copy to")) || (!up && !on_device(from, size, "a copy from"))) {
        return answer(cudaErrorInvalidValue);
    }
    if (up && !source) {  // CUDA may read it later, and then has read it when it returns
        auto bytes = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + size);
        give(stream, [=] { memcpy(to, bytes->data(), size); });
        return cudaSuccess;
    }
    if (down && target) memset(to, 0xa5, size);  // what whoever does not wait finds
    give(stream, [=] { memcpy(to, from, size); });
    if (down && !target) finish(stream, stream.given);
    return cudaSuccess;
}

cudaError_t fill(void* to, int value, size_t size, cudaStream_t handle) {
    Lock hold(lock);
    Stream& stream = *stream_of(handle);
    if (!is_current(stream, "a fill")) return answer(cudaErrorInvalidResourceHandle);
    if (!on_device(to, size, "a fill")) return answer(cudaErrorInvalidValue);
    give(stream, [=] { memset(to, value, size); });
    return cudaSuccess;
}

cudaError_t create_stream(cudaStream_t* stream, unsigned flags) {
    Lock hold(lock);
    *stream = (cudaStream_t)new_stream(!(flags & cudaStreamNonBlocking));
    return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t* event) {
    *event = (cudaEvent_t) new Event{current};
    return cudaSuccess;
}

// What a small device has, as HostCuda's.
int attribute(cudaDeviceAttr name) {
    switch (name) {
        case cudaDevAttrComputeCapabilityMajor: return 9;
        case cudaDevAttrMultiProcessorCount: return 2;
        case cudaDevAttrClockRate: return 1'000'000;
        case cudaDevAttrWarpSize: return 32;
        case cudaDevAttrMaxThreadsPerBlock: return 1024;
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY: return 1024;
        case cudaDevAttrMaxBlockDimZ: return 64;
        case cudaDevAttrMaxGridDimX: return 0x7fffffff;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: return 65535;
        case cudaDevAttrMaxSharedMemoryPerBlock: return 48 << 10;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 227 << 10;
        case cudaDevAttrMaxRegistersPerBlock: return 65536;
        default: return 0;
    }
}

}  // namespace

extern "C" {

// ---------------------------------------------------------------- errors and versions

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
        case cudaErrorNotReady: return "cudaErrorNotReady";
        case cudaErrorNotSupported: return "cudaErrorNotSupported";
        case cudaErrorPeerAccessAlreadyEnabled: return "cudaErrorPeerAccessAlreadyEnabled";
        default: return "cudaErrorUnknown";
    }
}
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() { return std::exchange(last, cudaSuccess); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = VERSION, cudaSuccess; }

// ---------------------------------------------------------------- devices

cudaError_t cudaGetDeviceCount(int* count) { return *count = DEVICES, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = current, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= DEVICES) return answer(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int device) {
    if (device < 0 || device >= DEVICES) return answer(cudaErrorInvalidDevice);
    *value = attribute(name);
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device < 0 || device >= DEVICES) return answer(cudaErrorInvalidDevice);
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "CPU %d", device);
    properties->major = attribute(cudaDevAttrComputeCapabilityMajor);
    properties->totalGlobalMem = memory;
    properties->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
    properties->warpSize = attribute(cudaDevAttrWarpSize);
    properties->maxThreadsPerBlock = attribute(cudaDevAttrMaxThreadsPerBlock);
    properties->sharedMemPerBlock = attribute(cudaDevAttrMaxSharedMemoryPerBlock);
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* name, int size, int device) {
    snprintf(name, size, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    Lock hold(lock);
    finish_device(current);
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 1, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
    static std::set<std::pair<int, int>> enabled;
    Lock hold(lock);
    return enabled.insert({current, peer}).second ? cudaSuccess : answer(cudaErrorPeerAccessAlreadyEnabled);
}

// ---------------------------------------------------------------- memory

cudaError_t cudaMalloc(void** address, size_t size) {
    Lock hold(lock);
    *address = allocate(size, false);
    return answer(*address ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
    Lock hold(lock);
    *address = allocate(size, true);
    return answer(*address ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* address) {
    Lock hold(lock);
    return !address || release(address, false) ? cudaSuccess : wrong("cudaFree of what is not a device's memory");
}
cudaError_t cudaFreeHost(void* address) {
    Lock hold(lock);
    return !address || release(address, true) ? cudaSuccess : wrong("cudaFreeHost of what is not pinned memory");
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    Lock hold(lock);
    *total = memory;
    *free = memory - std::min(memory, used[current]);
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
    Lock hold(lock);
    const Allocation* found = holder(address);
    *attributes = {};
    attributes->device = found ? found->device : -2;
    attributes->type = !found ? cudaMemoryTypeUnregistered : found->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    if (found) attributes->devicePointer = (void*)address;
    if (!found || found->pinned) attributes->hostPointer = (void*)address;
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(to, from, size, kind, stream);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t stream) {
    return copy(to, from, size, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
    Lock hold(lock);
    cudaError_t error = copy(to, from, size, kind, nullptr);
    finish(default_stream(), default_stream().given);
    return error;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) { return fill(to, value, size, stream); }
cudaError_t cudaMemset(void* to, int value, size_t size) { return fill(to, value, size, nullptr); }

// ---------------------------------------------------------------- streams and events

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return create_stream(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) { return create_stream(stream, flags); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) { return create_stream(stream, flags); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    Lock hold(lock);
    *flags = stream_of(stream)->blocking ? cudaStreamDefault : cudaStreamNonBlocking;
    return cudaSuccess;
}
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { return *priority = 0, cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    Lock hold(lock);
    Stream& stream = *stream_of(handle);
    finish(stream, stream.given);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
    Lock hold(lock);
    Stream& stream = *stream_of(handle);
    return stream.done < stream.given ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
    Lock hold(lock);
    Event event = *(Event*)handle;  // as it is now: it may be recorded again
    if (event.stream) give(*stream_of(stream), [=] { finish(*event.stream, event.given); });
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return create_event(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return create_event(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete (Event*)event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    Lock hold(lock);
    Event& event = *(Event*)handle;
    Stream& stream = *stream_of(stream_handle);
    if (event.device != stream.device) {
        complain(0, "an event of device %d is recorded on a stream of device %d", event.device, stream.device);
        return answer(cudaErrorInvalidResourceHandle);
    }
    event.stream = &stream;
    event.given = stream.given;
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    Lock hold(lock);
    return ((Event*)event)->happened() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    Lock hold(lock);
    Event& event = *(Event*)handle;
    if (event.stream) finish(*event.stream, event.given);
    return cudaSuccess;
}
}
