"""The engine's side of the front ends: requests in, one frame per step and front end out. Knows no processes.

When a front end is lost, its requests end at once. One that does not read, or does not answer for long, is
dropped. The engine never waits for either.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import NamedTuple

from ..model.plan import Executor
from ..scheduler.cause import OUR_FAULT
from ..scheduler.request import FinishReason, Request, TokenOutput
from ..scheduler.scheduler import Scheduler
from ..scheduler.stats import EngineStats
from . import control_messages as messages
from .engine_frontend import Frontend
from .engine_host import DEFAULT_OPTIONS, EngineHost, HostOptions, contained
from .frame_link import MAX_BUFFERED_BYTES, MAX_STALLED_S, FrameLink
from .frontend_numbers import FrontendNumbers
from .loop_watch import measure_lag

log = logging.getLogger(__name__)

_ASK_EVERY_S = 1.0
_MAX_SILENT_S = 30.0
_GATHER_S = 2.0


class _Route(NamedTuple):
    """Where the outputs of a request go."""

    frontend: Frontend
    number: int


class EngineServer:
    """Runs the engine from `start` to `close`, for the front ends that are attached.

    max_buffered_bytes, max_stalled_s: how much a front end may leave unread, and for how long.
    max_silent_s: how long a front end may leave a question unanswered.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        options: HostOptions = DEFAULT_OPTIONS,
        *,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
        max_stalled_s: float = MAX_STALLED_S,
        max_silent_s: float = _MAX_SILENT_S,
    ) -> None:
        self.host = EngineHost(scheduler, executor, self._deliver, options)
        self.numbers = FrontendNumbers()
        self._routes: dict[str, _Route] = {}
        self._frontends: set[Frontend] = set()
        self._limits = (max_buffered_bytes, max_stalled_s)
        self._max_silent_s = max_silent_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to step, in the running event loop."""
        self.host.start()
        lag_s = self.numbers.counts.engine_lag_s
        self._tasks = [asyncio.create_task(self._ask_all()), asyncio.create_task(measure_lag(lag_s))]

    async def close(self) -> None:
        """Stop stepping and free the device; streams that still run end with an error."""
        for task in self._tasks:
            task.cancel()
        await self.host.close()
        self._routes.clear()
        self.broadcast(messages.Cut("the engine was stopped"))

    async def wait_dead(self) -> str:
        """Return the cause when the engine has died; never, if it does not."""
        return await self.host.wait_dead()

    def stats(self) -> EngineStats:
        """A moment of the engine."""
        return self.host.stats()

    @property
    def stuck(self) -> bool:
        """The device could not be freed; see Engine."""
        return self.host.stuck

    @property
    def num_streams(self) -> int:
        """Requests under way."""
        return len(self._routes)

    @property
    def frontends(self) -> frozenset[Frontend]:
        """Front ends that are attached."""
        return frozenset(self._frontends)

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every front end has answered Drain with Idle, at most `timeout_s`; whether all have."""
        answers = [frontend.idle for frontend in self._frontends]
        return not answers or not (await asyncio.wait(answers, timeout=timeout_s))[1]

    async def attach(self, end: socket.socket) -> Frontend:
        """Serve the front end at the other end of `end`."""
        frontend = Frontend(self)
        frontend.link = FrameLink(
            frontend.receive,
            frontend.on_lost,
            max_buffered_bytes=self._limits[0],
            max_stalled_s=self._limits[1],
        )
        self._frontends.add(frontend)
        await frontend.link.attach(end)
        return frontend

    def broadcast(self, message: messages.Message) -> None:
        """Tell all front ends."""
        frame = messages.encode(message)
        for frontend in self._frontends:
            frontend.link.send(frame)

    def add(self, frontend: Frontend, number: int, request: Request) -> asyncio.Task[None] | None:
        """Submit a request as stream `number` of `frontend`; see EngineHost.add. Raises RequestError."""
        with contained(request):
            compiling = self.host.add(request)
        frontend.requests[number] = request.request_id
        self._routes[request.request_id] = _Route(frontend, number)
        return compiling

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request and forget its route."""
        if self._routes.pop(request_id, None) is not None:
            self.host.abort(request_id, reason)

    def detach(self, frontend: Frontend) -> None:
        """A front end is lost: end its requests."""
        self._frontends.discard(frontend)
        frontend.num_cut = len(frontend.requests)
        self.numbers.retire(frontend.state, num_cut=frontend.num_cut)
        self.numbers.counts.lost["dropped" if frontend.link.was_cut else "died"] += 1
        for request_id in list(frontend.requests.values()):
            self.abort(request_id)
        frontend.requests.clear()

    async def scrape(self, asker: Frontend, scrape_id: int) -> None:
        """Answer a front end that serves /metrics with what all others have counted."""
        others = [frontend for frontend in self._frontends if frontend is not asker]
        answers = [frontend.ask() for frontend in others]
        if answers:
            await asyncio.wait(answers, timeout=_GATHER_S)
        states = [frontend.state for frontend in others if frontend.state is not None]
        self.numbers.counts.num_running = len(self._frontends)
        asker.tell(
            messages.Scraped(scrape_id, [*self.numbers.retired, *states], self.stats(), self.numbers.counts)
        )

    def _deliver(self, outputs: Sequence[TokenOutput]) -> None:
        routes = self._routes
        touched: set[Frontend] = set()
        for output in outputs:
            route = routes.get(output[0])
            if route is None:
                continue
            frontend, number = route
            touched.add(frontend)
            try:
                frontend.step.add(number, output)
            except Exception:
                self._fail(output[0], route)
                continue
            if output.finish_reason is not None:
                del routes[output[0]], frontend.requests[number]
        for frontend in touched:
            frontend.link.send(frontend.step.take())

    def _fail(self, request_id: str, route: _Route) -> None:
        """An output cannot be sent: end its request, and no other."""
        log.exception("request %s failed", request_id, extra={"fields": {"engine_id": request_id}})
        frontend, number = route
        ending = TokenOutput(request_id, finish_reason=FinishReason.ERROR, error=OUR_FAULT)
        frontend.step.add(number, ending)
        del frontend.requests[number]
        self.abort(request_id, FinishReason.ERROR)

    async def _ask_all(self) -> None:
        """Ask every front end for its numbers again and again; drop those that do not answer."""
        while True:
            await asyncio.sleep(_ASK_EVERY_S)
            for frontend in list(self._frontends):
                if frontend.silent_s() > self._max_silent_s:
                    frontend.link.cut(f"it has not answered for {self._max_silent_s:g} s")
                elif frontend.greeted.done():
                    frontend.ask()
