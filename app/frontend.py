"""A front-end process: HTTP, templates, tokenizing and detokenizing for an engine in another process.

Started by supervisor.py as `python -m octavo.app.frontend LINK LISTENER PARENT`: two file descriptors, of the
connected socket to the engine and of the socket to listen on, and the engine's process id. Loads no torch.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from pathlib import Path

import uvloop

from .client import EngineClient
from .control_messages import AskNumbers, Drain, Hello, Idle, Numbers, Setup, Start, Stop
from .errors import StartupError
from .frames import PROTOCOL_VERSION
from .generation import Generation
from .http_front import HttpFront
from .http_server import LAST_WRITES_S
from .logs import set_up_logging
from .metrics import ServerMetrics
from .model_source import read_texts
from .process import follow_parent, freeze_garbage
from .remote_client import RemoteClient

log = logging.getLogger(__name__)


def main(link: int, listener: int, parent: int) -> int:
    """Serve until the engine says so, 0, or is gone, 1."""
    follow_parent(parent)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(socket.socket(fileno=link), socket.socket(fileno=listener)))


async def _serve(link: socket.socket, listener: socket.socket) -> int:
    client = RemoteClient()
    await client.attach(link)
    setup = await client.control.get()
    if not isinstance(setup, Setup):
        return 1  # the engine is gone
    set_up_logging(setup.log_level, setup.log_format)
    try:
        frontend = _Frontend(client, setup, listener)
    except StartupError as error:
        log.error("%s", error)
        return 2
    freeze_garbage()
    client.tell(Hello(PROTOCOL_VERSION))
    return await frontend.run()


class _Frontend:
    """Serves HTTP and obeys the engine's control messages."""

    def __init__(self, client: RemoteClient, setup: Setup, listener: socket.socket) -> None:
        self._client = client
        self._settings = settings = setup.settings
        self._metrics = ServerMetrics(settings.model_names[0], settings.version)
        tokenizer, template = (None, None) if setup.model_path is None else read_texts(Path(setup.model_path))

        def generation(door: EngineClient) -> Generation:
            return Generation(door, tokenizer, template, setup.model)

        self._front = HttpFront(client, generation, settings, self._metrics, listener, self._gather)
        self._memory_bytes: dict[str, int] = {}
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Do what the engine says until it says stop, 0, or is gone, 1."""
        code = await self._obey()
        if self._draining is not None:
            self._draining.cancel()
        await self._front.stop()
        return code

    async def _obey(self) -> int:
        while True:
            match await self._client.control.get():
                case Start(memory_bytes=memory_bytes):
                    self._memory_bytes = memory_bytes
                    await self._front.open()
                case AskNumbers():
                    self._client.tell(Numbers(self._metrics.state()))
                case Drain():
                    self._front.close()
                    self._draining = asyncio.create_task(self._tell_idle())
                case Stop():
                    return 0
                case None:
                    self._front.close()
                    await self._front.idle(LAST_WRITES_S)
                    return 1

    async def _tell_idle(self) -> None:
        await self._front.idle(None)
        self._client.tell(Idle())

    async def _gather(self) -> ServerMetrics:
        """The numbers of the whole server."""
        scraped = await self._client.scrape()
        whole = ServerMetrics(
            self._settings.model_names[0],
            self._settings.version,
            lambda: scraped.stats,
            scraped.frontends,
            self._memory_bytes,
        )
        for state in (self._metrics.state(), *scraped.others):
            whole.absorb(state)
        return whole


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
