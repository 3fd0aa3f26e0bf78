#include "machine.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

namespace machine {

std::recursive_mutex lock;
thread_local int current;

namespace {

std::vector<std::string> complaints;

}  // namespace

int complain(int error, const char* format, ...) {
    char text[1000];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    std::lock_guard<std::recursive_mutex> hold(lock);
    complaints.push_back(text);
    return error;
}

// ---------------------------------------------------------------- memory

size_t memory = 1ull << 34, used[DEVICES];

namespace {

std::map<const char*, Allocation> allocations;  // by where they begin

constexpr int GARBAGE = 0xa5;

}  // namespace

char* allocate(size_t size, bool pinned) {
    if (!pinned && size > memory - std::min(memory, used[current])) return nullptr;
    void* address = nullptr;
    if (posix_memalign(&address, 512, std::max<size_t>(size, 1))) return nullptr;
    memset(address, GARBAGE, size);
    allocations[(char*)address] = {(char*)address, size, current, pinned};
    if (!pinned) used[current] += size;
    return (char*)address;
}

// All of a device's work is done first, as CUDA does it.
bool release(void* address, bool pinned) {
    auto found = allocations.find((char*)address);
    if (found == allocations.end() || found->second.pinned != pinned) return false;
    for (int device = 0; device < DEVICES; device++) finish_device(device);
    if (!pinned) used[found->second.device] -= found->second.size;
    allocations.erase(found);
    free(address);
    return true;
}

const Allocation* holder(const void* address) {
    auto next = allocations.upper_bound((const char*)address);
    if (next == allocations.begin()) return nullptr;
    const Allocation& found = std::prev(next)->second;
    return (size_t)((const char*)address - found.begin) < std::max<size_t>(found.size, 1) ? &found : nullptr;
}

// ---------------------------------------------------------------- streams

namespace {

// The default ones first. None is ever forgotten: what was given to a stream that is destroyed is still done.
std::vector<Stream*> streams = [] {
    std::vector<Stream*> all;
    for (int device = 0; device < DEVICES; device++) all.push_back(new Stream{device, true, {}});
    return all;
}();

Order order;
std::mt19937 random_numbers;

bool is_default(const Stream& stream) { return &stream == streams[stream.device]; }

void push(Stream& stream, std::function<void()> action) {
    stream.waiting.push_back(std::move(action));
    stream.given++;
}

void push_wait(Stream& stream, Stream& other) {
    if (other.done < other.given) push(stream, [&other, given = other.given] { finish(other, given); });
}

}  // namespace

void set_order(Order wanted, unsigned seed) {
    for (int device = 0; device < DEVICES; device++) finish_device(device);
    order = wanted;
    random_numbers.seed(seed);
}

Stream& default_stream() { return *streams[current]; }

Stream* new_stream(bool blocking) {
    streams.push_back(new Stream{current, blocking, {}});
    return streams.back();
}

void give(Stream& stream, std::function<void()> action) {
    if (is_default(stream)) {
        for (Stream* other : streams) {
            if (other->device == stream.device && other->blocking && other != &stream) push_wait(stream, *other);
        }
    } else if (stream.blocking) {
        push_wait(stream, *streams[stream.device]);
    }
    push(stream, std::move(action));
    bool late = order == Order::Late || order == (is_default(stream) ? Order::LateByDefault : Order::LateBeside);
    if (order != Order::Shuffled) {
        if (!late) finish(stream, stream.given);
        return;
    }
    for (int i = random_numbers() % 3; i--;) {
        Stream& lucky = *streams[random_numbers() % streams.size()];
        finish(lucky, std::min(lucky.given, lucky.done + random_numbers() % 4));
    }
}

void finish(Stream& stream, size_t given) {
    while (stream.done < given) {
        auto action = std::move(stream.waiting.front());
        stream.waiting.pop_front();
        stream.done++;
        action();
    }
}

void finish_device(int device) {
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i]->device == device) finish(*streams[i], streams[i]->given);
    }
}

}  // namespace machine

// ---------------------------------------------------------------- what tests set and ask, see device.py

extern "C" {

void real_cupy_order(int order, unsigned seed) {
    std::lock_guard<std::recursive_mutex> hold(machine::lock);
    machine::set_order((machine::Order)order, seed);
}

void real_cupy_memory(size_t bytes) {
    std::lock_guard<std::recursive_mutex> hold(machine::lock);
    machine::memory = bytes;
}

// The first thing that was done wrong and not told yet, or null.
const char* real_cupy_complaint() {
    static std::string told;
    std::lock_guard<std::recursive_mutex> hold(machine::lock);
    if (machine::complaints.empty()) return nullptr;
    told = machine::complaints.front();
    machine::complaints.erase(machine::complaints.begin());
    return told.c_str();
}
}
