/* test_reserve.c - what a reservation moves, byte for byte: a copied tail is the whole block, codes,
 * scales and padding; a block that changes tenant is zero to its last byte.
 *
 * Through the public interface a scale without codes cannot be seen: it decodes to zeros. */
#include "unit.h"

#include "api/typed.h"
#include "core/cache.h"

static const unsigned char* block_bytes(struct typed t, pkv_seq seq, uint32_t page) {
    uint32_t block;
    ASSERT_OK(pkv_seq_blocks(t.cache, seq, 0, page, page + 1, &block));
    return pkvi_space_block(&t.cache->pool.space, block);
}

static bool is_zero(const unsigned char* bytes, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        if (bytes[i] != 0) return false;
    return true;
}

/* Are there scales of the first head, which could get lost? */
static bool has_scales(struct typed t, const unsigned char* block, bool is_value) {
    const struct pkvi_layout* layout = &t.cache->layout;
    const uint64_t offset = is_value ? layout->v_scale_offset : layout->k_scale_offset;
    const uint64_t bytes = is_value ? layout->v_head_bytes : layout->k_head_bytes;
    return !is_zero(block + (is_value ? layout->v_offset : 0) + offset, bytes - offset);
}

static void expect_scales(struct typed t, const unsigned char* block) {
    if (pkvi_dtype_is_scaled(t.group.k_dtype)) ASSERT(has_scales(t, block, false));
    if (pkvi_dtype_is_scaled(t.group.v_dtype)) ASSERT(has_scales(t, block, true));
}

static void copy_a_tail(struct typed t) {
    const uint64_t bytes = t.cache->layout.block_bytes;
    uint32_t tokens[12];
    pkv_seq child;
    typed_tokens(tokens, 12, 1);
    const pkv_seq parent = fixture_seq(t.cache, 0);
    typed_extend(t, parent, tokens, 11);
    const unsigned char* source = block_bytes(t, parent, 0);
    unsigned char* before = malloc(bytes);
    ASSERT(before != NULL);
    memcpy(before, source, bytes);
    expect_scales(t, source);
    ASSERT_OK(pkv_seq_fork(t.cache, parent, &child));
    ASSERT_OK(pkv_seq_append(t.cache, child, tokens + 11, 1, NULL));
    const unsigned char* copy = block_bytes(t, child, 0);
    ASSERT(copy != source);
    ASSERT_MEM(copy, before, bytes);
    typed_write(t, child, tokens + 11, 1);
    ASSERT_MEM(source, before, bytes);
    free(before);
}

TEST(a_copied_tail_is_the_whole_block) {
    typed_for_all(copy_a_tail);
}

static void change_hands(struct typed t) {
    const uint64_t bytes = t.cache->layout.block_bytes;
    uint32_t tokens[TYPED_TOKENS_MAX];
    typed_tokens(tokens, TYPED_TOKENS_MAX, 1);
    const pkv_seq before = fixture_seq(t.cache, 1);
    typed_extend(t, before, tokens, TYPED_TOKENS_MAX);
    for (uint32_t page = 0; page < TYPED_TOKENS_MAX / TYPED_BLOCK; page++)
        expect_scales(t, block_bytes(t, before, page));
    ASSERT_OK(pkv_seq_free(t.cache, before));
    const pkv_seq after = fixture_seq(t.cache, 2);
    ASSERT_OK(pkv_seq_append(t.cache, after, NULL, TYPED_TOKENS_MAX, NULL));
    for (uint32_t page = 0; page < TYPED_TOKENS_MAX / TYPED_BLOCK; page++)
        ASSERT(is_zero(block_bytes(t, after, page), bytes));
}

TEST(a_block_of_another_tenant_is_zero_to_the_last_byte) {
    typed_for_all(change_hands);
}

/* The tail that was copied for a tenant may be taken from what another left. */
static void copy_into_foreign_blocks(struct typed t) {
    uint32_t tokens[TYPED_TOKENS_MAX];
    pkv_seq child;
    typed_tokens(tokens, TYPED_TOKENS_MAX, 1);
    const pkv_seq other = fixture_seq(t.cache, 1);
    typed_extend(t, other, tokens, TYPED_TOKENS_MAX);
    ASSERT_OK(pkv_seq_free(t.cache, other));
    const pkv_seq parent = fixture_seq(t.cache, 2);
    typed_extend(t, parent, tokens, 3);
    ASSERT_OK(pkv_seq_fork(t.cache, parent, &child));
    ASSERT_OK(pkv_seq_append(t.cache, child, tokens + 3, 20, NULL));
    ASSERT_MEM(block_bytes(t, child, 0), block_bytes(t, parent, 0), t.cache->layout.block_bytes);
    ASSERT(is_zero(block_bytes(t, child, 1), t.cache->layout.block_bytes));
}

TEST(a_tail_is_copied_into_what_another_tenant_left) {
    typed_for_all(copy_into_foreign_blocks);
}
