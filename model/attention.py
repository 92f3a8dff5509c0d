"""Self-attention over paged keys and values. Knows no family, no scheduling and no owner of pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops.decode_attention import decode_attention
from ..ops.paged_attention import ChunkRows, DecodeRows, PagedKV
from ..ops.prefill_attention import prefill_attention
from ..ops.rope_and_store import QKVHeads, rope_and_store
from ..ops.step_memo import StepMemo
from .batch import ForwardBatch
from .config import ModelConfig
from .linear import Linear, LinearMethod, bias_target
from .targets import WeightTarget

if TYPE_CHECKING:
    from ..ops.attention_native import NativeAttention


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """What all layers of a step share.

    split_counters: see decode_attention and prefill_attention; None on a CPU, or if keys shall not be split.
    memo: what the layers' ops compute alike.
    native: machine code for a processor; None elsewhere.
    deterministic: all queries go through the prompts' kernel, which visits keys in one fixed order.
    """

    batch: ForwardBatch
    split_counters: Tensor | None
    memo: StepMemo
    native: NativeAttention | None
    deterministic: bool = False


class Attention:
    """Grouped-query attention, rotary; optionally with biases, per-head norms or a sliding window."""

    def __init__(
        self, config: ModelConfig, layer: int, method: LinearMethod, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._name = f"model.layers.{layer}.self_attn"
        self._head_dim = config.head_dim
        self._scale = config.head_dim**-0.5
        self._window = config.layer_windows[layer]
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self._parts = (
            (f"{self._name}.q_proj", q_size),
            (f"{self._name}.k_proj", kv_size),
            (f"{self._name}.v_proj", kv_size),
        )
        self._qkv = Linear(method, config.hidden_size, self._parts, split=0)

        def vector(size: int) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        # The projection's bias is added by rope_and_store, which passes over its output anyway.
        self._heads = QKVHeads(
            config.num_heads,
            bias=vector(q_size + 2 * kv_size) if config.attention_bias else None,
            q_norm=vector(config.head_dim) if config.qk_norm else None,
            k_norm=vector(config.head_dim) if config.qk_norm else None,
            eps=config.rms_norm_eps,
        )
        o_bias = vector(config.hidden_size) if config.output_bias else None
        o_part = (f"{self._name}.o_proj", config.hidden_size)
        self._o = Linear(method, q_size, (o_part,), split=1, bias=o_bias)

    def __call__(
        self, x: Tensor, step: AttentionStep, cos_sin: Tensor, kv: PagedKV, last_tokens: Tensor | None = None
    ) -> Tensor:
        """x [T, hidden] -> [T, hidden]; the tokens' keys and values are written to kv.

        last_tokens: the batch's, if the result is for them only: [S, hidden].
        cos_sin: [max_positions, rotary_dim] float32.
        """
        batch = step.batch
        q = rope_and_store(
            self._qkv(x),
            batch.positions,
            batch.kv_slots,
            cos_sin,
            kv.k,
            kv.v,
            self._heads,
            memo=step.memo,
            native=step.native,
        )
        if last_tokens is None:
            attended = self._attend(q, step, kv)
        else:
            attended = self._attend_singles(q[last_tokens], batch.last, step, kv)
        return self._o(attended.view(-1, self._heads.num_heads * self._head_dim))

    def _attend(self, q: Tensor, step: AttentionStep, kv: PagedKV) -> Tensor:
        """Decodes and chunks are two calls for the whole batch, which write different rows of one buffer."""
        batch, num_decodes = step.batch, len(step.batch.decodes.slots)
        out = torch.empty_like(q)
        if num_decodes:
            queries, results = q[:num_decodes], out[:num_decodes]
            self._attend_singles(queries, batch.decodes, step, kv, out=results, memo=step.memo)
        if len(batch.chunks.slots):
            prefill_attention(
                q,
                kv,
                batch.chunks,
                scale=self._scale,
                window=self._window,
                counters=step.split_counters,
                out=out,
                memo=step.memo,
                native=step.native,
            )
        return out

    def _attend_singles(
        self,
        q: Tensor,
        rows: DecodeRows,
        step: AttentionStep,
        kv: PagedKV,
        *,
        out: Tensor | None = None,
        memo: StepMemo | None = None,
    ) -> Tensor:
        """One query each, wherever in a chunk its token stands. memo: the step's, for its decodes only."""
        if step.deterministic:
            starts = step.memo.once(
                ("starts of single tokens", len(q)),
                lambda: torch.arange(len(q) + 1, dtype=torch.int32, device=q.device),
            )
            chunks = ChunkRows(rows.slots, starts, rows.seq_lens)
            return prefill_attention(q, kv, chunks, scale=self._scale, window=self._window, out=out)
        return decode_attention(
            q,
            kv,
            rows,
            scale=self._scale,
            window=self._window,
            counters=step.split_counters,
            out=out,
            memo=memo,
            native=step.native,
        )

    def targets(self) -> Iterator[WeightTarget]:
        """The four projections, their biases and the head norms."""
        yield from self._qkv.targets()
        yield from self._o.targets()
        heads = self._heads
        if heads.bias is not None:
            biases = torch.split(heads.bias, [size for _, size in self._parts])
            for (name, _), bias in zip(self._parts, biases, strict=True):
                yield bias_target(name, bias, split=0)
        if heads.q_norm is not None and heads.k_norm is not None:
            yield WeightTarget(f"{self._name}.q_norm.weight", heads.q_norm)
            yield WeightTarget(f"{self._name}.k_norm.weight", heads.k_norm)

    def finish(self) -> None:
        """Called once when all targets are filled."""
        self._qkv.finish()
        self._o.finish()
