"""What a device has and what an engine needs of it, in bytes: estimated here, measured by rehearsal.py.

Decides nothing: cache/ledger.py divides the memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from .config import ModelConfig
from .graph_shapes import decode_shapes, mixed_shapes
from .prompt_scores import MAX_PIECE_ROWS

_WORKSPACE_BYTES = 64 << 20
"""Matrix libraries' own buffers and the allocator's rounding, on a GPU."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GRAPH_BYTES = 4 << 20
"""A captured step beside the buffers that all share: 3.2 MiB, measured on Qwen2.5-1.5B."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of a device, and what an engine uses of them beside its KV cache.

    others_bytes: what other processes hold, and on a GPU the driver for this one.
    activations_bytes: what the largest step takes beyond weights, and what is kept by slot.
    step_bytes: of these, what is free again after the step; 0 if nobody measured it.
    """

    total_bytes: int
    others_bytes: int
    weights_bytes: int
    activations_bytes: int
    graphs_bytes: int
    step_bytes: int = 0


def device_memory(device: torch.device) -> tuple[int, int]:
    """(total, held by other processes) of a GPU, or of the machine's RAM for the CPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, total - free - torch.cuda.memory_reserved(device)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return total if limit == "max" else min(total, int(limit)), 0


def weight_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory of the weights of a dense model, known before it is built; a processor may need less of it."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    attention = hidden * (2 * queries + 2 * keys)
    biases = config.attention_bias * (queries + 2 * keys) + config.output_bias * hidden
    biases += config.mlp_bias * (2 * inner + hidden)
    norms = 2 * hidden + 2 * config.head_dim * config.qk_norm
    layer = attention + 3 * hidden * inner + biases + norms
    heads = 1 if config.tie_word_embeddings else 2
    return dtype.itemsize * (config.num_layers * layer + heads * config.vocab_size * hidden + hidden)


def graph_bytes(
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    block_size: int,
) -> int:
    """Memory of the captured steps: what each takes, and the activations of the largest, in their pool."""
    shapes = [
        *decode_shapes(max_num_seqs),
        *mixed_shapes(max_num_seqs, max_num_batched_tokens, block_size),
    ]
    largest = max(shape.num_tokens for shape in shapes)
    return len(shapes) * _GRAPH_BYTES + largest * _token_bytes(config, dtype)


def activation_bytes(
    config: ModelConfig, dtype: torch.dtype, *, max_num_batched_tokens: int, max_num_seqs: int, on_gpu: bool
) -> int:
    """Upper bound of a step's memory beyond weights and KV.

    Per sequence: logits in the model's type, the history of penalties and the bits of a mask. In float32
    logits are twice in memory, for filters and log-probabilities: on a GPU, which filters in place, of the
    rows of one piece.
    """
    size = max_num_batched_tokens * _token_bytes(config, dtype)
    size += max_num_seqs * (
        config.vocab_size * (dtype.itemsize + torch.int16.itemsize) + config.vocab_size // 8
    )
    float_rows = min(max_num_seqs, MAX_PIECE_ROWS) if on_gpu else max_num_seqs
    size += float_rows * config.vocab_size * 2 * torch.float32.itemsize
    return size + (_WORKSPACE_BYTES if on_gpu else 0)


def _token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of activations a token at the worst moment: residual and norm, and beside them either attention's
    merged projection, queries and output, or the MLP's merged projection and product."""
    attention = (config.num_heads + 2 * config.num_kv_heads + 2 * config.num_heads) * config.head_dim
    return (3 * config.hidden_size + max(attention, 3 * config.intermediate_size)) * dtype.itemsize
