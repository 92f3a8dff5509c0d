"""A loop that is held up is seen to be late."""

from __future__ import annotations

import asyncio
import time

from octavo.app.loop_lag import measure_lag
from octavo.scheduler.distribution import Distribution


def test_a_blocked_loop_is_late_by_as_long_as_it_was_blocked() -> None:
    async def main() -> Distribution:
        lag_s = Distribution((0.2,))
        measuring = asyncio.create_task(measure_lag(lag_s))
        await asyncio.sleep(0.01)
        time.sleep(0.5)  # a timer was due after 0.1 s
        while not lag_s.count:
            await asyncio.sleep(0.01)
        measuring.cancel()
        return lag_s

    lag_s = asyncio.run(main())
    assert lag_s.counts[1] == 1 and lag_s.total >= 0.35
