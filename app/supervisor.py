"""The front-end processes: started, watched, restarted, stopped. Does not know what they serve.

Each inherits one end of a socket pair and a listening socket, so there is no address that others could
connect to and no file to be left behind. When a process is lost, its end of the pair closes, which shows it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
from typing import Any, NamedTuple

from . import control_messages as messages
from .engine_frontend import Frontend
from .engine_server import EngineServer
from .errors import StartupError
from .http_server import BACKLOG, LAST_WRITES_S
from .listener import share
from .process import module_command, module_environment

log = logging.getLogger(__name__)

_MODULE = "octavo.app.frontend"
_LAST_S = LAST_WRITES_S + 3.0
"""Time to end after Stop; then it is killed."""
_SETTLED_S = 10.0
"""A process that is lost sooner is replaced after a pause, which doubles each time."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0


class _Process(NamedTuple):
    """A front-end process, this side's end of the socket to it, and the socket that it listens on.

    listener stays open here, so that connections wait in it while a lost process is replaced.
    """

    popen: subprocess.Popen[bytes]
    end: socket.socket
    listener: socket.socket


class Supervisor:
    """Implements lifecycle.Front with `num_frontends` processes that share the address of `listener`.

    Each has a listening socket of its own, among which the kernel spreads connections evenly; with one for
    all, the process that wakes first would take a whole burst. listener: bound, not listening.

    The processes start at once and load their tokenizers while the caller loads the model. Call `serve`
    before `open`.
    """

    def __init__(self, setup: messages.Setup, listener: socket.socket, num_frontends: int) -> None:
        self._setup = messages.encode(setup)
        self._listeners = share(listener, num_frontends)
        self._server: EngineServer | None = None
        self._start_message = messages.Start()
        self._ending = False
        self._watches: list[asyncio.Task[None]] = []
        self._processes: set[_Process] = set()
        for each in self._listeners:
            self._start(each)

    def serve(self, server: EngineServer, memory_bytes: dict[str, int]) -> None:
        """Set the engine. memory_bytes: see MemoryLedger.entries."""
        self._server = server
        self._start_message = messages.Start(memory_bytes)

    async def open(self) -> None:
        """See Front."""
        born = [(process, await self._attach(process)) for process in self._processes]
        for process, frontend in born:
            if not await _greeted(frontend):
                code = await _reap(process)
                raise StartupError(f"a front-end process ended before it could serve (exit code {code})")
        for listener in self._listeners:
            listener.listen(BACKLOG)
        self._watches = [asyncio.create_task(self._watch(*pair)) for pair in born]

    def close(self) -> None:
        """See Front."""
        self._ending = True
        self._engine.broadcast(messages.Drain())

    @property
    def num_open(self) -> int:
        """See Front."""
        return self._engine.num_streams

    async def idle(self, timeout_s: float) -> bool:
        """See Front."""
        return await self._engine.wait_idle(timeout_s)

    async def wait_failed(self) -> None:
        """See Front: lost processes are replaced, so this never returns."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """See Front."""
        self._ending = True
        for watch in self._watches:
            watch.cancel()
        if self._server is not None:
            self._server.broadcast(messages.Stop())
        attached = self._server is not None and bool(self._server.frontends)
        await asyncio.gather(*(_reap(p, within_s=_LAST_S if attached else 0) for p in self._processes))
        self._processes.clear()

    def kill(self) -> None:
        """End them at once, after a start that failed."""
        for process in self._processes:
            process.popen.kill()
            process.popen.wait()
            process.end.close()
        self._processes.clear()

    @property
    def _engine(self) -> EngineServer:
        assert self._server is not None, "there is no engine to serve"
        return self._server

    def _start(self, listener: socket.socket) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            given = (theirs.fileno(), listener.fileno())
            popen = subprocess.Popen(
                module_command(_MODULE, *given, os.getpid()),
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                env=module_environment(),
            )
        ours.sendall(self._setup)
        process = _Process(popen, ours, listener)
        self._processes.add(process)
        return process

    async def _attach(self, process: _Process) -> Frontend:
        return await self._engine.attach(process.end)

    async def _watch(self, process: _Process, frontend: Frontend) -> None:
        """Start a front end when it has greeted; whenever it is lost, start another process."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._ending:
            began_s = loop.time()
            if await _greeted(frontend):
                frontend.tell(self._start_message)
            await asyncio.wait([frontend.lost])
            cause = frontend.lost.result()
            code = await _reap(process)
            self._processes.discard(process)
            if self._ending:
                break
            log.error(
                "front end %d is lost (%s; exit code %d), and %d requests with it; it is started again",
                process.popen.pid,
                cause,
                code,
                frontend.num_cut,
            )
            settled = loop.time() - began_s > _SETTLED_S
            pause_s = _FIRST_PAUSE_S if settled else min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
            process = self._start(process.listener)
            frontend = await self._attach(process)


async def _greeted(frontend: Frontend) -> bool:
    """Wait until a front end could serve; False if it is lost instead."""
    either: list[asyncio.Future[Any]] = [frontend.greeted, frontend.lost]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    return frontend.greeted.done()


async def _reap(process: _Process, within_s: float = 0.0) -> int:
    """The exit code of a process, which is killed if it does not end within `within_s`."""
    try:
        return await asyncio.to_thread(process.popen.wait, within_s)
    except subprocess.TimeoutExpired:
        process.popen.kill()
        return await asyncio.to_thread(process.popen.wait)
