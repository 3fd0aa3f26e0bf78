// A machine with GPUs that are memory and queues in this process: what runtime.cpp and driver.cpp give CUDA's names to.
//
// Stricter than CUDA: memory holds garbage until it is written, and so does pinned memory that a copy is on its way to;
// a stream may leave its work until somebody waits for it, see Order. What a device would do silently, or only some of
// them, is told by `complain`, and no test passes in which something was.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace machine {

constexpr int DEVICES = 2;

extern std::recursive_mutex lock;  // who does anything here holds it

extern thread_local int current;  // the thread's device

// Says what was done wrong; the answer is what CUDA's function should return then.
__attribute__((format(printf, 2, 3))) int complain(int error, const char* format, ...);

// ---------------------------------------------------------------- memory

struct Allocation {
    char* begin;
    size_t size;
    int device;   // which was current
    bool pinned;  // the host's memory, else the device's
};

extern size_t memory;         // bytes of each device
extern size_t used[DEVICES];  // of them

char* allocate(size_t size, bool pinned);  // null where there is no memory
bool release(void* address, bool pinned);  // whether it was such memory

// What the address lies in, or null: memory of the host that is not pinned.
const Allocation* holder(const void* address);

// ---------------------------------------------------------------- streams

struct Stream {
    int device;
    bool blocking;  // waits for the default stream, which waits for it
    std::deque<std::function<void()>> waiting;
    size_t given = 0, done = 0;
};

struct Event {
    int device;
    Stream* stream = nullptr;  // null before it is recorded
    size_t given = 0;          // to the stream before

    bool happened() const { return !stream || stream->done >= given; }
};

// When streams do what they are given. All of these are orders in which CUDA may do it.
enum class Order {
    Prompt,         // at once
    Late,           // once somebody waits for it
    LateByDefault,  // the default streams once somebody waits for them, the others at once
    LateBeside,     // the other way round
    Shuffled,       // some streams, some of it, after each thing that is given
};
void set_order(Order order, unsigned seed);

Stream& default_stream();  // of the current device
Stream* new_stream(bool blocking);
void give(Stream& stream, std::function<void()> action);
void finish(Stream& stream, size_t given);
void finish_device(int device);

// ---------------------------------------------------------------- kernels (kernels.cpp)

struct Parameter {
    bool array;
    size_t words;
    size_t size;  // bytes, of what stands there
};

struct Kernel {
    std::string name;
    unsigned threads;  // to a block, at most
    std::vector<Parameter> parameters;
    const void *module, *row;  // cuda_host's
    bool flushes;              // subnormal float32 numbers are zeros to it: -ftz=true
};

// The kernels of a shared library that host_cuda/build.py made; none, and the reason, if it cannot be loaded.
std::map<std::string, Kernel> load(const std::string& path, bool flushes, std::string* reason);

// launch: grid, block, bytes of shared memory, the seed of its order, then the arguments.
void run(const Kernel& kernel, const std::vector<unsigned long long>& launch);

}  // namespace machine
