/* limits.c - what this machine can do at most: reading, copying, and arithmetic in registers.
 *
 * Each limit is a loop that does one thing, compiled for several instruction sets by target
 * attributes and chosen by what the processor says it has. Several threads start together and the
 * time runs from the first start to the last end. Limits are measured beside every figure, so that
 * each takes some ten milliseconds and not more. */
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    THREADS_MAX = 64,
    HUGE_PAGE_BYTES = 2 << 20,
    PIECE_BYTES = 64 << 10,  /* into which memory is cut for threads */
    SEQUENTIAL_AHEAD = 4096, /* bytes prefetched ahead: best of 512 .. 32768 on Zen 4 */
    PEAK_ROUNDS = 2000000,
};

double bench_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- Threads that start together ------------------------------------------------------------- */

struct team {
    void (*task)(void* arg, uint32_t index, uint32_t count);
    void* arg;
    uint32_t count;
    _Atomic uint32_t ready;
};

struct member {
    struct team* team;
    uint32_t index;
    double begin;
    double end;
};

static void* run_member(void* arg) {
    struct member* member = arg;
    struct team* team = member->team;
    atomic_fetch_add(&team->ready, 1);
    while (atomic_load(&team->ready) < team->count) {
    }
    member->begin = bench_now();
    team->task(team->arg, member->index, team->count);
    member->end = bench_now();
    return NULL;
}

/* Seconds that task(arg, 0 .. count) takes on so many threads, the caller's included. */
static double run_team(void (*task)(void* arg, uint32_t index, uint32_t count), void* arg,
                       uint32_t threads) {
    pthread_t handles[THREADS_MAX];
    struct member members[THREADS_MAX];
    struct team team = {.task = task, .arg = arg, .count = 1};
    if (threads > THREADS_MAX) threads = THREADS_MAX;
    team.count = threads;
    for (uint32_t i = 0; i < threads; i++)
        members[i] = (struct member){.team = &team, .index = i};
    for (uint32_t i = 1; i < threads; i++)
        if (pthread_create(&handles[i], NULL, run_member, &members[i]) != 0) abort();
    run_member(&members[0]);
    for (uint32_t i = 1; i < threads; i++)
        pthread_join(handles[i], NULL);
    double begin = members[0].begin;
    double end = members[0].end;
    for (uint32_t i = 1; i < threads; i++) {
        if (members[i].begin < begin) begin = members[i].begin;
        if (members[i].end > end) end = members[i].end;
    }
    return end - begin;
}

#if defined(__x86_64__)
static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") != 0;
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
}
#endif

/* ---- Reading --------------------------------------------------------------------------------- */

/* Sums keep the compiler from dropping loads. */
static _Atomic uint64_t sink;

/* Define a function that adds up `bytes` (a multiple of 256) in vectors of `width` bytes and
 * prefetches the same lines behind `ahead`, when that is not NULL. */
#define DEFINE_READ(name, width, attributes)                                                       \
    attributes static uint64_t name(const unsigned char* from, uint64_t bytes,                     \
                                    const unsigned char* ahead) {                                  \
        typedef uint64_t vector __attribute__((vector_size(width)));                               \
        enum { LANES = 256 / (width) };                                                            \
        vector sums[LANES] = {{0}};                                                                \
        for (uint64_t i = 0; i < bytes; i += 256) {                                                \
            if (ahead != NULL)                                                                     \
                for (uint64_t line = 0; line < 256; line += 64)                                    \
                    __builtin_prefetch(ahead + i + line, 0, 2);                                    \
            for (int lane = 0; lane < LANES; lane++)                                               \
                sums[lane] += *(const vector*)(const void*)(from + i + lane * (width));            \
        }                                                                                          \
        for (int lane = 1; lane < LANES; lane++)                                                   \
            sums[0] += sums[lane];                                                                 \
        uint64_t total = 0;                                                                        \
        for (int element = 0; element < (width) / 8; element++)                                    \
            total += sums[0][element];                                                             \
        return total;                                                                              \
    }

DEFINE_READ(read_base, 16, )
#if defined(__x86_64__)
DEFINE_READ(read_avx2, 32, __attribute__((target("avx2"))))
DEFINE_READ(read_avx512, 64, __attribute__((target("avx512f"))))
#endif

typedef uint64_t read_function(const unsigned char* from, uint64_t bytes,
                               const unsigned char* ahead);

static read_function* best_read(void) {
#if defined(__x86_64__)
    if (has_avx512()) return read_avx512;
    if (has_avx2()) return read_avx2;
#endif
    return read_base;
}

struct read_job {
    const unsigned char* const* pieces;
    uint64_t count;
    uint64_t piece_bytes;
    uint64_t pieces_ahead; /* 0: no prefetch */
    read_function* read;
};

/* A thread's share of the pieces is one run of them, as that of an attention thread is. */
static void read_share(void* arg, uint32_t index, uint32_t threads) {
    const struct read_job* job = arg;
    const uint64_t end = job->count * (index + 1) / threads;
    uint64_t sum = 0;
    for (uint64_t i = job->count * index / threads; i < end; i++) {
        const uint64_t next = i + job->pieces_ahead < end ? i + job->pieces_ahead : i;
        sum += job->read(job->pieces[i], job->piece_bytes,
                         job->pieces_ahead > 0 ? job->pieces[next] : NULL);
    }
    atomic_fetch_add_explicit(&sink, sum, memory_order_relaxed);
}

double bench_read_pieces(const unsigned char* const* pieces, uint64_t count, uint64_t piece_bytes,
                         uint64_t ahead, uint32_t threads) {
    struct read_job job = {
        .pieces = pieces,
        .count = count,
        .piece_bytes = piece_bytes,
        .pieces_ahead = (ahead + piece_bytes - 1) / piece_bytes,
        .read = best_read(),
    };
    return run_team(read_share, &job, threads);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

struct bench_limits {
    unsigned char* memory; /* at the start of a huge page */
    uint64_t bytes;
    void* mapping;
    uint64_t mapping_bytes;
    uint64_t ahead; /* of the sequential read that runs */
    bool is_past_caches;
};

int bench_limits_open(uint64_t bytes, struct bench_limits** limits) {
    struct bench_limits* opened = calloc(1, sizeof *opened);
    if (opened == NULL) return PKV_ENOMEM;
    opened->bytes = bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    opened->mapping_bytes = opened->bytes + 2 * HUGE_PAGE_BYTES; /* room for prefetches behind */
    opened->mapping = mmap(NULL, opened->mapping_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (opened->mapping == MAP_FAILED) {
        free(opened);
        return PKV_ENOMEM;
    }
#ifdef MADV_HUGEPAGE
    madvise(opened->mapping, opened->mapping_bytes, MADV_HUGEPAGE);
#endif
    memset(opened->mapping, 1, opened->mapping_bytes);
    opened->memory =
        (unsigned char*)opened->mapping + -(uintptr_t)opened->mapping % HUGE_PAGE_BYTES;
    *limits = opened;
    return PKV_OK;
}

void bench_limits_close(struct bench_limits* limits) {
    if (limits == NULL) return;
    munmap(limits->mapping, limits->mapping_bytes);
    free(limits);
}

static void read_sequential(void* arg, uint32_t index, uint32_t threads) {
    const struct bench_limits* limits = arg;
    const uint64_t pieces = limits->bytes / PIECE_BYTES;
    const uint64_t begin = pieces * index / threads * PIECE_BYTES;
    const uint64_t end = pieces * (index + 1) / threads * PIECE_BYTES;
    const unsigned char* const from = limits->memory + begin;
    const uint64_t sum =
        best_read()(from, end - begin, limits->ahead > 0 ? from + limits->ahead : NULL);
    atomic_fetch_add_explicit(&sink, sum, memory_order_relaxed);
}

double bench_limits_read(struct bench_limits* limits, uint32_t threads) {
    limits->ahead = 0;
    const double plain = run_team(read_sequential, limits, threads);
    limits->ahead = SEQUENTIAL_AHEAD;
    const double prefetched = run_team(read_sequential, limits, threads);
    return (double)limits->bytes / (plain < prefetched ? plain : prefetched);
}

/* Copy past the caches; `bytes` is a multiple of 64. */
static void copy_past_caches(unsigned char* to, const unsigned char* from, uint64_t bytes) {
#if defined(__x86_64__)
    for (uint64_t i = 0; i < bytes; i += 64)
        for (uint64_t part = i; part < i + 64; part += 16)
            _mm_stream_si128((__m128i*)(void*)(to + part),
                             _mm_load_si128((const __m128i*)(const void*)(from + part)));
    _mm_sfence();
#else
    memcpy(to, from, bytes);
#endif
}

/* The second half of the memory goes into the first. */
static void copy_share(void* arg, uint32_t index, uint32_t threads) {
    const struct bench_limits* limits = arg;
    const uint64_t half = limits->bytes / 2;
    const uint64_t pieces = half / PIECE_BYTES;
    const uint64_t begin = pieces * index / threads * PIECE_BYTES;
    const uint64_t end = pieces * (index + 1) / threads * PIECE_BYTES;
    const unsigned char* const from = limits->memory + half + begin;
    if (limits->is_past_caches)
        copy_past_caches(limits->memory + begin, from, end - begin);
    else
        memcpy(limits->memory + begin, from, end - begin);
}

double bench_limits_copy(struct bench_limits* limits, uint32_t threads) {
    limits->is_past_caches = false;
    const double plain = run_team(copy_share, limits, threads);
    limits->is_past_caches = true;
    const double past = run_team(copy_share, limits, threads);
    return (double)(limits->bytes / 2) / (plain < past ? plain : past);
}

/* ---- Arithmetic ------------------------------------------------------------------------------ */

/* Define a function that keeps `count` independent accumulators busy: enough to hide the latency of
 * the instruction. The barrier makes the operands unknown to the compiler in every round. */
#define DEFINE_PEAK(name, count, type, operand, zero, one, step, attributes)                       \
    attributes static void name(void* arg, uint32_t index, uint32_t threads) {                     \
        (void)arg;                                                                                 \
        (void)index;                                                                               \
        (void)threads;                                                                             \
        type sums[count];                                                                          \
        operand x = one;                                                                           \
        operand y = one;                                                                           \
        for (int i = 0; i < (count); i++)                                                          \
            sums[i] = zero;                                                                        \
        for (int round = 0; round < PEAK_ROUNDS; round++) {                                        \
            __asm__ volatile("" : "+" PEAK_REGISTER(x), "+" PEAK_REGISTER(y));                     \
            _Pragma("GCC unroll 32") for (int i = 0; i < (count); i++) sums[i] =                   \
                step(sums[i], x, y);                                                               \
        }                                                                                          \
        for (int i = 0; i < (count); i++)                                                          \
            __asm__ volatile("" : : PEAK_REGISTER(sums[i]));                                       \
    }

#if defined(__x86_64__)
#define PEAK_REGISTER(value) "v"(value)
#define FMA_512(sum, x, y)   _mm512_fmadd_ps(x, y, sum)
#define FMA_256(sum, x, y)   _mm256_fmadd_ps(x, y, sum)
#define FMA_128(sum, x, y)   _mm_add_ps(_mm_mul_ps(x, y), sum)
#define BF16_512(sum, x, y)  _mm512_dpbf16_ps(sum, (__m512bh)(x), (__m512bh)(y))
#define INT8_512(sum, x, y)  _mm512_dpbusd_epi32(sum, x, y)
DEFINE_PEAK(fma_avx512, 16, __m512, __m512, _mm512_setzero_ps(), _mm512_set1_ps(0.5F), FMA_512,
            __attribute__((target("avx512f"))))
DEFINE_PEAK(fma_avx2, 12, __m256, __m256, _mm256_setzero_ps(), _mm256_set1_ps(0.5F), FMA_256,
            __attribute__((target("avx2,fma"))))
DEFINE_PEAK(fma_base, 12, __m128, __m128, _mm_setzero_ps(), _mm_set1_ps(0.5F), FMA_128, )
DEFINE_PEAK(bf16_avx512, 16, __m512, __m512i, _mm512_setzero_ps(), _mm512_set1_epi16(0x3f00),
            BF16_512, __attribute__((target("avx512f,avx512bw,avx512bf16"))))
DEFINE_PEAK(int8_avx512, 16, __m512i, __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1),
            INT8_512, __attribute__((target("avx512f,avx512bw,avx512vnni"))))
#else
#define PEAK_REGISTER(value) "w"(value)
typedef float bench_float4 __attribute__((vector_size(16)));
#define FMA_128(sum, x, y)   ((sum) + (x) * (y))
DEFINE_PEAK(fma_base, 16, bench_float4, bench_float4, (bench_float4){0}, ((bench_float4){1}),
            FMA_128, )
#endif

static double peak_of(void (*task)(void*, uint32_t, uint32_t), double operations,
                      uint32_t threads) {
    return operations * PEAK_ROUNDS * threads / run_team(task, NULL, threads);
}

double bench_peak(uint32_t kind, uint32_t threads) {
#if defined(__x86_64__)
    if (kind == BENCH_PEAK_FMA && has_avx512()) return peak_of(fma_avx512, 16 * 32, threads);
    if (kind == BENCH_PEAK_FMA && has_avx2()) return peak_of(fma_avx2, 12 * 16, threads);
    if (kind == BENCH_PEAK_FMA) return peak_of(fma_base, 12 * 8, threads);
    if (kind == BENCH_PEAK_BF16 && __builtin_cpu_supports("avx512bf16"))
        return peak_of(bf16_avx512, 16 * 64, threads);
    if (kind == BENCH_PEAK_INT8 && __builtin_cpu_supports("avx512vnni"))
        return peak_of(int8_avx512, 16 * 128, threads);
    return 0.0;
#else
    return kind == BENCH_PEAK_FMA ? peak_of(fma_base, 16 * 8, threads) : 0.0;
#endif
}
