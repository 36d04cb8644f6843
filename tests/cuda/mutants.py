"""Mistakes of the kind that kernels and their host code make: the emulator has to notice each.

A mutant changes a line or two of a source below runtime/device/cuda/. `tools/verify emulate` plants
them one at a time and expects test_kernels, or the test that the mutant names, to fail.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """Replace `old`, which stands exactly once in `file`, by `new`."""

    name: str
    file: str
    old: str
    new: str
    test: str = "kernels"

    def apply(self, text: str) -> str:
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is not there exactly once")
        return text.replace(self.old, self.new)


MUTANTS = [
    # Copies and barriers
    Mutant(
        "decode waits for one copy too few",
        "attend.cuh",
        "gpu::copy_wait<shape::stages - 2>();",
        "gpu::copy_wait<shape::stages - 1>();",
    ),
    Mutant(
        "prefill waits for one copy too few",
        "attend.cuh",
        "gpu::copy_wait<1>();",
        "gpu::copy_wait<2>();",
    ),
    Mutant(
        "lanes read before all copies of their warp are there",
        "attend.cuh",
        "gpu::copy_wait<shape::stages - 2>();\n        gpu::sync_warp();",
        "gpu::copy_wait<shape::stages - 2>();",
    ),
    Mutant(
        "warps read queries before they are there",
        "attend.cuh",
        "DECODE_THREADS, q);\n        gpu::sync_block();",
        "DECODE_THREADS, q);",
    ),
    Mutant(
        "states overwrite tiles that others still read",
        "attend.cuh",
        "gpu::sync_block();\n        store_state",
        "store_state",
    ),
    Mutant(
        "states are merged before they are stored",
        "attend.cuh",
        "shape::state_floats);\n        gpu::sync_block();",
        "shape::state_floats);",
    ),
    Mutant(
        "splits are counted before they are stored",
        "attend.cuh",
        "gpu::fence();\n    gpu::sync_block();\n    if",
        "gpu::fence();\n    if",
    ),
    Mutant(
        "queries of the next item overwrite states",
        "attend.cuh",
        "partials, item.splits, split_floats, nullptr);\n        gpu::sync_block();",
        "partials, item.splits, split_floats, nullptr);",
    ),
    Mutant(
        "prefill reads before all copies are there",
        "attend.cuh",
        "gpu::copy_wait<1>();\n            gpu::sync_block();",
        "gpu::copy_wait<1>();",
    ),
    Mutant(
        "prefill overwrites what others still read",
        "attend.cuh",
        "gpu::sync_block();\n            stage ^= 1;",
        "stage ^= 1;",
    ),
    # Tables and masks
    Mutant(
        "the next page",
        "tile.cuh",
        "from.pages[token / blocks.block_tokens]",
        "from.pages[(token + TILE) / blocks.block_tokens]",
    ),
    Mutant(
        "the place of the page's first tile",
        "tile.cuh",
        "const uint32_t inside = token % blocks.block_tokens;",
        "const uint32_t inside = 0;",
    ),
    Mutant(
        "the first head",
        "tile.cuh",
        "slab + from.kv_head * blocks.k_head_bytes",
        "slab",
    ),
    Mutant("no causal mask", "tile.cuh", "if (token > position) return false;", ""),
    Mutant("a causal mask one off", "tile.cuh", "token > position)", "token > position + 1)"),
    Mutant("a window one off", "tile.cuh", "token < rule.window ||", "token <= rule.window ||"),
    Mutant("no sinks", "tile.cuh", " || token < rule.sinks;", ";"),
    Mutant(
        "slots behind the length",
        "tile.cuh",
        "const bool is_row = i / pieces < rows;",
        "const bool is_row = rows > 0;",
    ),
    Mutant(
        "tiles behind the window",
        "split.h",
        "number < visible.sink_tiles ? number : number + visible.skip;",
        "number;",
    ),
    Mutant(
        "one tile too few",
        "split.h",
        "last / PKVI_GPU_TILE_TOKENS + 1;",
        "(last + PKVI_GPU_TILE_TOKENS - 1) / PKVI_GPU_TILE_TOKENS;",
    ),
    Mutant(
        "warps that skip a tile they see",
        "attend.cuh",
        "if (tokens[0] <= last_place)",
        "if (tokens[0] < last_place)",
    ),
    Mutant(
        "values where keys would end if they were alike",
        "tile.cuh",
        "(v, rows, to + shape::v_offset);",
        "(v, rows, to + TILE * shape::v_pitch);",
    ),
    Mutant(
        "scales of values where those of keys are",
        "tile.cuh",
        "k_scale_offset + (TYPES::key::is_scaled ? scale_bytes : 0);",
        "k_scale_offset;",
    ),
    Mutant(
        "weights rounded as keys are multiplied",
        "tile.cuh",
        "const typename value::number number{};",
        "const typename key::number number{};",
    ),
    # Fragments
    Mutant(
        "values as they lie",
        "tile.cuh",
        "gpu::load_matrices_transposed(words, v_row + at);",
        "gpu::load_matrices(words, v_row + at);",
    ),
    Mutant("rows without padding", "tile.cuh", "PADDING = 16 };", "PADDING = 0 };"),
    Mutant(
        "queries in the order of 16 bits",
        "tile.cuh",
        "return pair / 8 * 8 + pair % 2 * 4 + pair % 8 / 2;",
        "return pair;",
    ),
    Mutant(
        "outputs in the order of 16 bits",
        "tile.cuh",
        "return (uint32_t)(i / 2) * 16 + 2 * n + (uint32_t)(i % 2);",
        "return (uint32_t)i * 8 + n;",
    ),
    Mutant("i8 without its sign", "stored.cuh", "8388608.0F + 128.0F", "8388608.0F"),
    Mutant("e4m3 with half the exponent's bias", "stored.cuh", "0x7b807b80U", "0x7b007b00U"),
    # Softmax
    Mutant(
        "the highest score of two columns",
        "tile.cuh",
        "highest[half] = fmaxf(highest[half], gpu::shuffle_xor(highest[half], 2));",
        "",
    ),
    Mutant("the sum of two columns", "tile.cuh", "sum[h] += gpu::shuffle_xor(sum[h], 2);", ""),
    Mutant("sums of other scores", "tile.cuh", "state.sum[half] *= correction[half];", ""),
    Mutant(
        "outputs of other scores",
        "tile.cuh",
        "gpu::any(correction[0] != 1.0F || correction[1] != 1.0F)",
        "false",
    ),
    Mutant(
        "corrections that only some lanes see",
        "tile.cuh",
        "gpu::any(correction[0] != 1.0F || correction[1] != 1.0F)",
        "gpu::lane() == 0",
    ),
    Mutant("scales of keys", "tile.cuh", "score *= k_scales[column];", "score *= 1.0F;"),
    Mutant(
        "scales of values",
        "tile.cuh",
        "weights[i] * v_scales[column];",
        "weights[i];",
    ),
    Mutant(
        "scales of slots that are not there",
        "tile.cuh",
        "score == -INFINITY ? 0.0F : weights[i] * v_scales[column];",
        "weights[i] * v_scales[column];",
    ),
    Mutant("a soft cap in base e", "tile.cuh", "return softcap * log2_e *", "return softcap *"),
    Mutant(
        "queries in one part",
        "tile.cuh",
        "gpu::load_matrices(a, q + part * part_bytes + q_offset(step));",
        "gpu::load_matrices(a, q + q_offset(step));",
    ),
    Mutant("a sink in base e", "attend.cuh", "row)] * log2_e;", "row)];"),
    Mutant(
        "the sink of another head",
        "attend.cuh",
        "job.sink_logits[query_head(job, item, row)]",
        "job.sink_logits[row % job.group_heads]",
    ),
    Mutant(
        "a sink in each split",
        "attend.cuh",
        "to[d] = value.out;",
        "to[d] = join_sink(job, item, row, value).out;",
    ),
    Mutant(
        "prefill without sinks", "attend.cuh", "* whole.out / whole.sum);", "/ state.sum[half]);"
    ),
    Mutant("lse in base 2", "attend.cuh", "0.693147181F", "1.0F"),
    # Splits
    Mutant(
        "splits in one place",
        "attend.cuh",
        "partials + item.split * split_floats",
        "partials",
    ),
    Mutant("a counter that is not reset", "attend.cuh", "job.merges[item.merge] = 0;", ";"),
    Mutant(
        "splits that depend on the batch",
        "split.c",
        "item.splits = splits_of(visible.count);",
        "item.splits = splits_of(visible.count) / shape->entries + 1;",
    ),
    Mutant(
        "rounds that share too little memory",
        "split.c",
        "if (round->partial_rows + wanted > work->partial_rows) close_round(work, round);",
        "round->partial_rows %= 64;",
    ),
    # Token trees
    Mutant(
        "a row of a tree that sees every row before it",
        "tile.cuh",
        "(rule.seen[half][row / 32] >> row % 32 & 1) != 0;",
        "token <= rule.positions[half];",
    ),
    Mutant(
        "the window of a place and not of a position",
        "tile.cuh",
        "rule.positions[half] = node->position;",
        "",
    ),
    Mutant(
        "the node of the first row",
        "tile.cuh",
        "(row < last ? row : last) / job.group_heads]",
        "0]",
    ),
    Mutant(
        "tiles that a chain would see",
        "split.c",
        "pkvi_gpu_is_tree(shape->trees, item->entry), shape->group_heads",
        "false, shape->group_heads",
    ),
    Mutant(
        "ancestors behind the window",
        "nodes.c",
        "if (is_visible(group, node.position, tree->positions[i])) node",
        "if (group != NULL) node",
    ),
    Mutant(
        "moves from the last one to the first",
        "store.cuh",
        "for (uint32_t m = 0; m < job.count; m++) {",
        "for (uint32_t m = job.count; m-- > 0;) {",
    ),
    Mutant(
        "codes that move without their scale",
        "store.cuh",
        "gpu::lane() == 0) *to.scale",
        "gpu::lane() == 99) *to.scale",
    ),
    Mutant(
        "moves in the first layer alone",
        "store.cuh",
        "blocks.layer_offset = i / 2 / heads * job.layer_bytes;",
        "",
    ),
    # Write
    Mutant(
        "values where keys are",
        "store.cuh",
        "is_value ? blocks.v_offset + head * blocks.v_head_bytes : head",
        "is_value ? head * blocks.v_head_bytes : head",
    ),
    Mutant(
        "the largest number of some lanes",
        "store.cuh",
        "mask < gpu::WARP; mask *= 2",
        "mask < 8; mask *= 2",
    ),
    Mutant(
        "scales of the first slot",
        "store.cuh",
        "blocks.k_scale_offset)) + inside};",
        "blocks.k_scale_offset))};",
    ),
]

# Planted in the whole library, which the test program finds as it finds libpagedkv_cuda.so.
HOST_MUTANTS = [
    # Captured steps
    Mutant(
        "staging memory that is filled before its copy is done",
        "graphs.c",
        "return pkvi_gpu_event_wait(staging_of(graphs)->sent);",
        "return PKV_OK;",
        "graphs",
    ),
    Mutant(
        "a load that copies nothing",
        "graphs.c",
        "return pkvi_gpu_send(graphs->memory, staging->memory, bytes, staging->sent, stream);",
        "return pkvi_gpu_send(graphs->memory, staging->memory, 0, staging->sent, stream);",
        "graphs",
    ),
    Mutant(
        "a load without its block table",
        "graphs.c",
        "*bytes = used + (uint64_t)job->entries * staged->table_stride * sizeof(uint32_t);",
        "*bytes = used;",
        "graphs",
    ),
    Mutant(
        "a load into another place",
        "graphs.c",
        "lay_out(graphs, graphs->memory, &graphs->there);",
        "lay_out(graphs, graphs->memory + graphs->loads, &graphs->there), graphs->there.slots++;",
        "graphs",
    ),
    Mutant(
        "loads that are captured",
        "graphs.c",
        "if (is_captured) return PKV_ENOTSUP;",
        "",
        "graphs",
    ),
    Mutant(
        "rows of the shape and not of the plan",
        "store.cuh",
        "job.head != nullptr ? job.head->tokens : job.tokens;",
        "job.tokens;",
        "graphs",
    ),
    Mutant(
        "a block table where the first one was",
        "attend.cuh",
        "job.block_table + job.head->table_first +",
        "job.block_table + 208 +",
        "graphs",
    ),
    Mutant(
        "a block table with rows of its own length",
        "attend.cuh",
        "(size_t)entry * job.head->table_stride",
        "(size_t)entry * 20",
        "graphs",
    ),
    Mutant(
        "a plan that waits for the first layer that arrives",
        "swaps.c",
        "return await_layer(swaps, job->layout->group.layers - 1, stream);",
        "return await_layer(swaps, 0, stream);",
        "graphs",
    ),
    Mutant(
        "a launch that belongs to no step",
        "swaps.c",
        "mark_table(swaps, &swaps->loaded);",
        "",
        "graphs",
    ),
    # Swapping
    Mutant(
        "a layer that waits for the group before its own",
        "swaps.c",
        "const uint32_t group = layer / swaps->group_layers;",
        "const uint32_t group = layer / swaps->group_layers - (layer >= swaps->group_layers);",
        "swap",
    ),
    Mutant(
        "a copy that waits for no step",
        "swaps.c",
        "return pkvi_gpu_event_order(swaps->steps[last % PKVI_GPU_STEPS], copies);",
        "return PKV_OK;",
        "swap",
    ),
    Mutant(
        "a copy that waits for a step too early",
        "swaps.c",
        "if (last == swaps->step) PKVI_TRY(close_step(swaps, stream));",
        "if (last == swaps->step) last--;",
        "swap",
    ),
    Mutant(
        "blocks that are not said to arrive",
        "swaps.c",
        "swaps->arriving[job->blocks[i]] = (uint8_t)(job->index + 1);",
        "swaps->arriving[job->blocks[i]] = 0;",
        "swap",
    ),
    # The thread of the caller
    Mutant(
        "a call that stays in the context of the GPU",
        "device.c",
        "pkvi_gpu_context_leave(&gpu->context);\n    pthread_mutex_unlock(&gpu->lock);",
        "pthread_mutex_unlock(&gpu->lock);",
        "context",
    ),
    Mutant(
        "memory that is freed from wherever the thread is",
        "device.c",
        "const int entered = pkvi_gpu_context_enter(&gpu->context);\n    pkvi_gpu_wait();",
        "const int entered = PKV_EIO;\n    pkvi_gpu_wait();",
        "context",
    ),
    Mutant(
        "a wait for a transfer from wherever the thread is",
        "transfers.c",
        "const int entered = pkvi_gpu_context_enter(&gpu->context);",
        "const int entered = PKV_EIO;",
        "context",
    ),
    Mutant(
        "a context that nobody closes",
        "device.c",
        "leave(&gpu->context);\n    pkvi_gpu_context_close(&gpu->context);",
        "leave(&gpu->context);",
        "context",
    ),
    # Failures
    Mutant(
        "tables that count as sent though they were not",
        "cells.c",
        "PKVI_TRY(pkvi_gpu_send(cell->memory, cell->staging, bytes, cell->sent, stream));\n"
        "    cell->key = key;",
        "cell->key = key;\n"
        "    PKVI_TRY(pkvi_gpu_send(cell->memory, cell->staging, bytes, cell->sent, stream));",
        "sweep",
    ),
]
