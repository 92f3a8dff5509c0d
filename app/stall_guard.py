"""Ends a server whose event loop is stuck: nobody inside could. Knows nothing but the loop.

A timer outside of Python (faulthandler's) is wound up by the loop again and again. When that stops, it writes
all stacks to standard error and ends the process with exit code 1; front ends then tell the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
from collections.abc import AsyncIterator

_EVERY_S = 1.0


@contextlib.asynccontextmanager
async def guarded(limit_s: float | None) -> AsyncIterator[None]:
    """Inside, the process ends once the running loop has not turned for `limit_s`; None guards nothing."""
    if limit_s is None:
        yield
        return
    winding = asyncio.create_task(_wind(limit_s))
    try:
        yield
    finally:
        winding.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _wind(limit_s: float) -> None:
    while True:
        faulthandler.dump_traceback_later(limit_s, exit=True, file=2)
        await asyncio.sleep(min(_EVERY_S, limit_s / 4))
