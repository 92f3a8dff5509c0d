"""`octavo serve`: engine and HTTP server in one event loop, from the listening socket to the last stream.

signal  ->  new requests get 503  ->  running ones finish, or are cut after drain_timeout  ->  exit 0
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import cast

import uvicorn
import uvloop

from .. import __version__
from .config import EngineConfig, ServerConfig
from .context import ServerSettings
from .drain import DoorClient, OpenRequests
from .errors import StartupError
from .generation import Generation
from .launch import Launched, launch, plan_engine
from .model_source import LoadFormat, find_model
from .server import create_app

log = logging.getLogger(__name__)

_BACKLOG = 8192
_KEEP_ALIVE_S = 60
_LAST_WRITES_S = 2
"""Time for clients to read what a cut stream still has to say."""


def run(engine: EngineConfig, server: ServerConfig) -> int:
    """Serve until a signal. 0 after a drain, 1 if the engine died; raises StartupError."""
    _set_up_logging(server.log_level)
    if server.dry_run:
        print(_fit(engine))
        return 0
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with contextlib.closing(_bind(server.host, server.port)) as listener, _interruptible(), runner:
        return runner.run(_serve(engine, server, listener))


def _fit(engine: EngineConfig) -> str:
    """How memory would be divided, and what that is good for."""
    load_format = cast(LoadFormat, engine.load_format)
    plan = plan_engine(engine, find_model(engine.model, load_format=load_format, with_tokenizer=False))
    at_once = plan.ledger.capacity_tokens // plan.max_model_len
    return (
        f"{plan.ledger.table()}\n"
        f"A request may have {plan.max_model_len:,} tokens; {at_once:,} such requests fit at once, "
        f"and at most {plan.scheduler.max_num_seqs:,} requests run together."
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """asyncio would turn Ctrl-C into a cancellation, which a model that is being loaded does not hear."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


async def _serve(engine: EngineConfig, server: ServerConfig, listener: socket.socket) -> int:
    began_s = time.monotonic()
    launched = await launch(engine)
    try:
        return await _Service(engine, server, launched, listener).run(began_s)
    finally:
        await launched.close()


class _Service:
    """A launched engine behind a listening socket."""

    def __init__(
        self, engine: EngineConfig, server: ServerConfig, launched: Launched, listener: socket.socket
    ) -> None:
        self._server = server
        self._launched = launched
        self._listener = listener
        self._door = DoorClient(launched.client)
        self._names = server.served_model_name or (engine.model,)
        settings = ServerSettings(
            model_names=self._names, version=__version__, api_keys=server.api_key, strict=server.strict
        )
        app = create_app(
            Generation.of(launched, client=self._door),
            settings,
            stats=launched.stats,
            complaint=self._door.complaint,
        )
        self._open = OpenRequests(app)
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def run(self, began_s: float) -> int:
        """Serve until a signal, or until the engine dies."""
        http = _HttpServer(self._open)
        serving = asyncio.create_task(http.serve(sockets=[self._listener]))
        with self._handled_signals():
            asked = asyncio.create_task(self._signals.get())
            dead = asyncio.create_task(self._launched.engine.wait_dead())
            await http.ready.wait()
            print(self._ready_line(time.monotonic() - began_s), flush=True)
            await asyncio.wait([serving, asked, dead], return_when=asyncio.FIRST_COMPLETED)
            code = 0
            if dead.done():
                log.error("the engine has died: %s", dead.result())
                self._door.close()
                await self._open.idle(_LAST_WRITES_S)
                code = 1
            else:
                dead.cancel()
                await self._drain()
            asked.cancel()
            http.should_exit = True
            await serving
        return code

    def _ready_line(self, took_s: float) -> str:
        host, port = self._listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"octavo: {', '.join(self._names)} ready at http://{shown}:{port} after {took_s:.1f} s"

    async def _drain(self) -> None:
        """Let running requests finish; cut them after `drain_timeout` or at the next signal."""
        self._door.close()
        if not self._open.num_open:
            return
        limit_s = self._server.drain_timeout
        log.info(
            "draining: %d running, for %g s at most; a second signal cuts them now",
            self._open.num_open,
            limit_s,
        )
        finished = asyncio.create_task(self._open.idle(limit_s))
        again = asyncio.create_task(self._signals.get())
        await asyncio.wait([finished, again], return_when=asyncio.FIRST_COMPLETED)
        for task in (finished, again):
            task.cancel()
        if self._open.num_open:
            log.warning("cutting %d that still run", self._open.num_open)
            await self._launched.close()  # every stream ends with an error event
            await self._open.idle(_LAST_WRITES_S)

    @contextlib.contextmanager
    def _handled_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM)
        for number in handled:
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handling: signals begin a drain here, and uvicorn's stop comes after it."""

    def __init__(self, app: OpenRequests) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_LAST_WRITES_S,
            )
        )
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when connections are accepted."""
        await super().startup(sockets)
        self.ready.set()


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a taken port shows before the model is loaded."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartupError(
            f"--host must be an address of this machine, got {host!r} ({error.strerror})"
        ) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartupError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from error
    return listener


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Its news are uvicorn's own steps, which the lines here tell better.
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
