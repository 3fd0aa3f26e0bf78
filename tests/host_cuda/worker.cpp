// The device: a process that holds device memory, loads modules of kernels and launches them, on request.
//
// Requests and answers go over the socket whose number is the first argument: four, or two, 64-bit numbers, the last of
// them the length of the bytes that follow. Whatever goes wrong is told on stderr and ends the process.
#include "launch.h"

#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

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
