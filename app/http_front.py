"""HTTP in this process's event loop: the engine's own with `--frontends 0`, else a front-end process's.

Knows no scheduler, and not when to stop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from ..scheduler.distribution import Distribution
from ..scheduler.view import EngineView
from .application import create_app
from .client import EngineClient
from .drain import DoorClient, OpenRequests
from .errors import StartupError
from .generation import Generation
from .http_server import HttpServer
from .live import Live
from .metrics import ServerMetrics
from .pulse import Pulse
from .server_settings import ServerSettings


class FrontEngine(EngineClient, Protocol):
    """What a front needs of an engine."""

    def pulse(self) -> Pulse:
        """The engine's state at this moment."""

    async def look(self, since: int) -> EngineView:
        """A view for the live page, with the steps after `since`. Raises RequestError."""

    def time_tokens(self, seconds: Distribution) -> None:
        """From now on count in `seconds` how far apart the tokens of each stream come."""


class HttpFront:
    """Implements lifecycle.Front over a bound socket.

    generation: makes the Generation of a client, the front's door.   metrics: where this process counts.
    gather: the numbers of the whole server; None if `metrics` are all there are.
    """

    def __init__(
        self,
        engine: FrontEngine,
        generation: Callable[[EngineClient], Generation],
        settings: ServerSettings,
        metrics: ServerMetrics,
        listener: socket.socket,
        gather: Callable[[], Awaitable[ServerMetrics]] | None = None,
    ) -> None:
        async def own() -> ServerMetrics:
            return metrics

        engine.time_tokens(metrics.histograms.inter_token)
        self._listener = listener
        self._door = DoorClient(engine)
        self._live = Live(engine.look, gather or own)
        app = create_app(
            generation(self._door),
            settings,
            metrics,
            live=self._live,
            gather=gather,
            complaint=self._door.complaint,
            pulse=engine.pulse,
        )
        self._open = OpenRequests(app)
        self._http = HttpServer(self._open, metrics.count_slow_reader, edge=settings.edge)
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See Front."""
        self._serving = asyncio.create_task(self._http.serve(sockets=[self._listener]))
        ready = asyncio.create_task(self._http.ready.wait())
        await asyncio.wait([ready, self._serving], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self._serving  # raises what kept it from serving
            raise StartupError("the HTTP server stopped before it was ready")

    def close(self) -> None:
        """See Front."""
        self._door.close()
        self._live.close()

    @property
    def num_open(self) -> int:
        """See Front."""
        return self._open.num_open

    async def idle(self, timeout_s: float | None) -> bool:
        """See Front; None waits as long as it takes."""
        return await self._open.idle(timeout_s)

    async def wait_failed(self) -> None:
        """See Front."""
        assert self._serving is not None, "the front was not opened"
        await asyncio.wait([self._serving])

    async def stop(self) -> None:
        """See Front."""
        self._http.should_exit = True
        if self._serving is not None:
            await self._serving
