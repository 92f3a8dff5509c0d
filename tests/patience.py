"""For tests of what goes by time: where a machine that stood still has spoilt a pace, a slower one is tried.

What can wait for an event or a state should do that instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def at_some_pace(check: Callable[[float], None], paces: tuple[float, ...] = (1.0, 3.0, 10.0)) -> None:
    """Until `check(pace)`, whose times are multiples of `pace`, holds: a bug fails at all, a stall at few."""
    for pace in paces[:-1]:
        try:
            check(pace)
            return
        except Exception:
            continue
    check(paces[-1])


async def until(holds: Callable[[], object], within_s: float = 60.0) -> None:
    """Let the event loop turn until `holds()` is true; fails if it does not become so."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.001)


async def settled(number: Callable[[], int], quiet_s: float = 0.03, within_s: float = 60.0) -> int:
    """What `number()` is once it stays the same for so long; fails if it goes on changing."""
    async with asyncio.timeout(within_s):
        while True:
            before = number()
            await asyncio.sleep(quiet_s)
            if number() == before:
                return before
