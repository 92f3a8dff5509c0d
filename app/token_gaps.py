"""How far apart the tokens of a stream come, counted a step at a time. Knows neither text nor sockets.

All that hear a step hear it at one moment. While the same streams hear every step, all of their gaps are one
number, and counting them is one look at the clock and one addition:

    step        1       2       3       4
    stream a    x-------x-------x-------x      2, 3: two gaps at once; 4: one of a's, and b's is
    stream b    x-------x-------x              remembered until b hears again, or has ended
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ..scheduler.distribution import Distribution

Stream = TypeVar("Stream", int, str)


class TokenGaps(Generic[Stream]):
    """Counts in `seconds`; tokens of a stream that come in one turn of the event loop come together."""

    def __init__(self, seconds: Distribution) -> None:
        self._seconds = seconds
        self._together: set[Stream] = set()  # who heard the last step
        self._heard_s = 0.0  # when that was
        self._apart: dict[Stream, float] = {}  # when others heard their last
        self._is_whole = False  # the last step was for all that have begun, and none has ended since
        self._in_turn = False

    def step(self, num_going_on: int, hearing: Callable[[], set[Stream]]) -> None:
        """Streams hear tokens now.

        num_going_on: how many, if each of them has begun and none ends with this; else 0.
        hearing: which; not asked while they must be the same as before.
        """
        is_same = self._is_whole and num_going_on == len(self._together)
        streams = self._together if is_same else hearing()
        if not streams:
            return
        if self._in_turn:
            self._join(streams - self._together)
            return
        self._in_turn = True
        asyncio.get_running_loop().call_soon(self._end_turn)
        before_s, self._heard_s = self._heard_s, time.monotonic()
        gap_s = self._heard_s - before_s
        if is_same:
            self._seconds.observe(gap_s, num_going_on)
            return
        before, self._together = self._together, streams & self._together
        self._seconds.observe(gap_s, len(self._together))
        self._apart.update(dict.fromkeys(before - streams, before_s))
        self._join(streams - before)

    def forget(self, stream: Stream) -> None:
        """It has ended."""
        self._together.discard(stream)
        self._apart.pop(stream, None)
        self._is_whole = False

    def _join(self, streams: set[Stream]) -> None:
        """Streams that did not hear the step before: it is their first token, or they have sat steps out."""
        for stream in streams & self._apart.keys():
            self._seconds.observe(self._heard_s - self._apart.pop(stream))
        self._together |= streams
        self._is_whole = not self._apart

    def _end_turn(self) -> None:
        self._in_turn = False
