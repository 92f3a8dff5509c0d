"""An event loop in a thread: results, errors, interruption, end."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from octavo.app.loop_thread import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread("test-loop")
    yield loop
    loop.close()


def test_gives_results_and_errors(loop: LoopThread) -> None:
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    async def fail() -> None:
        raise LookupError("nothing there")

    assert loop.run(add(1, 2)) == 3
    with pytest.raises(LookupError, match="nothing there"):
        loop.run(fail())
    assert loop.run(add(2, 2)) == 4


def test_an_interrupt_cancels_the_coroutine_before_it_is_told(loop: LoopThread) -> None:
    ended = list[bool]()
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    async def wait_long() -> None:
        # Sent once the main thread waits for this, and not to whatever it does before.
        asyncio.get_running_loop().call_later(0.1, lambda: signal.pthread_kill(main_thread, signal.SIGINT))
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        loop.run(wait_long())
    assert ended == [True]


def test_close_cancels_what_runs_and_may_be_repeated() -> None:
    loop = LoopThread("test-loop")
    cancelled = threading.Event()

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    tasks: list[asyncio.Task[None]] = []

    async def begin() -> None:
        tasks.append(asyncio.create_task(background()))
        await asyncio.sleep(0)

    loop.run(begin())
    loop.close()
    assert cancelled.is_set() and tasks[0].cancelled()
    loop.close()
    assert not any(thread.name == "test-loop" for thread in threading.enumerate())
