// same_bits.cpp: stands between the program and its twin, and counts.
//
// It is what INCISE_TWIN names: it starts the executable that SAME_BITS_TWIN names and relays the
// messages of kernels/host/main.cpp. Launches by kernel and bytes go to a file in the folder
// SAME_BITS_COUNTS, which is mapped, since the program ends this process with SIGKILL:
//
//   live, peak, kernels     u64
//   for each kernel: its launches u64, its name 56 bytes
//
// SAME_BITS_CAP is the number of bytes the device has, where it is set: beyond it there is no room.
//
// A device is asked at each start whether it computes as it should, by kernels of probe.cu. Until
// another kernel is launched, nothing is counted but what is there, and there is room for all.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t KERNELS = 1024;

struct Kernel {
    uint64_t launches;
    char name[56];
};

struct Counts {
    uint64_t live, peak, kernels;
    Kernel kernel[KERNELS];
};

[[noreturn]] void fail(const char* what) {
    perror(what);
    _exit(2);
}

Counts* open_counts() {
    const std::string path = getenv("SAME_BITS_COUNTS") + ("/" + std::to_string(getpid()));
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0644);
    if (file < 0 || ftruncate(file, sizeof(Counts))) fail(path.c_str());
    void* at = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) fail(path.c_str());
    return static_cast<Counts*>(at);
}

// The twin, to write to and to read from.
struct Twin {
    FILE *to, *from;
};

Twin start(const char* program) {
    int down[2], up[2];
    if (pipe(down) || pipe(up)) fail("pipe");
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (!child) {
        dup2(down[0], 0);
        dup2(up[1], 1);
        for (int end : {down[0], down[1], up[0], up[1]}) close(end);
        execl(program, program, nullptr);
        fail(program);
    }
    close(down[0]);
    close(up[1]);
    return {fdopen(down[1], "w"), fdopen(up[0], "r")};
}

// Copies bytes; ends the process where either side has left.
void relay(FILE* from, FILE* to, uint64_t bytes) {
    char buffer[1 << 16];
    while (bytes) {
        const size_t n = bytes < sizeof buffer ? bytes : sizeof buffer;
        if (fread(buffer, 1, n, from) != n || fwrite(buffer, 1, n, to) != n) _exit(0);
        bytes -= n;
    }
}

// Reads a number and passes it on.
uint64_t number(FILE* from, FILE* to) {
    uint64_t x;
    if (fread(&x, sizeof x, 1, from) != 1 || fwrite(&x, sizeof x, 1, to) != 1) _exit(0);
    return x;
}

void count(Counts& counts, const std::string& name) {
    static std::unordered_map<std::string, Kernel*> known;
    Kernel*& kernel = known[name];
    if (!kernel) {
        if (counts.kernels == KERNELS || name.size() >= sizeof kernel->name) fail("a kernel more");
        kernel = &counts.kernel[counts.kernels++];
        memcpy(kernel->name, name.c_str(), name.size());
    }
    ++kernel->launches;
}

}  // namespace

int main() {
    Counts& counts = *open_counts();
    const char* said = getenv("SAME_BITS_CAP");
    const uint64_t cap = said ? strtoull(said, nullptr, 10) : UINT64_MAX;
    const Twin twin = start(getenv("SAME_BITS_TWIN"));
    std::unordered_map<uint64_t, uint64_t> sizes;
    bool asked = true;
    auto pass = [&] { return number(stdin, twin.to); };
    // The twin's answer, after all that was sent.
    auto answer = [&] {
        fflush(twin.to);
        return number(twin.from, stdout);
    };
    for (int command; (command = getchar()) != EOF; fflush(stdout)) {
        if (command == 'A') {
            uint64_t bytes, none = 0;
            if (fread(&bytes, sizeof bytes, 1, stdin) != 1) break;
            if (!asked && (bytes > cap || counts.live > cap - bytes)) {
                fwrite(&none, sizeof none, 1, stdout);
                continue;
            }
            fputc(command, twin.to);
            fwrite(&bytes, sizeof bytes, 1, twin.to);
            const uint64_t at = answer();
            if (!at) continue;
            sizes[at] = bytes;
            counts.live += bytes;
            if (!asked && counts.live > counts.peak) counts.peak = counts.live;
            continue;
        }
        fputc(command, twin.to);
        switch (command) {
        case 'F': {
            const auto freed = sizes.find(pass());
            if (freed == sizes.end()) fail("F of what was not given");
            counts.live -= freed->second;
            sizes.erase(freed);
            break;
        }
        case 'W':
            pass();
            relay(stdin, twin.to, pass());
            break;
        case 'R': {
            pass();
            const uint64_t bytes = pass();
            fflush(twin.to);
            relay(twin.from, stdout, bytes);
            break;
        }
        case 'C':
            pass();
            pass();
            pass();
            break;
        case 'Z':
            pass();
            pass();
            break;
        case 'S':
            relay(stdin, twin.to, pass());
            answer();
            break;
        case 'L': {
            std::string name(pass(), ' ');
            if (fread(&name[0], 1, name.size(), stdin) != name.size()) _exit(0);
            fwrite(name.data(), 1, name.size(), twin.to);
            asked = asked && name.rfind("probe.", 0) == 0;
            if (!asked) count(counts, name);
            if (!asked && counts.live > counts.peak) counts.peak = counts.live;
            for (int i = 0; i < 7; ++i) pass();
            relay(stdin, twin.to, 8 * pass());
            answer();
            break;
        }
        default:
            fprintf(stderr, "same_bits.cpp knows no message %d\n", command);
            return 2;
        }
    }
}
