/* machine.cpp - see machine.h. */
#include "device/cuda/machine.h"

#include "device/codec.h"
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
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

struct machine {
    std::vector<fiber> fibers;
    std::vector<exchange> warps;
    std::vector<unsigned char> memory;
    unsigned char* shared;
    size_t shared_bytes;
    uint32_t threads;
    uint32_t current;
    uint32_t at_block_barrier;
    uint32_t finished;
    uint32_t block;
    uint32_t blocks;
    jmp_buf scheduler;
    ucontext_t scheduler_context;
    const std::function<void()>* kernel;
} m;

[[noreturn]] void fail(const char* what) {
    fprintf(stderr, "emulator: %s (block %u, thread %u)\n", what, m.block, m.current);
    fflush(stderr);
    abort();
}

void leave() {
    if (_setjmp(m.fibers[m.current].resume) == 0) _longjmp(m.scheduler, 1);
}

void run_thread() {
    (*m.kernel)();
    fiber& self = m.fibers[m.current];
    if (!self.open.empty() || !self.groups.empty()) fail("copies were never waited for");
    self.state = waiting::done;
    m.finished++;
    _longjmp(m.scheduler, 1);
}

void enter(uint32_t thread) {
    m.current = thread;
    fiber& next = m.fibers[thread];
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

bool borders_are_whole() {
    const unsigned char* end = m.shared + m.shared_bytes;
    bool whole = true;
    for (int i = 0; i < BORDER_BYTES; i++)
        whole &= m.shared[-1 - i] == 0xa5 && end[i] == 0xa5;
    return whole;
}

void open_shared(size_t bytes) {
    m.memory.assign(bytes + 2 * BORDER_BYTES + ALIGNMENT, 0xa5);
    const uintptr_t at = (uintptr_t)m.memory.data() + BORDER_BYTES;
    m.shared = (unsigned char*)((at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    m.shared_bytes = bytes;
    memset(m.shared, 0xff, bytes);
}

void open_fibers(uint32_t threads) {
    if (m.fibers.size() < threads) m.fibers.resize(threads);
    for (uint32_t i = 0; i < threads; i++) {
        fiber& it = m.fibers[i];
        if (it.stack == nullptr) it.stack = std::make_unique<unsigned char[]>(STACK_BYTES);
        it.has_begun = false;
        it.state = waiting::no;
    }
    m.warps.assign(threads / gpu::WARP, exchange());
}

void run_block(const std::vector<uint32_t>& order) {
    m.at_block_barrier = 0;
    m.finished = 0;
    while (m.finished < m.threads) {
        bool moved = false;
        for (uint32_t thread : order)
            if (m.fibers[thread].state == waiting::no) {
                enter(thread);
                moved = true;
            }
        if (!moved) fail("threads wait for others that never come");
    }
}

/* Warps in any order, and lanes in any order within. */
std::vector<uint32_t> draw_order(uint32_t threads) {
    std::vector<uint32_t> warps(threads / gpu::WARP);
    std::vector<uint32_t> lanes(gpu::WARP);
    std::vector<uint32_t> order;
    for (uint32_t i = 0; i < warps.size(); i++)
        warps[i] = i;
    for (uint32_t i = 0; i < gpu::WARP; i++)
        lanes[i] = i;
    shuffle(warps);
    for (uint32_t warp : warps) {
        shuffle(lanes);
        for (uint32_t lane : lanes)
            order.push_back(warp * gpu::WARP + lane);
    }
    return order;
}

/* ---- Together -------------------------------------------------------------------------------- */

exchange& own_exchange() {
    return m.warps[m.current / gpu::WARP];
}

uint32_t* own_input() {
    return own_exchange().in[m.current % gpu::WARP];
}

const uint32_t* own_output() {
    return own_exchange().out[m.current % gpu::WARP];
}

/* Wait until all lanes are here; the last one does `work` for all of them. */
template <class Work> void together(const char* what, Work work) {
    exchange& warp = own_exchange();
    const uint32_t self = m.current;
    if (warp.arrived == 0) warp.what = what;
    if (strcmp(warp.what, what) != 0) fail("lanes of a warp do different things together");
    if (++warp.arrived < gpu::WARP) {
        m.fibers[self].state = waiting::for_warp;
        leave();
        return;
    }
    work(warp);
    warp.arrived = 0;
    for (uint32_t i = self / gpu::WARP * gpu::WARP, n = 0; n < gpu::WARP; n++, i++)
        m.fibers[i].state = waiting::no;
}

void check_shared(const void* at, size_t bytes, size_t alignment) {
    const unsigned char* address = (const unsigned char*)at;
    if ((uintptr_t)at % alignment != 0) fail("an address in shared memory is not aligned");
    if (address < m.shared || address + bytes > m.shared + m.shared_bytes)
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
                const uint32_t low = is_transposed ? element_of(warp, matrix, b, a)
                                                   : element_of(warp, matrix, a, b);
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
    for (uint32_t i = 0; i < blocks; i++)
        order[i] = i;
    shuffle(order);
    m.kernel = &kernel;
    m.threads = threads;
    m.blocks = blocks;
    for (uint32_t block : order) {
        m.block = block;
        open_shared(shared_bytes);
        open_fibers(threads);
        run_block(draw_order(threads));
        emulator_count.blocks++;
        if (!borders_are_whole()) fail("something was written outside shared memory");
    }
}

/* ---- The primitives -------------------------------------------------------------------------- */

namespace gpu {

uint32_t thread() {
    return m.current;
}
uint32_t block() {
    return m.block;
}
uint32_t blocks() {
    return m.blocks;
}
unsigned char* shared() {
    return m.shared;
}

void copy_async(void* to, const void* from, bool is_there) {
    check_shared(to, 16, 16);
    if ((uintptr_t)from % 16 != 0) fail("the source of a copy is not aligned");
    memset(to, 0xff, 16);
    m.fibers[m.current].open.push_back(
        {(unsigned char*)to, (const unsigned char*)from, is_there});
    emulator_count.copies++;
}

void copy_commit() {
    fiber& self = m.fibers[m.current];
    self.groups.push_back(std::move(self.open));
    self.open.clear();
}

void copy_wait_for(int groups) {
    fiber& self = m.fibers[m.current];
    while ((int)self.groups.size() > groups) {
        for (const copy& it : self.groups.front()) {
            if (it.is_there)
                memcpy(it.to, it.from, 16);
            else
                memset(it.to, 0, 16);
        }
        self.groups.erase(self.groups.begin());
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
    return pkvi_bits_float(own_exchange().out[m.current % WARP ^ mask][0]);
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
    if (++m.at_block_barrier < m.threads) {
        m.fibers[m.current].state = waiting::for_block;
        leave();
        return;
    }
    m.at_block_barrier = 0;
    for (uint32_t i = 0; i < m.threads; i++) {
        if (m.fibers[i].state == waiting::done) fail("a thread has left before a barrier");
        m.fibers[i].state = waiting::no;
    }
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
