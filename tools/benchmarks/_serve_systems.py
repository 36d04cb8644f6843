"""One serving system in a process of its own, for `tools/bench serve`.

    parent -> argv      {"system", "case", "requests", "folder", "threads"} as JSON
    child  -> stdout    {"ready": ...}                      loaded; which kernels it computes with
    parent -> stdin     one line                            serve all requests once
    child  -> stdout    {"seconds": ..., "tokens": [...], "kv_bytes": ...}
    ...                                                     until stdin ends

A process each, so that the threads of one BLAS never spin beside those of another, and so that
only the one that serves does anything. The clock runs from the prompts, as lists of token ids, to
all tokens, and includes what a system sets up for a batch, such as its cache.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Protocol

from benchmarks._serve_cases import CASES, Case

# pagedkv
BLOCK_TOKENS = 16
STEP_TOKENS = 512
# generate_batch, by trial on the smaller case
PAGE_SIZE = 64
BATCH_TOKENS = 128


class System(Protocol):
    """A loaded model."""

    def kernels(self) -> str:
        """What the matrix products run on."""
        ...

    def serve(self, prompts: list[list[int]], new: list[int]) -> tuple[list[list[int]], int]:
        """Continue each prompt greedily by as many tokens as `new` says; returns them, and the most
        bytes of K and V that were in use."""
        ...


class PagedKV:
    """The engine of this package: NumPy over the paged cache."""

    def __init__(self, case: Case, folder: Path, threads: int) -> None:
        import numpy as np
        from pagedkv.cli import blas
        from pagedkv.engine import Model, load_checkpoint

        self.np = np
        blas.limit_threads(threads)
        self.threads = threads
        self.model = Model(load_checkpoint(folder))

    def kernels(self) -> str:
        from pagedkv.cli import blas

        return f"{', '.join(blas.kernels()) or 'unknown'} (NumPy)"

    def serve(self, prompts: list[list[int]], new: list[int]) -> tuple[list[list[int]], int]:
        from pagedkv.engine import Engine, Request, cache_for

        config, batch = self.model.config, len(prompts)
        blocks = sum(
            -(-(len(prompt) + count) // BLOCK_TOKENS)
            for prompt, count in zip(prompts, new, strict=True)
        )
        with cache_for(
            config,
            blocks,
            BLOCK_TOKENS,
            batch=batch,
            step_tokens=STEP_TOKENS,
            threads=self.threads,
        ) as cache:
            requests = [
                Request(str(place), self.np.array(prompt, self.np.uint32), count)
                for place, (prompt, count) in enumerate(zip(prompts, new, strict=True))
            ]
            done = Engine(self.model, cache, batch, STEP_TOKENS).run(requests)
            block_bytes = 2 * 4 * config.layers * config.kv_heads * config.head_dim * BLOCK_TOKENS
            kv_bytes = cache.stats().blocks_peak * block_bytes
        return [completion.tokens.tolist() for completion in done], kv_bytes


class Transformers:
    """What both ways of transformers share."""

    def __init__(self, case: Case, folder: Path, threads: int) -> None:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.transformers = torch, transformers
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def kernels(self) -> str:
        return f"torch {self.torch.__version__}, {self.torch.backends.cpu.get_cpu_capability()}"


class StaticBatch(Transformers):
    """`generate` over one batch, padded on the left to the longest prompt, until the longest
    request is done: what it computes beyond a request's own length is dropped."""

    def serve(self, prompts: list[list[int]], new: list[int]) -> tuple[list[list[int]], int]:
        torch = self.torch
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        out = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(new),
            do_sample=False,
            pad_token_id=0,
            use_cache=True,
            return_dict_in_generate=True,
        )
        kv_bytes = sum(
            layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers
        )
        rows = out.sequences[:, longest:].tolist()
        return [row[:count] for row, count in zip(rows, new, strict=True)], kv_bytes


class GenerateBatch(Transformers):
    """Continuous batching of transformers: `generate_batch`, taken apart as its manager because
    each request has a length of its own. Settings by trial: see PAGE_SIZE and BATCH_TOKENS."""

    def serve(self, prompts: list[list[int]], new: list[int]) -> tuple[list[list[int]], int]:
        blocks = sum(
            -(-(len(prompt) + count) // PAGE_SIZE) + 1
            for prompt, count in zip(prompts, new, strict=True)
        )
        settings = self.transformers.ContinuousBatchingConfig(
            page_size=PAGE_SIZE,
            num_blocks=blocks,
            max_batch_tokens=BATCH_TOKENS,
            max_requests_per_batch=len(prompts),
            allow_block_sharing=False,
        )
        generation = self.transformers.GenerationConfig(
            max_new_tokens=max(new), do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        context = self.model.continuous_batching_context_manager(
            generation_config=generation, continuous_batching_config=settings, warmup=False
        )
        results: dict[str, list[int]] = {}
        with context as manager:
            names = [
                manager.add_request(prompt, max_new_tokens=count)
                for prompt, count in zip(prompts, new, strict=True)
            ]
            while len(results) < len(names):
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    results[result.request_id] = list(result.generated_tokens)
                elif result is None and not manager.is_running():
                    raise RuntimeError("continuous batching ended before its requests did")
        config = self.model.config
        token_bytes = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads
        kv_bytes = blocks * PAGE_SIZE * token_bytes * config.head_dim
        return [results[name] for name in names], kv_bytes


SYSTEMS: dict[str, Any] = {
    "pagedkv": PagedKV,
    "generate_batch": GenerateBatch,
    "padded batch": StaticBatch,
}


def main(argument: str) -> None:
    job = json.loads(argument)
    case = CASES[job["case"]].first(job["requests"])
    # About a missing psutil and what a GPU would offer; a request that is lost raises all the same.
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    answers = sys.stdout
    sys.stdout = sys.stderr
    system: System = SYSTEMS[job["system"]](case, Path(job["folder"]), job["threads"])
    prompts, new = case.prompts(), [count for _, count in case.lengths()]
    # A short serving first: libraries load, threads start, memory is mapped.
    system.serve([prompt[:8] for prompt in prompts[:2]], [4, 4])
    print(json.dumps({"ready": system.kernels()}), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        tokens, kv_bytes = system.serve(prompts, new)
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "tokens": tokens, "kv_bytes": kv_bytes}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
