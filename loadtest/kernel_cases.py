"""What loadtest/kernels.py measures: calls of the kernels at real models' shapes, and tiles that may suit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from octavo.ops.activation import silu_mul_reference
from octavo.ops.activation_kernel import launch_silu_mul
from octavo.ops.decode_attention_kernel import launch_decode_attention
from octavo.ops.paged_attention import ChunkRows, DecodeRows, PagedKV
from octavo.ops.prefill_attention_kernel import launch_prefill_attention
from octavo.ops.rms_norm import rms_norm_reference
from octavo.ops.rms_norm_kernel import launch_add_rms_norm
from octavo.ops.rope_and_store import QKVHeads, rope_and_store_reference
from octavo.ops.rope_and_store_kernel import launch_rope_and_store
from octavo.ops.step_memo import StepMemo
from octavo.ops.thin_linear_kernel import launch_thin_linear
from octavo.ops.tuning import NUM_SPLIT_COUNTERS, DecodeTiles, PrefillTiles, ThinTiles

BF16, CUDA = torch.bfloat16, "cuda"
OPERAND_BYTES = 256 << 20
"""Operands that one graph passes over at least: several times an L2 cache."""


@dataclass(frozen=True, slots=True)
class Model:
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


MODELS = {
    "qwen2.5-1.5b": Model(1536, 12, 2, 128, 8960),
    "llama-3.1-8b": Model(4096, 32, 8, 128, 14336),
}
# Tiles to try, as their classes' fields: block sizes, warps, stages, programs per multiprocessor.
DECODE_SWEEP = [(64, 4, 3, 2), (64, 4, 3, 3), (64, 4, 5, 2), (64, 8, 3, 2), (32, 4, 5, 3), (32, 4, 7, 2)]
DECODE_SWEEP += [(128, 4, 3, 1), (128, 4, 3, 3), (128, 8, 3, 2)]
PREFILL_SWEEP = [
    (128, 64, 8, 2),
    (128, 64, 8, 5),
    (128, 64, 8, 8),
    (128, 128, 8, 2),
    (128, 128, 8, 5),
]
PREFILL_SWEEP += [(64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 5), (64, 128, 4, 3)]
PRODUCT_SWEEP = [(8, 512, 4, 3), (4, 1024, 4, 3), (2, 2048, 4, 3), (16, 256, 4, 4), (8, 1024, 8, 3)]
PRODUCT_SWEEP += [(16, 512, 8, 3), (4, 512, 2, 4), (1, 4096, 4, 2)]
DOT_SWEEP = [
    (16, 256, 4, 4),
    (16, 512, 4, 3),
    (16, 128, 4, 6),
    (32, 256, 4, 4),
    (16, 512, 8, 4),
    (64, 128, 4, 5),
]

DECODE_SHAPES = [(batch, context) for context in (512, 4096) for batch in (1, 32, 256)]
PREFILL_SHAPES = {
    "1 x 1024": ([1024], [1024]),
    "1 x 4096": ([4096], [4096]),
    "1 x 8192": ([8192], [8192]),
    "1 x 16384": ([16384], [16384]),
    "16 x 220": ([220] * 16, [220] * 16),
    "4 x 512 behind 4096": ([512] * 4, [4608] * 4),
    "192 behind 100000": ([192], [100192]),
    "352 behind 100000": ([352], [100352]),
    "480 behind 30000": ([480], [30480]),
}
"""Tokens of each row in the chunk, and in all."""
TOKENS = (1, 256, 8192)


@dataclass(frozen=True, slots=True)
class Case:
    """Calls over operands of their own, each moving num_bytes or computing num_flops; error: of a result."""

    kernel: str
    shape: str
    calls: Sequence[Callable[[], Tensor]]
    num_bytes: int
    num_flops: int
    error: Callable[[Tensor], float]


def relative_error(out: Tensor, expected: Tensor) -> float:
    return float((out.float() - expected).abs().max() / expected.abs().max())


@dataclass(frozen=True, slots=True)
class Pages:
    """One layer's cache of rows with shuffled pages."""

    k: Tensor
    v: Tensor
    tables: Tensor
    slots: Tensor
    seq_lens: Tensor

    @classmethod
    def random(cls, model: Model, lengths: Sequence[int], block_size: int) -> Pages:
        width = -(-max(lengths) // block_size)
        counts = [-(-length // block_size) for length in lengths]
        ids = torch.randperm(sum(counts), device=CUDA, dtype=torch.int32)
        tables = torch.zeros(len(lengths), width, dtype=torch.int32, device=CUDA)
        for row, own in enumerate(torch.split(ids, counts)):
            tables[row, : len(own)] = own
        shape = (len(ids), model.kv_heads, block_size, model.head_dim)
        k, v = (torch.randn(shape, dtype=BF16, device=CUDA) for _ in range(2))
        slots = torch.arange(len(lengths), dtype=torch.int32, device=CUDA)
        return cls(k, v, tables, slots, torch.tensor(lengths, dtype=torch.int32, device=CUDA))

    @property
    def kv(self) -> PagedKV:
        return PagedKV(self.k, self.v, self.tables)

    def error(self, out: Tensor, q: Tensor, query_starts: Sequence[int]) -> float:
        """The largest relative error among the first and last queries of the first, middle and last row."""
        num_rows, worst = len(self.slots), 0.0
        for row in {0, num_rows // 2, num_rows - 1}:
            begin, end = query_starts[row], query_starts[row + 1]
            for first in {begin, max(begin, end - 40)}:
                last = min(end, first + 40)
                seen = int(self.seq_lens[row]) - (end - last)
                worst = max(worst, relative_error(out[first:last], self._attend(q[first:last], row, seen)))
        return worst

    def _attend(self, q: Tensor, row: int, seen: int) -> Tensor:
        blocks = self.tables[row, : -(-seen // self.k.shape[2])].long()
        group = q.shape[1] // self.k.shape[1]
        k, v = (
            cache[blocks].transpose(0, 1).flatten(1, 2)[:, :seen].float().repeat_interleave(group, dim=0)
            for cache in (self.k, self.v)
        )
        hidden = torch.ones(len(q), seen, dtype=torch.bool, device=CUDA).triu(seen - len(q) + 1)
        scores = torch.einsum("qhd,hkd->hqk", q.float(), k) / math.sqrt(q.shape[2])
        return torch.einsum("hqk,hkd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


def copies(num_bytes: int) -> range:
    return range(max(1, -(-OPERAND_BYTES // num_bytes)))


def ragged_lengths(count: int) -> list[int]:
    """Contexts as of chats in mid-answer: an exponential of mean 320."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(count, generator=generator)
    return (-320 * uniform.clamp_min(1e-3).log()).clamp(16, 2048).int().tolist()


Variants = list[tuple[str, Case]]


def decode_cases(model: Model, block_size: int, sweep: bool) -> Iterator[Variants]:
    shapes = [(f"{batch} x {context}", [context] * batch) for batch, context in DECODE_SHAPES]
    for shape, lengths in [*shapes, ("256 ragged", ragged_lengths(256))]:
        num_bytes = 4 * model.kv_heads * model.head_dim * sum(lengths)
        layers = [Pages.random(model, lengths, block_size) for _ in copies(num_bytes)]
        q = torch.randn(len(lengths), model.heads, model.head_dim, dtype=BF16, device=CUDA)
        counters = torch.zeros(NUM_SPLIT_COUNTERS, dtype=torch.int32, device=CUDA)
        options: dict[str, dict[str, Any]] = {"table": {}}
        if sweep:
            options |= {str(tiles): {"tiles": DecodeTiles(*tiles)} for tiles in DECODE_SWEEP}
        error = partial(layers[0].error, q=q, query_starts=range(len(q) + 1))
        variants = []
        for name, chosen in options.items():
            arguments = dict(scale=model.head_dim**-0.5, counters=counters) | chosen
            calls = [
                partial(
                    launch_decode_attention,
                    q,
                    p.kv,
                    DecodeRows(p.slots, p.seq_lens, max(lengths)),
                    **arguments,
                )
                for p in layers
            ]
            variants.append((name, Case("decode", shape, calls, num_bytes, 0, error)))
        yield variants


def prefill_cases(model: Model, block_size: int, sweep: bool) -> Iterator[Variants]:
    for shape, (query_lens, seq_lens) in PREFILL_SHAPES.items():
        p = Pages.random(model, seq_lens, block_size)
        ends = list(accumulate(query_lens, initial=0))
        starts = torch.tensor(ends, dtype=torch.int32, device=CUDA)
        q = torch.randn(ends[-1], model.heads, model.head_dim, dtype=BF16, device=CUDA)
        pairs = sum(n * s - n * (n - 1) // 2 for n, s in zip(query_lens, seq_lens, strict=True))
        num_flops = 4 * model.heads * model.head_dim * pairs
        rows = ChunkRows(p.slots, starts, p.seq_lens)
        launch = partial(launch_prefill_attention, q, p.kv, rows, scale=model.head_dim**-0.5)
        counters = torch.zeros(NUM_SPLIT_COUNTERS, dtype=torch.int32, device=CUDA)
        # The plan of splits is made once per step, and left out here as from all layers but the first.
        splits: dict[str, Any] = {"counters": counters, "memo": StepMemo()}
        options: dict[str, dict[str, Any]] = {"table": splits, "no splits": {}}
        if sweep:
            options |= {str(tiles): splits | {"tiles": PrefillTiles(*tiles)} for tiles in PREFILL_SWEEP}
        error = partial(p.error, q=q, query_starts=ends)
        yield [
            (name, Case("prefill", shape, [partial(launch, **chosen)], 0, num_flops, error))
            for name, chosen in options.items()
        ]


def thin_cases(model: Model, _block_size: int, sweep: bool) -> Iterator[Variants]:
    attention = model.heads * model.head_dim
    shapes = {
        "qkv": (attention + 2 * model.kv_heads * model.head_dim, model.hidden),
        "o": (model.hidden, attention),
        "gate_up": (2 * model.intermediate, model.hidden),
        "down": (model.hidden, model.intermediate),
    }
    for (name, (n, k)), m in product(shapes.items(), (1, 2, 4, 8)):
        weights = [torch.randn(n, k, dtype=BF16, device=CUDA) for _ in copies(2 * n * k)]
        x, shape = torch.randn(m, k, dtype=BF16, device=CUDA), f"{name}, M={m}"
        products: dict[str, Callable[..., Tensor]] = {"cuBLAS": linear, "table": launch_thin_linear}
        for tiles in (PRODUCT_SWEEP if m <= 2 else DOT_SWEEP) if sweep else ():
            products[str(tiles)] = partial(launch_thin_linear, tiles=ThinTiles(*tiles))
        error = partial(relative_error, expected=linear(x.float(), weights[0].float()))
        yield [
            (
                how,
                Case("thin_linear", shape, [partial(f, x, w) for w in weights], 2 * n * k, 0, error),
            )
            for how, f in products.items()
        ]


def small_cases(model: Model, block_size: int, _sweep: bool) -> Iterator[Variants]:
    for t in TOKENS:
        for case in (_rope_case(model, block_size, t), _norm_case(model, t), _silu_case(model, t)):
            yield [("table", case)]


def _operands(num_tokens: int, width: int, num_bytes: int) -> list[Tensor]:
    count = min(64, len(copies(num_bytes)))
    return [torch.randn(num_tokens, width, dtype=BF16, device=CUDA) for _ in range(count)]


def _rope_case(model: Model, block_size: int, t: int) -> Case:
    merged = (model.heads + 2 * model.kv_heads) * model.head_dim
    inputs = _operands(t, merged, 4 * t * merged)
    cos_sin = torch.randn(max(TOKENS), model.head_dim, device=CUDA)
    p = Pages.random(model, [t], block_size)
    where = torch.arange(t, dtype=torch.int32, device=CUDA), torch.arange(t, device=CUDA), cos_sin
    heads = QKVHeads(model.heads)
    calls = [partial(launch_rope_and_store, x, *where, p.k, p.v, heads) for x in inputs]
    caches = p.k.float(), p.v.float()
    expected = rope_and_store_reference(inputs[0].float(), *where, *caches, heads, memo=StepMemo())
    return Case(
        "rope_and_store", f"T={t}", calls, 4 * t * merged, 0, partial(relative_error, expected=expected)
    )


def _norm_case(model: Model, t: int) -> Case:
    num_bytes, weight = 8 * t * model.hidden, torch.randn(model.hidden, dtype=BF16, device=CUDA)
    inputs = _operands(t, model.hidden, num_bytes)
    calls = [partial(launch_add_rms_norm, x, torch.zeros_like(x), weight, 1e-6) for x in inputs]
    error = partial(relative_error, expected=rms_norm_reference(inputs[0].float(), weight, 1e-6))
    return Case("add_rms_norm", f"T={t}", calls, num_bytes, 0, error)


def _silu_case(model: Model, t: int) -> Case:
    num_bytes = 6 * t * model.intermediate
    inputs = _operands(t, 2 * model.intermediate, num_bytes)
    error = partial(relative_error, expected=silu_mul_reference(inputs[0].float()))
    calls = [partial(launch_silu_mul, x) for x in inputs]
    return Case("silu_mul", f"T={t}", calls, num_bytes, 0, error)
