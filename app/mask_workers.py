"""Threads that compute masks beside the event loop. Know no grammar.

Those that are quick are computed together, in one call that spreads over the cores. One that took long does
its own from then on, in another thread, so that it keeps nobody waiting but its own request.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

_NUM_SLOW = 2
_CLOSE_S = 5.0
_QUICK_S = 0.01
_QUICK_ROW_S = 0.0001
"""A batch that takes longer than the one and so much for each of its rows has slow ones among it. A row takes
0.02 ms usually, and 0.7 at worst, by itself; threads wait for the interpreter's lock up to 5."""


class Masked(Protocol):
    """Whoever needs a mask. slow: took long the last time; set here."""

    slow: bool


_Row = TypeVar("_Row", bound=Masked)


class _Job(NamedTuple, Generic[_Row]):
    batch: Sequence[_Row]
    came: Callable[[], None]
    loop: asyncio.AbstractEventLoop


class MaskWorkers(Generic[_Row]):
    """compute: fills in the masks of a batch, in a thread, without the interpreter's lock; never raises."""

    def __init__(self, compute: Callable[[Sequence[_Row]], None]) -> None:
        self._compute = compute
        self._quick: queue.SimpleQueue[_Job[_Row] | None] = queue.SimpleQueue()
        self._slow: queue.SimpleQueue[_Job[_Row] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, batch: Sequence[_Row], came: Callable[[], None]) -> None:
        """Begin with `batch`; the running event loop calls `came` whenever some are there."""
        if not self._threads:
            self._start()
        loop = asyncio.get_running_loop()
        quick = [one for one in batch if not one.slow]
        if quick:
            self._quick.put(_Job(quick, came, loop))
        if len(quick) < len(batch):
            for one in batch:
                if one.slow:
                    self._slow.put(_Job([one], came, loop))

    def close(self) -> None:
        """Drop what waits; wait for what is under way, which grammars' limits make short; end the threads.

        One that was still at it when the interpreter ends would take the process down with a signal.
        """
        threads, self._threads = self._threads, []
        with contextlib.suppress(queue.Empty):
            while self._quick.get_nowait():
                pass
        with contextlib.suppress(queue.Empty):
            while self._slow.get_nowait():
                pass
        for waiting in (self._quick, *[self._slow] * _NUM_SLOW) if threads else ():
            waiting.put(None)
        deadline_s = time.monotonic() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _start(self) -> None:
        for waiting in (self._quick, *[self._slow] * _NUM_SLOW):
            # Of its own, not a pool's, which would keep the process until it is done.
            thread = threading.Thread(target=self._run, args=(waiting,), name="octavo-masks", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, waiting: queue.SimpleQueue[_Job[_Row] | None]) -> None:
        while (job := waiting.get()) is not None:
            began_s = time.perf_counter()
            self._compute(job.batch)
            slow = time.perf_counter() - began_s > _QUICK_S + _QUICK_ROW_S * len(job.batch)
            for one in job.batch:
                one.slow = slow
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                job.loop.call_soon_threadsafe(job.came)
