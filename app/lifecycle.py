"""A running engine and its HTTP front, from ready to the exit code. Does not know which processes they are
in.

signal  ->  new requests get 503  ->  running ones finish, or are cut after drain_timeout  ->  exit 0
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

from .http_server import LAST_WRITES_S
from .process import drop_output

log = logging.getLogger(__name__)


class RunningEngine(Protocol):
    """What is needed of the engine here."""

    @property
    def stuck(self) -> bool:
        """The device could not be freed; threads of this process never end."""

    async def wait_dead(self) -> str:
        """Return the cause when the engine has died; never, if it does not."""

    async def close(self) -> None:
        """Stop the engine; streams that still run end with an error."""


class Front(Protocol):
    """What accepts connections: this process's event loop, or other processes."""

    async def open(self) -> None:
        """Accept connections. Raises StartupError."""

    def close(self) -> None:
        """Refuse new requests from now on; those that run go on."""

    @property
    def num_open(self) -> int:
        """Requests that still run."""

    async def idle(self, timeout_s: float) -> bool:
        """Wait until none is open, at most `timeout_s`; whether none is."""

    async def wait_failed(self) -> None:
        """Return when nothing serves any more; never, if that does not happen."""

    async def stop(self) -> None:
        """Close every connection. Safe to call again."""


async def serve_until_signal(
    front: Front, engine: RunningEngine, *, ready_line: Callable[[], str], drain_timeout_s: float
) -> int:
    """Serve until a signal, until the engine dies or the front fails; the exit code.

    ready_line: gives the line that is printed when connections are accepted.
    """
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    code = 0
    with _handled(signals):
        asked = asyncio.create_task(signals.get())
        dead = asyncio.create_task(engine.wait_dead())
        failed: asyncio.Task[None] | None = None
        try:
            await front.open()
            failed = asyncio.create_task(front.wait_failed())
            _say(ready_line())
            await asyncio.wait([failed, asked, dead], return_when=asyncio.FIRST_COMPLETED)
            if dead.done():
                log.error("the engine has died: %s", dead.result())
                front.close()
                await engine.close()
                await front.idle(LAST_WRITES_S)
                code = 1
            elif failed.done():
                failed.result()
                code = 1
            else:
                await _drain(front, engine, signals, drain_timeout_s)
        finally:
            for task in (asked, dead, failed):
                if task is not None:
                    task.cancel()
            await front.stop()
    return code


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError as error:  # no reason not to serve
        log.warning("standard output cannot be written (%s): %s", error.strerror, line)
        drop_output()


async def _drain(
    front: Front, engine: RunningEngine, signals: asyncio.Queue[signal.Signals], limit_s: float
) -> None:
    """Let running requests finish; cut them after `limit_s` or at the next signal."""
    front.close()
    if front.num_open:
        log.info(
            "draining: %d running, for %g s at most; a second signal cuts them now", front.num_open, limit_s
        )
    finished = asyncio.create_task(front.idle(limit_s))
    again = asyncio.create_task(signals.get())
    await asyncio.wait([finished, again], return_when=asyncio.FIRST_COMPLETED)
    all_ended = finished.done() and finished.result()
    for task in (finished, again):
        task.cancel()
    if not all_ended:
        log.warning("cutting %d that still run", front.num_open)
        await engine.close()  # every stream ends with an error event
        await front.idle(LAST_WRITES_S)


@contextlib.contextmanager
def _handled(signals: asyncio.Queue[signal.Signals]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handled = (signal.SIGINT, signal.SIGTERM)
    for number in handled:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
