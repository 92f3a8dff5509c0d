"""A GGUF model's weights by Hugging Face names: dequantized by the `gguf` package, or as they are stored.

Knows names and the order of rows in the file; nothing of the model's layers or of their layout in memory.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from ..ops.block_format import BLOCK_FORMATS
from .gguf_file import GGUFError, GGUFFile, GGUFTensor
from .targets import StoredBlocks

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
ROPE_FACTORS = "rope_freqs.weight"

_STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
_CHUNK_ELEMENTS = 1 << 18
"""Elements dequantized at a time: bounds the temporary float32 copies to a few MB a thread."""
_ROW_ELEMENTS = 1 << 14
"""gguf.quants works on groups of 16 rows; rows of this size make it 2-7x faster than rows of 576 elements."""


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
    names = {name: _hf_name(file, name) for name in file.tensors if name != ROPE_FACTORS}
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
    num_heads = file.per_model("attention.head_count")
    return {"attn_q": num_heads, "attn_k": file.per_model("attention.head_count_kv", num_heads)}


def _hf_name(file: GGUFFile, name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if (layer := _LAYER_TENSOR.match(name)) and layer[2] in _PER_LAYER:
        return f"model.layers.{layer[1]}.{_PER_LAYER[layer[2]]}.{layer[3]}"
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_LEVEL and kind in ("weight", "bias"):
        return f"{_TOP_LEVEL[stem]}.{kind}"
    raise GGUFError(f"{file.path} has a tensor that octavo does not know: {name}")


def stored_dtype(file: GGUFFile) -> torch.dtype:
    """The type most weights are stored in; bfloat16 for quantized ones, as most are made from it."""
    elements: dict[str, int] = {}
    for tensor in file.tensors.values():
        elements[tensor.type_name] = elements.get(tensor.type_name, 0) + math.prod(tensor.shape)
    return _STORED_DTYPES.get(max(elements, key=lambda kind: elements[kind]), torch.bfloat16)
