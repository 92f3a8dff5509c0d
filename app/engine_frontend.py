"""One front end, as the engine sees it: its requests, questions and answers. Knows no processes, no steps."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from ..scheduler.cause import OUR_FAULT
from . import control_messages as messages
from . import frames
from .errors import GenerationError, RequestError
from .frame_link import FrameLink
from .metrics_state import MetricsState
from .rate_limits import Quota

if TYPE_CHECKING:
    from .engine_server import EngineServer

log = logging.getLogger(__name__)


class Frontend:
    """Speaks for `server`, which owns the requests.

    greeted: done once it could accept connections.   idle: done once it has answered Drain, or is lost.
    lost: the cause, once it is gone.   num_cut: requests that ended with it.
    requests: stream number -> request id.   state: its last answer to AskNumbers.
    """

    link: FrameLink

    def __init__(self, server: EngineServer) -> None:
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.idle: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.step = frames.StepEncoder()
        self.requests: dict[int, str] = {}
        self.state: MetricsState | None = None
        self.num_cut = 0
        self._server = server
        self._accepted: list[int] = []
        self._quotas: dict[int, Quota] = {}
        self._asked: list[tuple[float, asyncio.Future[None]]] = []
        self._scrapes: set[asyncio.Task[None]] = set()

    def tell(self, message: messages.Message) -> None:
        """Send a message."""
        self.link.send(messages.encode(message))

    def ask(self) -> asyncio.Future[None]:
        """Ask for its numbers; done when `state` is as of now, or the front end is lost."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        self._asked.append((loop.time(), answer))
        self.tell(messages.AskNumbers(self._server.host.pulse()))
        return answer

    def silent_s(self) -> float:
        """How long it has not answered."""
        return asyncio.get_running_loop().time() - self._asked[0][0] if self._asked else 0.0

    def receive(self, kind: int, payload: memoryview) -> None:
        """A frame has come. Raises ProtocolError."""
        if kind == frames.Kind.ADD:
            self._add(payload)
        elif kind == frames.Kind.ABORT:
            number, reason = frames.decode_abort(payload)
            request_id = self.requests.pop(number, None)
            if request_id is not None:
                self._server.abort(request_id, reason)
        elif kind == frames.Kind.CONTROL:
            self._hear(messages.decode_from_frontend(payload))
        else:
            raise frames.ProtocolError(f"a front end sends no frames of kind {kind}")

    def on_lost(self, cause: str) -> None:
        """The link is gone."""
        for _, answer in self._asked:
            answer.set_result(None)
        self._asked.clear()
        if not self.idle.done():
            self.idle.set_result(None)
        self._server.detach(self)
        if not self.lost.done():
            self.lost.set_result(cause)

    def _add(self, payload: memoryview) -> None:
        try:
            number, request = frames.decode_add(payload)
        except frames.UnreadableRequestError as error:
            log.error("a front end's request cannot be read", exc_info=error)
            self.tell(messages.Refused.of(error.number, GenerationError(OUR_FAULT)))
            return
        try:
            compiling = self._server.add(self, number, request)
        except RequestError as refusal:
            self.tell(messages.Refused.of(number, refusal))
            return
        quota = self._server.host.quota(request)
        if quota is not None:
            self._quotas[number] = quota
        if compiling is None:
            self._accept(number)
        else:
            compiling.add_done_callback(partial(self._settle, number))

    def _settle(self, number: int, compiling: asyncio.Task[None]) -> None:
        """Compiling a grammar has ended; if it was cancelled, nobody waits."""
        if not compiling.cancelled() and (error := compiling.exception()) is not None:
            if not isinstance(error, RequestError):
                error = GenerationError(OUR_FAULT)
            self._quotas.pop(number, None)
            self._server.abort(self.requests.pop(number, ""))
            self.tell(messages.Refused.of(number, error))
        elif not compiling.cancelled():
            self._accept(number)

    def _accept(self, number: int) -> None:
        if not self._accepted:
            asyncio.get_running_loop().call_soon(self._tell_accepted)
        self._accepted.append(number)

    def _tell_accepted(self) -> None:
        told = {number: quota for number in self._accepted if (quota := self._quotas.pop(number, None))}
        self.tell(messages.Accepted(self._accepted, told))
        self._accepted = []

    def _hear(self, message: messages.FromFrontend) -> None:
        match message:
            case messages.Hello(version):
                if version != frames.PROTOCOL_VERSION:
                    raise frames.ProtocolError(f"it speaks version {version}, not {frames.PROTOCOL_VERSION}")
                if not self.greeted.done():
                    self.greeted.set_result(None)
            case messages.Idle():
                if not self.idle.done():
                    self.idle.set_result(None)
            case messages.Numbers(state):
                if not self._asked:
                    raise frames.ProtocolError("it answers what nobody has asked")
                self.state = state
                _, answer = self._asked.pop(0)
                answer.set_result(None)
            case messages.Scrape(scrape_id):
                task = asyncio.create_task(self._scraped(scrape_id))
                self._scrapes.add(task)
                task.add_done_callback(self._scrapes.discard)
            case messages.Look(look_id, since):
                try:
                    self.tell(messages.Seen(look_id, self._server.host.look(since)))
                except Exception:
                    self._cannot_answer(look_id)

    async def _scraped(self, scrape_id: int) -> None:
        try:
            await self._server.scrape(self, scrape_id)
        except Exception:
            self._cannot_answer(scrape_id)

    def _cannot_answer(self, number: int) -> None:
        """Answer a question with an error; requests go on."""
        log.exception("a front end's question cannot be answered")
        self.tell(messages.Unanswered(number))
