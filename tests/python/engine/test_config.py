"""config.json: what each field does, and every refusal names its field."""

import json
from pathlib import Path
from typing import Any

import pytest
from pagedkv.engine.config import FAMILIES, Fields, ModelConfig, load_config, parse_config
from pagedkv.engine.errors import CheckpointError
from tiny import CONFIG

QWEN3 = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": None,
    "use_sliding_window": False,
}  # fmt: skip
MISTRAL = {
    "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None,
}  # fmt: skip
QWEN2 = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "sliding_window": 24,
    "max_window_layers": 0,
}  # fmt: skip


def parse(**overrides: Any) -> ModelConfig:
    values = {**CONFIG, **overrides}
    return parse_config(Fields("config.json", {k: v for k, v in values.items() if v != "DROP"}))


def refuse(message: str, **overrides: Any) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse(**overrides)
    assert "config.json" in str(caught.value)


def test_plain_llama() -> None:
    config = parse()
    assert config.family == "llama"
    assert (config.layers, config.heads, config.kv_heads, config.head_dim) == (2, 4, 2, 16)
    assert (config.context, config.window, config.tied) == (512, 0, False)
    assert (config.qkv_bias, config.out_bias, config.mlp_bias, config.qk_norm) == (False,) * 4
    assert config.rope.type == "default"
    assert config.rope.theta == 10000.0


def test_families_differ_where_they_should() -> None:
    assert parse(attention_bias=True, mlp_bias=True).out_bias
    assert parse(head_dim="DROP").head_dim == 8
    assert parse(num_key_value_heads="DROP").kv_heads == 4
    qwen2 = parse(**QWEN2)
    assert (qwen2.qkv_bias, qwen2.out_bias, qwen2.qk_norm) == (True, False, False)
    qwen3 = parse(**QWEN3)
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, True, 128)
    assert parse(**{**MISTRAL, "sliding_window": 20}).window == 20
    assert parse(**MISTRAL).window == 0


def test_qwen_window_switch() -> None:
    assert parse(**QWEN2).window == 0
    assert parse(**QWEN2, use_sliding_window=True).window == 24
    assert parse(**{**QWEN2, "max_window_layers": 2}, use_sliding_window=True).window == 0
    all_sliding = ["sliding_attention"] * 2
    assert parse(**QWEN2, use_sliding_window=True, layer_types=all_sliding).window == 24
    mixed = {**QWEN2, "max_window_layers": 1, "use_sliding_window": True}
    refuse("max_window_layers 1 of 2", **mixed)
    refuse("layer_types", **QWEN2, layer_types=["full_attention", "sliding_attention"])


def test_unknown_architecture_lists_the_known_ones() -> None:
    for overrides in (
        {"model_type": "gpt2"},
        {"model_type": None},
        {"model_type": ["llama"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"architectures": "LlamaForCausalLM"},
    ):
        with pytest.raises(CheckpointError, match="unknown; known are") as caught:
            parse(**overrides)
        for name, family in FAMILIES.items():
            assert name in str(caught.value)
            assert family.architecture in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "DROP"), ("hidden_size", 0), ("hidden_size", 2.0), ("hidden_size", True),
        ("hidden_size", 1 << 31), ("num_hidden_layers", -1), ("num_attention_heads", None),
        ("vocab_size", "61"), ("rms_norm_eps", 0), ("rms_norm_eps", "small"),
        ("rms_norm_eps", float("inf")), ("tie_word_embeddings", 1), ("max_position_embeddings", 0),
        ("num_key_value_heads", 3), ("head_dim", 7), ("rope_theta", 1), ("rope_theta", -1),
        ("hidden_act", "gelu"), ("rope_scaling", "yarn"), ("partial_rotary_factor", 0.5),
        ("quantization_config", {"bits": 4}), ("attn_logit_softcapping", 50.0),
        ("num_local_experts", 8),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field: str, value: Any) -> None:
    refuse("rope" if field == "rope_scaling" else field, **{field: value})


def test_optional_fields_may_be_missing() -> None:
    """A canary for the test above: refusing everything must not pass."""
    for field in ("eos_token_id", "architectures", "hidden_act", "rope_theta", "rms_norm_eps"):
        parse(**{field: "DROP"})


def test_rope_old_and_new_spelling_agree() -> None:
    scaling = {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    old = parse(rope_theta=5e5, rope_scaling={"type": "llama3", **scaling})
    new = parse(
        rope_theta="DROP", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling}
    )
    assert old == new
    assert old.rope.factor == 8.0
    assert old.rope.original_context == 64


def test_rope_context() -> None:
    linear = {"rope_type": "linear", "factor": 4.0}
    assert parse(rope_scaling=linear).context == 2048
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    assert parse(rope_scaling=yarn).context == 1024
    # Frequencies change beyond the trained length, so that is where such a model ends here.
    assert parse(rope_scaling={"rope_type": "dynamic", "factor": 4.0}).context == 512


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "longrope", "factor": 2.0}, "type 'longrope' is unknown; known are default"),
        ({"rope_type": "linear"}, "factor is missing"),
        ({"rope_type": "linear", "factor": 0}, "factor is 0"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3}, "beta_fast = 3 is not known"),
        ({"rope_type": "default", "mrope_section": [1, 2]}, "mrope_section"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"full_attention": {"rope_type": "default"}}, "per layer type"),
        ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0}, "high_freq_factor is"),
        (
            {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
            "high_freq_factor must exceed",
        ),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": "no"}, "truncate"),
    ],
)
def test_rope_refusals(rope: dict[str, Any], message: str) -> None:
    refuse(message, rope_scaling=rope)
    refuse(message, rope_parameters=rope)


def test_contradicting_rope_is_refused() -> None:
    refuse(
        "both there",
        rope_scaling={"rope_type": "linear", "factor": 2.0},
        rope_parameters={"rope_type": "linear", "factor": 3.0},
    )


def test_stop_tokens(tmp_path: Path) -> None:
    def load(eos: Any, generation: Any = None) -> tuple[int, ...]:
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "eos_token_id": eos}))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return load_config(tmp_path).stop_tokens

    assert load(None) == ()
    assert load(2) == (2,)
    assert load([2, 3]) == (2, 3)
    assert load(2, {"eos_token_id": [5, 6]}) == (5, 6)
    with pytest.raises(CheckpointError, match="eos_token_id"):
        load(2, {"eos_token_id": "end"})


@pytest.mark.parametrize("text", ["", "[]", "{", "nul"])
def test_broken_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_config(tmp_path)
