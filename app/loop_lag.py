"""How late an event loop wakes timers, which is how long a stream would have waited for it.

Knows not what the loop is busy with.
"""

from __future__ import annotations

import asyncio
import time

from ..scheduler.distribution import Distribution

_PERIOD_S = 0.1


async def measure_lag(lag_s: Distribution) -> None:
    """Observe it until cancelled."""
    while True:
        due_s = time.monotonic() + _PERIOD_S
        await asyncio.sleep(_PERIOD_S)
        lag_s.observe(max(0.0, time.monotonic() - due_s))
