/* nodes.c - see nodes.h. */
#include "device/cuda/nodes.h"

_Static_assert(PKVI_GPU_TREE_WORDS * 32 == PKV_TREE_TOKENS_MAX, "a bit for each token of a tree");

uint64_t pkvi_gpu_nodes_max(uint32_t entries, uint32_t tokens) {
    const uint64_t most = (uint64_t)entries * PKV_TREE_TOKENS_MAX;
    return most < tokens ? most : tokens;
}

static bool is_visible(const pkv_group_config* group, uint32_t from, uint32_t position) {
    return group->window == 0 || from - position < group->window || position < group->sinks;
}

static struct pkvi_gpu_node node_of(const pkv_group_config* group, const struct pkvi_tree* tree,
                                    uint32_t row) {
    struct pkvi_gpu_node node = {.position = tree->positions[row]};
    for (uint32_t i = row; i != PKV_NO_PARENT; i = tree->parents[i])
        if (is_visible(group, node.position, tree->positions[i])) node.seen[i / 32] |= 1U << i % 32;
    return node;
}

uint32_t pkvi_gpu_nodes_fill(const struct pkvi_attend_job* job, uint32_t* trees,
                             struct pkvi_gpu_node* nodes) {
    uint32_t count = 0;
    for (uint32_t e = 0; e < job->entries; e++) {
        const struct pkvi_tree* tree = &job->trees[e];
        trees[e] = tree->parents != NULL ? count : (uint32_t)PKVI_GPU_NO_TREE;
        if (tree->parents == NULL) continue;
        for (uint32_t row = 0; row < job->starts[e + 1] - job->starts[e]; row++)
            nodes[count++] = node_of(&job->layout->group, tree, row);
    }
    return count;
}
