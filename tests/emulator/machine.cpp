/* machine.cpp - see machine.h. */
#include "device/cuda/machine.h"

#include "device/codec.h"
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <ucontext.h>
#include <vector>

namespace {

emulator_counters emulator_count;

enum { STACK_BYTES = 256 * 1024, BORDER_BYTES = 256, ALIGNMENT = 128, EXCHANGE_WORDS = 8 };

std::mt19937_64 draws;

uint32_t draw(uint32_t limit) {
    return (uint32_t)(draws() % limit);
}

template <class Sequence> void shuffle(Sequence& sequence) {
    for (size_t i = sequence.size(); i > 1; i--)
        std::swap(sequence[i - 1], sequence[draw((uint32_t)i)]);
}

/* ---- Fibers ---------------------------------------------------------------------------------- */

struct copy {
    unsigned char* to;
    const unsigned char* from;
    bool is_there;
};

enum class waiting { no, for_warp, for_block, done };

struct fiber {
    ucontext_t context;
    jmp_buf resume;
    std::unique_ptr<unsigned char[]> stack;
    bool has_begun;
    waiting state;
    std::vector<copy> open;                /* not committed */
    std::vector<std::vector<copy>> groups; /* committed, oldest first */
};

/* What lanes hand in and get back when they do something together. */
struct exchange {
    const char* what; /* the first lane to arrive says */
    uint32_t arrived;
    alignas(16) uint32_t in[gpu::WARP][EXCHANGE_WORDS];
    alignas(16) uint32_t out[gpu::WARP][EXCHANGE_WORDS];
};

/* One thread block that is being run. */
struct thread_block {
    std::vector<fiber> fibers;
    std::vector<exchange> warps;
    std::vector<unsigned char> memory;
    unsigned char* shared;
    uint32_t number;
    uint32_t at_barrier;
    uint32_t finished;
    bool is_greedy; /* a warp runs on until it has to wait for another one */
    std::vector<uint32_t> order;
};

/* Several thread blocks run at a time and take turns, as on a multiprocessor. */
enum { RESIDENT_MAX = 3 };

struct {
    thread_block resident[RESIDENT_MAX];
    thread_block* block; /* whose turn it is */
    uint32_t thread;     /* and which of its threads runs */
    uint32_t threads;
    uint32_t blocks;
    size_t shared_bytes;
    const std::function<void()>* kernel;
    jmp_buf scheduler;
} m;

fiber& self() {
    return m.block->fibers[m.thread];
}

[[noreturn]] void fail(const char* what) {
    fprintf(stderr, "emulator: %s (block %u, thread %u)\n", what, m.block->number, m.thread);
    fflush(stderr);
    abort();
}

void leave() {
    if (_setjmp(self().resume) == 0) _longjmp(m.scheduler, 1);
}

void run_thread() {
    (*m.kernel)();
    if (!self().open.empty() || !self().groups.empty()) fail("copies were never waited for");
    self().state = waiting::done;
    m.block->finished++;
    _longjmp(m.scheduler, 1);
}

void enter(uint32_t thread) {
    m.thread = thread;
    fiber& next = self();
    if (_setjmp(m.scheduler) != 0) return;
    if (next.has_begun) _longjmp(next.resume, 1);
    next.has_begun = true;
    getcontext(&next.context);
    next.context.uc_stack.ss_sp = next.stack.get();
    next.context.uc_stack.ss_size = STACK_BYTES;
    next.context.uc_link = nullptr;
    makecontext(&next.context, run_thread, 0);
    setcontext(&next.context);
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

bool borders_are_whole(const thread_block& block) {
    const unsigned char* end = block.shared + m.shared_bytes;
    bool whole = true;
    for (int i = 0; i < BORDER_BYTES; i++)
        whole &= block.shared[-1 - i] == 0xa5 && end[i] == 0xa5;
    return whole;
}

void open_shared(thread_block& block) {
    block.memory.assign(m.shared_bytes + 2 * BORDER_BYTES + ALIGNMENT, 0xa5);
    const uintptr_t at = (uintptr_t)block.memory.data() + BORDER_BYTES;
    block.shared = (unsigned char*)((at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    memset(block.shared, 0xff, m.shared_bytes);
}

/* Warps in any order, and lanes in any order within. */
std::vector<uint32_t> draw_order() {
    std::vector<uint32_t> warps(m.threads / gpu::WARP);
    std::vector<uint32_t> lanes(gpu::WARP);
    std::vector<uint32_t> order;
    std::iota(warps.begin(), warps.end(), 0U);
    std::iota(lanes.begin(), lanes.end(), 0U);
    shuffle(warps);
    for (uint32_t warp : warps) {
        shuffle(lanes);
        for (uint32_t lane : lanes)
            order.push_back(warp * gpu::WARP + lane);
    }
    return order;
}

void open_block(thread_block& block, uint32_t number) {
    if (block.fibers.size() < m.threads) block.fibers.resize(m.threads);
    for (uint32_t i = 0; i < m.threads; i++) {
        fiber& it = block.fibers[i];
        if (it.stack == nullptr) it.stack = std::make_unique<unsigned char[]>(STACK_BYTES);
        it.has_begun = false;
        it.state = waiting::no;
    }
    block.warps.assign(m.threads / gpu::WARP, exchange());
    block.number = number;
    block.at_barrier = 0;
    block.finished = 0;
    block.is_greedy = draw(2) == 0;
    block.order = draw_order();
    open_shared(block);
    emulator_count.blocks++;
}

/* Let the lanes of one warp that can run do so, once each. */
bool run_lanes(thread_block& block, uint32_t first) {
    bool moved = false;
    for (uint32_t i = first; i < first + gpu::WARP; i++)
        if (block.fibers[block.order[i]].state == waiting::no) {
            enter(block.order[i]);
            moved = true;
        }
    return moved;
}

/* A turn of a block, in which one warp runs. Is the block done? */
bool run_turn(thread_block& block) {
    const uint32_t start = draw(m.threads / gpu::WARP) * gpu::WARP;
    bool moved = false;
    m.block = &block;
    for (uint32_t i = 0; i < m.threads && !moved; i += gpu::WARP)
        while (run_lanes(block, (start + i) % m.threads)) {
            moved = true;
            if (!block.is_greedy) break;
        }
    if (!moved) fail("threads wait for others that never come");
    if (block.finished < m.threads) return false;
    if (!borders_are_whole(block)) fail("something was written outside shared memory");
    return true;
}

/* ---- Together -------------------------------------------------------------------------------- */

exchange& own_exchange() {
    return m.block->warps[m.thread / gpu::WARP];
}

uint32_t* own_input() {
    return own_exchange().in[m.thread % gpu::WARP];
}

const uint32_t* own_output() {
    return own_exchange().out[m.thread % gpu::WARP];
}

/* Wait until all lanes are here; the last one does `work` for all of them. */
template <class Work> void together(const char* what, Work work) {
    exchange& warp = own_exchange();
    if (warp.arrived == 0) warp.what = what;
    if (strcmp(warp.what, what) != 0) fail("lanes of a warp do different things together");
    if (++warp.arrived < gpu::WARP) {
        self().state = waiting::for_warp;
        leave();
        return;
    }
    work(warp);
    warp.arrived = 0;
    const uint32_t first = m.thread / gpu::WARP * gpu::WARP;
    for (uint32_t i = first; i < first + gpu::WARP; i++)
        m.block->fibers[i].state = waiting::no;
}

void check_shared(const void* at, size_t bytes, size_t alignment) {
    const unsigned char* address = (const unsigned char*)at;
    if ((uintptr_t)at % alignment != 0) fail("an address in shared memory is not aligned");
    if (address < m.block->shared || address + bytes > m.block->shared + m.shared_bytes)
        fail("an address lies outside shared memory");
}

void count_conflicts(const exchange& warp, int matrix) {
    int seen[8] = {0};
    for (int row = 0; row < 8; row++) {
        uint64_t address;
        memcpy(&address, warp.in[matrix * 8 + row] + 4, sizeof address);
        if (seen[address / 16 % 8]++ > 0) emulator_count.conflicts++;
    }
}

uint16_t element_of(const exchange& warp, int matrix, int row, int column) {
    uint16_t element;
    memcpy(&element, (const unsigned char*)warp.in[matrix * 8 + row] + column * 2, sizeof element);
    return element;
}

void load(uint32_t (&words)[4], const void* row, bool is_transposed) {
    check_shared(row, 16, 16);
    const uint64_t address = (uintptr_t)row;
    memcpy(own_input(), row, 16);
    memcpy(own_input() + 4, &address, sizeof address);
    together(is_transposed ? "load_matrices_transposed" : "load_matrices", [=](exchange& warp) {
        emulator_count.matrices++;
        for (int matrix = 0; matrix < 4; matrix++) {
            count_conflicts(warp, matrix);
            for (int lane = 0; lane < gpu::WARP; lane++) {
                const int a = lane / 4;
                const int b = lane % 4 * 2;
                const uint32_t low =
                    is_transposed ? element_of(warp, matrix, b, a) : element_of(warp, matrix, a, b);
                const uint32_t high = is_transposed ? element_of(warp, matrix, b + 1, a)
                                                    : element_of(warp, matrix, a, b + 1);
                warp.out[lane][matrix] = low | high << 16;
            }
        }
    });
    memcpy(words, own_output(), sizeof words);
}

template <class Number> float half_of(uint32_t pair, int half) {
    return gpu::unpack(Number(), (uint16_t)(pair >> 16 * half));
}

/* Sums in f32, in the order of k; the hardware's order is its own. */
template <class Number> void multiply_warp(exchange& warp) {
    float a[16][16];
    float b[16][8];
    emulator_count.products++;
    for (int lane = 0; lane < gpu::WARP; lane++)
        for (int half = 0; half < 2; half++) {
            const int r = lane / 4;
            const int c = lane % 4 * 2 + half;
            for (int i = 0; i < 4; i++)
                a[r + i % 2 * 8][c + i / 2 * 8] = half_of<Number>(warp.in[lane][i], half);
            for (int i = 0; i < 2; i++)
                b[c + i * 8][r] = half_of<Number>(warp.in[lane][4 + i], half);
        }
    for (int lane = 0; lane < gpu::WARP; lane++)
        for (int i = 0; i < 4; i++) {
            float sum = 0.0F;
            for (int k = 0; k < 16; k++)
                sum += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
            memcpy(&warp.out[lane][i], &sum, sizeof sum);
        }
}

template <class Number>
void multiply(const char* what, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    memcpy(own_input(), a, sizeof a);
    own_input()[4] = b0;
    own_input()[5] = b1;
    together(what, multiply_warp<Number>);
    for (int i = 0; i < 4; i++)
        c[i] += pkvi_bits_float(own_output()[i]);
}

} // namespace

void emulator_seed(uint64_t seed) {
    draws.seed(seed);
}

emulator_counters emulator_counters_get() {
    return emulator_count;
}

void emulator_run(uint32_t blocks, uint32_t threads, size_t shared_bytes,
                  const std::function<void()>& kernel) {
    std::vector<uint32_t> order(blocks);
    std::vector<thread_block*> running;
    std::iota(order.begin(), order.end(), 0U);
    shuffle(order);
    m.kernel = &kernel;
    m.threads = threads;
    m.blocks = blocks;
    m.shared_bytes = shared_bytes;
    for (uint32_t i = 0; i < RESIDENT_MAX && i < blocks; i++) {
        running.push_back(&m.resident[i]);
        open_block(*running[i], order[i]);
    }
    uint32_t next = (uint32_t)running.size();
    while (!running.empty()) {
        const uint32_t turn = draw((uint32_t)running.size());
        if (!run_turn(*running[turn])) continue;
        if (next < blocks)
            open_block(*running[turn], order[next++]);
        else
            running.erase(running.begin() + turn);
    }
}

/* ---- The primitives -------------------------------------------------------------------------- */

namespace gpu {

uint32_t thread() {
    return m.thread;
}
uint32_t block() {
    return m.block->number;
}
uint32_t blocks() {
    return m.blocks;
}
unsigned char* shared() {
    return m.block->shared;
}

void copy_async(void* to, const void* from, bool is_there) {
    check_shared(to, 16, 16);
    if ((uintptr_t)from % 16 != 0) fail("the source of a copy is not aligned");
    memset(to, 0xff, 16);
    self().open.push_back({(unsigned char*)to, (const unsigned char*)from, is_there});
    emulator_count.copies++;
}

void copy_commit() {
    self().groups.push_back(std::move(self().open));
    self().open.clear();
}

void copy_wait_for(int groups) {
    std::vector<std::vector<copy>>& committed = self().groups;
    while ((int)committed.size() > groups) {
        for (const copy& it : committed.front()) {
            if (it.is_there)
                memcpy(it.to, it.from, 16);
            else
                memset(it.to, 0, 16);
        }
        committed.erase(committed.begin());
    }
}

void load_matrices(uint32_t (&words)[4], const void* row) {
    load(words, row, false);
}
void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
    load(words, row, true);
}
void multiply_add(bf16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ::multiply<bf16>("multiply_add of bf16", c, a, b0, b1);
}
void multiply_add(f16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ::multiply<f16>("multiply_add of f16", c, a, b0, b1);
}

float shuffle_xor(float value, int mask) {
    *own_input() = pkvi_float_bits(value);
    together("shuffle_xor", [](exchange& warp) {
        for (int lane = 0; lane < WARP; lane++)
            warp.out[lane][0] = warp.in[lane][0];
    });
    return pkvi_bits_float(own_exchange().out[m.thread % WARP ^ mask][0]);
}

bool any(bool condition) {
    *own_input() = condition;
    together("any", [](exchange& warp) {
        uint32_t result = 0;
        for (int lane = 0; lane < WARP; lane++)
            result |= warp.in[lane][0];
        for (int lane = 0; lane < WARP; lane++)
            warp.out[lane][0] = result;
    });
    return *own_output() != 0;
}

void sync_warp() {
    together("sync_warp", [](exchange&) {});
}

void sync_block() {
    if (++m.block->at_barrier < m.threads) {
        self().state = waiting::for_block;
        leave();
        return;
    }
    m.block->at_barrier = 0;
    for (uint32_t i = 0; i < m.threads; i++)
        m.block->fibers[i].state = waiting::no;
}

uint32_t count_up(uint32_t* counter) {
    return (*counter)++;
}

float multiply(float a, float b) {
    volatile float product = a * b;
    return product;
}
uint32_t pack(bf16, float first, float second) {
    return pkvi_float_to_bf16(first) | (uint32_t)pkvi_float_to_bf16(second) << 16;
}
uint32_t pack(f16, float first, float second) {
    return pkvi_float_to_f16(first) | (uint32_t)pkvi_float_to_f16(second) << 16;
}
float unpack(bf16, uint16_t bits) {
    return pkvi_bf16_to_float(bits);
}
float unpack(f16, uint16_t bits) {
    return pkvi_f16_to_float(bits);
}
uint32_t multiply_pairs(uint32_t a, uint32_t b) {
    return pack(bf16(), half_of<bf16>(a, 0) * half_of<bf16>(b, 0),
                half_of<bf16>(a, 1) * half_of<bf16>(b, 1));
}
uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = a | (uint64_t)b << 32;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++)
        result |= (uint32_t)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
float float_of_bits(uint32_t bits) {
    return pkvi_bits_float(bits);
}

} // namespace gpu
