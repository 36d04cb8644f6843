/* pack_place.h - where codes go: from words of rows (pack_encode.h) to the packed order (packed.h).
 *
 * Of a whole tile of K, 16 rows by one vector of words are transposed in registers: what was a word
 * of a row is then one of 16 tokens, which is a line of the block. Of a whole tile of V, one, two or
 * eight rows are interleaved. Both give whole lines, which are written past the caches: a prompt's K
 * and V of a layer are larger than what is kept until attention reads them, and lines need not be
 * read before they are overwritten. Pieces of tiles are scattered, element by element.
 *
 * Holds   W2  nothing but the places of the rows is written */
#ifndef PKVI_DEVICE_CPU_PACK_PLACE_H
#define PKVI_DEVICE_CPU_PACK_PLACE_H

#include "device/cpu/pack_encode.h"

/* Where rows of one head go. */
struct pack_place {
    const pkv_group_config* group;
    uint32_t dtype; /* of the cache */
    uint32_t dim;
    uint32_t token;        /* of the first row, in its block */
    unsigned char* to;     /* the head's piece of the block */
    unsigned char* scales; /* behind its elements */
};

/* The tile that begins at the first row. */
static inline unsigned char* pack_tile(const struct pack_place* place) {
    return place->to + (size_t)place->token * place->dim * pkvi_dtype_bits(place->dtype) / 8;
}

/* ---- Whole tiles of K ------------------------------------------------------------------------ */

/* One word of 16 tokens: as it is, a line. */
PACK_INLINE void pack_place_line(unsigned char* to, const vu line[PACK_TILE_VECTORS]) {
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++)
        pack_stream(to + (size_t)i * sizeof(vu), line[i]);
}

/* The lower halves of the words of 16 tokens, then the upper ones. */
PACK_INLINE void pack_split_line(vu line[PACK_TILE_VECTORS]) {
    vu both[2 * PACK_TILE_VECTORS];
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) {
        both[i] = line[i];
        both[PACK_TILE_VECTORS + i] = line[i] >> 16;
    }
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) line[i] =
        pack_narrow_halves(both[2 * i], both[2 * i + 1]);
}

/* Bytes b0 b1 b2 b3 with 4 bits each become b0 | b2 << 4 | b1 << 8 | b3 << 12. */
PACK_INLINE vu pack_nibbles(vu bytes) {
    return (bytes | bytes >> 12) & 0xffffU;
}

/* Dims 0..3 and 4..7 of words of i4, which stand in the first. */
PACK_INLINE void pack_join_lines(vu first[PACK_TILE_VECTORS], const vu second[PACK_TILE_VECTORS]) {
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) {
        const vu a = pack_nibbles(first[i]);
        const vu b = pack_nibbles(second[i]);
        first[i] = (a & 0xffU) | (b & 0xffU) << 8 | (a & 0xff00U) << 8 | (b & 0xff00U) << 16;
    }
}

enum pack_form { PACK_WHOLE, PACK_SPLIT, PACK_JOINED };

PACK_INLINE enum pack_form pack_form_of(const uint32_t dtype) {
    if (dtype == PKV_F32 || dtype == PKV_BF16) return PACK_WHOLE;
    return dtype == PKV_I4 ? PACK_JOINED : PACK_SPLIT;
}

/* Bytes of a dim of 16 tokens. */
PACK_INLINE size_t pack_dim_bytes_of_k(const uint32_t dtype) {
    return PKVI_TILE_TOKENS * pkvi_dtype_bits(dtype) / 8;
}

/* `count` of the WIDTH columns of words of 16 rows. */
PACK_INLINE void pack_place_columns(const enum pack_form form, const vu words[PKVI_TILE_TOKENS],
                                    unsigned char* to, const uint32_t count) {
    vu line[WIDTH][PACK_TILE_VECTORS];
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) {
        vu rows[WIDTH];
        PACK_UNROLL for (int r = 0; r < WIDTH; r++) rows[r] = words[i * WIDTH + r];
        pack_transpose(rows);
        PACK_UNROLL for (int c = 0; c < WIDTH; c++) line[c][i] = rows[c];
    }
    PACK_UNROLL for (uint32_t c = 0; c < WIDTH; c += form == PACK_JOINED ? 2 : 1) {
        if (c >= count) return;
        if (form == PACK_SPLIT) pack_split_line(line[c]);
        if (form == PACK_JOINED) pack_join_lines(line[c], line[c + 1]);
        pack_place_line(to, line[c]);
        to += 64;
    }
}

static void pack_place_whole(const vu* words, unsigned char* to, uint32_t count) {
    pack_place_columns(PACK_WHOLE, words, to, count);
}

static void pack_place_split(const vu* words, unsigned char* to, uint32_t count) {
    pack_place_columns(PACK_SPLIT, words, to, count);
}

static void pack_place_joined(const vu* words, unsigned char* to, uint32_t count) {
    pack_place_columns(PACK_JOINED, words, to, count);
}

/* Words of 16 rows, of which `rest` dims are left. */
PACK_INLINE void pack_place_k(const uint32_t dtype, const vu words[PKVI_TILE_TOKENS],
                              unsigned char* to, uint32_t rest) {
    const uint32_t columns = rest / pack_codes(dtype);
    const uint32_t count = columns < WIDTH ? columns : WIDTH;
    switch (pack_form_of(dtype)) {
    case PACK_WHOLE:
        pack_place_whole(words, to, count);
        break;
    case PACK_SPLIT:
        pack_place_split(words, to, count);
        break;
    default:
        pack_place_joined(words, to, count);
    }
}

/* ---- Whole tiles of V ------------------------------------------------------------------------ */

/* Rows that are interleaved. */
PACK_INLINE uint32_t pack_rows_of_v(const uint32_t dtype) {
    if (dtype == PKV_F32 || dtype == PKV_F16) return 1;
    return dtype == PKV_I4 ? 8 : 2;
}

/* Bytes of a dim of those rows. */
PACK_INLINE size_t pack_dim_bytes_of_v(const uint32_t dtype) {
    return pack_rows_of_v(dtype) * pkvi_dtype_bits(dtype) / 8;
}

/* Words of eight rows of i4, a byte for each code: one word for each dim. Bytes 0 to 3 of it are
 * tokens 0 and 2, 4 and 6, 1 and 3, 5 and 7. */
PACK_INLINE void pack_zip_nibbles(const vu rows[8], vu out[4]) {
    vu low[2];
    vu high[2];
    vu even[2];
    vu odd[2];
    pack_zip_bytes(rows[0] | rows[2] << 4, rows[4] | rows[6] << 4, even);
    pack_zip_bytes(rows[1] | rows[3] << 4, rows[5] | rows[7] << 4, odd);
    pack_zip_halves(even[0], odd[0], low);
    pack_zip_halves(even[1], odd[1], high);
    memcpy(out, low, sizeof low);
    memcpy(out + 2, high, sizeof high);
}

/* Words of pack_rows_of_v() rows, of which `rest` dims are left. */
PACK_INLINE void pack_place_v(const uint32_t dtype, const vu* words, unsigned char* to,
                              uint32_t rest) {
    const size_t bytes = rest * pack_dim_bytes_of_v(dtype);
    vu out[4];
    uint32_t count = 1;
    if (pack_rows_of_v(dtype) == 1)
        out[0] = words[0];
    else if (dtype == PKV_I4)
        pack_zip_nibbles(words, out), count = 4;
    else if (dtype == PKV_BF16)
        pack_zip_halves(words[0], words[1], out), count = 2;
    else
        pack_zip_bytes(words[0], words[1], out), count = 2;
    PACK_UNROLL for (uint32_t i = 0; i < count; i++) {
        if (bytes >= (i + 1) * sizeof(vu))
            pack_stream(to + i * sizeof(vu), out[i]);
        else if (bytes > i * sizeof(vu))
            memcpy(to + i * sizeof(vu), &out[i], sizeof(vu) / 2);
    }
}

/* ---- Pieces of tiles ------------------------------------------------------------------------- */

/* `count` units of `unit` bytes, which lie together at `from` and `step` bytes apart at `to`. */
PACK_INLINE void pack_scatter(unsigned char* to, size_t step, const unsigned char* from,
                              uint32_t count, const size_t unit) {
    for (uint32_t i = 0; i < count; i++)
        memcpy(to + i * step, from + i * unit, unit);
}

/* One row of K as words. */
static void pack_scatter_k(const struct pack_place* place, uint32_t token,
                           const unsigned char* from) {
    const uint32_t dim = place->dim;
    const size_t tile = pkvi_tile_tokens(place->group->block_tokens);
    const size_t lane = token % tile;
    unsigned char* to =
        place->to + (size_t)(token - lane) * dim * pkvi_dtype_bits(place->dtype) / 8;
    switch (place->dtype) {
    case PKV_F32:
        pack_scatter(to + lane * 4, tile * 4, from, dim, 4);
        break;
    case PKV_F16:
        pack_scatter(to + lane * 2, tile * 2, from, dim, 2);
        break;
    case PKV_BF16:
        pack_scatter(to + lane * 4, tile * 4, from, dim / 2, 4);
        break;
    case PKV_I4:
        for (uint32_t d = 0; d < dim; d += 8) {
            uint32_t word = 0;
            for (uint32_t i = 0; i < 8; i++)
                word |= (uint32_t)from[d + i] << pkvi_word_shift(i);
            memcpy(to + lane * 4 + d / 8 * tile * 4, &word, sizeof word);
        }
        break;
    default:
        pack_scatter(to + lane * 2, tile * 2, from, dim / 2, 2);
    }
}

/* And of V. */
static void pack_scatter_v(const struct pack_place* place, uint32_t token,
                           const unsigned char* from) {
    const uint32_t dim = place->dim;
    const size_t code_bytes = 4 / pack_codes(place->dtype);
    unsigned char* to = place->to;
    if (place->dtype == PKV_I4) {
        const uint32_t shift = pkvi_word_shift(token);
        uint32_t* words = (uint32_t*)(void*)to + (size_t)(token / 8) * dim;
        for (uint32_t d = 0; d < dim; d++)
            words[d] = (words[d] & ~(15U << shift)) | (uint32_t)from[d] << shift;
        return;
    }
    if (!pkvi_dtype_is_paired(place->dtype) || place->group->block_tokens == 1) {
        memcpy(to + token * dim * code_bytes, from, dim * code_bytes);
        return;
    }
    to += ((size_t)(token - token % 2) * dim + token % 2) * code_bytes;
    if (code_bytes == 2)
        pack_scatter(to, 4, from, dim, 2);
    else
        pack_scatter(to, 2, from, dim, 1);
}

/* `count` rows of K or V, the first at `token`. */
static void pack_place_scales(const struct pack_place* place, const struct pack_scales* scales,
                              uint32_t count) {
    if (place->dtype != PKV_I4) {
        memcpy(place->scales + place->token * sizeof(float), scales->scale, count * sizeof(float));
        return;
    }
    for (uint32_t g = 0; g < pkvi_scale_groups(place->dim); g++) {
        uint16_t* to =
            (uint16_t*)(void*)place->scales + pkvi_packed_scale(place->dim, place->token, g);
        memcpy(to, scales->halves[g][0], count * sizeof *to);
        memcpy(to + PKVI_TILE_TOKENS, scales->halves[g][1], count * sizeof *to);
    }
}

#endif
