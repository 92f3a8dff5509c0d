"""Work that ends with its client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from octavo.app.disconnect import unless_disconnected


class Connection:
    """An ASGI receive that reports a disconnect once told to, and empty messages before."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.num_received = 0

    async def receive(self) -> dict[str, Any]:
        self.num_received += 1
        if self.num_received == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def _result() -> int:
    connection = Connection()

    async def work() -> int:
        await asyncio.sleep(0.01)
        return 7

    return await unless_disconnected(connection.receive, work())


def test_result_comes_through() -> None:
    assert asyncio.run(_result()) == 7


async def _failure() -> None:
    async def work() -> None:
        raise LookupError("none of my business")

    await unless_disconnected(Connection().receive, work())


def test_exception_comes_through_as_it_is() -> None:
    with pytest.raises(LookupError, match="none of my business"):
        asyncio.run(_failure())


async def _vanished() -> list[str]:
    connection, heard = Connection(), []

    async def work() -> None:
        try:
            connection.gone.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            heard.append("cleaned up")

    with pytest.raises(ClientDisconnect):
        await unless_disconnected(connection.receive, work())
    return heard


def test_work_is_cancelled_and_cleaned_up_before_the_disconnect_is_told() -> None:
    assert asyncio.run(_vanished()) == ["cleaned up"]


async def _cancelled() -> tuple[bool, int]:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    task = asyncio.create_task(unless_disconnected(Connection().receive, work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return stopped.is_set(), len(asyncio.all_tasks())


def test_cancelling_leaves_no_task_behind() -> None:
    assert asyncio.run(_cancelled()) == (True, 1)


async def _meanwhile() -> int:
    calls, enough = 0, asyncio.Event()

    async def tick() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            enough.set()

    await unless_disconnected(Connection().receive, enough.wait(), every_s=0.02, meanwhile=tick)
    return calls


def test_something_happens_while_it_lasts() -> None:
    assert asyncio.run(_meanwhile()) == 3
