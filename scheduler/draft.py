"""A step plan while it is put together: rows can be taken back. Knows no policy and no blocks."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from operator import itemgetter

import numpy as np

from ..model.plan import NO_PLAIN_ROWS, PlainRows, SequenceSlice, SlotStart, StepPlan, TokenMasks
from .constraint import MaskRow
from .sequence import Sequence
from .step_time import StepLoad

_START = itemgetter(SequenceSlice._fields.index("start"))
_PLACE = itemgetter(0)


class StepDraft:
    """Rows and their sequences; `budget` is how many tokens the step may still take.

    plain_owners: whose the plain rows are.
    preempted: somebody lost its place for this step, so nobody new comes in.
    """

    __slots__ = (
        "_bound",
        "_chunk_owners",
        "_chunks",
        "_context_tokens",
        "_masks",
        "_owners",
        "_plain",
        "_rows",
        "budget",
        "plain_owners",
        "preempted",
        "starts",
    )

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.preempted = False
        self.starts: list[SlotStart] = []
        self._bound = False  # whether any row has a constraint
        self._masks: tuple[TokenMasks, ...] = ()
        self._plain = NO_PLAIN_ROWS
        self._context_tokens = 0
        self.plain_owners: list[Sequence] = []
        self._rows: list[SequenceSlice] = []  # of length 1
        self._owners: list[Sequence] = []
        self._chunks: list[SequenceSlice] = []
        self._chunk_owners: list[Sequence] = []

    def add_plain(self, plain: PlainRows, owners: list[Sequence], context_tokens: int) -> None:
        """Rows of all that only go on; before any other. context_tokens: the sum of their positions."""
        self._plain, self.plain_owners, self._context_tokens = plain, owners, context_tokens
        self.budget -= len(owners)

    def add_decode(self, sequence: Sequence, position: int, new_blocks: Ids[int]) -> None:
        """Compute on the token that the device sampled last, and sample the next."""
        self._rows.append(SequenceSlice(sequence.slot, position, 1, None, new_blocks, True))
        self._owners.append(sequence)
        sequence.num_scheduled = position + 1
        self.budget -= 1
        if sequence.constraint is not None:
            self._bound = True

    def add_prefill(self, sequence: Sequence, start: int, length: int, new_blocks: Ids[int]) -> None:
        """Compute `length` known tokens, and sample if they are the last known."""
        end = start + length
        samples = end == sequence.num_prefill
        tokens, targets = sequence.token_ids[start:end], sequence.targets(start, end)
        row = SequenceSlice(sequence.slot, start, length, tokens, new_blocks, samples, targets)
        self._bound |= sequence.constraint is not None
        rows, owners = (self._rows, self._owners) if length == 1 else (self._chunks, self._chunk_owners)
        rows.append(row)
        owners.append(sequence)
        sequence.num_scheduled = end
        self.budget -= length

    def remove(self, sequence: Sequence) -> None:
        """Take the row of `sequence` back, if it has one; it is then in no batch."""
        if sequence in self.plain_owners:
            index = self.plain_owners.index(sequence)
            del self.plain_owners[index]
            slots, starts, grown, blocks = self._plain
            start = sequence.num_scheduled = int(starts[index])
            kept = [(slot, block) for slot, block in zip(grown, blocks, strict=True) if slot != sequence.slot]
            self._plain = PlainRows(
                np.delete(slots, index),
                np.delete(starts, index),
                [slot for slot, _ in kept],
                [block for _, block in kept],
            )
            self._context_tokens -= start
            self.budget += 1
        for rows, owners in ((self._rows, self._owners), (self._chunks, self._chunk_owners)):
            if sequence in owners:
                index = owners.index(sequence)
                row = rows.pop(index)
                del owners[index]
                sequence.num_scheduled = row.start
                self.budget += row.length

    def drop(self, sequence: Sequence) -> None:
        """Like `remove`, of one that will not come again: neither does its slot start."""
        self.remove(sequence)
        self.starts = [start for start in self.starts if start.slot != sequence.slot]

    def load(self, decodes: StepLoad | None = None) -> StepLoad:
        """What makes the step long. decodes: `load` before there were chunks, if it was called."""
        if decodes is None:
            context = self._context_tokens + sum(map(_START, self._rows))
            decodes = StepLoad(len(self.plain_owners) + len(self._rows), context)
        if not self._chunks:
            return decodes
        return decodes._replace(
            prompt_tokens=sum(row.length for row in self._chunks),
            prompt_work=sum(row.length * (row.start + row.length / 2) for row in self._chunks),
        )

    def mask(self) -> list[tuple[Sequence, Exception]]:
        """Ask the constraints what the rows that sample may take, once all rows are here.

        Returns whose constraint failed, and why; their rows are dropped.
        """
        failed: list[tuple[Sequence, Exception]] = []
        if self._bound:
            rows, owners = (*self._rows, *self._chunks), self._owners + self._chunk_owners
            self._masks = _masks(rows, owners, failed)
            for sequence, _ in failed:
                self.drop(sequence)
        return failed

    def build(self) -> tuple[StepPlan, list[Sequence]]:
        """The plan and, slice by slice, whose it is; without rows there is nothing to launch."""
        rows, owners = (*self._rows, *self._chunks), self._owners + self._chunk_owners
        return StepPlan(rows, tuple(self.starts), self._masks, self._plain), owners


def _masks(
    rows: Ids[SequenceSlice], owners: Ids[Sequence], failed: list[tuple[Sequence, Exception]]
) -> tuple[TokenMasks, ...]:
    """What the rows that sample may take, where something follows them.

    Masks that were computed together and are all wanted now stay where they are; the others are gathered.
    failed: whose constraint cannot say, and why, is added to it.
    """
    blocks: dict[int, list[tuple[int, int, MaskRow]]] = {}
    for row, sequence in zip(rows, owners, strict=True):
        try:
            if row.samples and sequence.is_bound_at(row.start + row.length):
                assert sequence.constraint is not None, "see is_bound_at"
                mask = sequence.constraint.mask
                assert mask is not None, f"{sequence.request_id} is planned before its mask has come"
                blocks.setdefault(id(mask.block), []).append((mask.row, row.slot, mask))
        except Exception as error:
            failed.append((sequence, error))
    whole: list[TokenMasks] = []
    single: list[tuple[int, MaskRow]] = []
    for entries in blocks.values():
        block = entries[0][2].block
        if len(entries) == len(block) > 1:
            whole.append(TokenMasks([slot for _, slot, _ in sorted(entries, key=_PLACE)], block))
        else:
            single += [(slot, mask) for _, slot, mask in entries]
    if single:
        words = np.stack([mask.words for _, mask in single])
        whole.append(TokenMasks([slot for slot, _ in single], words))
    return tuple(whole)
