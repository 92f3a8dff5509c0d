"""Small GGUF files for tests, written by the `gguf` package from models and vocabularies made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray

BLOCK = 256  # of the K types: rows of quantized tensors must be multiples of it


def raw_tensor(values: NDArray[np.float32], type_name: str) -> NDArray[Any]:
    """`values` as the file stores them; for the K types, which `gguf` cannot write, random valid blocks."""
    kind = GGMLQuantizationType[type_name]
    if not type_name.endswith("_K"):
        return quantize(values, kind)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(values.size)
    blocks = random.integers(0, 256, (values.size // BLOCK, block_bytes), dtype=np.uint8)
    scales = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[type_name]
    for at in scales:  # half floats of a sensible size, not any bit pattern
        half = (random.random(len(blocks)) * 1e-3).astype(np.float16)
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(values.shape[0], -1)


def permuted(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """The order of rows in which llama.cpp keeps llama's queries and keys."""
    halves = weight.reshape(num_heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_model(
    path: Path,
    model: torch.nn.Module,
    arch: str,
    type_name: str = "F32",
    *,
    metadata: Callable[[GGUFWriter], None] | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """A transformers model as GGUF: matrices as `type_name`, norms and biases as F32.

    metadata: adds to or replaces nothing of what the config says.   extra: more F32 tensors by GGUF name.
    """
    config: Any = model.config
    writer = GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if metadata:
        metadata(writer)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for hf_name, tensor in model.state_dict().items():
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if arch == "llama" and "q_proj" in hf_name:
            values = permuted(values, config.num_attention_heads)
        if arch == "llama" and "k_proj" in hf_name:
            values = permuted(values, config.num_key_value_heads)
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert name is not None, hf_name
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, raw_tensor(values, type_name), raw_dtype=GGMLQuantizationType[type_name])
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    finish(writer)


def write_vocabulary(
    path: Path,
    *,
    model: str,
    tokens: Sequence[str],
    token_types: Sequence[int],
    merges: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    **settings: Any,
) -> None:
    """A GGUF file with a tokenizer and nothing else. settings: more `tokenizer.ggml.*` values."""
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(token_types))
    if merges is not None:
        writer.add_token_merges(list(merges))
    if scores is not None:
        writer.add_token_scores(list(scores))
    for name, value in settings.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    """Write everything and close."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
