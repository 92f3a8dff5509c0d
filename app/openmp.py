"""How torch's worker threads wait on a CPU. Knows nothing of torch; must be called before it is loaded."""

from __future__ import annotations

import os


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep between products instead of spinning, unless the user chose otherwise.

    A spinning thread takes the core that the event loop or another process needs, and every product waits for
    the slowest thread: with one core of two taken, a step took 290 ms spinning and 50 ms sleeping.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
