"""`rope_and_store` and `decode_attention` as machine code for processors. Knows shapes, no model.

A step of few rows spends more time between torch's many small operations than in them; this is one call each.

    each (sequence, KV head)      shared out among the threads
        each 16 keys of its pages
            scores of the head's queries, their exponentials, running maximum and sum    (online softmax)
            accumulators += exponential * value
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from torch import Tensor

from .native_builder import F32, FLOAT_BYTES, FLOATS, I32, I64, LANES, POINTER, Writer, floats, int64
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
        _write_decode(module, shape)
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

    _share(w, fields[7], lambda token: each_token(token, []))
    w.done()


def _write_decode(module: ir.Module, shape: HeadShape) -> None:
    """Arguments: addresses of q, k_cache, v_cache, block_tables, slots, seq_lens, out; number of sequences,
    entries of a block table, window, bits of the scale, keys in a page."""
    w = Writer(module, "decode_attention", [POINTER])
    fields = [w.load(w.at(w.function.args[0], int64(8 * i)), I64, 8) for i in range(12)]
    q, k_cache, v_cache, tables, slots, lens, out = (w.b.inttoptr(f, POINTER) for f in fields[:7])
    num_sequences, table_stride, window = fields[7:10]
    scale, block_size = w.b.bitcast(w.b.trunc(fields[10], I32), F32), fields[11]
    parts, group, vector = shape.head_dim // LANES, shape.group, LANES * FLOAT_BYTES
    # The exponentials of 16 keys for each query head.
    memory = w.b.alloca(FLOATS, size=group)
    memory.align = vector
    scratch = w.b.inttoptr(w.b.ptrtoint(memory, I64), POINTER)

    def number(array: Any, index: Any) -> Any:
        return w.b.sext(w.load(w.at(array, w.b.mul(index, int64(4))), I32), I64)

    def vectors(place: Any) -> list[Any]:
        return [w.load(w.at(place, int64(i * vector)), FLOATS) for i in range(parts)]

    def mark(query: int, key: Any) -> Any:
        return w.at(scratch, w.b.add(int64(query * vector), w.b.mul(key, int64(FLOAT_BYTES))))

    def each_task(task: Any) -> None:
        sequence = w.b.sdiv(task, int64(shape.num_kv_heads))
        head = w.b.srem(task, int64(shape.num_kv_heads))
        length, slot = number(lens, sequence), number(slots, sequence)
        table = w.at(tables, w.b.mul(w.b.mul(slot, table_stride), int64(4)))
        first = w.most(int64(0), w.b.sub(length, window))
        at = w.b.mul(
            w.b.add(w.b.mul(sequence, int64(shape.num_kv_heads)), head), int64(group * shape.head_bytes)
        )
        queries = [w.at(w.at(q, at), int64(i * shape.head_bytes)) for i in range(group)]

        def each_chunk(chunk: Any, state: list[Any]) -> list[Any]:
            base = w.b.mul(chunk, int64(LANES))
            block = number(table, w.b.sdiv(base, block_size))
            row = w.b.add(w.b.mul(block, int64(shape.num_kv_heads)), head)
            row = w.b.mul(row, block_size)
            page = w.b.mul(w.b.add(row, w.b.srem(base, block_size)), int64(shape.head_bytes))
            keys, values = w.at(k_cache, page), w.at(v_cache, page)
            low, high = w.most(int64(0), w.b.sub(first, base)), w.least(int64(LANES), w.b.sub(length, base))
            for i in range(group):
                w.store(floats(float("-inf")), mark(i, int64(0)))

            def each_key(key: Any, _: list[Any]) -> list[Any]:
                content = vectors(w.at(keys, w.b.mul(key, int64(shape.head_bytes))))
                for i, query in enumerate(queries):
                    products = w.b.fmul(content[0], w.load(query, FLOATS))
                    for part in range(1, parts):
                        given = w.load(w.at(query, int64(part * vector)), FLOATS)
                        products = w.fma(content[part], given, products)
                    w.store(w.b.fmul(w.sum(products), scale), mark(i, key))
                return []

            w.loop(low, high, [], each_key)
            rescaled = []
            for i in range(group):
                highest, total, *sums = state[i * (parts + 2) : (i + 1) * (parts + 2)]
                scores = w.load(mark(i, int64(0)), FLOATS)
                top = w.spread(w.largest(scores))
                top = w.b.select(w.b.fcmp_ordered(">", top, highest), top, highest)
                weights, shrink = w.exp(w.b.fsub(scores, top)), w.exp(w.b.fsub(highest, top))
                w.store(weights, mark(i, int64(0)))
                total = w.fma(total, shrink, w.spread(w.sum(weights)))
                rescaled += [top, total, *(w.b.fmul(each, shrink) for each in sums)]

            def each_value(key: Any, state: list[Any]) -> list[Any]:
                content = vectors(w.at(values, w.b.mul(key, int64(shape.head_bytes))))
                for i in range(group):
                    weight = w.spread(w.load(mark(i, key), F32))
                    for part in range(parts):
                        place = i * (parts + 2) + 2 + part
                        state[place] = w.fma(weight, content[part], state[place])
                return state

            return w.loop(low, high, rescaled, each_value)

        start = [floats(-1e30), floats(0.0), *([floats(0.0)] * parts)] * group
        last = w.b.sdiv(w.b.add(length, int64(LANES - 1)), int64(LANES))
        state = w.loop(w.b.sdiv(first, int64(LANES)), last, start, each_chunk)
        with w.b.if_then(w.b.icmp_signed(">", length, int64(0))):
            for i in range(group):
                _, total, *sums = state[i * (parts + 2) : (i + 1) * (parts + 2)]
                for part, each in enumerate(sums):
                    place = w.at(w.at(out, at), int64(i * shape.head_bytes + part * vector))
                    w.store(w.b.fdiv(each, total), place)

    _share(w, w.b.mul(num_sequences, int64(shape.num_kv_heads)), each_task)
    w.done()


def _share(w: Writer, num_tasks: Any, run: Callable[[Any], object]) -> None:
    """Tasks t, t + threads, t + 2 threads, ... for thread t."""
    thread, threads = w.thread()
    left = w.b.add(w.b.sub(num_tasks, thread), w.b.sub(threads, int64(1)))

    def each(index: Any, _: list[Any]) -> list[Any]:
        run(w.b.add(thread, w.b.mul(index, threads)))
        return []

    w.loop(int64(0), w.b.sdiv(left, threads), [], each)
