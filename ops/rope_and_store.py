"""From the merged projection to attention's inputs: bias, per-head norm, rotary embedding, pages written.

Rotary embedding: Su et al., "RoFormer" (arXiv 2104.09864); it turns the two halves of a head as in GPT-NeoX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .rms_norm import rms_norm_reference
from .step_memo import StepMemo

if TYPE_CHECKING:
    from .attention_native import NativeAttention


class QKVHeads(NamedTuple):
    """How many heads of the merged projection are queries, and what is done to heads before they rotate.

    bias: [(Hq + 2 Hkv) * d], added first.   q_norm, k_norm: [d], RMSNorm of each query or key head, with eps.
    """

    num_heads: int
    bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 1e-6


def rotary_factors(positions: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, signed sin), [T, 1, rotary_dim] float32 each: x * cos + swapped halves of x * sin rotates x."""
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def store_rows(kv_slots: Tensor, num_kv_heads: int, block_size: int) -> tuple[Tensor, Tensor | None]:
    """Where K and V go in a cache seen as [blocks * num_kv_heads * block_size, head_dim].

    Returns the rows, [kept tokens * num_kv_heads] int64, and the kept tokens' indices, None if all are kept.
    """
    padding = bool((kv_slots < 0).any())
    kept = (kv_slots >= 0).nonzero().squeeze(1) if padding else None
    kept_slots = kv_slots if kept is None else kv_slots[kept]
    block, offset = kept_slots // block_size, kept_slots % block_size
    heads = torch.arange(num_kv_heads, device=kv_slots.device)
    rows = (block[:, None] * num_kv_heads + heads) * block_size + offset[:, None]
    return rows.flatten(), kept


def rope_and_store_reference(
    qkv: Tensor,
    positions: Tensor,
    kv_slots: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    heads: QKVHeads,
    *,
    memo: StepMemo,
) -> Tensor:
    _, num_kv_heads, block_size, head_dim = k_cache.shape
    num_heads = heads.num_heads
    cos, sin = memo.once(("rotary", id(cos_sin)), lambda: rotary_factors(positions, cos_sin))
    rows, kept = memo.once(
        ("store", num_kv_heads, block_size), lambda: store_rows(kv_slots, num_kv_heads, block_size)
    )
    if heads.bias is not None:
        qkv = qkv + heads.bias
    split = qkv.view(-1, num_heads + 2 * num_kv_heads, head_dim)
    queries_and_keys = split[:, : num_heads + num_kv_heads]
    if heads.q_norm is not None and heads.k_norm is not None:
        q = rms_norm_reference(queries_and_keys[:, :num_heads], heads.q_norm, heads.eps)
        k = rms_norm_reference(queries_and_keys[:, num_heads:], heads.k_norm, heads.eps)
        queries_and_keys = torch.cat((q, k), dim=1)
    rotated = _rotate(queries_and_keys, cos, sin)
    k, v = rotated[:, num_heads:], split[:, num_heads + num_kv_heads :]
    if kept is not None:
        k, v = k[kept], v[kept]
    for cache, written in ((k_cache, k), (v_cache, v)):
        cache.view(-1, head_dim).index_copy_(0, rows, written.reshape(-1, head_dim).to(cache.dtype))
    return rotated[:, :num_heads]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rotary_dim = cos.shape[-1]
    turned = x[..., :rotary_dim].float()
    turned = torch.mul(turned, cos).addcmul_(torch.roll(turned, rotary_dim // 2, -1), sin).to(x.dtype)
    return turned if rotary_dim == x.shape[-1] else torch.cat((turned, x[..., rotary_dim:]), dim=-1)


def rope_and_store(
    qkv: Tensor,
    positions: Tensor,
    kv_slots: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    heads: QKVHeads,
    *,
    memo: StepMemo | None = None,
    native: NativeAttention | None = None,
) -> Tensor:
    """Split the merged projection, rotate queries and keys, write keys and values to their pages.

    qkv: [T, (Hq + 2 Hkv) * d], the queries' heads first, then keys, then values.   positions: [T] int32.
    kv_slots: [T] int64, block_id * block_size + offset; -1 writes nothing.
    cos_sin: [max_positions, rotary_dim] float32, cosines then sines; rotary_dim <= d and even.
    k_cache, v_cache: [num_blocks, Hkv, block_size, d], contiguous.
    memo: what the step's layers share.   native: machine code for a processor, if there is any.
    Returns the queries, [T, Hq, d] in qkv's dtype.
    """
    if qkv.is_cuda:
        from .rope_and_store_kernel import launch_rope_and_store

        return launch_rope_and_store(qkv, positions, kv_slots, cos_sin, k_cache, v_cache, heads)
    if native is not None and heads.q_norm is None and native.rotates(qkv, cos_sin):
        biased = qkv if heads.bias is None else qkv + heads.bias
        return native.rope_and_store(biased, positions, kv_slots, cos_sin, k_cache, v_cache)
    return rope_and_store_reference(
        qkv, positions, kv_slots, cos_sin, k_cache, v_cache, heads, memo=memo or StepMemo()
    )
