// driver.cpp: a libcuda.so whose one card is the twin, a process that runs the kernels on the host.
//
// So the program's own way to a card runs in a test: its streams, events, uploads, recordings and
// pieces of memory. The driver does all of it as late as it may: what is on a stream is done when
// somebody waits for it. What a program must not do ends the process with a line:
//
//   a call in a thread without a context      a copy to a card from memory that is not pinned
//   an address outside of what was allocated  a wait for a stream that records
//
// The environment says which card it is:
//
//   CARD_TWIN     the executable of the kernels (kernels/host/main.cpp has its protocol)
//   CARD_IMAGES   a file with a line an image: its hash, its file and types as in `norm.bf16`
//   CARD_BYTES    of memory
//   CARD_SERVES   the CUDA version, as 12000
//   CARD_FAULT    `launch NAME`: that kernel faults; `recording`: none can be made;
//                 `pinned N`: no more than N bytes of the host can be pinned; `hollow`: memory is
//                 addresses alone, so that there may be more of it than the host has
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

typedef unsigned long long u64;

// The numbers of cuda.h.
enum Result {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, NO_BINARY = 209,
    ILLEGAL_ADDRESS = 700, CAPTURE_INVALIDATED = 901,
};

struct Stream {
    std::deque<std::function<void()>> waiting;
    u64 enqueued = 0, done = 0;
    std::vector<std::function<void()>>* recording = nullptr;
};

// How far a stream was when an event was recorded.
struct Mark {
    Stream* stream;
    u64 at;
    double seconds = 0;
};
struct Event { std::shared_ptr<Mark> mark; };
struct Graph { std::vector<std::function<void()>> launches; };
struct Module { std::string text, types; };
struct Function { std::string name, called; std::vector<int> bytes; };

std::mutex mutex;
thread_local void* current = nullptr;
int failed = OK;  // sticky: a card that faulted does nothing more
std::map<u64, u64> arrays, pinned;
u64 bytes_taken = 0, bytes_pinned = 0;
std::vector<Stream*> streams;
int to_twin = -1, from_twin = -1;

[[noreturn]] void die(const std::string& why) {
    fprintf(stderr, "driver.cpp: %s\n", why.c_str());
    fflush(stderr);
    _exit(70);
}

std::string setting(const char* name) {
    const char* value = getenv(name);
    return value ? value : "";
}

// The rest of CARD_FAULT behind a word; nothing where it begins otherwise.
const char* fault(const char* word) {
    static const std::string all = setting("CARD_FAULT");
    return all.compare(0, strlen(word), word) ? nullptr : all.c_str() + strlen(word);
}

// ------------------------------------------------------------------------------- the twin

void start_twin() {
    int to[2], from[2];
    if (pipe(to) || pipe(from)) die("no pipe");
    const std::string program = setting("CARD_TWIN");
    const pid_t child = fork();
    if (child == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        for (int end : {to[0], to[1], from[0], from[1]}) close(end);
        execl(program.c_str(), program.c_str(), nullptr);
        _exit(71);
    }
    close(to[0]);
    close(from[1]);
    to_twin = to[1];
    from_twin = from[0];
}

// Sends or takes all of some bytes; a twin that has ended is a card that faulted.
void give(const void* from, u64 bytes) {
    if (fault("hollow")) return;
    for (const char* at = static_cast<const char*>(from); bytes;) {
        const ssize_t n = write(to_twin, at, bytes);
        if (n <= 0) { failed = ILLEGAL_ADDRESS; return; }
        at += n, bytes -= n;
    }
}

void take(void* to, u64 bytes) {
    if (fault("hollow")) return;
    for (char* at = static_cast<char*>(to); bytes;) {
        const ssize_t n = read(from_twin, at, bytes);
        if (n <= 0) { failed = ILLEGAL_ADDRESS; return; }
        at += n, bytes -= n;
    }
}

void command(char letter, const std::vector<u64>& numbers) {
    give(&letter, 1);
    give(numbers.data(), 8 * numbers.size());
}

u64 answer() {
    u64 number = 0;
    take(&number, 8);
    return number;
}

// -------------------------------------------------------------------------------- streams

void finish(Stream& stream, u64 upto) {
    while (stream.done < upto) {
        std::function<void()> next = std::move(stream.waiting.front());
        stream.waiting.pop_front();
        stream.done++;
        if (!failed) next();
    }
}

void finish_all() {
    for (Stream* stream : streams) finish(*stream, stream->enqueued);
}

int enqueue(void* on, std::function<void()> what) {
    Stream& stream = *static_cast<Stream*>(on);
    if (stream.recording) {
        stream.recording->push_back(std::move(what));
    } else {
        stream.waiting.push_back(std::move(what));
        stream.enqueued++;
    }
    return OK;
}

// That some bytes belong to one array.
u64 array_of(u64 at, u64 bytes) {
    auto array = arrays.upper_bound(at);
    if (array == arrays.begin()) die("an address that is no array's");
    --array;
    if (at + bytes > array->first + array->second) die("a copy over the end of an array");
    return at;
}

bool is_pinned(const void* host, u64 bytes) {
    const u64 at = reinterpret_cast<u64>(host);
    auto buffer = pinned.upper_bound(at);
    return buffer != pinned.begin() && (--buffer, at + bytes <= buffer->first + buffer->second);
}

double now() {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(since).count();
}

// --------------------------------------------------------------------------------- images

u64 hash(const char* text) {
    u64 h = 0xcbf29ce484222325ull;
    for (; *text; text++) h = (h ^ static_cast<unsigned char>(*text)) * 0x100000001b3ull;
    return h;
}

std::string types_of(const char* image) {
    std::ifstream file(setting("CARD_IMAGES"));
    u64 its;
    for (std::string types; file >> its >> types;)
        if (its == hash(image)) return types;
    return "";
}

// The bytes of each parameter, from PTX.
bool parameters(const std::string& text, const std::string& name, std::vector<int>& bytes) {
    const size_t at = text.find(".entry " + name + "(");
    if (at == std::string::npos) return false;
    std::istringstream words(text.substr(at, text.find(')', at) - at));
    for (std::string word; words >> word;)
        if (word == ".param" && words >> word) bytes.push_back(word.substr(2) == "64" ? 8 : 4);
    return true;
}

}  // namespace

// A call, in a thread that has a context where `needs` says so.
#define CALL(needs)                                                            \
    const std::lock_guard<std::mutex> lock(mutex);                             \
    if (needs && !current) die(std::string(__func__) + " without a context"); \
    if (failed) return failed

API cuInit(unsigned) { return OK; }
API cuDriverGetVersion(int* version) {
    *version = atoi(setting("CARD_SERVES").c_str());
    return OK;
}
API cuGetErrorString(int code, const char** text) {
    *text = code == ILLEGAL_ADDRESS ? "an illegal memory access" : "an error of the planted driver";
    return OK;
}
API cuDeviceGetCount(int* count) { *count = 1; return OK; }
API cuDeviceGet(int* device, int ordinal) { *device = ordinal; return OK; }
API cuDeviceGetName(char* name, int bytes, int) {
    snprintf(name, bytes, "a planted card");
    return OK;
}
API cuDeviceGetUuid(unsigned char* uuid, int) {
    memset(uuid, 7, 16);
    return OK;
}
API cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = strtoull(setting("CARD_BYTES").c_str(), nullptr, 10);
    return OK;
}
// Of a capability that has no machine code, so that the images are PTX.
API cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 99 : 0;
    return OK;
}
API cuDevicePrimaryCtxRetain(void** context, int) {
    CALL(false);
    if (to_twin < 0) start_twin();
    *context = &mutex;
    return OK;
}
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxSetCurrent(void* context) { current = context; return failed; }

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    CALL(true);
    cuDeviceTotalMem_v2(total, 0);
    *free = *total - bytes_taken;
    return OK;
}
API cuMemAlloc_v2(u64* at, size_t bytes) {
    CALL(true);
    size_t total;
    cuDeviceTotalMem_v2(&total, 0);
    if (!bytes) return INVALID_VALUE;
    if (bytes_taken + bytes > total) return OUT_OF_MEMORY;
    static u64 hollow = 1ull << 40;
    command('A', {bytes});
    *at = fault("hollow") ? std::exchange(hollow, hollow + bytes / 512 * 512 + 1024) : answer();
    if (!*at) return OUT_OF_MEMORY;
    bytes_taken += arrays[*at] = bytes;
    return failed;
}
API cuMemFree_v2(u64 at) {
    CALL(true);
    if (!arrays.count(at)) return INVALID_VALUE;
    for (Stream* stream : streams)
        if (stream->recording) die("memory is freed while a stream records");
    finish_all();
    bytes_taken -= arrays[at];
    arrays.erase(at);
    command('F', {at});
    return failed;
}
API cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    CALL(true);
    const char* most = fault("pinned ");
    if (most && bytes_pinned + bytes > strtoull(most, nullptr, 10)) return OUT_OF_MEMORY;
    *at = calloc(1, bytes);
    bytes_pinned += pinned[reinterpret_cast<u64>(*at)] = bytes;
    return OK;
}
API cuMemFreeHost(void* at) {
    CALL(true);
    const auto buffer = pinned.find(reinterpret_cast<u64>(at));
    if (buffer == pinned.end()) return INVALID_VALUE;
    finish_all();
    bytes_pinned -= buffer->second;
    pinned.erase(buffer);
    free(at);
    return OK;
}

API cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* stream) {
    CALL(true);
    array_of(to, bytes);
    if (!is_pinned(from, bytes)) die("a copy to the card reads memory that is not pinned");
    if (static_cast<Stream*>(stream)->recording) die("a recording reads the host's memory");
    return enqueue(stream, [=] { command('W', {to, bytes}), give(from, bytes); });
}
API cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* stream) {
    CALL(true);
    array_of(from, bytes);
    if (static_cast<Stream*>(stream)->recording) die("a recording writes the host's memory");
    return enqueue(stream, [=] { command('R', {from, bytes}), take(to, bytes); });
}
API cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
    CALL(true);
    array_of(to, bytes), array_of(from, bytes);
    return enqueue(stream, [=] { command('C', {to, from, bytes}); });
}
API cuMemsetD8Async(u64 at, unsigned char value, size_t bytes, void* stream) {
    CALL(true);
    array_of(at, bytes);
    if (value) die("bytes are set to something else than 0");
    return enqueue(stream, [=] { command('Z', {at, bytes}); });
}

API cuStreamCreate(void** stream, unsigned) {
    CALL(true);
    streams.push_back(new Stream);
    *stream = streams.back();
    return OK;
}
API cuStreamDestroy_v2(void* stream) {
    CALL(true);
    finish_all();
    return stream ? OK : INVALID_VALUE;
}
API cuStreamSynchronize(void* on) {
    CALL(true);
    Stream& stream = *static_cast<Stream*>(on);
    if (stream.recording) die("a wait for a stream that records");
    finish(stream, stream.enqueued);
    return failed;
}
API cuStreamWaitEvent(void* stream, void* event, unsigned) {
    CALL(true);
    const std::shared_ptr<Mark> mark = static_cast<Event*>(event)->mark;
    return mark ? enqueue(stream, [=] { finish(*mark->stream, mark->at); }) : int(OK);
}
API cuEventCreate(void** event, unsigned) {
    CALL(true);
    *event = new Event;
    return OK;
}
API cuEventRecord(void* event, void* on) {
    CALL(true);
    Stream& stream = *static_cast<Stream*>(on);
    const auto mark = std::make_shared<Mark>(Mark{&stream, stream.enqueued + 1});
    static_cast<Event*>(event)->mark = mark;
    return enqueue(on, [=] { mark->seconds = now(); });
}
API cuEventSynchronize(void* event) {
    CALL(true);
    if (!event) return INVALID_VALUE;
    if (const std::shared_ptr<Mark> mark = static_cast<Event*>(event)->mark)
        finish(*mark->stream, mark->at);
    return failed;
}
API cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    CALL(true);
    const double seconds =
        static_cast<Event*>(to)->mark->seconds - static_cast<Event*>(from)->mark->seconds;
    *milliseconds = static_cast<float>(1e3 * seconds);
    return OK;
}
API cuEventDestroy_v2(void* event) {
    CALL(true);
    if (!event) return INVALID_VALUE;
    delete static_cast<Event*>(event);
    return OK;
}

API cuModuleLoadData(void** module, const void* image) {
    CALL(true);
    const char* text = static_cast<const char*>(image);
    const std::string types = types_of(text);
    if (types.empty()) return NO_BINARY;
    *module = new Module{text, types};
    return OK;
}
API cuModuleUnload(void* module) {
    CALL(true);
    delete static_cast<Module*>(module);
    return OK;
}
API cuModuleGetFunction(void** function, void* in, const char* name) {
    CALL(true);
    const Module& module = *static_cast<Module*>(in);
    Function* found = new Function{name, module.types + "." + name, {}};
    *function = found;
    return parameters(module.text, name, found->bytes) ? OK : NOT_FOUND;
}
API cuLaunchKernel(
    void* of, unsigned x, unsigned y, unsigned z, unsigned i, unsigned j, unsigned k, unsigned,
    void* stream, void** arguments, void**
) {
    CALL(true);
    const Function& function = *static_cast<Function*>(of);
    std::vector<u64> numbers = {2 /* shuffled */, x, y, z, i, j, k, function.bytes.size()};
    for (size_t n = 0; n < function.bytes.size(); n++) {
        u64 slot = 0;
        memcpy(&slot, arguments[n], function.bytes[n]);
        numbers.push_back(slot);
    }
    const char* faulty = fault("launch ");
    const bool faults = faulty && function.name == faulty;
    return enqueue(stream, [numbers, faults, called = function.called] {
        if (faults) {
            failed = ILLEGAL_ADDRESS;
            return;
        }
        command('L', {called.size()});
        give(called.data(), called.size());
        give(numbers.data(), 8 * numbers.size());
        if (answer()) failed = ILLEGAL_ADDRESS;
    });
}

API cuStreamBeginCapture_v2(void* on, int) {
    CALL(true);
    static_cast<Stream*>(on)->recording = &(new Graph)->launches;
    return OK;
}
API cuStreamEndCapture(void* on, void** graph) {
    CALL(true);
    Stream& stream = *static_cast<Stream*>(on);
    *graph = stream.recording;
    stream.recording = nullptr;
    return fault("recording") ? CAPTURE_INVALIDATED : OK;
}
API cuGraphInstantiateWithFlags(void** executable, void* graph, u64) {
    CALL(true);
    *executable = new Graph(*static_cast<Graph*>(graph));
    return OK;
}
API cuGraphLaunch(void* graph, void* stream) {
    CALL(true);
    for (const auto& launch : static_cast<Graph*>(graph)->launches) enqueue(stream, launch);
    return OK;
}
API cuGraphDestroy(void* graph) {
    CALL(true);
    delete static_cast<Graph*>(graph);
    return OK;
}
API cuGraphExecDestroy(void* graph) {
    CALL(true);
    delete static_cast<Graph*>(graph);
    return OK;
}
