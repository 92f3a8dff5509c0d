"""Threads that compute masks beside the event loop. Knows no grammar.

Quick masks are computed together, in one call that uses all cores. A row whose mask took long is computed
alone from then on, in another thread, so that only its own request waits.
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
"""A batch that takes longer than the first, and the second for each row, has slow rows. A row alone takes
0.02 ms usually and 0.7 ms at worst; threads wait up to 5 ms for the interpreter's lock."""


class Masked(Protocol):
    """A row that needs masks. slow: whether the last one took long; set here."""

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
        """Drop what is queued, wait for what is under way, end the threads.

        A thread that still computes when the interpreter ends would crash the process.
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
            # No pool: its threads would keep the process alive until they are done.
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
            with contextlib.suppress(RuntimeError):  # the loop has ended
                job.loop.call_soon_threadsafe(job.came)
