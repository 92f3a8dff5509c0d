"""Bias, per-head norm, rotary embedding and the write to pages on a GPU, one pass over the merged projection.

A program takes a few heads of one token. An element goes together with the one that it is rotated against:

    head    [ a a a | b b b | c c | d d ]      rotary_dim = 6 of head_dim = 10
    pair j    0 1 2   0 1 2   3 4   3 4        (a, b) rotated, (c, d) passed through
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dependent_launch import launch_options, wait_for_inputs
from .rope_and_store import QKVHeads

HEADS_PER_PROGRAM = 4


@triton.jit
def _norm_factor(low: tl.tensor, high: tl.tensor, HEAD_DIM: tl.constexpr, eps: tl.tensor) -> tl.tensor:
    return tl.rsqrt((tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)) / HEAD_DIM + eps)[:, None]


@triton.jit
def _rope_and_store_kernel(
    qkv: tl.tensor,
    positions: tl.tensor,
    kv_slots: tl.tensor,
    cos_sin: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    bias: tl.tensor,
    q_norm: tl.tensor,
    k_norm: tl.tensor,
    q_out: tl.tensor,
    qkv_stride: tl.tensor,
    eps: tl.tensor,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, PAIRS)[None, :]
    half: tl.constexpr = ROTARY_DIM // 2
    rest: tl.constexpr = HEAD_DIM - ROTARY_DIM
    low_column = tl.where(pair < half, pair, pair + half)
    high_column = low_column + tl.where(pair < half, half, rest // 2)
    inside = (head < NUM_HEADS + 2 * NUM_KV_HEADS) & (pair < HEAD_DIM // 2)

    row = head * HEAD_DIM
    wait_for_inputs(DEPENDENT)
    low = tl.load(qkv + token * qkv_stride + row + low_column, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(qkv + token * qkv_stride + row + high_column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        low += tl.load(bias + row + low_column, mask=inside, other=0.0).to(tl.float32)
        high += tl.load(bias + row + high_column, mask=inside, other=0.0).to(tl.float32)
    is_query = head < NUM_HEADS
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    is_key = (head >= NUM_HEADS) & (head < NUM_HEADS + NUM_KV_HEADS)
    if HAS_NORM:
        factor = tl.where(is_value, 1.0, _norm_factor(low, high, HEAD_DIM, eps))
        for_q, for_k = is_query & inside, is_key & inside
        low_scale = tl.load(q_norm + low_column + row * 0, mask=for_q, other=1.0).to(tl.float32)
        low_scale *= tl.load(k_norm + low_column + row * 0, mask=for_k, other=1.0).to(tl.float32)
        high_scale = tl.load(q_norm + high_column + row * 0, mask=for_q, other=1.0).to(tl.float32)
        high_scale *= tl.load(k_norm + high_column + row * 0, mask=for_k, other=1.0).to(tl.float32)
        low, high = low * factor * low_scale, high * factor * high_scale

    angles = cos_sin + tl.load(positions + token).to(tl.int64) * ROTARY_DIM
    turned = (pair < half) & (head < NUM_HEADS + NUM_KV_HEADS)
    cos = tl.load(angles + pair + row * 0, mask=turned, other=1.0)
    sin = tl.load(angles + half + pair + row * 0, mask=turned, other=0.0)
    low, high = low * cos - high * sin, high * cos + low * sin

    q_row = q_out + (token * NUM_HEADS + head) * HEAD_DIM
    tl.store(q_row + low_column, low.to(q_out.dtype.element_ty), mask=inside & is_query)
    tl.store(q_row + high_column, high.to(q_out.dtype.element_ty), mask=inside & is_query)
    slot = tl.load(kv_slots + token)
    if slot >= 0:
        block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
        kv_head = head - NUM_HEADS
        k_row = k_cache + ((block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + offset) * HEAD_DIM
        tl.store(k_row + low_column, low.to(k_cache.dtype.element_ty), mask=inside & is_key)
        tl.store(k_row + high_column, high.to(k_cache.dtype.element_ty), mask=inside & is_key)
        kv_head -= NUM_KV_HEADS
        v_row = v_cache + ((block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + offset) * HEAD_DIM
        tl.store(v_row + low_column, low.to(v_cache.dtype.element_ty), mask=inside & is_value)
        tl.store(v_row + high_column, high.to(v_cache.dtype.element_ty), mask=inside & is_value)


def launch_rope_and_store(
    qkv: Tensor,
    positions: Tensor,
    kv_slots: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    heads: QKVHeads,
) -> Tensor:
    """As `rope_and_store`; rows of qkv may lie apart."""
    num_tokens, rotary_dim = len(qkv), cos_sin.shape[1]
    num_heads, bias, q_norm, k_norm, eps = heads
    _, num_kv_heads, block_size, head_dim = k_cache.shape
    assert qkv.stride(1) == 1 and cos_sin.is_contiguous(), "rows must be contiguous"
    assert k_cache.is_contiguous() and v_cache.is_contiguous(), "caches must be contiguous"
    assert (q_norm is None) == (k_norm is None), "q_norm and k_norm go together"
    q = torch.empty((num_tokens, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    if num_tokens:
        grid = (num_tokens, triton.cdiv(num_heads + 2 * num_kv_heads, HEADS_PER_PROGRAM))
        _rope_and_store_kernel[grid](
            qkv,
            positions,
            kv_slots,
            cos_sin,
            k_cache,
            v_cache,
            qkv if bias is None else bias,
            qkv if q_norm is None else q_norm,
            qkv if k_norm is None else k_norm,
            q,
            qkv.stride(0),
            eps,
            NUM_HEADS=num_heads,
            NUM_KV_HEADS=num_kv_heads,
            HEAD_DIM=head_dim,
            ROTARY_DIM=rotary_dim,
            BLOCK_SIZE=block_size,
            HAS_BIAS=bias is not None,
            HAS_NORM=q_norm is not None,
            HEADS=HEADS_PER_PROGRAM,
            PAIRS=triton.next_power_of_2(head_dim // 2),
            num_warps=1 if head_dim <= 128 else 2,
            **launch_options(qkv),
        )
    return q
