"""Trains the small language model that ships with the package, from nothing, on the CPU.

    python tools/train_model.py --out python/pagedkv/data/docstrings-3m

The text is the documentation of the Python standard library (`doc_corpus.py`), the vocabulary a
byte-level BPE trained on it, the network a Llama.  The result is a folder in the layout of
Hugging Face checkpoints: config.json, model.safetensors (bf16), tokenizer.json,
tokenizer_config.json, and training.json with the figures of the run.  `README.md` in that folder
is written by hand and not touched.

Needs torch and tokenizers; nothing is downloaded and `transformers` is not used.

What must hold:
- Modules are named as transformers names them, and RoPE turns halves of a head against each
  other as it does there, so that a state dict is a checkpoint without renaming or permuting.
- The run depends on the corpus, the seed, the thread count, the kind of CPU and the versions of
  torch and tokenizers: no clock decides anything, and steps are counted, not seconds.
- The shipped weights are scored as shipped: rounded to bf16 first.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from doc_corpus import Document, corpus_digest, documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

END_OF_TEXT = "<|endoftext|>"  # token 0; stands before every document in training


@dataclass(frozen=True)
class Shape:
    """The network. Sizes are in elements, `context` in tokens."""

    vocabulary: int = 3072
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    mlp: int = 704
    context: int = 1024
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5


@dataclass(frozen=True)
class Recipe:
    """The optimisation. A step sees `batch_tokens` tokens whatever the window length is."""

    steps: int = 1500
    batch_tokens: int = 4096
    window: int = 512
    long_share: float = 0.15  # the last steps use windows of the whole context
    learning_rate: float = 2e-3
    warmup: int = 150
    weight_decay: float = 0.2
    dropout: float = 0.1
    seed: int = 1


# The network ------------------------------------------------------------------------------------


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Grouped-query causal self-attention with rotary positions."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        split = (batch, length, -1, self.s.head_dim)
        q = _rotate(self.q_proj(x).view(split).transpose(1, 2), cos, sin)
        k = _rotate(self.k_proj(x).view(split).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(split).transpose(1, 2)
        share = self.s.heads // self.s.kv_heads
        k = k.repeat_interleave(share, dim=1)
        v = v.repeat_interleave(share, dim=1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.mlp, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.mlp, bias=False)
        self.down_proj = nn.Linear(s.mlp, s.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then the MLP, each on normed input and added to the residual stream."""

    def __init__(self, s: Shape, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = Norm(s.hidden, s.norm_epsilon)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden, s.norm_epsilon)
        self.mlp = Mlp(s)
        self.dropout = dropout

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.self_attn(self.input_layernorm(x), cos, sin)
        x = x + functional.dropout(y, self.dropout, self.training)
        y = self.mlp(self.post_attention_layernorm(x))
        return x + functional.dropout(y, self.dropout, self.training)


class Body(nn.Module):
    """What transformers calls `model`: the embedding, the layers and the last norm."""

    def __init__(self, s: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocabulary, s.hidden)
        self.layers = nn.ModuleList(Layer(s, dropout) for _ in range(s.layers))
        self.norm = Norm(s.hidden, s.norm_epsilon)
        self.dropout = dropout
        self.angles = _angles(s)  # a plain attribute: not part of the checkpoint

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        x = functional.dropout(x, self.dropout, self.training)
        cos, sin = (a[: ids.shape[1]] for a in self.angles)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Llama(nn.Module):
    """Ids [batch, length] -> logits [batch, length, vocabulary]; the head is the embedding."""

    def __init__(self, s: Shape, dropout: float) -> None:
        super().__init__()
        self.shape = s
        self.model = Body(s, dropout)
        self._initialise(s)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.linear(self.model(ids), self.model.embed_tokens.weight)

    def _initialise(self, s: Shape) -> None:
        """Normal weights; those that write to the residual stream shrink with depth."""
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * s.layers) if residual else 0.02)


def _angles(s: Shape) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, each [context, head_dim], both halves alike."""
    rate = s.rope_theta ** (-torch.arange(0, s.head_dim, 2, dtype=torch.float32) / s.head_dim)
    angle = torch.outer(torch.arange(s.context, dtype=torch.float32), rate)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns dimension i against dimension i + head_dim / 2 by the angle of the position."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


# Text to tokens ---------------------------------------------------------------------------------


def train_tokenizer(docs: list[Document], vocabulary: int) -> Tokenizer:
    """A byte-level BPE: all 256 bytes are in the vocabulary, so every text has an encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((d.text for d in docs), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, docs: list[Document]) -> list[Tensor]:
    """Each document as a vector of token ids, `END_OF_TEXT` first."""
    return [torch.tensor([0, *tokenizer.encode(d.text).ids]) for d in docs]


def windows(texts: list[Tensor], recipe: Recipe, context: int) -> Iterator[Tensor]:
    """One batch per step, [rows, length + 1], without end.

    Every pass joins the documents in a new order and cuts from a new offset, so no window is
    seen twice.
    """
    chance = torch.Generator().manual_seed(recipe.seed)
    turn = round(recipe.steps * (1 - recipe.long_share))
    step = 0
    while True:
        order = torch.randperm(len(texts), generator=chance).tolist()
        stream = torch.cat([texts[i] for i in order])
        length = recipe.window if step < turn else context
        skip = int(torch.randint(length, (1,), generator=chance))
        count = (len(stream) - skip - 1) // length
        starts = skip + length * torch.randperm(count, generator=chance)
        for chosen in starts.split(recipe.batch_tokens // length):
            if step >= turn and length != context:
                break
            yield torch.stack([stream[s : s + length + 1] for s in chosen.tolist()])
            step += 1


# Training ---------------------------------------------------------------------------------------


def train(
    model: Llama, recipe: Recipe, texts: list[Tensor], held: list[Tensor], every: int
) -> Iterator[dict[str, float]]:
    """Runs every step of the recipe; yields training and held-out loss (nats) `every` steps."""
    optimiser = _optimiser(model, recipe)
    batches = windows(texts, recipe, model.shape.context)
    running = 0.0
    for step in range(1, recipe.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(recipe, step)
        loss = _loss(model, next(batches))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        running += (loss.item() - running) / (step if step < 50 else 50)
        if step % every == 0 or step == recipe.steps:
            yield {
                "step": step,
                "train": round(running, 4),
                "held_out": round(evaluate(model, held), 4),
            }


def evaluate(model: Llama, texts: list[Tensor]) -> float:
    """Mean loss per token in nats over whole documents, in windows of the context."""
    model.eval()
    context = model.shape.context
    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            for start in range(0, len(text) - 1, context):
                window = text[start : start + context + 1].unsqueeze(0)
                predicted = window.shape[1] - 1
                total += float(_loss(model, window)) * predicted
                count += predicted
    model.train()
    return total / count


def _loss(model: Llama, batch: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.training):
        logits = model(batch[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def _optimiser(model: Llama, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; matrices decay, norm weights do not."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def _learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step <= recipe.warmup:
        return recipe.learning_rate * step / recipe.warmup
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


# The checkpoint folder --------------------------------------------------------------------------


def save(folder: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """Writes everything a loader needs: configuration, weights, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", configuration(model.shape))
    write_safetensors(folder / "model.safetensors", model.state_dict())
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_configuration(model.shape))


def configuration(s: Shape) -> dict[str, object]:
    """The network in the words of `transformers.LlamaConfig`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": s.vocabulary,
        "hidden_size": s.hidden,
        "intermediate_size": s.mlp,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": s.context,
        "rms_norm_eps": s.norm_epsilon,
        "rope_theta": s.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def tokenizer_configuration(s: Shape) -> dict[str, object]:
    """What `transformers` wants to know beside tokenizer.json; nothing is added to a text."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": s.context,
    }


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    """Weights as bf16: 8 bytes of header length, a JSON header padded to 8, then raw tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    offset = 0
    for name, tensor in sorted(state.items()):
        raw = tensor.detach().to(torch.bfloat16).contiguous().view(torch.uint16).numpy().tobytes()
        place = [offset, offset + len(raw)]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": place}
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# The run ----------------------------------------------------------------------------------------


def final_figures(model: Llama, held: list[Tensor], docs: list[Document]) -> dict[str, float]:
    """Rounds the weights to bf16 as they are stored, then scores the held-out documents."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16))
    loss = evaluate(model, held)
    tokens = sum(len(text) - 1 for text in held)
    size = sum(len(d.text.encode()) for d in docs)
    return {
        "held_out_loss_nats_per_token": round(loss, 4),
        "held_out_perplexity": round(math.exp(loss), 2),
        "held_out_bits_per_byte": round(loss * tokens / math.log(2) / size, 4),
    }


def corpus_figures(docs: list[Document], texts: list[Tensor]) -> dict[str, int]:
    return {
        "documents": len(docs),
        "bytes": sum(len(d.text.encode()) for d in docs),
        "tokens": sum(len(text) for text in texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model that ships with the package.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (part of the result)")
    parser.add_argument("--every", type=int, default=200, help="steps between evaluations")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    shape, recipe = Shape(), Recipe(steps=options.steps)
    torch.manual_seed(recipe.seed)

    docs = documents()
    seen, unseen = [d for d in docs if not d.held_out], [d for d in docs if d.held_out]
    tokenizer = train_tokenizer(seen, shape.vocabulary)
    texts, held = encode(tokenizer, seen), encode(tokenizer, unseen)
    model = Llama(shape, recipe.dropout)

    started = time.monotonic()
    curve = []
    for point in train(model, recipe, texts, held, options.every):
        curve.append(point)
        save(options.out, model, tokenizer)
        print(f"{time.monotonic() - started:6.0f} s  {json.dumps(point)}", flush=True)
    record = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "corpus_digest": corpus_digest(docs),
        "trained_on": corpus_figures(seen, texts),
        "held_out": corpus_figures(unseen, held),
        "parameters": sum(p.numel() for p in model.parameters()),
        "shape": asdict(shape),
        "recipe": asdict(recipe),
        "threads": options.threads,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "final": final_figures(model, held, unseen),
        "curve": curve,
    }
    save(options.out, model, tokenizer)
    write_json(options.out / "training.json", record)
    print(json.dumps(record["final"]))


if __name__ == "__main__":
    main()
