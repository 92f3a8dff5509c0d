"""For how long a client may leave what it has to send half sent. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ReadTimer:
    """One clock per connection: moving the moment at which it is too late costs no new timer.

    too_late: called once, `limit_s` after the last `expect` or `more`, unless `done` came before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float, too_late: Callable[[], None]) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._too_late = too_late
        self._due_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self) -> None:
        """Something must be there in time, as a whole; if it is expected already, by the earlier moment."""
        if self._due_s is None:
            self.more()

    def more(self) -> None:
        """A part of what may be long has come: from now on, the time counts anew."""
        self._due_s = self._loop.time() + self._limit_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._due_s, self._look)

    def done(self) -> None:
        """Nothing is expected."""
        self._due_s = None

    def close(self) -> None:
        """The connection has gone."""
        self._due_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self._loop.time() < self._due_s:
            self._timer = self._loop.call_at(self._due_s, self._look)
        else:
            self._due_s = None
            self._too_late()
