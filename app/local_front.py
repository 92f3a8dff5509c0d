"""HTTP in the engine's own event loop: `--frontends 0`. Knows no scheduler, and not when to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping

from ..scheduler.stats import EngineStats
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


class LocalFront:
    """Implements service.Front over a bound socket.

    generation: makes the front door's Generation from the client that it is to use.
    """

    def __init__(
        self,
        client: EngineClient,
        generation: Callable[[EngineClient], Generation],
        settings: ServerSettings,
        stats: Callable[[], EngineStats],
        look: Callable[[int], Awaitable[EngineView]],
        memory_bytes: Mapping[str, int],
        listener: socket.socket,
        pulse: Callable[[], Pulse] = Pulse,
    ) -> None:
        self._listener = listener
        self._door = DoorClient(client)
        metrics = ServerMetrics(settings.model_names[0], settings.version, stats, memory_bytes=memory_bytes)

        async def gather() -> ServerMetrics:
            return metrics

        self._live = Live(look, gather)
        app = create_app(
            generation(self._door),
            settings,
            metrics,
            live=self._live,
            complaint=self._door.complaint,
            pulse=pulse,
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

    async def idle(self, timeout_s: float) -> bool:
        """See Front."""
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
