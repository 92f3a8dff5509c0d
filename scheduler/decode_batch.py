"""Sequences that only go on: a token further in every step, until something is to be done for one of them.

Where they all stand follows from the number of the step. When a sequence needs a block, or has no token left
to sample, is known when it joins, and stands in a calendar. So a step takes numpy's time for the batch, and
Python's for those whose day it is. Knows neither blocks nor queues.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .sequence import Clock, Sequence


class DecodeBatch:
    """Members, in no order. All of them have a row in every step.

    clock: the step that is being planned, or was last.   last_step: the last that was really launched.
    """

    __slots__ = ("_ahead", "_calendar", "_members", "_slots", "_sum_ahead", "clock", "last_step")

    def __init__(self, num_slots: int) -> None:
        self.clock = Clock()
        self.last_step = 0
        self._members: list[Sequence] = []
        self._slots = np.zeros(num_slots, np.int32)
        self._ahead = np.zeros(num_slots, np.int64)  # of the clock: see Sequence.go_by
        self._sum_ahead = 0
        self._calendar: dict[int, list[Sequence]] = {}  # those that have left since are passed over

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._members)

    @staticmethod
    def takes(sequence: Sequence) -> bool:
        """Whether the next token of a sequence needs nothing but its row."""
        return sequence.constraint is None and sequence.num_scheduled < _limit(sequence)

    def join(self, sequence: Sequence) -> None:
        """Take part from the next step on."""
        place = sequence.place = len(self._members)
        self._members.append(sequence)
        self._slots[place] = sequence.slot
        ahead = self._ahead[place] = sequence.go_by(self.clock)
        self._sum_ahead += ahead
        self._calendar.setdefault(_limit(sequence) - ahead + 1, []).append(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Its row in the step that is being planned, if there is one, is to be taken back."""
        place, last = sequence.place, self._members.pop()
        if last is not sequence:
            self._members[place] = last
            last.place = place
            self._slots[place], self._ahead[place] = self._slots[len(self)], self._ahead[len(self)]
        sequence.place = -1
        self._sum_ahead -= sequence.num_scheduled - self.clock.now
        sequence.go_by(None)
        sequence.last_step = self.last_step

    def due(self) -> list[Sequence]:
        """Who cannot simply go on in the next step: its block is full, or its last token on the way."""
        day = self._calendar.get(self.clock.now + 1, ())
        return [*{s: None for s in day if s.place >= 0 and not self.takes(s)}]

    def grow(self, sequences: list[Sequence], blocks: list[int]) -> None:
        """A block for each of those that are due for one: they stay."""
        now, calendar = self.clock.now, self._calendar
        for sequence, block in zip(sequences, blocks, strict=True):
            sequence.table.append(block)
            day = _limit(sequence) - sequence.num_scheduled + now + 1
            calendar.setdefault(day, []).append(sequence)

    def advance(self) -> None:
        """Begin the next step: all that were due have grown, or left."""
        self.clock.now += 1
        self._calendar.pop(self.clock.now, None)

    @property
    def context_tokens(self) -> int:
        """Sum of the positions of the rows of the step that has begun."""
        return self._sum_ahead + len(self._members) * (self.clock.now - 1)

    def rows(self) -> tuple[NDArray[np.int32], NDArray[np.int32], list[Sequence]]:
        """Slots and positions of the rows in the step that has begun, and whose they are."""
        size = len(self._members)
        starts = (self._ahead[:size] + (self.clock.now - 1)).astype(np.int32)
        return self._slots[:size].copy(), starts, self._members[:]


def _limit(sequence: Sequence) -> int:
    """Tokens up to which it can be scheduled without anything being done for it."""
    return min(sequence.table.capacity_tokens, sequence.max_length - 1)
