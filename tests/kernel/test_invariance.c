/* test_invariance.c - the output of a sequence is the same bits whatever surrounds it.
 *
 *   test_invariance [--shapes N] [--seed S] [--isa LEVEL]
 *
 * Each random shape is computed once, plainly: one thread, one placement, all entries in one call.
 * Then again with something changed that must not matter: other blocks, other threads, the
 * application's threads, each entry alone, entries in another order among strangers, and cut into
 * chunks whose later tokens are not written yet. Output and lse must be equal bit for bit. The
 * canary flips one bit of one stored value. */
#include "kernel/rig.h"

#include "base/hash.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHAPES_DEFAULT = 300 };

static const pkv_parallel_hook no_hook = {NULL, NULL};

/* What a variation needs: the shape, the level, and the plain result. */
struct trial {
    const struct shape* shape;
    const char* isa;
    const struct scene* plain;
};

static bool attend(struct rig* rig, struct scene* scene) {
    const struct pkvi_attend_job job = scene_job(scene);
    return rig->device->ops->attend(rig->device, &job) == PKV_OK;
}

/* Compute `shape` in a scene of its own; the caller closes it. */
static struct scene* compute(const struct shape* shape, const char* isa, uint64_t placement,
                             uint32_t threads, pkv_parallel_hook hook) {
    struct rig rig;
    rig_open(&rig, shape, isa, threads, hook);
    struct scene* scene = scene_open(shape, placement, rig_write, &rig);
    if (!attend(&rig, scene)) {
        printf("attend failed\n");
        exit(1);
    }
    rig_close(&rig);
    return scene;
}

static bool is_plain(const struct trial* trial, struct scene* scene) {
    const bool same = rig_same_bits(trial->plain, 0, scene, 0, trial->plain->out.rows);
    scene_close(scene);
    return same;
}

/* ---- Variations ------------------------------------------------------------------------------ */

static bool in_other_blocks(const struct trial* trial) {
    return is_plain(trial, compute(trial->shape, trial->isa, 77, 1, no_hook));
}

static bool on_two_threads(const struct trial* trial) {
    return is_plain(trial, compute(trial->shape, trial->isa, 1, 2, no_hook));
}

static bool on_three_threads(const struct trial* trial) {
    return is_plain(trial, compute(trial->shape, trial->isa, 1, 3, no_hook));
}

/* An application that runs tasks last one first. */
static void run_backwards(void* ctx, uint32_t count, void (*task)(void* arg, uint32_t index),
                          void* arg) {
    (void)ctx;
    for (uint32_t index = count; index > 0; index--)
        task(arg, index - 1);
}

/* And one that starts a thread for each. */
struct started {
    pthread_t thread;
    void (*task)(void* arg, uint32_t index);
    void* arg;
    uint32_t index;
};

static void* started_main(void* arg) {
    struct started* started = arg;
    started->task(started->arg, started->index);
    return NULL;
}

static void run_apart(void* ctx, uint32_t count, void (*task)(void* arg, uint32_t index),
                      void* arg) {
    struct started all[8];
    (void)ctx;
    if (count > 8) abort(); /* more than the threads that were asked for */
    for (uint32_t i = 0; i < count; i++) {
        all[i] = (struct started){.task = task, .arg = arg, .index = i};
        if (pthread_create(&all[i].thread, NULL, started_main, &all[i]) != 0) abort();
    }
    for (uint32_t i = 0; i < count; i++)
        pthread_join(all[i].thread, NULL);
}

static bool on_a_hook_backwards(const struct trial* trial) {
    const pkv_parallel_hook hook = {run_backwards, NULL};
    return is_plain(trial, compute(trial->shape, trial->isa, 1, 5, hook));
}

static bool on_a_hook_apart(const struct trial* trial) {
    const pkv_parallel_hook hook = {run_apart, NULL};
    return is_plain(trial, compute(trial->shape, trial->isa, 1, 4, hook));
}

static bool each_alone(const struct trial* trial) {
    bool same = true;
    for (uint32_t e = 0; e < trial->shape->entry_count; e++) {
        struct shape alone = *trial->shape;
        alone.entry_count = 1;
        alone.entries[0] = trial->shape->entries[e];
        struct scene* scene = compute(&alone, trial->isa, 3, 1 + e % 2, no_hook);
        same &=
            rig_same_bits(trial->plain, trial->plain->starts[e], scene, 0, alone.entries[0].fresh);
        scene_close(scene);
    }
    return same;
}

/* Backwards, and with a stranger first when there is room. */
static bool among_strangers(const struct trial* trial) {
    const struct shape* shape = trial->shape;
    struct shape other = *shape;
    const uint32_t strangers = shape->entry_count < SCENE_ENTRIES_MAX ? 1 : 0;
    other.entry_count += strangers;
    other.entries[0] = (struct entry){.who = 99, .length = 37, .fresh = 5};
    for (uint32_t e = 0; e < shape->entry_count; e++)
        other.entries[strangers + e] = shape->entries[shape->entry_count - 1 - e];
    struct scene* scene = compute(&other, trial->isa, 4, 1, no_hook);
    bool same = true;
    for (uint32_t e = 0; e < shape->entry_count; e++) {
        const uint32_t there = strangers + shape->entry_count - 1 - e;
        same &= rig_same_bits(trial->plain, trial->plain->starts[e], scene, scene->starts[there],
                              shape->entries[e].fresh);
    }
    scene_close(scene);
    return same;
}

/* One entry, a few query rows a call. What later calls will compute is not written yet: its slots
 * are NaN. */
static bool entry_is_same_in_chunks(const struct trial* trial, uint32_t e, uint64_t* random) {
    const struct entry* whole = &trial->shape->entries[e];
    struct shape shape = *trial->shape;
    shape.entry_count = 1;
    shape.entries[0] = *whole;
    struct rig rig;
    rig_open(&rig, &shape, trial->isa, 2, no_hook);
    struct scene* written = scene_open(&shape, 5, NULL, NULL); /* the blocks for all chunks */
    const uint32_t block_tokens = shape.group.block_tokens;
    const uint32_t past = whole->length - whole->fresh;
    for (uint32_t page = 0; page * block_tokens < past; page++) {
        const uint32_t end = (page + 1) * block_tokens;
        if (scene_page_is_there(&shape, 0, page))
            scene_write(written, 0, page * block_tokens, end < past ? end : past, rig_write, &rig);
    }
    bool same = true;
    for (uint32_t done = 0; done < whole->fresh;) {
        const uint32_t rest = whole->fresh - done;
        const uint32_t count = 1 + (uint32_t)(pkvi_random_next(random) % (rest < 50 ? rest : 50));
        struct shape part = shape;
        part.entries[0].length = past + done + count;
        part.entries[0].fresh = count;
        scene_write(written, 0, past + done, past + done + count, rig_write, &rig);
        struct scene* chunk = scene_open(&part, 5, NULL, NULL); /* for its queries and output */
        struct pkvi_attend_job job = scene_job(chunk);
        job.space = &written->space;
        job.block_table = written->block_table;
        same &= rig.device->ops->attend(rig.device, &job) == PKV_OK;
        same &= rig_same_bits(trial->plain, trial->plain->starts[e] + done, chunk, 0, count);
        scene_close(chunk);
        done += count;
    }
    scene_close(written);
    rig_close(&rig);
    return same;
}

static bool in_chunks(const struct trial* trial) {
    uint64_t random = trial->shape->seed;
    if (trial->shape->trees) return true; /* a tree has no chunks */
    for (uint32_t e = 0; e < trial->shape->entry_count; e++)
        if (!entry_is_same_in_chunks(trial, e, &random)) return false;
    return true;
}

struct variation {
    const char* name;
    bool (*is_same)(const struct trial* trial);
};

static const struct variation variations[] = {
    {"in other blocks", in_other_blocks},
    {"on two threads", on_two_threads},
    {"on three threads", on_three_threads},
    {"on the application's threads, in reverse order", on_a_hook_backwards},
    {"on the application's threads, at once", on_a_hook_apart},
    {"each entry alone", each_alone},
    {"in another order, among strangers", among_strangers},
    {"in chunks", in_chunks},
};

/* ---- Canary ---------------------------------------------------------------------------------- */

/* A flipped bit of the first value of the first visible token has to change the bits of the output.
 * */
static bool flip_is_seen(const char* isa) {
    struct shape shape = shape_random(1);
    shape.group.window = 0;
    shape.softcap = 0.0F;
    shape.out_dtype = PKV_F32;
    struct rig rig;
    rig_open(&rig, &shape, isa, 1, no_hook);
    struct scene* plain = compute(&shape, isa, 1, 1, no_hook);
    struct scene* scene = scene_open(&shape, 1, rig_write, &rig);
    unsigned char* slab = pkvi_space_block(&scene->space, scene->block_table[0]) +
                          (shape.group.layers - 1) * scene->layout.layer_bytes;
    slab[scene->layout.v_offset] ^= 0x80;
    attend(&rig, scene);
    const bool seen = !rig_same_bits(plain, 0, scene, 0, plain->out.rows);
    scene_close(scene);
    scene_close(plain);
    rig_close(&rig);
    return seen;
}

/* ---- Main ------------------------------------------------------------------------------------ */

static int check_shape(const struct shape* shape, const char* isa, uint64_t seed) {
    struct scene* plain = compute(shape, isa, 1, 1, no_hook);
    const struct trial trial = {shape, isa, plain};
    int failures = 0;
    for (size_t i = 0; i < sizeof variations / sizeof *variations; i++) {
        if (variations[i].is_same(&trial)) continue;
        printf("level %s: not the same bits %s\n", isa, variations[i].name);
        failures++;
    }
    if (failures > 0) {
        shape_print(shape);
        printf("again with: test_invariance --shapes 1 --seed %llu --isa %s\n",
               (unsigned long long)seed, isa);
    }
    scene_close(plain);
    return failures;
}

int main(int argc, char** argv) {
    const char* const* levels = rig_levels(rig_word(argc, argv, "--isa", NULL));
    const uint64_t shapes = rig_number(argc, argv, "--shapes", SHAPES_DEFAULT);
    const uint64_t seed = rig_number(argc, argv, "--seed", 100000);
    if (levels[0] == NULL) {
        printf("not run: this machine has no such level\n");
        return 77;
    }
    for (int level = 0; levels[level] != NULL; level++) {
        if (!flip_is_seen(levels[level])) {
            printf("canary: a flipped bit was not seen at level %s\n", levels[level]);
            return 1;
        }
        for (uint64_t i = 0; i < shapes; i++) {
            struct shape shape = shape_random(seed + i);
            shape.trees = (seed + i) % 4 == 0;
            if (check_shape(&shape, levels[level], seed + i) != 0) return 1;
        }
        printf("{\"test\": \"invariance\", \"isa\": \"%s\", \"shapes\": %llu, \"variations\": %zu, "
               "\"differences\": 0}\n",
               levels[level], (unsigned long long)shapes, sizeof variations / sizeof *variations);
    }
    return 0;
}
