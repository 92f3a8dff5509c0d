"""A step plan as arrays: everything the device must be told, in one buffer and one copy. Knows no model.

The block tables live on the device; a step carries only the entries that were appended. What the host cannot
know yet, the token that a decode row continues from, is left as FROM_DEVICE and filled in over there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .plan import SequenceSlice, StepPlan

FROM_DEVICE = -1
"""A token id that is the last one sampled in the row's slot."""

_ALIGNMENT = 16
"""Bytes. Triton compiles a kernel anew for a pointer that is not so aligned; none of ours ever is not."""


class StepShape(NamedTuple):
    """Array lengths of a step: T tokens, R rows, S sampled rows, U appended block-table entries."""

    num_tokens: int
    num_rows: int
    num_sampled: int
    num_updates: int

    @property
    def num_bytes(self) -> int:
        """Size of the packed arrays."""
        return sum(_padded_bytes(length, dtype) for length, dtype in self.fields())

    def fields(self) -> Iterator[tuple[int, torch.dtype]]:
        """Length and type of each of StepArrays, in order."""
        tokens, rows, sampled, updates = self
        for length in (tokens, sampled, updates):
            yield length, torch.int64
        for length in (tokens, tokens, rows, rows + 1, rows, sampled, sampled, updates):
            yield length, torch.int32


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
    slots: Tensor
    query_starts: Tensor
    seq_lens: Tensor
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
        self._num_blocks = [0] * num_slots

    def apply(self, plan: StepPlan) -> tuple[list[int], list[int]]:
        """File the plan's new blocks; returns their flat positions and ids."""
        for start in plan.starts:
            self._num_blocks[start.slot] = 0
        index: list[int] = []
        values: list[int] = []
        width = self.tables.shape[1]
        for row in plan.rows:
            if row.new_blocks:
                first = self._num_blocks[row.slot]
                self._num_blocks[row.slot] = end = first + len(row.new_blocks)
                self.tables[row.slot, first:end] = row.new_blocks
                index += range(row.slot * width + first, row.slot * width + end)
                values += row.new_blocks
        return index, values


class StepBounds(NamedTuple):
    """Host integers that size grids. num_decodes: leading rows of one token; the others are upper bounds."""

    num_decodes: int
    max_query_len: int
    max_seq_len: int


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A plan worked out on the host, not packed yet. `shape` is exact; padding is added when it is packed.

    host_slots: the sampled rows' slots.
    """

    shape: StepShape
    bounds: StepBounds
    host_slots: list[int]
    arrays: dict[str, NDArray[np.int32] | NDArray[np.int64]]


def lay_out(plan: StepPlan, mirror: BlockTableMirror) -> StepLayout:
    """Work out a plan's arrays. O(tokens) in numpy, O(rows) in Python."""
    update_index, update_value = mirror.apply(plan)
    rows = plan.rows
    slots = np.array([row.slot for row in rows], np.int32)
    starts = np.array([row.start for row in rows], np.int32)
    lengths = np.array([row.length for row in rows], np.int32)
    num_decodes = int(np.count_nonzero(lengths == 1))
    query_starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths, out=query_starts[1:])
    num_tokens = int(query_starts[-1])
    if num_decodes == len(rows):
        positions, token_slots = starts, slots
    else:
        positions = np.arange(num_tokens, dtype=np.int32) + np.repeat(starts - query_starts[:-1], lengths)
        token_slots = np.repeat(slots, lengths)
    size = mirror.block_size
    blocks = mirror.tables[token_slots, positions // size].astype(np.int64)
    sampled = np.flatnonzero(np.array([row.samples for row in rows], bool))
    seq_lens = starts + lengths
    sample_slots = slots[sampled]
    return StepLayout(
        shape=StepShape(num_tokens, len(rows), len(sampled), len(update_index)),
        bounds=StepBounds(num_decodes, int(lengths.max()), int(seq_lens.max())),
        host_slots=sample_slots.tolist(),
        arrays={
            "kv_slots": blocks * size + positions % size,
            "last_tokens": (query_starts[1:] - 1)[sampled].astype(np.int64),
            "update_index": np.array(update_index, np.int64),
            "token_ids": _token_ids(rows, num_tokens, query_starts),
            "positions": positions,
            "slots": slots,
            "query_starts": query_starts,
            "seq_lens": seq_lens,
            "sample_slots": sample_slots,
            "sample_positions": seq_lens[sampled],
            "update_value": np.array(update_value, np.int32),
        },
    )


def _token_ids(
    rows: Sequence[SequenceSlice], num_tokens: int, query_starts: NDArray[np.int32]
) -> NDArray[np.int32]:
    token_ids = np.full(num_tokens, FROM_DEVICE, np.int32)
    for row, begin in zip(rows, query_starts.tolist(), strict=False):
        if row.tokens is not None:
            token_ids[begin : begin + row.length] = row.tokens
    return token_ids


class HostBuffer:
    """Memory in which a step of one shape is packed; pinned, so that a GPU copies it by itself."""

    def __init__(self, shape: StepShape, device: torch.device) -> None:
        self.tensor = torch.empty(shape.num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._views = {name: view.numpy() for name, view in unpack(self.tensor, shape)._asdict().items()}

    def pack(self, layout: StepLayout, mirror: BlockTableMirror) -> Tensor:
        """Write the arrays, padded with rows that write nothing and nobody reads; the packed bytes."""
        for name, view in self._views.items():
            values = layout.arrays[name]
            view[: len(values)] = values
            if len(values) < len(view):
                view[len(values) :] = _padding(name, layout, mirror)
        return self.tensor


def _padding(name: str, layout: StepLayout, mirror: BlockTableMirror) -> int:
    if name == "kv_slots":
        return -1
    if name in ("slots", "sample_slots"):
        return mirror.padding_slot
    if name == "query_starts":
        return layout.shape.num_tokens
    return mirror.padding_slot * mirror.tables.shape[1] if name == "update_index" else 0
