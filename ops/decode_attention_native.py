"""Decode attention in LLVM's language, for `attention_native`.

    each (sequence, KV head)      shared out among the threads
        each 16 keys of its pages
            scores of the head's queries, their exponentials, running maximum and sum    (online softmax)
            accumulators += exponential * value

Knows how keys lie in pages; compiles nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from .native_builder import F32, FLOAT_BYTES, FLOATS, I32, I64, LANES, POINTER, Writer, floats, int64

if TYPE_CHECKING:
    from .attention_native import HeadShape

_VECTOR_BYTES = LANES * FLOAT_BYTES


class _ChunkWriter:
    """Writes what the queries of a KV head see of 16 keys of a page, as an online softmax.

    Its state: for each query head the highest score and the sum of weights so far, either in all places of a
    vector, and then the weighted sum of values, in as many vectors as it takes.
    scratch: memory for 16 floats of each query head: its scores of the keys, and then their weights.
    """

    def __init__(self, w: Writer, shape: HeadShape, scale: Any) -> None:
        self._w, self._shape, self._scale = w, shape, scale
        self._parts = shape.head_dim // LANES
        memory = w.b.alloca(FLOATS, size=shape.group)
        memory.align = _VECTOR_BYTES
        self._scratch = w.b.inttoptr(w.b.ptrtoint(memory, I64), POINTER)

    def start(self) -> list[Any]:
        """The state before any key."""
        return [floats(-1e30), floats(0.0), *([floats(0.0)] * self._parts)] * self._shape.group

    def of_query(self, state: list[Any], query: int) -> list[Any]:
        """(highest, total, *sums) of a query head."""
        return state[query * (self._parts + 2) : (query + 1) * (self._parts + 2)]

    def store_scores(self, queries: list[Any], keys: Any, low: Any, high: Any) -> None:
        """Scores of keys [low, high) of the 16; those of the others are -inf."""
        w, group = self._w, self._shape.group
        for i in range(group):
            w.store(floats(float("-inf")), self._mark(i, int64(0)))

        def each_key(key: Any, _: list[Any]) -> list[Any]:
            content = self._vectors(w.at(keys, w.b.mul(key, int64(self._shape.head_bytes))))
            for i, query in enumerate(queries):
                products = w.b.fmul(content[0], w.load(query, FLOATS))
                for part in range(1, self._parts):
                    given = w.load(w.at(query, int64(part * _VECTOR_BYTES)), FLOATS)
                    products = w.fma(content[part], given, products)
                w.store(w.b.fmul(w.sum(products), self._scale), self._mark(i, key))
            return []

        w.loop(low, high, [], each_key)

    def weigh_scores(self, state: list[Any]) -> list[Any]:
        """Turn the scores into weights; returns the state relative to the new highest scores."""
        w, rescaled = self._w, []
        for i in range(self._shape.group):
            highest, total, *sums = self.of_query(state, i)
            scores = w.load(self._mark(i, int64(0)), FLOATS)
            top = w.spread(w.largest(scores))
            top = w.b.select(w.b.fcmp_ordered(">", top, highest), top, highest)
            weights, shrink = w.exp(w.b.fsub(scores, top)), w.exp(w.b.fsub(highest, top))
            w.store(weights, self._mark(i, int64(0)))
            total = w.fma(total, shrink, w.spread(w.sum(weights)))
            rescaled += [top, total, *(w.b.fmul(each, shrink) for each in sums)]
        return rescaled

    def add_values(self, state: list[Any], values: Any, low: Any, high: Any) -> list[Any]:
        """The state with the weighted values of keys [low, high)."""
        w = self._w

        def each_value(key: Any, state: list[Any]) -> list[Any]:
            content = self._vectors(w.at(values, w.b.mul(key, int64(self._shape.head_bytes))))
            for i in range(self._shape.group):
                weight = w.spread(w.load(self._mark(i, key), F32))
                for part in range(self._parts):
                    place = i * (self._parts + 2) + 2 + part
                    state[place] = w.fma(weight, content[part], state[place])
            return state

        return w.loop(low, high, state, each_value)

    def _vectors(self, place: Any) -> list[Any]:
        return [self._w.load(self._w.at(place, int64(i * _VECTOR_BYTES)), FLOATS) for i in range(self._parts)]

    def _mark(self, query: int, key: Any) -> Any:
        """Where the score of a key is."""
        w = self._w
        return w.at(self._scratch, w.b.add(int64(query * _VECTOR_BYTES), w.b.mul(key, int64(FLOAT_BYTES))))


def write_decode(module: ir.Module, shape: HeadShape) -> None:
    """Arguments: addresses of q, k_cache, v_cache, block_tables, slots, seq_lens, out; number of sequences,
    entries of a block table, window, bits of the scale, keys in a page."""
    w = Writer(module, "decode_attention", [POINTER])
    fields = [w.load(w.at(w.function.args[0], int64(8 * i)), I64, 8) for i in range(12)]
    q, k_cache, v_cache, tables, slots, lens, out = (w.b.inttoptr(f, POINTER) for f in fields[:7])
    num_sequences, table_stride, window = fields[7:10]
    scale, block_size = w.b.bitcast(w.b.trunc(fields[10], I32), F32), fields[11]
    chunks = _ChunkWriter(w, shape, scale)

    def number(array: Any, index: Any) -> Any:
        return w.b.sext(w.load(w.at(array, w.b.mul(index, int64(4))), I32), I64)

    def each_task(task: Any) -> None:
        sequence = w.b.sdiv(task, int64(shape.num_kv_heads))
        head = w.b.srem(task, int64(shape.num_kv_heads))
        length, slot = number(lens, sequence), number(slots, sequence)
        table = w.at(tables, w.b.mul(w.b.mul(slot, table_stride), int64(4)))
        first = w.most(int64(0), w.b.sub(length, window))
        at = w.b.mul(
            w.b.add(w.b.mul(sequence, int64(shape.num_kv_heads)), head), int64(shape.group * shape.head_bytes)
        )
        queries = [w.at(w.at(q, at), int64(i * shape.head_bytes)) for i in range(shape.group)]

        def each_chunk(chunk: Any, state: list[Any]) -> list[Any]:
            base = w.b.mul(chunk, int64(LANES))
            block = number(table, w.b.sdiv(base, block_size))
            row = w.b.add(w.b.mul(block, int64(shape.num_kv_heads)), head)
            row = w.b.mul(row, block_size)
            page = w.b.mul(w.b.add(row, w.b.srem(base, block_size)), int64(shape.head_bytes))
            keys, values = w.at(k_cache, page), w.at(v_cache, page)
            low, high = w.most(int64(0), w.b.sub(first, base)), w.least(int64(LANES), w.b.sub(length, base))
            chunks.store_scores(queries, keys, low, high)
            return chunks.add_values(chunks.weigh_scores(state), values, low, high)

        last = w.b.sdiv(w.b.add(length, int64(LANES - 1)), int64(LANES))
        state = w.loop(w.b.sdiv(first, int64(LANES)), last, chunks.start(), each_chunk)
        with w.b.if_then(w.b.icmp_signed(">", length, int64(0))):
            for i in range(shape.group):
                _, total, *sums = chunks.of_query(state, i)
                for part, each in enumerate(sums):
                    place = w.at(w.at(out, at), int64(i * shape.head_bytes + part * _VECTOR_BYTES))
                    w.store(w.b.fdiv(each, total), place)

    w.share(w.b.mul(num_sequences, int64(shape.num_kv_heads)), each_task)
    w.done()
