"""Work for a client, dropped the moment the client is gone. Does not know what the work is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def unless_disconnected(
    receive: Receive,
    work: Coroutine[Any, Any, T],
    *,
    every_s: float | None = None,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """The result of `work`, unless the client goes first. The request's body must have been read.

    meanwhile: called every `every_s` seconds until `work` is done.
    Raises ClientDisconnect, with `work` cancelled and its clean-up finished.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        while not (task.done() or gone.done()):
            done, _ = await asyncio.wait((task, gone), timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            if not done and meanwhile is not None:
                await meanwhile()
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
