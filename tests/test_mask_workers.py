"""Masks beside the event loop: quick ones together, slow ones by themselves, nobody waits for others'."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from octavo.app.mask_workers import MaskWorkers


class Row:
    """Somebody who needs a mask. takes_s: how long that takes; gate: what it waits for."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.slow = False
        self.takes_s = takes_s
        self.gate: threading.Event | None = None
        self.batches: list[int] = []  # sizes of those that it was in
        self.threads: set[int] = set()


def compute(batch: Sequence[Row]) -> None:
    time.sleep(max(row.takes_s for row in batch))
    for row in batch:
        assert row.gate is None or row.gate.wait(120)
        row.batches.append(len(batch))
        row.threads.add(threading.get_ident())


@asynccontextmanager
async def working() -> AsyncIterator[MaskWorkers[Row]]:
    workers = MaskWorkers(compute)
    try:
        yield workers
    finally:
        workers.close()


async def done(workers: MaskWorkers[Row], rows: Sequence[Row]) -> None:
    """Submit, and wait until all have one mask more."""
    wanted = [len(row.batches) + 1 for row in rows]
    came = asyncio.Event()
    workers.submit(rows, came.set)
    while [len(row.batches) for row in rows] != wanted:
        await asyncio.wait_for(came.wait(), 120)
        came.clear()


def test_quick_ones_are_computed_together_and_not_in_the_loops_thread() -> None:
    async def run() -> None:
        rows = [Row() for _ in range(5)]
        async with working() as workers:
            await done(workers, rows)
        assert [row.batches for row in rows] == [[5]] * 5
        assert threading.get_ident() not in rows[0].threads

    asyncio.run(run())


def test_one_that_took_long_is_computed_by_itself_until_it_is_quick_again() -> None:
    async def run() -> None:
        quick, slow = [Row(), Row()], Row(0.2)
        async with working() as workers:
            await done(workers, [*quick, slow])
            assert slow.slow and all(row.slow for row in quick), "there is no telling which it was"
            await done(workers, [*quick, slow])
            assert [row.batches[-1] for row in (*quick, slow)] == [1, 1, 1]
            assert slow.slow
            for row in quick:
                row.slow = False  # a machine that is busy may have made them so
            slow.gate = threading.Event()
            other = asyncio.create_task(done(workers, [slow]))
            await done(workers, quick)
            assert not other.done(), "nobody waits for a stranger's"
            slow.gate.set()
            await other
            slow.takes_s = 0.0
            for row in (*quick, slow):
                row.slow = False
            await done(workers, [*quick, slow])
            assert slow.batches[-1] == 3

    asyncio.run(run())


def test_the_loop_turns_meanwhile_and_may_end() -> None:
    async def run(row: Row) -> None:
        async with working() as workers:
            workers.submit([row], lambda: None)
            await asyncio.sleep(0.05)
            assert not row.batches
            assert row.gate is not None
            threading.Timer(0.1, row.gate.set).start()

    row = Row()
    row.gate = threading.Event()
    asyncio.run(run(row))
    assert row.batches == [1], "closing waits for what is under way"
    assert not [thread for thread in threading.enumerate() if thread.name == "octavo-masks" and row.threads]


def test_workers_that_were_closed_start_again() -> None:
    async def run() -> None:
        row = Row()
        workers = MaskWorkers(compute)
        workers.close()
        for _ in range(2):
            await done(workers, [row])
            workers.close()
        assert row.batches == [1, 1]

    asyncio.run(run())
