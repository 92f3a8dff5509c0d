"""A live view of the engine: looks a few times a second while somebody watches, once for all watchers.

Each event is a whole picture, so a slow reader may miss some. Knows no page and no process boundary.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

from msgspec.json import encode
from starlette.requests import Request
from starlette.responses import Response

from ..scheduler.view import EngineView
from .chunks import error_frame
from .errors import EngineStoppedError, GenerationError, RequestError
from .histogram import Histogram
from .metrics import ServerMetrics
from .sse import EventStream

log = logging.getLogger(__name__)

_PERIOD_S = 0.25
_LOOKS_PER_COUNT = 4
"""Latencies are gathered from every front end, so less often than every look."""
_MAX_WATCHERS = 32
_KEEP_ALIVE_S = 15.0


class Live:
    """The handler of /live.

    look: the engine's view, with the steps after the one given; raises RequestError.
    gather: the numbers of the whole server.
    """

    def __init__(
        self,
        look: Callable[[int], Awaitable[EngineView]],
        gather: Callable[[], Awaitable[ServerMetrics]],
        *,
        period_s: float = _PERIOD_S,
    ) -> None:
        self._look = look
        self._gather = gather
        self._period_s = period_s
        self._watchers: set[asyncio.Queue[bytes | RequestError]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def num_watchers(self) -> int:
        """Open streams."""
        return len(self._watchers)

    async def get(self, request: Request) -> Response:
        """A stream of views, until the client goes or the server ends: `data: {...}` each."""
        if self._closed:
            raise _closing()
        if len(self._watchers) >= _MAX_WATCHERS:
            raise RequestError(
                f"at most {_MAX_WATCHERS} may watch at once, and as many do",
                code="too_many_watchers",
                status=503,
                type="server_error",
                retry_after_s=10,
            )
        return EventStream(self.frames(), on_close=lambda: None, headers={}, keep_alive_s=_KEEP_ALIVE_S)

    async def frames(self) -> AsyncGenerator[bytes]:
        """The events of one watcher; an error is the last."""
        newest: asyncio.Queue[bytes | RequestError] = asyncio.Queue(maxsize=1)
        self._watchers.add(newest)
        if self._closed:
            newest.put_nowait(_closing())
        elif self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking())
        try:
            while not isinstance(frame := await newest.get(), RequestError):
                yield frame
            yield error_frame(frame.body())
        finally:
            self._watchers.discard(newest)
            if not self._watchers and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def close(self) -> None:
        """End every stream: open ones would hold up a drain."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()  # nothing follows the error
        self._tell(_closing())

    async def _keep_looking(self) -> None:
        try:
            await self._look_until_error()
        except RequestError as error:
            self._tell(error)
        except Exception:
            log.exception("the live view failed")
            self._tell(GenerationError("The live view failed; the server's log says why."))
        self._looking = None

    async def _look_until_error(self) -> None:
        since, num_looks = -1, 0
        latencies: dict[str, object] = {}
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + self._period_s
            if num_looks % _LOOKS_PER_COUNT == 0:
                latencies = _latencies(await self._gather())
            num_looks += 1
            view = await self._look(since)
            if view.steps:
                since = view.steps[-1].number
            self._tell(b"data: " + encode({"engine": view, "latencies": latencies}) + b"\n\n")
            await asyncio.sleep(due_s - loop.time())

    def _tell(self, frame: bytes | RequestError) -> None:
        for newest in self._watchers:
            if newest.full():
                newest.get_nowait()
            newest.put_nowait(frame)


def _latencies(metrics: ServerMetrics) -> dict[str, object]:
    """Counts per bucket since the start; the difference of two views tells the time between them."""
    all_of_them = metrics.histograms
    shown = (all_of_them.first_token, all_of_them.inter_token, all_of_them.queue, all_of_them.latency)
    return {histogram.name: _counts(histogram) for histogram in shown}


def _counts(histogram: Histogram) -> dict[str, object]:
    return {"bounds": histogram.bounds, "counts": histogram.counts}


def _closing() -> RequestError:
    return EngineStoppedError("The server is shutting down.")
