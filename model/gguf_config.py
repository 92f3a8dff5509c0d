"""What a Hugging Face config.json would say of a GGUF model, for ModelConfig.from_hf. Reads no weights.

Covers the architectures that octavo runs. Does not know the model's layers, nor the tokenizer in the file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .gguf_file import GGUFError, GGUFFile
from .gguf_tensors import ROPE_FACTORS, stored_dtype

_ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),  # also Mistral and SmolLM, which llama.cpp stores as llama
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """What config.json would say of this model. Raises GGUFError naming what octavo cannot run."""
    name = file.metadata.get("general.architecture")
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise GGUFError(
            f"{file.path} has the architecture {name!r}, which octavo does not run from GGUF ({known} only)"
        )
    if file.get("expert_count", 0):
        raise GGUFError(f"{file.path} is a mixture of experts, which octavo does not run")
    model_type, class_name = _ARCHITECTURES[name]
    hidden_size, num_heads = int(file.need("embedding_length")), file.per_model("attention.head_count")
    key_length = int(file.get("attention.key_length", hidden_size // num_heads))
    if int(file.get("attention.value_length", key_length)) != key_length:
        raise GGUFError(f"{file.path} has keys and values of different lengths, which octavo does not run")
    rotary_dim = int(file.get("rope.dimension_count", key_length))
    embeddings = file.tensor("token_embd.weight")
    config = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": embeddings.shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": file.per_model("feed_forward_length"),
        "num_hidden_layers": int(file.need("block_count")),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.per_model("attention.head_count_kv", num_heads),
        "head_dim": key_length,
        "hidden_act": "silu",
        "max_position_embeddings": int(file.need("context_length")),
        "rms_norm_eps": _decimal(file.need("attention.layer_norm_rms_epsilon")),
        "rope_theta": _decimal(file.get("rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(file, rotary_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.eos_token_ids or None,
        "torch_dtype": str(stored_dtype(file)).removeprefix("torch."),
    }
    if model_type == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    if rotary_dim != key_length:
        config["partial_rotary_factor"] = rotary_dim / key_length
    window = file.get("attention.sliding_window", 0)
    if window:
        config |= {"sliding_window": int(window), "use_sliding_window": True}
    return config


def _rope_scaling(file: GGUFFile, rotary_dim: int) -> dict[str, Any] | None:
    """config.json's `rope_scaling`, from metadata or from Llama 3's table of frequency divisors."""
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        if name in file.tensors:
            raise GGUFError(f"{file.path} uses the RoPE type 'longrope' ({name}), which octavo does not run")
    if ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, rotary_dim)
    kind = file.get("rope.scaling.type", "none")
    if kind == "none":
        # Files of 2023 name a factor and no type: it is linear.
        factor = file.get("rope.scaling.factor", file.get("rope.scale_linear", 1.0))
        return None if factor in (0.0, 1.0) else {"rope_type": "linear", "factor": _decimal(factor)}
    scaling = {"rope_type": kind, "factor": _decimal(file.need("rope.scaling.factor"))}
    if kind == "linear":
        return scaling
    if kind != "yarn":
        raise GGUFError(f"{file.path} uses the RoPE type {kind!r}, which octavo does not run from GGUF")
    if (length := file.get("rope.scaling.original_context_length", 0)) > 0:
        scaling["original_max_position_embeddings"] = int(length)
    for key in ("beta_fast", "beta_slow"):
        if (value := file.get(f"rope.scaling.yarn_{key}", None)) is not None:
            scaling[key] = _decimal(value)
    for key in ("attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor"):
        neutral = 0.0 if key == "yarn_log_multiplier" else 1.0
        if file.get(f"rope.scaling.{key}", neutral) != neutral:
            raise GGUFError(f"{file.path} sets rope.scaling.{key}, which octavo does not run from GGUF")
    return scaling


def _llama3_scaling(file: GGUFFile, rotary_dim: int) -> dict[str, Any]:
    """Llama 3's parameters, found again from the table of divisors that llama.cpp wrote instead of them."""
    table = file.tensor(ROPE_FACTORS)
    divisors = table.data.view(np.float32).astype(np.float64)
    theta = float(file.get("rope.freq_base", 10000.0))
    factor = float(f"{divisors.max():.5g}")  # the table may have been computed in float32
    wavelengths = 2 * math.pi * theta ** (np.arange(0, rotary_dim, 2) / rotary_dim)
    # All Llama 3 models use 1, 4 and 8192.
    length = int(file.get("rope.scaling.original_context_length", 8192))
    low, high = 1.0, 4.0
    smooth = np.clip((length / wavelengths - low) / (high - low), 0, 1)
    if table.type_name != "F32" or divisors.shape != smooth.shape or factor <= 0:
        raise GGUFError(f"{file.path}: {ROPE_FACTORS} is not a table of {rotary_dim // 2} float32 divisors")
    if not np.allclose(divisors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4):
        raise GGUFError(f"{file.path}: the divisors in {ROPE_FACTORS} do not follow Llama 3's formula")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }


def _decimal(value: float) -> float:
    """A float32 from the file as the decimal number that its author wrote: 1e-05, not 9.999999747e-06."""
    return float(f"{value:.7g}")
