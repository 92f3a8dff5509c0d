"""A child that follows its parent: real processes, and a parent that is killed without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from toy_server import alive, wait_for

CHILD = """
import os, signal, sys, time
from octavo.app.lifeline import follow_parent
follow_parent(os.getppid())
print(os.getpid(), flush=True)
{body}
"""
PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
sys.stdin.read()
"""


def start(body: str) -> tuple[subprocess.Popen[str], int]:
    """A parent process, and the id of its child that runs `body`."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize(
    "body",
    [
        "signal.alarm = lambda s: signal.setitimer(signal.ITIMER_REAL, 0.5)\nwhile True: pass",
        "signal.alarm = lambda s: signal.setitimer(signal.ITIMER_REAL, 0.5)\ntime.sleep(60)",
    ],
    ids=["busy", "asleep"],
)
def test_a_child_that_does_not_notice_ends_all_the_same(body: str) -> None:
    parent, child = start(body)
    with parent:
        parent.kill()
    wait_for(lambda: not alive(child))


def test_signals_to_the_group_are_the_parents_affair() -> None:
    parent, child = start("print(sys.stdin is not None, flush=True)\ntime.sleep(60)")
    with parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        time.sleep(0.2)
        assert alive(child)
        os.kill(child, signal.SIGKILL)
        parent.kill()


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    check = "from octavo.app.lifeline import follow_parent; follow_parent(1 << 22)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 1
