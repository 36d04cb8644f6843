/* system.cpp - the emulated system: system.h of the CUDA device on a machine without a GPU.
 *
 * Why     What is ordered by luck on a GPU is ordered by nothing here. A stream is a queue whose
 *         work is done as late as possible, when somebody waits, and which of several streams goes
 *         next is drawn from a seed: only events hold one back. Host memory that is changed before
 *         the copy from it was waited for gives wrong results, every time.
 * Memory  Host memory between pages that may not be touched, filled with 0xff (NaN) at first, as
 *         near as alignment allows to the page behind it; the few bytes between are looked at when
 *         it goes back. Copies and fills outside of live memory end the process with a message.
 * Threads one mutex; kernels run on whatever thread waits, and hold it. */
#include "emulator/system.h"

#include "emulator/graph.h"
#include "pagedkv.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

struct graph {
    std::vector<std::function<void()>> work; /* in the order in which it was put in */
};

namespace {

constexpr size_t SHARED_UNPREPARED = 48 * 1024; /* that every kernel may have */

struct Event {
    uint64_t recorded = 0; /* how often this was put into a stream */
    uint64_t done = 0;     /* how far streams have come */
};

/* Done when `event` has come to `number`, or calls `run`. */
struct Work {
    Event* event;
    uint64_t number;
    std::function<void()> run;
};

struct Stream {
    std::deque<Work> queue;
    graph* captured = nullptr; /* what is put in goes there */
    int device = 0;
};

struct Allocation {
    unsigned char* mapping;
    size_t mapping_bytes;
    uint64_t bytes;
    bool is_pinned;
    int device;
};

struct Failure {
    bool is_armed;
    uint32_t after;
    int status;
};

struct Emulator {
    std::recursive_mutex lock;
    uint64_t random = 1;
    std::vector<Stream*> streams; /* in the order in which they were opened */
    std::set<Event*> events;
    std::map<unsigned char*, Allocation> memory;
    std::map<const void*, size_t> prepared; /* shared memory of kernels since the reset */
    Failure failures[EMULATOR_CALLS] = {};
    Failure fault = {};
    uint64_t counts[EMULATOR_CALLS] = {};
    bool is_broken = false; /* a sticky error */
    uint64_t clock_ns = 0;
    uint64_t copy_ns = 1000; /* each, in a batch */
    uint64_t kernel_ns = 8000;
    uint64_t shared_bytes = 227 * 1024;
    const char* absent = nullptr;
    int devices = 1;
    int compute_major = 9;
    bool is_driver_older = false;
    uint32_t contexts = 0;      /* made: one bit for each device */
    uint32_t contexts_held = 0; /* opened and not closed */
    Stream legacy;              /* the default stream */

    Emulator() : absent(std::getenv("PKV_EMULATOR_ABSENT")) { streams.push_back(&legacy); }
};

/* Never destroyed: caches may be closed after the end of main. */
Emulator& emulator() {
    static Emulator* one = new Emulator;
    return *one;
}

using Guard = std::lock_guard<std::recursive_mutex>;

/* Of this thread: what the application has selected, and contexts that were entered on top. */
thread_local int selected = 0;
thread_local std::vector<int> entered;

int present() {
    return entered.empty() ? selected : entered.back();
}

/* What needs a context makes one. */
void touch(int device) {
    emulator().contexts |= 1U << device;
}

[[noreturn]] void die(const char* what, const void* memory, uint64_t bytes) {
    std::fprintf(stderr, "emulator: %s: %llu bytes at %p\n", what, (unsigned long long)bytes,
                 memory);
    std::abort();
}

uint64_t draw(uint64_t limit) {
    uint64_t& state = emulator().random; /* splitmix64 */
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % limit;
}

/* ---- Failures -------------------------------------------------------------------------------- */

bool is_due(Failure& failure) {
    if (!failure.is_armed) return false;
    if (failure.after > 0) {
        failure.after--;
        return false;
    }
    failure.is_armed = false;
    return true;
}

/* Count a call, and say how it fails if it does. */
int visit(emulator_call call) {
    Emulator& e = emulator();
    e.counts[call]++;
    touch(present());
    if (e.is_broken) return PKV_EDEVICE;
    if (!is_due(e.failures[call])) return PKV_OK;
    e.is_broken = e.failures[call].status == PKV_EDEVICE;
    return e.failures[call].status;
}

int state() {
    return emulator().is_broken ? PKV_EDEVICE : PKV_OK;
}

/* ---- Running streams ------------------------------------------------------------------------- */

bool can_go(const Stream* stream) {
    if (stream->queue.empty()) return false;
    const Work& next = stream->queue.front();
    return next.run || next.event->done >= next.number;
}

void step(Stream* stream) {
    Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (work.run) work.run();
}

/* Let a stream do one piece of work; which one is drawn. False when none can. */
bool step_any() {
    std::vector<Stream*> able;
    for (Stream* stream : emulator().streams)
        if (can_go(stream)) able.push_back(stream);
    if (able.empty()) return false;
    step(able[draw(able.size())]);
    return true;
}

template <class Condition> int run_until(Condition is_met) {
    while (!is_met())
        if (!step_any()) {
            std::fprintf(stderr, "emulator: streams wait for each other\n");
            std::abort();
        }
    return state();
}

/* The default stream is NULL outside. */
Stream* stream_of(pkvi_gpu_stream* stream) {
    return stream != nullptr ? reinterpret_cast<Stream*>(stream) : &emulator().legacy;
}

Event* event_of(pkvi_gpu_event* event) {
    return reinterpret_cast<Event*>(event);
}

void put(pkvi_gpu_stream* stream, std::function<void()> run) {
    graph* captured = stream_of(stream)->captured;
    if (captured != nullptr)
        captured->work.push_back(std::move(run));
    else
        stream_of(stream)->queue.push_back({nullptr, 0, std::move(run)});
}

/* Events of a graph are its own: nobody outside can wait for them, and waiting for one from outside ends
 * the capture. */
void expect_not_captured(const char* what, pkvi_gpu_stream* stream) {
    if (stream_of(stream)->captured == nullptr) return;
    std::fprintf(stderr, "emulator: %s of a stream that is being captured\n", what);
    std::abort();
}

/* ---- Memory ---------------------------------------------------------------------------------- */

enum { ALIGNMENT = 256, FILL = 0xff };

int map_memory(uint64_t bytes, bool is_pinned, void** memory) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > (uint64_t)1 << 40) return PKV_ENOMEM;
    const size_t inside = (bytes + page - 1) / page * page;
    void* mapping = mmap(nullptr, inside + 2 * page, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return PKV_ENOMEM;
    unsigned char* first = static_cast<unsigned char*>(mapping) + page;
    if (mprotect(first, inside, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapping, inside + 2 * page);
        return PKV_ENOMEM;
    }
    std::memset(first, FILL, inside);
    unsigned char* begin = first + (inside - bytes) / ALIGNMENT * ALIGNMENT;
    emulator().memory[begin] = {static_cast<unsigned char*>(mapping), inside + 2 * page, bytes,
                                is_pinned, present()};
    *memory = begin;
    return PKV_OK;
}

void unmap_memory(void* memory, bool is_pinned) {
    Emulator& e = emulator();
    unsigned char* begin = static_cast<unsigned char*>(memory);
    const auto found = e.memory.find(begin);
    if (found == e.memory.end() || found->second.is_pinned != is_pinned)
        die("freed what was not allocated", memory, 0);
    const Allocation allocation = found->second;
    const unsigned char* end =
        allocation.mapping + allocation.mapping_bytes - (size_t)sysconf(_SC_PAGESIZE);
    for (const unsigned char* p = begin + allocation.bytes; p < end; p++)
        if (*p != FILL) die("written behind its end", memory, allocation.bytes);
    munmap(allocation.mapping, allocation.mapping_bytes);
    e.memory.erase(found);
}

/* What `memory` and `bytes` behind it lie in, or NULL. */
const Allocation* find(const void* memory, uint64_t bytes) {
    const unsigned char* begin = static_cast<const unsigned char*>(memory);
    auto after = emulator().memory.upper_bound(const_cast<unsigned char*>(begin));
    if (after == emulator().memory.begin()) return nullptr;
    const auto& [start, allocation] = *--after;
    return begin - start + bytes <= allocation.bytes ? &allocation : nullptr;
}

void expect_live(const char* what, const void* memory, uint64_t bytes) {
    if (find(memory, bytes) == nullptr) die(what, memory, bytes);
}

void copy_now(void* to, const void* from, uint64_t bytes) {
    expect_live("copy to where there is no memory", to, bytes);
    expect_live("copy from where there is no memory", from, bytes);
    std::memcpy(to, from, bytes);
}

} // namespace

/* ---- system.h -------------------------------------------------------------------------------- */

const char* pkvi_gpu_absent(void) {
    const Guard guard(emulator().lock);
    return emulator().absent;
}

int pkvi_gpu_count(int* count) {
    *count = emulator().devices;
    return PKV_OK;
}

int pkvi_gpu_describe(int ordinal, pkvi_gpu_properties* properties) {
    if (ordinal >= emulator().devices) return PKV_EINVAL;
    *properties = {};
    properties->compute_major = emulator().compute_major;
    properties->shared_bytes = emulator().shared_bytes;
    properties->is_driver_older = emulator().is_driver_older;
    return PKV_OK;
}

int pkvi_gpu_context_open(int ordinal, pkvi_gpu_context* context) {
    const Guard guard(emulator().lock);
    *context = {};
    if (ordinal >= emulator().devices) return PKV_EINVAL;
    entered.push_back(ordinal); /* for the failure is one of that device */
    const int status = visit(EMULATOR_CONTEXT);
    entered.pop_back();
    if (status != PKV_OK) return status;
    context->ordinal = ordinal;
    context->handle = &emulator();
    emulator().contexts_held++;
    return PKV_OK;
}

void pkvi_gpu_context_close(pkvi_gpu_context* context) {
    const Guard guard(emulator().lock);
    if (context->handle == nullptr) return;
    context->handle = nullptr;
    emulator().contexts_held--;
}

int pkvi_gpu_context_enter(const pkvi_gpu_context* context) {
    const Guard guard(emulator().lock);
    Failure& failure = emulator().failures[EMULATOR_ENTER];
    emulator().counts[EMULATOR_ENTER]++;
    if (is_due(failure)) return failure.status;
    entered.push_back(context->ordinal); /* of a device that is broken too */
    touch(context->ordinal);
    return PKV_OK;
}

void pkvi_gpu_context_leave(const pkvi_gpu_context* context) {
    if (entered.empty() || entered.back() != context->ordinal) {
        std::fprintf(stderr, "emulator: left a context that was not entered last\n");
        std::abort();
    }
    entered.pop_back();
}

int pkvi_gpu_wait(void) {
    const Guard guard(emulator().lock);
    touch(present());
    while (step_any())
        continue;
    return state();
}

int pkvi_gpu_alloc(uint64_t bytes, void** memory) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_ALLOC);
    return status == PKV_OK ? map_memory(bytes, false, memory) : status;
}

/* Like cudaFree, waits for everything. */
void pkvi_gpu_free(void* memory) {
    const Guard guard(emulator().lock);
    pkvi_gpu_wait();
    unmap_memory(memory, false);
}

int pkvi_gpu_alloc_pinned(uint64_t bytes, void** memory) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_ALLOC_PINNED);
    return status == PKV_OK ? map_memory(bytes, true, memory) : status;
}

void pkvi_gpu_free_pinned(void* memory) {
    const Guard guard(emulator().lock);
    pkvi_gpu_wait();
    unmap_memory(memory, true);
}

bool pkvi_gpu_reaches(const void* memory) {
    const Guard guard(emulator().lock);
    const Allocation* allocation = find(memory, 1);
    return allocation != nullptr && (allocation->is_pinned || allocation->device == present());
}

int pkvi_gpu_stream_open(pkvi_gpu_stream** stream) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_STREAM);
    if (status != PKV_OK) return status;
    Stream* opened = new Stream;
    opened->device = present();
    emulator().streams.push_back(opened);
    *stream = reinterpret_cast<pkvi_gpu_stream*>(opened);
    return PKV_OK;
}

/* Like cudaStreamDestroy, what was put in is still done. */
void pkvi_gpu_stream_close(pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    pkvi_gpu_stream_wait(stream);
    auto& streams = emulator().streams;
    streams.erase(std::find(streams.begin(), streams.end(), stream_of(stream)));
    delete stream_of(stream);
}

int pkvi_gpu_stream_check(pkvi_gpu_stream* stream, int ordinal) {
    const Guard guard(emulator().lock);
    const auto& streams = emulator().streams;
    const bool is_known = std::count(streams.begin(), streams.end(), stream_of(stream)) != 0;
    if (!is_known) return PKV_EINVAL;
    return stream == nullptr || stream_of(stream)->device == ordinal ? PKV_OK : PKV_EINVAL;
}

int pkvi_gpu_stream_is_captured(pkvi_gpu_stream* stream, bool* is_captured) {
    const Guard guard(emulator().lock);
    *is_captured = stream_of(stream)->captured != nullptr;
    return PKV_OK;
}

int pkvi_gpu_stream_wait(pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    touch(present());
    expect_not_captured("the end", stream);
    const Stream* waited = stream_of(stream);
    return run_until([&] { return waited->queue.empty(); });
}

int pkvi_gpu_event_open(pkvi_gpu_event** event) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_EVENT);
    if (status != PKV_OK) return status;
    Event* opened = new Event;
    emulator().events.insert(opened);
    *event = reinterpret_cast<pkvi_gpu_event*>(opened);
    return PKV_OK;
}

void pkvi_gpu_event_close(pkvi_gpu_event* event) {
    const Guard guard(emulator().lock);
    pkvi_gpu_wait(); /* streams may name it */
    emulator().events.erase(event_of(event));
    delete event_of(event);
}

int pkvi_gpu_event_record(pkvi_gpu_event* event, pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_RECORD);
    if (status != PKV_OK) return status;
    expect_not_captured("an event", stream);
    Event* recorded = event_of(event);
    const uint64_t number = ++recorded->recorded;
    put(stream, [=] { recorded->done = std::max(recorded->done, number); });
    return PKV_OK;
}

int pkvi_gpu_event_order(pkvi_gpu_event* event, pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_ORDER);
    if (status != PKV_OK) return status;
    expect_not_captured("a wait", stream);
    Event* ordered = event_of(event);
    stream_of(stream)->queue.push_back({ordered, ordered->recorded, nullptr});
    return state();
}

int pkvi_gpu_event_wait(pkvi_gpu_event* event) {
    const Guard guard(emulator().lock);
    touch(present());
    const Event* waited = event_of(event);
    return run_until([&] { return waited->done >= waited->recorded; });
}

/* Asking takes time: each question lets one piece of work be done, so that the answer becomes true.
 * */
int pkvi_gpu_event_is_done(pkvi_gpu_event* event, bool* is_done) {
    const Guard guard(emulator().lock);
    const Event* asked = event_of(event);
    const int status = visit(EMULATOR_QUERY);
    if (status != PKV_OK) return status;
    *is_done = asked->done >= asked->recorded;
    if (!*is_done) step_any();
    return state();
}

int pkvi_gpu_copy(void* to, const void* from, uint64_t bytes, pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_COPY);
    if (status == PKV_OK) put(stream, [=] { copy_now(to, from, bytes); });
    return status;
}

int pkvi_gpu_zero(void* memory, uint64_t bytes, pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_ZERO);
    if (status == PKV_OK)
        put(stream, [=] {
            expect_live("fill where there is no memory", memory, bytes);
            std::memset(memory, 0, bytes);
        });
    return status;
}

/* In an order of their own, all at once: the stream sees none or all of them. */
int pkvi_gpu_copy_batch(void* const* to, const void* const* from, uint32_t count, uint64_t bytes,
                        pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    const std::vector<void*> destinations(to, to + count);
    const std::vector<const void*> sources(from, from + count);
    for (uint32_t i = 0; i < count; i++) {
        const int status = visit(EMULATOR_COPY);
        if (status != PKV_OK) return status;
    }
    const uint32_t first = count > 0 ? (uint32_t)draw(count) : 0;
    put(stream, [=] {
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t at = (first + count - i) % count;
            emulator().clock_ns += emulator().copy_ns;
            copy_now(destinations[at], sources[at], bytes);
        }
    });
    return PKV_OK;
}

uint64_t pkvi_gpu_clock_ns(void) {
    const Guard guard(emulator().lock);
    return emulator().clock_ns;
}

/* ---- emulator/system.h ----------------------------------------------------------------------- */

int emulator_prepare(const void* kernel, size_t shared_bytes) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_PREPARE);
    if (status != PKV_OK) return status;
    if (shared_bytes > emulator().shared_bytes) return PKV_EIO;
    emulator().prepared[kernel] = shared_bytes;
    return PKV_OK;
}

int emulator_check(const void* kernel, size_t shared_bytes) {
    const Guard guard(emulator().lock);
    const auto found = emulator().prepared.find(kernel);
    const size_t most = found != emulator().prepared.end() ? found->second : 0;
    return shared_bytes <= std::max(most, SHARED_UNPREPARED) ? PKV_OK : PKV_EIO;
}

int emulator_submit(pkvi_gpu_stream* stream, std::function<void()> run) {
    const Guard guard(emulator().lock);
    const int status = visit(EMULATOR_LAUNCH);
    if (status != PKV_OK) return status;
    const bool is_faulty = is_due(emulator().fault);
    put(stream, [=] {
        if (emulator().is_broken) return;
        emulator().clock_ns += emulator().kernel_ns;
        if (is_faulty)
            emulator().is_broken = true;
        else
            run();
    });
    return PKV_OK;
}

void emulator_fail(emulator_call call, uint32_t after, int status) {
    const Guard guard(emulator().lock);
    emulator().failures[call] = {true, after, status};
}

void emulator_fault(uint32_t after) {
    const Guard guard(emulator().lock);
    emulator().fault = {true, after, PKV_EDEVICE};
}

void emulator_reset(uint64_t seed) {
    const Guard guard(emulator().lock);
    Emulator& e = emulator();
    e.random = seed;
    e.is_broken = false;
    e.fault = {};
    e.contexts = 0;
    e.prepared.clear();
    for (int call = 0; call < EMULATOR_CALLS; call++) {
        e.failures[call] = {};
        e.counts[call] = 0;
    }
}

void emulator_set_shared(uint64_t bytes) {
    const Guard guard(emulator().lock);
    emulator().shared_bytes = bytes;
}

void emulator_set_gpus(uint32_t count, int compute_major, bool is_driver_older) {
    const Guard guard(emulator().lock);
    emulator().devices = (int)count;
    emulator().compute_major = compute_major;
    emulator().is_driver_older = is_driver_older;
}

void emulator_select(int device) {
    selected = device;
}

int emulator_selected(void) {
    return present();
}

uint32_t emulator_contexts(void) {
    const Guard guard(emulator().lock);
    return emulator().contexts;
}

void emulator_set_costs(uint64_t copy_ns, uint64_t kernel_ns) {
    const Guard guard(emulator().lock);
    emulator().copy_ns = copy_ns;
    emulator().kernel_ns = kernel_ns;
}

uint64_t emulator_count(emulator_call call) {
    const Guard guard(emulator().lock);
    return emulator().counts[call];
}

emulator_usage emulator_used(void) {
    const Guard guard(emulator().lock);
    emulator_usage usage = {};
    for (const auto& [begin, allocation] : emulator().memory) {
        (allocation.is_pinned ? usage.pinned_bytes : usage.device_bytes) += allocation.bytes;
        usage.allocations++;
    }
    for (const Stream* stream : emulator().streams)
        usage.queued += (uint32_t)stream->queue.size();
    usage.streams = (uint32_t)emulator().streams.size() - 1;
    usage.events = (uint32_t)emulator().events.size();
    usage.contexts = emulator().contexts_held;
    return usage;
}

/* ---- emulator/graph.h ------------------------------------------------------------------------ */

void graph_capture(pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    expect_not_captured("a second capture", stream);
    stream_of(stream)->captured = new graph;
}

graph* graph_end(pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    graph* ended = stream_of(stream)->captured;
    stream_of(stream)->captured = nullptr;
    return ended;
}

void graph_launch(const graph* launched, pkvi_gpu_stream* stream) {
    const Guard guard(emulator().lock);
    for (const auto& run : launched->work)
        put(stream, run);
}

void graph_close(graph* closed) {
    delete closed;
}

bool emulator_is_here(void) {
    return true;
}

void emulator_set_absent(const char* why) {
    const Guard guard(emulator().lock);
    emulator().absent = why;
}
