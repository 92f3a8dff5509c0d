"""ModelConfig.from_hf: what transformers writes is read alike, and what cannot be served is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from octavo.model.config import ModelConfig

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "torch_dtype": "bfloat16",
}
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "max_window_layers": 2,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 151645,
}


def without(hf: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in hf.items() if name not in names}


def test_reads_a_config_of_transformers_4() -> None:
    config = ModelConfig.from_hf(LLAMA)
    assert (config.architecture, config.vocab_size, config.hidden_size) == ("LlamaForCausalLM", 128256, 4096)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.num_layers) == (32, 8, 128, 4)
    assert (config.eos_token_ids, config.bos_token_id) == ((128001, 128008, 128009), 128000)
    assert (config.dtype, config.tie_word_embeddings, config.rms_norm_eps) == ("bfloat16", False, 1e-5)
    assert (config.rope.rope_type, config.rope.theta, config.rope.factor) == ("llama3", 500000.0, 8.0)
    assert (config.rope.original_max_positions, config.rope.rotary_dim) == (8192, 128)
    assert (config.layer_windows, config.sliding_window, config.max_length) == ((None,) * 4, None, 131072)


def test_both_spellings_of_rope_are_one() -> None:
    new = {**without(LLAMA, "rope_theta", "rope_scaling"), "dtype": "bfloat16"}
    new["rope_parameters"] = {**LLAMA["rope_scaling"], "rope_theta": 500000.0}
    assert ModelConfig.from_hf(without(new, "torch_dtype")) == ModelConfig.from_hf(LLAMA)
    oldest = {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2}}
    assert ModelConfig.from_hf(oldest).rope.rope_type == "linear"
    assert ModelConfig.from_hf({**LLAMA, "rope_scaling": None}).rope.rope_type == "default"


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3"])
def test_absent_keys_mean_what_they_mean_to_transformers(family: str) -> None:
    """A file that holds the required sizes only, read by both."""
    sizes = {
        "vocab_size": 200000,
        "hidden_size": 1024,
        "intermediate_size": 99,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
    }
    theirs = getattr(transformers, f"{family}Config")(**sizes)
    ours = ModelConfig.from_hf({"architectures": [f"{family}ForCausalLM"], **sizes})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 1024 // 32)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
    assert ours.rope.rope_type == theirs.rope_parameters["rope_type"]
    assert ours.sliding_window == (theirs.sliding_window if family == "Mistral" else None)
    assert ours.bos_token_id == theirs.bos_token_id
    assert ours.eos_token_ids == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))
    rotating = getattr(theirs, "no_rope_layers", [1] * 30)
    assert ours.layer_uses_rope == tuple(bool(mark) for mark in rotating)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3"])
def test_what_transformers_saves_reads_like_what_it_was_made_from(family: str, tmp_path: Path) -> None:
    settings = {
        **without(LLAMA, "architectures", "torch_dtype", "rope_scaling", "rope_theta"),
        "rope_parameters": {**LLAMA["rope_scaling"], "rope_theta": 1e5},
        "architectures": [f"{family}ForCausalLM"],
        "dtype": "float16",
    }
    getattr(transformers, f"{family}Config")(**settings).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert ModelConfig.from_hf(saved) == ModelConfig.from_hf(settings)
    assert ModelConfig.from_hf(saved).dtype == "float16"


def test_qwen_windows_begin_at_the_named_layer() -> None:
    assert ModelConfig.from_hf(QWEN2).layer_windows == (None,) * 4
    on = {**QWEN2, "use_sliding_window": True, "sliding_window": 100}
    assert ModelConfig.from_hf(on).layer_windows == (None, None, 100, 100)
    assert ModelConfig.from_hf(on).sliding_window is None
    everywhere = {**on, "max_window_layers": 0}
    assert ModelConfig.from_hf(everywhere).sliding_window == 100
    types = {**on, "layer_types": ["sliding_attention", "full_attention"] * 2}
    assert ModelConfig.from_hf(types).layer_windows == (100, None, 100, None)


def test_mistral_windows_are_everywhere_unless_null() -> None:
    mistral = {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": 64}
    assert ModelConfig.from_hf(mistral).layer_windows == (64,) * 4
    assert ModelConfig.from_hf({**mistral, "sliding_window": None}).sliding_window is None


def test_biases_are_those_of_the_family() -> None:
    def biases(hf: dict[str, Any]) -> tuple[bool, bool, bool, bool]:
        config = ModelConfig.from_hf(hf)
        return config.attention_bias, config.output_bias, config.mlp_bias, config.qk_norm

    on = {"attention_bias": True, "mlp_bias": True}
    assert biases({**LLAMA, **on}) == (True, True, True, False)
    assert biases(QWEN2) == (True, False, False, False)
    assert biases({**QWEN2, **on, "architectures": ["Qwen3ForCausalLM"]}) == (True, True, False, True)
    assert biases({**LLAMA, **on, "architectures": ["MistralForCausalLM"]}) == (False, False, False, False)


def test_yarn_lengthens_the_model_and_others_do_not() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert ModelConfig.from_hf({**QWEN2, "rope_scaling": yarn}).max_length == 131072
    linear = {"type": "linear", "factor": 4.0}
    assert ModelConfig.from_hf({**QWEN2, "rope_scaling": linear}).max_length == 32768


def rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_scaling": {**LLAMA["rope_scaling"], **parameters}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        {"architectures": ["GPT2LMHeadModel"]},
        "architectures must be one of .* got .*GPT2LMHeadModel",
    ),
    "no architecture": ({"architectures": None}, "architectures must be one of .*, got None"),
    "two architectures": ({"architectures": ["LlamaForCausalLM", "X"]}, "architectures must be .*'X'"),
    "architecture of a wrong type": ({"architectures": {"a": 1}}, "architectures must be"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act must be one of silu, swish, got 'gelu'"),
    "rope type": (rope(rope_type="longrope"), r"rope_scaling.rope_type must be one of .*, got 'longrope'"),
    "rope of a wrong type": ({"rope_scaling": "yarn"}, "rope_scaling must be an object, got 'yarn'"),
    "rope per layer type": (
        {"rope_scaling": None, "rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "rope_parameters.full_attention is not supported, got .*default",
    ),
    "rope of a vision model": (
        rope(mrope_section=[16, 24, 24]),
        "rope_scaling.mrope_section is not supported",
    ),
    "rope without a factor": (
        rope(factor=None),
        "rope_scaling.factor must be a positive number, which is absent",
    ),
    "rope that shrinks": (rope(factor=0.5), "rope_scaling.factor must be at least 1, got 0.5"),
    "rope borders crossed": (rope(low_freq_factor=4.0), "high_freq_factor must be greater than .*4.0"),
    "partial rotation to an odd number": (
        {"partial_rotary_factor": 0.01},
        "partial_rotary_factor must be a share",
    ),
    "theta": ({"rope_theta": -1}, "rope_theta must be a positive number, got -1"),
    "quantization": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config must be absent"),
    "missing size": (
        {"hidden_size": None},
        "hidden_size must be a whole number of at least 1, which is absent",
    ),
    "zero layers": (
        {"num_hidden_layers": 0},
        "num_hidden_layers must be a whole number of at least 1, got 0",
    ),
    "text for a number": (
        {"vocab_size": "32000"},
        "vocab_size must be a whole number of at least 1, got '32000'",
    ),
    "true for a number": ({"num_attention_heads": True}, "num_attention_heads must be a whole number"),
    "uneven groups": (
        {"num_key_value_heads": 5},
        r"num_key_value_heads must be a divisor of .*\(32\), got 5",
    ),
    "eps": ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, got 0"),
    "infinite eps": ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a positive number, got inf"),
    "flag": ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, got 1"),
    "token id": ({"eos_token_id": ["</s>"]}, "eos_token_id must be a token id or a list of them"),
    "negative token id": ({"bos_token_id": -1}, "bos_token_id must be a token id"),
    "dtype": ({"torch_dtype": "int4"}, "torch_dtype must be one of bfloat16, float16, float32, got 'int4'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_by_field_and_value(case: str) -> None:
    overrides, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_hf({**LLAMA, **overrides})


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            {"layer_types": ["chunked_attention"] * 4},
            "layer_types must be made of full_attention and sliding",
        ),
        (
            {"layer_types": ["full_attention"]},
            "layer_types must be a list with an entry for each of the 4 layers",
        ),
        ({"max_window_layers": "all"}, "max_window_layers must be a whole number of at least 0, got 'all'"),
        ({"sliding_window": 0}, "sliding_window must be a whole number of at least 1, got 0"),
    ],
)
def test_refuses_windows_by_field_and_value(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_hf({**QWEN2, "use_sliding_window": True, **overrides})


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig.from_hf(LLAMA).num_layers = 3  # type: ignore[misc]
