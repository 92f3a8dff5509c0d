"""Two watches over an event loop: how late it wakes timers, and that it turns at all.

The guard is a timer outside of Python (faulthandler's) that the loop winds up again and again. When the loop
stops doing so, all stacks are written to standard error and the process ends with exit code 1; front ends
then tell the clients. Does not know what the loop is busy with.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import time
from collections.abc import AsyncIterator

from ..scheduler.distribution import Distribution

_LAG_PERIOD_S = 0.1
_WIND_EVERY_S = 1.0


async def measure_lag(lag_s: Distribution) -> None:
    """Observe, until cancelled, how late timers fire: so long would a stream have waited."""
    while True:
        due_s = time.monotonic() + _LAG_PERIOD_S
        await asyncio.sleep(_LAG_PERIOD_S)
        lag_s.observe(max(0.0, time.monotonic() - due_s))


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
        await asyncio.sleep(min(_WIND_EVERY_S, limit_s / 4))
