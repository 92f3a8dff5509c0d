"""A step plan as arrays: everything the device must be told, in one buffer and one copy. Knows no model.

The block tables live on the device; a step carries only the entries that were appended. What the host cannot
know yet, the token that a decode row continues from, is left as FROM_DEVICE and filled in over there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .plan import StepPlan

FROM_DEVICE = -1
"""A token id that is the last one sampled in the row's slot."""

_ALIGNMENT = 16
"""Bytes. Triton compiles a kernel anew for a pointer that is not so aligned; none of ours ever is not."""


class StepShape(NamedTuple):
    """Array lengths of a step: T tokens, D decodes, C chunks, S sampled rows, U appended table entries."""

    num_tokens: int
    num_decodes: int
    num_chunks: int
    num_sampled: int
    num_updates: int

    @property
    def num_bytes(self) -> int:
        """Size of the packed arrays."""
        return sum(_padded_bytes(length, dtype) for length, dtype in self.fields())

    def fields(self) -> Iterator[tuple[int, torch.dtype]]:
        """Length and type of each of StepArrays, in order."""
        tokens, decodes, chunks, sampled, updates = self
        for length in (tokens, sampled, updates):
            yield length, torch.int64
        for length in (
            tokens,
            tokens,
            decodes,
            decodes,
            chunks,
            chunks + 1,
            chunks,
            sampled,
            sampled,
            updates,
        ):
            yield length, torch.int32

    def holds(self, other: StepShape) -> bool:
        """Whether a step of `other` fits."""
        return all(mine >= theirs for mine, theirs in zip(self, other, strict=True))


def _padded_bytes(length: int, dtype: torch.dtype) -> int:
    return -(-length * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


class StepArrays(NamedTuple):
    """Views of one packed step. See ForwardBatch for the fields that they share.

    update_index: [U] int64, flat position in the block tables; update_value: [U] int32, the block id.
    sample_slots, sample_positions: [S] int32, whose token is sampled and where in its sequence it will stand.
    """

    kv_slots: Tensor
    last_tokens: Tensor
    update_index: Tensor
    token_ids: Tensor
    positions: Tensor
    decode_slots: Tensor
    decode_lens: Tensor
    chunk_slots: Tensor
    chunk_starts: Tensor
    chunk_lens: Tensor
    sample_slots: Tensor
    sample_positions: Tensor
    update_value: Tensor


def unpack(buffer: Tensor, shape: StepShape) -> StepArrays:
    """Views into `buffer` [>= shape.num_bytes] uint8."""
    views, offset = [], 0
    for length, dtype in shape.fields():
        views.append(buffer[offset : offset + length * dtype.itemsize].view(dtype))
        offset += _padded_bytes(length, dtype)
    return StepArrays(*views)


class BlockTableMirror:
    """What the device's block tables hold, kept on the host so that a step can be laid out without asking it.

    tables: [num_slots + 1, max_blocks] int32; the last row belongs to padding rows and stays zero.
    """

    def __init__(self, num_slots: int, max_blocks: int, block_size: int) -> None:
        self.tables = np.zeros((num_slots + 1, max_blocks), np.int32)
        self.block_size = block_size
        self.padding_slot = num_slots
        self._num_blocks = np.zeros(num_slots, np.int64)

    def apply(self, plan: StepPlan) -> tuple[HostArray, HostArray]:
        """File the blocks that a plan's rows append; returns their flat positions and ids."""
        for start in plan.starts:
            self._num_blocks[start.slot] = 0
        grown, places = np.array(plan.plain.grown, np.int64), self._num_blocks
        index, values = (
            [grown * self.tables.shape[1] + places[grown]],
            [np.array(plan.plain.blocks, np.int32)],
        )
        places[grown] += 1
        for row in plan.slices:
            if row.new_blocks:
                num_new, first = len(row.new_blocks), row.slot * self.tables.shape[1] + places[row.slot]
                index.append(np.arange(first, first + num_new))
                values.append(np.array(row.new_blocks, np.int32))
                places[row.slot] += num_new
        all_index, all_values = np.concatenate(index), np.concatenate(values)
        self.tables.reshape(-1)[all_index] = all_values
        return all_index, all_values

    def entries(self, slots: Iterable[int]) -> tuple[list[int], list[int]]:
        """Flat positions and ids of all blocks of these slots."""
        index: list[int] = []
        values: list[int] = []
        for slot in slots:
            begin, num_blocks = slot * self.tables.shape[1], int(self._num_blocks[slot])
            index += range(begin, begin + num_blocks)
            values += self.tables[slot, :num_blocks].tolist()
        return index, values


HostArray = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A plan worked out on the host, not packed yet. `shape` is exact; padding is added when it is packed.

    max_seq_len: of the longest row, this step's tokens included.   host_slots: the sampled rows' slots.
    arrays: by the names of StepArrays.
    """

    shape: StepShape
    max_seq_len: int
    host_slots: Sequence[int]
    arrays: dict[str, HostArray]


def lay_out(plan: StepPlan, mirror: BlockTableMirror) -> StepLayout:
    """Work out a plan's arrays. O(tokens) in numpy, O(slices) in Python."""
    plain, num_plain = plan.plain, len(plan.plain.slots)
    columns = zip(*plan.slices, strict=True) if plan.slices else repeat(())
    row_slots, row_starts, row_lengths, row_tokens, _, samples = islice(columns, 6)
    update_index, update_value = mirror.apply(plan)
    slots, starts = _joined(plain.slots, row_slots), _joined(plain.starts, row_starts)
    num_rows, num_decodes = len(slots), num_plain + row_lengths.count(1)
    chunk_starts = np.full(num_rows - num_decodes + 1, num_decodes, np.int32)
    positions, token_slots = starts, slots
    if num_decodes == num_rows:
        num_tokens, seq_lens = num_rows, starts + np.int32(1)
        row_ends = np.arange(1, num_rows + 1, dtype=np.int32)
    else:
        lengths = _joined(np.ones(num_plain, np.int32), row_lengths)
        row_ends = np.cumsum(lengths, dtype=np.int32)
        num_tokens, seq_lens = int(row_ends[-1]), starts + lengths
        positions = np.arange(num_tokens, dtype=np.int32) + np.repeat(starts - row_ends + lengths, lengths)
        token_slots = np.repeat(slots, lengths)
        chunk_starts[1:] = row_ends[num_decodes:]
    size = mirror.block_size
    blocks = mirror.tables[token_slots, positions // size].astype(np.int64)
    last_tokens, sample_slots, sample_positions = row_ends - 1, slots, seq_lens
    if not all(samples):
        sampled = np.concatenate((np.arange(num_plain), num_plain + np.flatnonzero(samples)))
        last_tokens, sample_slots, sample_positions = (
            values[sampled] for values in (last_tokens, slots, seq_lens)
        )
    arrays: dict[str, HostArray] = dict(
        kv_slots=blocks * size + positions % size,
        last_tokens=last_tokens,
        update_index=update_index,
        token_ids=_token_ids(row_tokens, num_tokens, row_ends[num_plain:]),
        positions=positions,
        decode_slots=slots[:num_decodes],
        decode_lens=seq_lens[:num_decodes],
        chunk_slots=slots[num_decodes:],
        chunk_starts=chunk_starts,
        chunk_lens=seq_lens[num_decodes:],
        sample_slots=sample_slots,
        sample_positions=sample_positions,
        update_value=update_value,
    )
    shape = StepShape(num_tokens, num_decodes, num_rows - num_decodes, len(sample_slots), len(update_index))
    return StepLayout(shape, int(seq_lens.max()), sample_slots.tolist(), arrays)


def _joined(plain: NDArray[np.int32], others: Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate((plain, np.array(others, np.int32))) if others else plain


def _token_ids(
    row_tokens: Sequence[Sequence[int] | None], num_tokens: int, row_ends: HostArray
) -> NDArray[np.int32]:
    """row_tokens, row_ends: of the slices; all tokens before them are on the device."""
    token_ids = np.full(num_tokens, FROM_DEVICE, np.int32)
    for end, tokens in zip(row_ends.tolist(), row_tokens, strict=True):
        if tokens is not None:
            token_ids[end - len(tokens) : end] = tokens
    return token_ids


def host_memory(num_bytes: int, device: torch.device) -> Tensor:
    """[num_bytes] uint8, to pack steps in; pinned, so that a GPU copies it by itself."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


class HostBuffer:
    """Where a step of one shape is packed: the beginning of `memory`, which has room for it."""

    def __init__(self, shape: StepShape, memory: Tensor) -> None:
        self.tensor = memory[: shape.num_bytes]
        self._shape = shape
        views = unpack(self.tensor, shape)._asdict().items()
        self._views = [(name, view.numpy()) for name, view in views if len(view)]

    def pack(self, layout: StepLayout, mirror: BlockTableMirror) -> Tensor:
        """Write the arrays, padded with rows that write nothing and nobody reads; the packed bytes."""
        assert self._shape.holds(layout.shape), f"{layout.shape} does not fit into {self._shape}"
        for name, view in self._views:
            values = layout.arrays[name]
            num_values = len(values)
            view[:num_values] = values
            if num_values < len(view):
                view[num_values:] = _padding(name, layout, mirror)
        return self.tensor


def _padding(name: str, layout: StepLayout, mirror: BlockTableMirror) -> int:
    if name == "kv_slots":
        return -1
    if name in ("decode_slots", "chunk_slots", "sample_slots"):
        return mirror.padding_slot
    if name == "chunk_starts":
        return layout.shape.num_tokens
    return mirror.padding_slot * mirror.tables.shape[1] if name == "update_index" else 0
