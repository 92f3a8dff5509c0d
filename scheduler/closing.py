"""Freeing a device that may be stuck: not longer than so, and without holding up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from ..model.plan import Executor

CLOSE_S = 20.0
"""A step that runs is waited for so long; the longest on a CPU take seconds."""


async def close_within(executor: Executor, limit_s: float) -> bool:
    """Whether `executor` was closed in so long; else it is left to a thread that nobody waits for.

    Raises what closing raised.
    """
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[Exception | None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not closed.done():
            closed.set_result(error)

    def close() -> None:
        error = None
        try:
            executor.close()
        except Exception as cause:
            error = cause
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=close, name="octavo-close", daemon=True).start()
    done, _ = await asyncio.wait([closed], timeout=limit_s)
    if not done:
        return False
    error = closed.result()
    if error is not None:
        raise error
    return True
