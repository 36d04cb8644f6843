"""A live chat beside a batch job in one cache, with and without quotas: one JSON line for each.

    .venv/bin/python tools/tenant_mix.py [--ticks N] [--seed S]

The chat holds conversations whose turns repeat all that was said before: its hit rate is what it
finds of that. Its working set fits the pool. The batch job reads documents that come once, with
more workers than the pool has room for. Both go through the real library, tick by tick: a turn that
gets no blocks tries again at the next tick; a worker that gets none takes those of younger workers,
which begin again. No model runs: what is counted does not depend on K and V.

    turns         of the chat that were answered
    waits         ticks that turns of the chat had to wait for blocks
    hit_rate      tokens of chat prompts found in the cache, of those that an earlier turn has seen
    batch_tokens  tokens that the batch job computed, work that was given up included
    batch_done    documents it finished
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, field

import pagedkv

CHAT, BATCH = 1, 2
BLOCKS, BLOCK = 512, 16
CONVERSATIONS, TURNS, SAID, ANSWERED = 8, 8, 48, 32  # 8 x 640 tokens: 320 blocks
GUARANTEED = CONVERSATIONS * TURNS * (SAID + ANSWERED) // BLOCK + CONVERSATIONS
WORKERS, DOCUMENT, CHUNK = 16, 704, 64  # 16 x 44 blocks
PAUSE = 12  # ticks between the turns of a conversation
VOCABULARY = 1 << 20


@dataclass
class Counts:
    """What one run came to."""

    turns: int = 0
    waits: int = 0
    seen: int = 0  # tokens of prompts that an earlier turn had committed
    found: int = 0
    batch_tokens: int = 0
    batch_done: int = 0


@dataclass
class Conversation:
    """Turns of one chat; between them nothing but the cache remembers it."""

    history: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    next_tick: int = 0

    def go_on(self, tick: int, cache: pagedkv.Cache, draw: random.Random, counts: Counts) -> None:
        if tick < self.next_tick:
            return
        if len(self.history) >= TURNS * (SAID + ANSWERED):
            self.history = []
        if not self.asked:
            self.asked = tokens(draw, SAID)
        prompt = self.history + self.asked
        with cache.sequence(CHAT) as sequence:
            found = sequence.match(prompt[:-1])
            try:
                answer = tokens(draw, ANSWERED)
                for part in (prompt[found:], answer):
                    cache.step([(sequence, part)]).commit()
            except MemoryError:
                counts.waits += 1
                return
        counts.turns += 1
        counts.seen += len(self.history) // BLOCK * BLOCK
        counts.found += found
        self.history = prompt + answer
        self.asked = []
        self.next_tick = tick + PAUSE


class Worker:
    """Reads one document after the other."""

    def __init__(self, cache: pagedkv.Cache) -> None:
        self.cache = cache
        self.sequence = cache.sequence(BATCH)

    def go_on(self, draw: random.Random, counts: Counts) -> bool:
        if len(self.sequence) >= DOCUMENT:
            counts.batch_done += 1
            self.begin_again()
        try:
            self.cache.step([(self.sequence, tokens(draw, CHUNK))]).commit()
        except MemoryError:
            return False
        counts.batch_tokens += CHUNK
        return True

    def begin_again(self) -> None:
        self.sequence.close()
        self.sequence = self.cache.sequence(BATCH)


def run_batch(workers: list[Worker], draw: random.Random, counts: Counts) -> None:
    """Who has read most goes first, and takes blocks from who has read least."""
    waiting = sorted(workers, key=lambda worker: -len(worker.sequence))
    while waiting:
        worker = waiting.pop(0)
        while not worker.go_on(draw, counts) and waiting:
            waiting.pop().begin_again()


def tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(VOCABULARY) for _ in range(count)]


def run(
    ticks: int, seed: int, workers: int, quotas: dict[int, dict[str, int]]
) -> dict[str, object]:
    """One mix from its beginning to its end."""
    draw = random.Random(seed)
    counts = Counts()
    with pagedkv.Cache(
        layers=1, kv_heads=1, head_dim=16, blocks=BLOCKS, block_tokens=BLOCK, tenants=2, seed=1,
        threads=1,
    ) as cache:  # fmt: skip
        for tenant in (CHAT, BATCH):
            cache.set_tenant(tenant, **quotas.get(tenant, {}))
        chat = [Conversation(next_tick=PAUSE * i // CONVERSATIONS) for i in range(CONVERSATIONS)]
        batch = [Worker(cache) for _ in range(workers)]
        for tick in range(ticks):
            run_batch(batch, draw, counts)
            for conversation in chat:
                conversation.go_on(tick, cache, draw, counts)
        cache.check()
    return {
        "turns": counts.turns,
        "waits": counts.waits,
        "hit_rate": round(counts.found / max(counts.seen, 1), 4),
        "batch_tokens": counts.batch_tokens,
        "batch_done": counts.batch_done,
    }


CASES: dict[str, tuple[int, dict[int, dict[str, int]]]] = {
    "chat alone": (0, {}),
    "no quotas": (WORKERS, {}),
    "chat guaranteed": (WORKERS, {CHAT: {"guaranteed": GUARANTEED}}),
    "batch limited": (WORKERS, {BATCH: {"limit": BLOCKS - GUARANTEED}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for name, (workers, quotas) in CASES.items():
        result = run(arguments.ticks, arguments.seed, workers, quotas)
        print(json.dumps({"case": name, **result}), flush=True)


if __name__ == "__main__":
    main()
