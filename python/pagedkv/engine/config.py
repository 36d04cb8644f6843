"""Reads `config.json` of a Hugging Face checkpoint into a ModelConfig, or refuses it by name.

Four families share one architecture (pre-norm decoder, RMSNorm, RoPE, grouped-query attention,
SwiGLU) and differ in a handful of switches; FAMILIES is the whole list. What must hold: a
checkpoint either runs with the numbers its authors meant, or is refused with the field that
stands in the way. Nothing is skipped silently: fields known to change the computation must have
their neutral value (NEUTRAL), rope fields must all be known (ROPE_KEYS).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .rope import ROPE_TYPES, RopeConfig


@dataclass(frozen=True)
class ModelConfig:
    """Everything the model and the cache need to know about a checkpoint."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int  # most tokens of one sequence, prompt and output together
    norm_eps: float
    rope: RopeConfig
    window: int = 0  # sliding window in tokens, the token itself included; 0: none
    tied: bool = False  # the output projection is the embedding
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each head of q and k, before RoPE
    stop_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Family:
    """How one model_type deviates. `None` for a bias means: config.json decides."""

    architecture: str
    qkv_bias: bool | None
    out_bias: bool | None
    mlp_bias: bool | None
    qk_norm: bool
    window_rule: str  # "none", "always" or "switch" (use_sliding_window)
    kv_heads_default: bool  # a missing num_key_value_heads means one per query head
    head_dim_default: int = 0  # 0: hidden_size / num_attention_heads


FAMILIES = {
    "llama": Family("LlamaForCausalLM", None, None, None, False, "none", True),
    "mistral": Family("MistralForCausalLM", False, False, False, False, "always", False),
    "qwen2": Family("Qwen2ForCausalLM", True, False, False, False, "switch", False),
    "qwen3": Family("Qwen3ForCausalLM", None, None, False, True, "switch", False, 128),
}

# Fields that change what a model computes, with the values at which they do not. Checkpoints of
# other families, and of later versions of these, carry them.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_chunk_size": (None,),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "no_rope_layers": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "partial_rotary_factor": (None, 1),
    "qk_layernorm": (None, False),
    "quantization_config": (None,),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_interleaved": (None, False),
    "use_qk_norm": (None, False),
}

# Fields of the rope dictionary that each type may have, beside its type and theta.
ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
    "yarn": (
        "factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
        "attention_factor", "mscale", "mscale_all_dim", "truncate",
    ),
}  # fmt: skip
ROPE_REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}


class Fields:
    """A JSON object whose fields are read with a type and a range; errors name file and field."""

    def __init__(self, where: str, values: dict[str, Any]) -> None:
        self.where = where
        self.values = values

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}")

    def get(self, name: str) -> Any:
        """The raw value; None when missing."""
        return self.values.get(name)

    def integer(self, name: str, default: int | None = None, minimum: int = 1) -> int:
        """A whole number of at least `minimum`. Without a default the field must be there."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.fail(f"{name} is missing")
        if type(value) is not int or not minimum <= value < 1 << 31:
            raise self.fail(f"{name} is {value!r}; it must be a whole number >= {minimum}")
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number."""
        value = self.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.fail(f"{name} is {value!r}; it must be a positive number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        return None if self.get(name) is None else self.number(name, 0.0)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(f"{name} is {value!r}; it must be true or false")
        return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises CheckpointError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return value


def load_config(folder: Path) -> ModelConfig:
    """Read `config.json`, and stop tokens from `generation_config.json` where there is one.

    Raises CheckpointError naming the field that is missing, wrong or not supported.
    """
    path = folder / "config.json"
    fields = Fields(str(path), read_json(path))
    generation_path = folder / "generation_config.json"
    if generation_path.exists():
        generation = Fields(str(generation_path), read_json(generation_path))
        if generation.get("eos_token_id") is not None:
            return parse_config(fields, _stop_tokens(generation))
    return parse_config(fields, _stop_tokens(fields))


def parse_config(fields: Fields, stop_tokens: tuple[int, ...] = ()) -> ModelConfig:
    """Turn the fields of config.json into a ModelConfig. Raises CheckpointError."""
    name, family = _family(fields)
    _refuse_unsupported(fields)
    hidden = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    layers = fields.integer("num_hidden_layers")
    rope = _rope(fields)
    attention_bias = fields.flag("attention_bias")
    return ModelConfig(
        family=name,
        layers=layers,
        hidden=hidden,
        intermediate=fields.integer("intermediate_size"),
        heads=heads,
        kv_heads=_kv_heads(fields, family, heads),
        head_dim=_head_dim(fields, family, hidden, heads),
        vocab=fields.integer("vocab_size"),
        context=_context(fields, rope),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope,
        window=_window(fields, family, layers),
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        out_bias=attention_bias if family.out_bias is None else family.out_bias,
        mlp_bias=fields.flag("mlp_bias") if family.mlp_bias is None else family.mlp_bias,
        qk_norm=family.qk_norm,
        stop_tokens=stop_tokens,
    )


def _family(fields: Fields) -> tuple[str, Family]:
    known = ", ".join(f"{name} ({family.architecture})" for name, family in FAMILIES.items())
    name = fields.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise fields.fail(f"model_type {name!r} is unknown; known are {known}")
    family = FAMILIES[name]
    architectures = fields.get("architectures")
    if architectures is not None and architectures != [family.architecture]:
        raise fields.fail(f"architectures {architectures!r} is unknown; known are {known}")
    return name, family


def _refuse_unsupported(fields: Fields) -> None:
    for name, neutral in NEUTRAL.items():
        value = fields.get(name)
        if value not in neutral:
            raise fields.fail(f"{name} = {value!r} is not supported")
    activation = fields.get("hidden_act")
    if activation not in (None, "silu", "swish"):
        raise fields.fail(f"hidden_act {activation!r} is not supported; known is silu")


def _kv_heads(fields: Fields, family: Family, heads: int) -> int:
    is_null = "num_key_value_heads" in fields.values
    kv_heads = fields.integer(
        "num_key_value_heads", heads if family.kv_heads_default or is_null else None
    )
    if heads % kv_heads != 0:
        raise fields.fail(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    return kv_heads


def _head_dim(fields: Fields, family: Family, hidden: int, heads: int) -> int:
    derived = family.head_dim_default or hidden // heads
    head_dim = fields.integer("head_dim", derived)
    if fields.get("head_dim") is None and not family.head_dim_default and hidden % heads != 0:
        raise fields.fail(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    if head_dim % 2 != 0:
        raise fields.fail(f"head_dim {head_dim} is odd; rotary embedding needs pairs")
    return head_dim


def _context(fields: Fields, rope: RopeConfig) -> int:
    """The longest sequence the positions are good for. Linear and yarn state the length of the base
    model and stretch it; llama3 already states the long one."""
    stated = fields.integer("max_position_embeddings")
    if rope.type == "linear":
        return int(stated * rope.factor)
    if rope.type == "yarn":
        return max(stated, int(rope.original_context * rope.factor))
    return stated


def _window(fields: Fields, family: Family, layers: int) -> int:
    """The sliding window that all layers share, or 0.

    Models that mix layers with and without a window need two page tables per sequence, which one
    cache of this version does not have: they are refused.
    """
    if family.window_rule == "none":
        _uniform_layers(fields, "full_attention")
        return 0
    if family.window_rule == "switch":
        if not fields.flag("use_sliding_window"):
            _uniform_layers(fields, "full_attention")
            return 0
        full = min(fields.integer("max_window_layers", 28, minimum=0), layers)
        listed = fields.get("layer_types") is not None
        if not listed and 0 < full < layers:
            raise fields.fail(
                f"max_window_layers {full} of {layers} layers: mixing layers with and without"
                " a sliding window is not supported"
            )
        if not listed and full == layers:
            return 0
    if "sliding_window" not in fields.values:
        raise fields.fail("sliding_window is missing; null means none")
    if fields.get("sliding_window") is None:
        _uniform_layers(fields, "full_attention")
        return 0
    _uniform_layers(fields, "sliding_attention")
    return fields.integer("sliding_window")


def _uniform_layers(fields: Fields, kind: str) -> None:
    kinds = fields.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or set(map(str, kinds)) - {kind}):
        raise fields.fail(f"layer_types must all be {kind} here; mixed layers are not supported")


def _rope(fields: Fields) -> RopeConfig:
    """Both spellings: `rope_scaling` + `rope_theta`, and `rope_parameters` of transformers 5."""
    old, new = fields.get("rope_scaling"), fields.get("rope_parameters")
    if old and new and old != new:
        raise fields.fail("rope_scaling and rope_parameters are both there and differ")
    values = old or new or {}
    if not isinstance(values, dict):
        raise fields.fail(f"rope parameters {values!r} are not an object")
    rope = Fields(f"{fields.where}: rope parameters", values)
    kind = _rope_type(rope)
    theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0))
    _check_rope_keys(rope, kind)
    stated = fields.integer("max_position_embeddings")
    original = rope.integer("original_max_position_embeddings", stated)
    parsed = RopeConfig(
        type=kind,
        theta=theta,
        factor=rope.number("factor", 1.0),
        original_context=fields.integer("original_max_position_embeddings", original),
        low_freq_factor=rope.number("low_freq_factor", 1.0),
        high_freq_factor=rope.number("high_freq_factor", 4.0),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.optional_number("attention_factor"),
        mscale=rope.optional_number("mscale"),
        mscale_all_dim=rope.optional_number("mscale_all_dim"),
        truncate=rope.flag("truncate", True),
    )
    if theta <= 1:
        raise fields.fail(f"rope_theta is {theta}; it must exceed 1")
    if parsed.high_freq_factor <= parsed.low_freq_factor:
        raise rope.fail("high_freq_factor must exceed low_freq_factor")
    return parsed


def _rope_type(rope: Fields) -> str:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise rope.fail("one rope per layer type is not supported")
    if kind not in ROPE_TYPES:
        raise rope.fail(f"type {kind!r} is unknown; known are {', '.join(ROPE_TYPES)}")
    return str(kind)


def _check_rope_keys(rope: Fields, kind: str) -> None:
    known = {"rope_type", "type", "rope_theta", *ROPE_KEYS[kind]}
    for name, value in rope.values.items():
        neutral = value is None or (name == "partial_rotary_factor" and value == 1)
        if name not in known and not neutral:
            raise rope.fail(f"{name} = {value!r} is not known for rope type {kind}")
    for name in ROPE_REQUIRED[kind]:
        if rope.get(name) is None:
            raise rope.fail(f"{name} is missing for rope type {kind}")


def _stop_tokens(fields: Fields) -> tuple[int, ...]:
    value = fields.get("eos_token_id")
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(token) is int and token >= 0 for token in listed):
        raise fields.fail(f"eos_token_id {value!r} is not a token id or a list of them")
    return tuple(listed)
