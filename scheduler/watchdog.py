"""Looks at the engine from the side: a step that does not come back, time that runs out meanwhile.

Lives in the engine's event loop, so it sees a device that is stuck, not a loop that is: for that see
app/loop_watch.py.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging

from .engine import Engine

log = logging.getLogger(__name__)

_EVERY_S = 0.25
_STDERR = 2


class StepTimeoutError(Exception):
    """The device did not finish a step, and is given up."""


class Watchdog:
    """A step that takes `limit_s`: all stacks are dumped and its requests fail; twice as long: the engine is
    given up. A step that comes back in between is filed as if nothing had been."""

    def __init__(self, engine: Engine, limit_s: float) -> None:
        self._engine = engine
        self._limit_s = limit_s
        self._told = False

    async def run(self) -> None:
        """Look until cancelled, or the engine is given up."""
        while not self._look():
            await asyncio.sleep(min(_EVERY_S, self._limit_s / 4))

    def _look(self) -> bool:
        engine, limit_s = self._engine, self._limit_s
        engine.expire()
        age_s = engine.step_age_s()
        if age_s < limit_s:
            if self._told:
                log.warning("the device has come back")
            self._told = False
            return False
        error = f"the device has not finished a step for {age_s:.3g} s (--step-timeout {limit_s:g})"
        if not self._told:
            self._told = True
            faulthandler.dump_traceback(_STDERR)
            log.error("%s; its requests end now, and all others after as long again", error)
            engine.fail_in_flight(error)
        if age_s < 2 * limit_s:
            return False
        engine.give_up(StepTimeoutError(error))
        return True
