"""The cases of `tools/bench serve`: a checkpoint to be made and the requests to be served.

Checkpoints are random Llama models, drawn and saved by transformers, so that every system loads the
same config.json and model.safetensors. Weights are drawn with a standard deviation of
SPREAD / sqrt(hidden): scores of attention then spread over one or two units and tokens depend on
their context, where the usual 0.02 gives a small model that hardly looks back. There is no stop
token: every request generates exactly what it asks for.
"""

from __future__ import annotations

import importlib
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SPREAD = 1.25


@dataclass(frozen=True)
class Case:
    """What is served.

    geometry     fields of a LlamaConfig
    seed         of the weights and of the prompts
    requests     how many
    prompt, new  shortest and longest, drawn evenly; equal for fixed lengths
    threads      for every system; 0: all cores
    """

    name: str
    what: str
    geometry: dict[str, int]
    seed: int
    requests: int
    prompt: tuple[int, int]
    new: tuple[int, int]
    threads: int

    def first(self, requests: int) -> Case:
        """The same case with its first `requests` requests only."""
        return replace(self, requests=min(requests, self.requests))

    def lengths(self) -> list[tuple[int, int]]:
        """(prompt, new) tokens of each request."""
        draw = random.Random(self.seed)
        return [(draw.randint(*self.prompt), draw.randint(*self.new)) for _ in range(self.requests)]

    def prompts(self) -> list[list[int]]:
        """Random token ids."""
        draw = random.Random(self.seed + 1)
        vocab = self.geometry["vocab_size"]
        return [[draw.randrange(vocab) for _ in range(count)] for count, _ in self.lengths()]


CASES = {
    case.name: case
    for case in (
        Case(
            name="156m",
            what="8 layers, d=1024, 16/4 heads, 156 M parameters; 512 + 128 tokens",
            geometry={
                "num_hidden_layers": 8,
                "hidden_size": 1024,
                "intermediate_size": 2816,
                "num_attention_heads": 16,
                "num_key_value_heads": 4,
                "vocab_size": 32000,
                "max_position_embeddings": 2048,
            },
            seed=1,
            requests=32,
            prompt=(512, 512),
            new=(128, 128),
            threads=0,
        ),
        Case(
            name="19m",
            what="8 layers, d=384, 6/2 heads, 19 M parameters; 32-480 + 8-120 tokens",
            geometry={
                "num_hidden_layers": 8,
                "hidden_size": 384,
                "intermediate_size": 1024,
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "vocab_size": 8192,
                "max_position_embeddings": 2048,
            },
            seed=1,
            requests=16,
            prompt=(32, 480),
            new=(8, 120),
            threads=1,
        ),
    )
}


def checkpoint(case: Case, root: Path) -> Path:
    """The folder of the case's checkpoint below `root`; made when it is not there."""
    spread = SPREAD / case.geometry["hidden_size"] ** 0.5
    folder = root / f"{case.name}-{case.seed}-{spread:.4f}"
    if not (folder / "model.safetensors").is_file():
        _make(case, spread, folder)
    return folder


def _make(case: Case, spread: float, folder: Path) -> None:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    transformers.logging.disable_progress_bar()
    config = transformers.LlamaConfig(**case.geometry, **tokens, initializer_range=spread)
    torch.manual_seed(case.seed)
    model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
