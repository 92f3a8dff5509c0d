"""A child process that cannot outlive its parent, however either ends. Knows not what the child does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1
_LAST_S = 10


def follow_parent(parent: int) -> None:
    """From now on this process ends when `parent` has, at the latest `_LAST_S` seconds after it.

    Whoever holds a connection to the parent has that time to tell its clients. SIGINT and SIGTERM, which a
    terminal or a service manager sends to all processes of a group, are the parent's to act on: it will say
    what is to be done. Call from the main thread.
    """

    def on_parents_death(number: int, frame: FrameType | None) -> None:
        signal.alarm(_LAST_S)  # whose default action is to end the process: no handler can miss it

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, on_parents_death)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGUSR2) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(1)  # it ended before it was followed
