"""uvicorn as octavo runs it, without its signal handlers. Knows no routes and no connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from .http_connection import HttpConnection
from .middleware import RootPath
from .process import max_connections
from .server_settings import EdgeSettings

BACKLOG = 8192
LAST_WRITES_S = 2
"""Time for clients to read the last events of streams that were cut."""
_KEEP_ALIVE_S = 60
_MAX_STALLED_S = 30.0
_MAX_SILENT_S = 30.0
_DEFAULT_EDGE = EdgeSettings()


class HttpServer(uvicorn.Server):
    """Serves `app` on sockets that are bound already, until `should_exit` is set.

    on_slow_reader: called when a connection is cut because its client read nothing for `max_stalled_s`.
    max_silent_s: how long a client may leave a request half sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_slow_reader: Callable[[], None],
        *,
        edge: EdgeSettings = _DEFAULT_EDGE,
        max_stalled_s: float = _MAX_STALLED_S,
        max_silent_s: float = _MAX_SILENT_S,
    ) -> None:
        protocol = partial(
            HttpConnection,
            on_slow_reader=on_slow_reader,
            max_stalled_s=max_stalled_s,
            max_silent_s=max_silent_s,
            max_header_bytes=edge.max_header_bytes,
            max_connections=max_connections(),
        )
        super().__init__(
            uvicorn.Config(
                RootPath(app, edge.root_path) if edge.root_path else app,
                ssl_certfile=edge.ssl_certfile,
                ssl_keyfile=edge.ssl_keyfile,
                forwarded_allow_ips=list(edge.forwarded_allow_ips),
                loop="none",
                http=cast(type[asyncio.Protocol], protocol),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=LAST_WRITES_S,
            )
        )
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: signals begin a drain (lifecycle.py), and uvicorn is stopped after it."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when connections are accepted."""
        await super().startup(sockets)
        self.ready.set()
