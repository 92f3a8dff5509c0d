"""A loop that is stuck: the process writes its stacks and ends, whatever the loop is at."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, time
from octavo.app.stall_guard import guarded

async def main():
    async with guarded({limit}):
        await asyncio.sleep(0.5)
        {work}
    time.sleep(0.7)

asyncio.run(main())
"""


def run(limit: object, work: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(limit=limit, work=work)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_a_stuck_loop_ends_the_process_with_its_stacks() -> None:
    ended = run(1.0, "time.sleep(600)")
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr and "in main" in ended.stderr


@pytest.mark.parametrize("limit", [2.0, None])
def test_a_loop_that_turns_is_left_alone_and_so_is_what_comes_after(limit: float | None) -> None:
    ended = run(limit, "await asyncio.sleep(2.5)")
    assert (ended.returncode, ended.stderr) == (0, "")
