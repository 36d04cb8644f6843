/* tree.c - see tree.h. */
#include "core/tree.h"

#include "core/cache.h"

/* ---- Begin ----------------------------------------------------------------------------------- */

static bool is_chain(const uint32_t* parents, uint32_t count) {
    if (parents[0] != PKV_NO_PARENT) return false;
    for (uint32_t i = 1; i < count; i++)
        if (parents[i] != i - 1) return false;
    return true;
}

int pkvi_tree_admit(const uint32_t* parents, uint32_t count) {
    if (count > PKV_TREE_TOKENS_MAX) return PKV_ETOOBIG;
    for (uint32_t i = 0; i < count; i++)
        if (parents[i] >= i && parents[i] != PKV_NO_PARENT) return PKV_EINVAL;
    return PKV_OK;
}

void pkvi_tree_fill(struct pkvi_plan* plan, uint32_t index, const uint32_t* parents,
                    uint32_t length) {
    const uint32_t first = plan->starts[index];
    const uint32_t count = plan->starts[index + 1] - first;
    uint32_t* const own = plan->parents + first;
    uint32_t* const positions = plan->positions + first;
    plan->trees[index] = (struct pkvi_tree){NULL, NULL};
    if (parents == NULL || is_chain(parents, count)) return;
    for (uint32_t i = 0; i < count; i++) {
        own[i] = parents[i];
        positions[i] = own[i] == PKV_NO_PARENT ? length : positions[own[i]] + 1;
    }
    plan->trees[index] = (struct pkvi_tree){own, positions};
    plan->tree_count++;
}

/* ---- Accept ---------------------------------------------------------------------------------- */

static uint32_t parent_of(const struct pkvi_tree* tree, uint32_t row) {
    if (tree->parents != NULL) return tree->parents[row];
    return row > 0 ? row - 1 : (uint32_t)PKV_NO_PARENT;
}

static uint32_t path_row(const pkv_path* path, uint32_t i) {
    return path->rows != NULL ? path->rows[i] : i;
}

int pkvi_tree_check_path(const struct pkvi_plan* plan, uint32_t index, const pkv_path* path) {
    const uint32_t count = plan->starts[index + 1] - plan->starts[index];
    uint32_t before = PKV_NO_PARENT;
    if (path->count > count) return PKV_EINVAL;
    for (uint32_t i = 0; i < path->count; i++) {
        const uint32_t row = path_row(path, i);
        if (row >= count) return PKV_EINVAL;
        if (parent_of(&plan->trees[index], row) != before) return PKV_EINVAL;
        before = row;
    }
    return PKV_OK;
}

int pkvi_tree_move(pkv_cache* cache, const struct pkvi_plan* plan, const pkv_path* paths) {
    struct pkvi_move_job job = {
        .layout = &cache->layout,
        .space = &cache->pool.space,
        .from = cache->scratch.from,
        .to = cache->scratch.to,
    };
    for (uint32_t entry = 0; entry < plan->entries; entry++) {
        const uint32_t* slots = plan->slots + plan->starts[entry];
        for (uint32_t i = 0; i < paths[entry].count; i++) {
            const uint32_t row = path_row(&paths[entry], i);
            if (row == i) continue;
            cache->scratch.from[job.count] = slots[row];
            cache->scratch.to[job.count++] = slots[i];
        }
    }
    return job.count > 0 ? cache->device->ops->move(cache->device, &job) : PKV_OK;
}

/* Where the id of a token is, which is known. */
static uint32_t* id_at(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t place) {
    const uint32_t page = pkvi_pool_page(&cache->pool, place);
    const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
    return pkvi_pool_tokens(&cache->pool, block) + pkvi_pool_offset(&cache->pool, place);
}

void pkvi_tree_prune(pkv_cache* cache, struct pkvi_seq* seq, const pkv_path* path) {
    const bool is_known = seq->known == seq->length + seq->reserved;
    for (uint32_t i = 0; is_known && i < path->count; i++)
        *id_at(cache, seq, seq->length + i) = *id_at(cache, seq, seq->length + path_row(path, i));
    cache->stats.tokens_rejected += seq->reserved - path->count;
    pkvi_seq_keep_reserved(cache, seq, path->count);
}
