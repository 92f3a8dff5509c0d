"""A loop that is held up is seen to be late; one that is stuck ends its process with its stacks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from patience import at_some_pace

from octavo.app.loop_watch import measure_lag
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


PROGRAM = """
import asyncio, time
from octavo.app.loop_watch import guarded

async def main():
    async with guarded({limit}):
        await asyncio.sleep({pace} / 2)
        {work}
    time.sleep({pace})

asyncio.run(main())
"""


def run(limit: float | None, work: str, pace: float = 1.0) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(limit=limit, work=work, pace=pace)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)


def test_a_stuck_loop_ends_the_process_with_its_stacks() -> None:
    ended = run(1.0, "time.sleep(600)")
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr and "in main" in ended.stderr


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_loop_that_turns_is_left_alone_and_so_is_what_comes_after(is_guarded: bool) -> None:
    def check(pace: float) -> None:
        ended = run(0.8 * pace if is_guarded else None, f"await asyncio.sleep({pace})", pace)
        assert (ended.returncode, ended.stderr) == (0, "")

    at_some_pace(check)
