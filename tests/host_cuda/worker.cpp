// The device: a process that holds device memory, loads modules of kernels and launches them, on request.
//
// Requests and answers go over the socket whose number is the first argument: four, or two, 64-bit numbers, the last of
// them the length of the bytes that follow. Whatever goes wrong is told on stderr and ends the process.
#include "fibers.h"

#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <numeric>
#include <string>

#ifdef RACE
#include "race.h"
#else
void after_barrier() {}
void after_warp(unsigned, unsigned) {}
void cuda_host_atomic(const void*, unsigned long, const void*) {}
void watch(const char*, char*, size_t, size_t, bool) {}
void forget(char*) {}
void start_launch(u64) {}
void start_block() {}
#endif

int channel;

bool receive(void* to, size_t size) {
    while (size) {
        ssize_t got = read(channel, to, size);
        if (got <= 0) return false;
        to = (char*)to + got;
        size -= got;
    }
    return true;
}

void send_all(const void* from, size_t size) {
    while (size) {
        ssize_t sent = send(channel, from, size, MSG_NOSIGNAL);
        if (sent <= 0) _exit(0);
        from = (char*)from + sent;
        size -= sent;
    }
}

void answer(u64 value, const void* bytes = nullptr, u64 size = 0) {
    u64 head[2] = {value, size};
    send_all(head, sizeof head);
    send_all(bytes, size);
}

// Exactly as long as asked, so that the sanitizer sees every access beyond it; aligned as cudaMalloc aligns.
char* allocate(const char* name, size_t size, size_t item, bool shared) {
    void* memory = nullptr;
    if (size && posix_memalign(&memory, 256, size)) fail("no memory for %zu bytes", size);
    if (size) memset(memory, GARBAGE, size);
    watch(name, (char*)memory, size, item, shared);
    return (char*)memory;
}

void release(char* memory) {
    forget(memory);
    free(memory);
}

// Not memset: between the arrays lie the sanitizer's red zones, which memset may not touch.
void fill_with_garbage(char* from, char* to) {
    u64 word;
    memset(&word, GARBAGE, sizeof word);
    volatile char* p = from;
    for (; p < to && (size_t)p % sizeof word; p++) *p = GARBAGE;
    for (; p + sizeof word <= to; p += sizeof word) *(volatile u64*)p = word;
    for (; p < to; p++) *p = GARBAGE;
}

struct Launch {
    u64 grid[3], block[3], shared, seed, arguments[];
};

void launch(const cuda_host::Module& module, const Launch& how) {
    arguments = how.arguments;
    gridDim = {(unsigned)how.grid[0], (unsigned)how.grid[1], (unsigned)how.grid[2]};
    blockDim = {(unsigned)how.block[0], (unsigned)how.block[1], (unsigned)how.block[2]};
    random_state = how.seed;
    choice = how.seed % 8 < 6 ? WARP : MAX_THREADS;  // seeds are odd
    u64 blocks = how.grid[0] * how.grid[1] * how.grid[2], first = 0, stride = 1;
    if (how.seed) {
        // Blocks in steps of a stride prime to their number: each comes once, and no list of them is needed.
        first = draw() % blocks;
        do stride = 1 + draw() % blocks;
        while (std::gcd(stride, blocks) != 1);
    }
    start_launch(blocks);
    cuda_host_dynamic_shared = (unsigned char*)allocate("dynamic shared memory", how.shared, 1, true);
    watch("static shared memory", module.shared, module.shared_end - module.shared, 1, true);
    for (u64 b = 0; b < blocks; b++) {
        block_number = (first + b * stride) % blocks;
        blockIdx = {(unsigned)(block_number % gridDim.x), (unsigned)(block_number / gridDim.x % gridDim.y),
                    (unsigned)(block_number / gridDim.x / gridDim.y)};
        memset(cuda_host_dynamic_shared, GARBAGE, how.shared);
        fill_with_garbage(module.shared, module.shared_end);
        start_block();
        run_block();
    }
    forget(module.shared);
    release((char*)cuda_host_dynamic_shared);
}

// A line a kernel: its name, the most threads a block may have, and its parameters.
std::string describe(const cuda_host::Module& module) {
    std::string text;
    for (const auto* k = module.kernels; k->name; k++) {
        text += k->name + ("\t" + std::to_string(k->threads));
        for (unsigned i = 0; i < k->count; i++) {
            const auto& p = k->parameters[i];
            text += std::string("\t") + (p.array ? "*" : "") + p.kind + std::to_string(p.size);
        }
        text += "\n";
    }
    return text;
}

int main(int, char** argv) {
    channel = atoi(argv[1]);
    u64 request[4];
    std::vector<char> bytes;
    while (receive(request, sizeof request)) {
        auto [what, a, b, size] = request;
        bytes.resize(size + 1);  // and a zero at the end of names
        bytes[size] = 0;
        if (what == 'W') {
            if (!receive((char*)a, size)) return 0;
        } else if (!receive(bytes.data(), size)) {
            return 0;
        }
        if (what == 'A') {
            answer((u64)allocate("global memory", a, b, false));
        } else if (what == 'F') {
            release((char*)a);
        } else if (what == 'W') {
            answer(0);
        } else if (what == 'R') {
            answer(0, (char*)a, b);
        } else if (what == 'M') {
            void* library = dlopen(bytes.data(), RTLD_NOW | RTLD_LOCAL);
            if (!library) fail("%s", dlerror());
            auto* module = (cuda_host::Module*)dlsym(library, "cuda_host_module");
            std::string text = describe(*module);
            answer((u64)module, text.data(), text.size());
        } else if (what == 'L') {
            const auto& module = *(cuda_host::Module*)a;
            kernel = module.kernels + b;
            launch(module, *(Launch*)bytes.data());
            answer(0);
        }
    }
    return 0;
}
