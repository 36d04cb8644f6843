"""Small random checkpoints of every family, made by `transformers` itself, and its greedy tokens.

`save_pretrained` writes the folder that the engine loads, so configuration spelling, tensor names
and numbers are all the other side's. Weights are drawn wide (std 0.15 to 0.3, where training
starts at 0.02): logits then spread over several units and depend on position and context, so a
mistake in RoPE, masks or head grouping changes tokens instead of hiding below a rounding error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHY_SKIPPED = "compares with transformers; needs the test extra (torch, transformers)"
torch = pytest.importorskip("torch", reason=WHY_SKIPPED)
transformers = pytest.importorskip("transformers", reason=WHY_SKIPPED)

# Products this small lose more than they gain by a second thread, much more on a busy machine.
torch.set_num_threads(1)

VOCAB = 199
CONTEXT = 512

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN_ROPE = {
    "rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip

# name -> (configuration class, seed, what differs from COMMON). Each seed is one for which the two
# best logits of every token that the tests generate are MARGIN apart: rounding decides none.
MARGIN = 4e-4
FAMILIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "llama": ("LlamaConfig", 3, {}),
    "llama-tied-biased": (
        "LlamaConfig",
        1,
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    ),
    "llama-llama3-rope": ("LlamaConfig", 3, {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear-rope": (
        "LlamaConfig",
        0,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "llama-dynamic-rope": (
        "LlamaConfig",
        3,
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "mistral-window": ("MistralConfig", 1, {"sliding_window": 20}),
    "qwen2": ("Qwen2Config", 0, {"num_key_value_heads": 4}),
    "qwen2-yarn": ("Qwen2Config", 1, {"rope_parameters": YARN_ROPE}),
    "qwen2-window": (
        "Qwen2Config",
        0,
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0},
    ),
    "qwen3": ("Qwen3Config", 4, {"head_dim": 32, "num_key_value_heads": 1}),
}


def make_checkpoint(name: str, folder: Path, **save: Any) -> Any:
    """Save a random checkpoint of family `name` to `folder`; return the transformers model."""
    class_name, seed, differences = FAMILIES[name]
    config = getattr(transformers, class_name)(**{**COMMON, **differences})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Biases and norms start as zeros and ones, which would hide a missing one.
            if parameter.dim() == 1:
                shift = 1.0 if "norm" in parameter_name else 0.0
                parameter.copy_(shift + 0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, **save)
    return model


def make_prompts(count: int, seed: int = 1) -> list[np.ndarray]:
    """Random prompts of 1 to 70 tokens: on, before and behind the borders of 16-token pages."""
    generator = np.random.default_rng(seed)
    lengths = [1, 15, 16, 17, 31, 32, 33, *generator.integers(1, 71, size=max(0, count - 7))]
    return [generator.integers(0, VOCAB, size=n).astype(np.uint32) for n in lengths[:count]]


def greedy_tokens(model: Any, prompt: np.ndarray, count: int) -> list[int]:
    """What `generate` continues `prompt` with, one prompt at a time: no padding is involved."""
    ids = torch.tensor(prompt.astype(np.int64))[None]
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            use_cache=True,
        )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens
