"""GGUF models in Hugging Face's terms: a config dict for ModelConfig.from_hf and (name, tensor) pairs.

Covers the architectures that octavo runs and dequantizes through the `gguf` package; knows nothing of the
model's layers, of their layout in memory, or of the tokenizer in the same file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from ..ops.block_format import BLOCK_FORMATS
from .gguf_file import GGUFError, GGUFFile, GGUFTensor
from .targets import StoredBlocks

_ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),  # also Mistral and SmolLM, which llama.cpp stores as llama
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
_TOP_LEVEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_PER_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_TENSOR = re.compile(r"^blk\.(\d+)\.(\w+)\.(weight|bias)$")
_ROPE_FACTORS = "rope_freqs.weight"

_STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
_CHUNK_ELEMENTS = 1 << 18
"""Elements dequantized at a time: bounds the temporary float32 copies to a few MB a thread."""
_ROW_ELEMENTS = 1 << 14
"""gguf.quants works on groups of 16 rows; rows of this size make it 2-7x faster than rows of 576 elements."""


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """What config.json would say of this model. Raises GGUFError naming what octavo cannot run."""
    name = file.metadata.get("general.architecture")
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise GGUFError(
            f"{file.path} has the architecture {name!r}, which octavo does not run from GGUF ({known} only)"
        )
    if _get(file, "expert_count", 0):
        raise GGUFError(f"{file.path} is a mixture of experts, which octavo does not run")
    model_type, class_name = _ARCHITECTURES[name]
    hidden_size, num_heads = int(_need(file, "embedding_length")), _per_model(file, "attention.head_count")
    key_length = int(_get(file, "attention.key_length", hidden_size // num_heads))
    if int(_get(file, "attention.value_length", key_length)) != key_length:
        raise GGUFError(f"{file.path} has keys and values of different lengths, which octavo does not run")
    rotary_dim = int(_get(file, "rope.dimension_count", key_length))
    embeddings = _tensor(file, "token_embd.weight")
    config = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": embeddings.shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": _per_model(file, "feed_forward_length"),
        "num_hidden_layers": int(_need(file, "block_count")),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _per_model(file, "attention.head_count_kv", num_heads),
        "head_dim": key_length,
        "hidden_act": "silu",
        "max_position_embeddings": int(_need(file, "context_length")),
        "rms_norm_eps": _decimal(_need(file, "attention.layer_norm_rms_epsilon")),
        "rope_theta": _decimal(_get(file, "rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(file, rotary_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.eos_token_ids or None,
        "torch_dtype": _dtype_name(file),
    }
    if model_type == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    if rotary_dim != key_length:
        config["partial_rotary_factor"] = rotary_dim / key_length
    window = _get(file, "attention.sliding_window", 0)
    if window:
        config |= {"sliding_window": int(window), "use_sliding_window": True}
    return config


def gguf_tensors(file: GGUFFile, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, tensor of `dtype`) one at a time, in the file's order.

    Beside the tensor given out, a few MB of temporaries exist. Raises as `gguf_contents` does.
    """
    for name, content in gguf_contents(file, dtype):
        yield name, content.values() if isinstance(content, StoredBlocks) else content


def gguf_contents(file: GGUFFile, dtype: torch.dtype) -> Iterator[tuple[str, Tensor | StoredBlocks]]:
    """`gguf_tensors`, but matrices in a format of ops/block_format.py as they are in the file, a view of it.

    Each must be used before the next is asked for. Raises GGUFError for tensor types and names that octavo
    does not know, before the first tensor.
    """
    names = {name: _hf_name(file, name) for name in file.tensors if name != _ROPE_FACTORS}
    for tensor in file.tensors.values():
        if tensor.type_name not in _STORED_DTYPES and tensor.type_name not in _QUANTIZED:
            known = ", ".join([*_STORED_DTYPES, *_QUANTIZED])
            raise GGUFError(
                f"{file.path} has tensors of type {tensor.type_name} ({tensor.name}); octavo reads {known}"
            )
    permuted = _permuted_heads(file)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for name, hf_name in names.items():
            tensor = file.tensors[name]
            num_heads = permuted.get(name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2])

            def values(tensor: GGUFTensor = tensor, num_heads: int | None = num_heads) -> Tensor:
                return _unpermute(_load(tensor, dtype, pool), num_heads)

            form = BLOCK_FORMATS.get(tensor.type_name) if tensor.type_name in _QUANTIZED else None
            if form is None or len(tensor.shape) != 2:
                yield hf_name, values()
            else:
                blocks = torch.from_numpy(tensor.data).view(tensor.shape[0], -1, form.block_bytes)
                yield hf_name, StoredBlocks(form, _unpermute(blocks, num_heads), values)


def _load(tensor: GGUFTensor, dtype: torch.dtype, pool: ThreadPoolExecutor) -> Tensor:
    """The tensor's values as `dtype`, contiguous, never a view of the file."""
    stored = _STORED_DTYPES.get(tensor.type_name)
    if stored is not None:
        return torch.from_numpy(tensor.data).view(stored).reshape(tensor.shape).to(dtype, copy=True)
    tensor_type = GGMLQuantizationType[tensor.type_name]
    block_size, block_bytes = GGML_QUANT_SIZES[tensor_type]
    num_blocks = len(tensor.data) // block_bytes
    values = torch.empty(num_blocks * block_size, dtype=dtype)
    chunk_blocks, row_blocks = _CHUNK_ELEMENTS // block_size, _ROW_ELEMENTS // block_size

    def fill(first: int) -> None:
        num = min(chunk_blocks, num_blocks - first)
        # Any row length will do for dequantize, since a block never depends on its neighbours.
        row_bytes = block_bytes * math.gcd(num, row_blocks)
        rows = tensor.data[first * block_bytes : (first + num) * block_bytes].reshape(-1, row_bytes)
        floats = torch.from_numpy(dequantize(rows, tensor_type).reshape(-1))
        values[first * block_size : (first + num) * block_size].copy_(floats)

    for _ in pool.map(fill, range(0, num_blocks, chunk_blocks)):
        pass  # reaps exceptions
    return values.reshape(tensor.shape)


def _unpermute(tensor: Tensor, num_heads: int | None) -> Tensor:
    """Rows of each head from llama.cpp's order, where a rotated pair is (2i, 2i + 1), to (i, i + d / 2).

    num_heads: None if the file has them in order.
    """
    if num_heads is None:
        return tensor
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _permuted_heads(file: GGUFFile) -> dict[str, int]:
    """GGUF name of the projections whose rows llama.cpp reorders, to their number of heads."""
    if file.metadata.get("general.architecture") != "llama":
        return {}
    num_heads = _per_model(file, "attention.head_count")
    return {"attn_q": num_heads, "attn_k": _per_model(file, "attention.head_count_kv", num_heads)}


def _hf_name(file: GGUFFile, name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if (layer := _LAYER_TENSOR.match(name)) and layer[2] in _PER_LAYER:
        return f"model.layers.{layer[1]}.{_PER_LAYER[layer[2]]}.{layer[3]}"
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_LEVEL and kind in ("weight", "bias"):
        return f"{_TOP_LEVEL[stem]}.{kind}"
    raise GGUFError(f"{file.path} has a tensor that octavo does not know: {name}")


def _rope_scaling(file: GGUFFile, rotary_dim: int) -> dict[str, Any] | None:
    """config.json's `rope_scaling`, from metadata or from Llama 3's table of frequency divisors."""
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        if name in file.tensors:
            raise GGUFError(f"{file.path} uses the RoPE type 'longrope' ({name}), which octavo does not run")
    if _ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, rotary_dim)
    kind = _get(file, "rope.scaling.type", "none")
    if kind == "none":
        # Files of 2023 name a factor and no type: it is linear.
        factor = _get(file, "rope.scaling.factor", _get(file, "rope.scale_linear", 1.0))
        return None if factor in (0.0, 1.0) else {"rope_type": "linear", "factor": _decimal(factor)}
    scaling = {"rope_type": kind, "factor": _decimal(_need(file, "rope.scaling.factor"))}
    if kind == "linear":
        return scaling
    if kind != "yarn":
        raise GGUFError(f"{file.path} uses the RoPE type {kind!r}, which octavo does not run from GGUF")
    if (length := _get(file, "rope.scaling.original_context_length", 0)) > 0:
        scaling["original_max_position_embeddings"] = int(length)
    for key in ("beta_fast", "beta_slow"):
        if (value := _get(file, f"rope.scaling.yarn_{key}", None)) is not None:
            scaling[key] = _decimal(value)
    for key in ("attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor"):
        neutral = 0.0 if key == "yarn_log_multiplier" else 1.0
        if _get(file, f"rope.scaling.{key}", neutral) != neutral:
            raise GGUFError(f"{file.path} sets rope.scaling.{key}, which octavo does not run from GGUF")
    return scaling


def _llama3_scaling(file: GGUFFile, rotary_dim: int) -> dict[str, Any]:
    """Llama 3's parameters, found again from the table of divisors that llama.cpp wrote instead of them."""
    table = _tensor(file, _ROPE_FACTORS)
    divisors = table.data.view(np.float32).astype(np.float64)
    theta = float(_get(file, "rope.freq_base", 10000.0))
    factor = float(f"{divisors.max():.5g}")  # the table may have been computed in float32
    wavelengths = 2 * math.pi * theta ** (np.arange(0, rotary_dim, 2) / rotary_dim)
    # All Llama 3 models use 1, 4 and 8192.
    length = int(_get(file, "rope.scaling.original_context_length", 8192))
    low, high = 1.0, 4.0
    smooth = np.clip((length / wavelengths - low) / (high - low), 0, 1)
    if table.type_name != "F32" or divisors.shape != smooth.shape or factor <= 0:
        raise GGUFError(f"{file.path}: {_ROPE_FACTORS} is not a table of {rotary_dim // 2} float32 divisors")
    if not np.allclose(divisors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4):
        raise GGUFError(f"{file.path}: the divisors in {_ROPE_FACTORS} do not follow Llama 3's formula")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }


def _dtype_name(file: GGUFFile) -> str:
    """The type most weights are stored in; bfloat16 for quantized ones, as most are made from it."""
    elements: dict[str, int] = {}
    for tensor in file.tensors.values():
        elements[tensor.type_name] = elements.get(tensor.type_name, 0) + math.prod(tensor.shape)
    dtype = _STORED_DTYPES.get(max(elements, key=lambda kind: elements[kind]), torch.bfloat16)
    return str(dtype).removeprefix("torch.")


def _get(file: GGUFFile, key: str, default: Any) -> Any:
    return file.metadata.get(f"{file.metadata['general.architecture']}.{key}", default)


def _need(file: GGUFFile, key: str) -> Any:
    value = _get(file, key, None)
    if value is None:
        raise GGUFError(f"{file.path} lacks the metadata {file.metadata['general.architecture']}.{key}")
    return value


def _per_model(file: GGUFFile, key: str, default: int | None = None) -> int:
    """A size that may be given per layer, which octavo runs only if all layers agree."""
    value = _need(file, key) if default is None else _get(file, key, default)
    sizes = {int(size) for size in value} if isinstance(value, list) else {int(value)}
    if len(sizes) != 1:
        raise GGUFError(f"{file.path} has layers that differ in {key}, which octavo does not run")
    return sizes.pop()


def _tensor(file: GGUFFile, name: str) -> GGUFTensor:
    if name not in file.tensors:
        raise GGUFError(f"{file.path} lacks the tensor {name}")
    return file.tensors[name]


def _decimal(value: float) -> float:
    """A float32 from the file as the decimal number that its author wrote: 1e-05, not 9.999999747e-06."""
    return float(f"{value:.7g}")
