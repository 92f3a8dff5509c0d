"""`rope_and_store` and `decode_attention` as machine code for processors. Knows shapes, no model.

A step of few rows spends more time between torch's many small operations than in them; this is one call each.
"""

from __future__ import annotations

import ctypes
import math
import struct
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from torch import Tensor

from .decode_attention_native import write_decode
from .native_builder import F32, FLOAT_BYTES, I32, I64, LANES, POINTER, Writer, int64
from .native_code import NativeCode, ThreadTeam
from .paged_attention import DecodeRows, PagedKV

_ALONE_KEYS = 1 << 10
"""Keys times KV heads below which one thread is quicker than waking others."""
_ALONE_TOKENS = 16
_NO_WINDOW = 1 << 40


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What the code is made for."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def fits(self) -> bool:
        """Whether heads are made of whole vectors."""
        return self.head_dim % LANES == 0

    @property
    def head_bytes(self) -> int:
        return self.head_dim * FLOAT_BYTES

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.num_heads // self.num_kv_heads


class NativeAttention:
    """Both operations for one shape of heads, float32."""

    def __init__(self, shape: HeadShape, team: ThreadTeam) -> None:
        module = ir.Module(name="attention")
        _write_rope(module, shape)
        write_decode(module, shape)
        self._code = NativeCode(module, team)  # owns the memory that the addresses point into
        self._rope, self._decode = map(self._code.address, ("rope_and_store", "decode_attention"))
        self._team = team
        self.shape = shape

    def rope_and_store(
        self,
        qkv: Tensor,
        positions: Tensor,
        kv_slots: Tensor,
        cos_sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
    ) -> Tensor:
        """See ops/rope_and_store.py; without bias and norms."""
        q = qkv.new_empty(len(qkv), self.shape.num_heads, self.shape.head_dim)
        tensors = (qkv, positions, kv_slots, cos_sin, k_cache, v_cache, q)
        numbers = (len(qkv), k_cache.shape[2])
        arguments = (ctypes.c_int64 * 9)(*(tensor.data_ptr() for tensor in tensors), *numbers)
        self._team.run(self._rope, arguments, alone=len(qkv) <= _ALONE_TOKENS)
        return q

    def decode_attention(
        self,
        q: Tensor,
        kv: PagedKV,
        rows: DecodeRows,
        *,
        scale: float,
        window: int | None,
        out: Tensor,
    ) -> None:
        """See ops/decode_attention.py; where a length is 0, `out` stays as it is."""
        tensors = (q, *kv, rows.slots, rows.seq_lens, out)
        numbers = (len(q), kv.block_tables.stride(0), window or _NO_WINDOW, _bits(scale), kv.k.shape[2])
        arguments = (ctypes.c_int64 * 12)(*(tensor.data_ptr() for tensor in tensors), *numbers)
        keys = len(q) * rows.max_seq_len * self.shape.num_kv_heads
        self._team.run(self._decode, arguments, alone=keys <= _ALONE_KEYS)

    def rotates(self, qkv: Tensor, cos_sin: Tensor) -> bool:
        """Whether `rope_and_store` can be done here: every element of a head rotates."""
        return qkv.is_contiguous() and cos_sin.shape[1] == self.shape.head_dim

    def attends(self, q: Tensor, k_cache: Tensor, out: Tensor) -> bool:
        """Whether `decode_attention` can be done here: pages are made of whole vectors of keys."""
        return k_cache.shape[2] % LANES == 0 and q.is_contiguous() and out.is_contiguous()


def _bits(number: float) -> int:
    """A float32 as an integer of the same bits."""
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


def _write_rope(module: ir.Module, shape: HeadShape) -> None:
    """Arguments: addresses of qkv, positions, kv_slots, cos_sin, k_cache, v_cache, q; numbers of tokens
    and of keys in a page."""
    w = Writer(module, "rope_and_store", [POINTER])
    fields = [w.load(w.at(w.function.args[0], int64(8 * i)), I64, 8) for i in range(9)]
    qkv, positions, kv_slots, cos_sin, k_cache, v_cache, out = (w.b.inttoptr(f, POINTER) for f in fields[:7])
    heads, kv_heads, head_bytes = shape.num_heads, shape.num_kv_heads, shape.head_bytes
    lanes = math.gcd(LANES, shape.head_dim // 2)
    half, vector, kind = shape.head_dim // 2 // lanes, lanes * FLOAT_BYTES, ir.VectorType(F32, lanes)

    def vectors(place: Any, first: int, count: int) -> list[Any]:
        return [w.load(w.at(place, int64((first + i) * vector)), kind) for i in range(count)]

    def each_token(token: Any, _: list[Any]) -> list[Any]:
        position = w.b.sext(w.load(w.at(positions, w.b.mul(token, int64(4))), I32), I64)
        factors = w.at(cos_sin, w.b.mul(position, int64(head_bytes)))
        cos, sin = vectors(factors, 0, half), vectors(factors, half, half)
        source = w.at(qkv, w.b.mul(token, int64((heads + 2 * kv_heads) * head_bytes)))
        queries = w.at(out, w.b.mul(token, int64(heads * head_bytes)))

        def rotate(place: Any, target: Any) -> None:
            low, high = vectors(place, 0, half), vectors(place, half, half)
            for i in range(half):
                turned = w.fma(low[i], cos[i], w.b.fneg(w.b.fmul(high[i], sin[i])))
                w.store(turned, w.at(target, int64(i * vector)))
                turned = w.fma(high[i], cos[i], w.b.fmul(low[i], sin[i]))
                w.store(turned, w.at(target, int64((half + i) * vector)))

        def each_query(head: Any, _: list[Any]) -> list[Any]:
            at = w.b.mul(head, int64(head_bytes))
            rotate(w.at(source, at), w.at(queries, at))
            return []

        w.loop(int64(0), int64(heads), [], each_query)
        slot = w.load(w.at(kv_slots, w.b.mul(token, int64(8))), I64, 8)
        block, offset = w.b.sdiv(slot, fields[8]), w.b.srem(slot, fields[8])

        def each_kv(head: Any, _: list[Any]) -> list[Any]:
            row = w.b.add(w.b.mul(block, int64(kv_heads)), head)
            row = w.b.add(w.b.mul(row, fields[8]), offset)
            page = w.b.mul(row, int64(head_bytes))
            key = w.at(source, w.b.mul(w.b.add(head, int64(heads)), int64(head_bytes)))
            rotate(key, w.at(k_cache, page))
            value = w.at(key, int64(kv_heads * head_bytes))
            for i, part in enumerate(vectors(value, 0, 2 * half)):
                w.store(part, w.at(w.at(v_cache, page), int64(i * vector)))
            return []

        kept = w.b.select(w.b.icmp_signed("<", slot, int64(0)), int64(0), int64(kv_heads))
        w.loop(int64(0), kept, [], each_kv)
        return []

    w.share(fields[7], lambda token: each_token(token, []))
    w.done()
