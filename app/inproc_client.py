"""An engine in the caller's own event loop, behind the EngineClient protocol. Knows no text and no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from operator import itemgetter

from ..model.plan import Executor
from ..scheduler.cause import OUR_FAULT
from ..scheduler.distribution import Distribution
from ..scheduler.request import FinishReason, Request, TokenOutput
from ..scheduler.scheduler import Scheduler
from ..scheduler.stats import EngineStats
from ..scheduler.view import EngineView
from .client import OutputStream
from .engine_host import DEFAULT_OPTIONS, EngineHost, HostOptions
from .errors import EngineStoppedError, GenerationError, RequestError
from .pulse import Pulse
from .rate_limits import Quota
from .token_gaps import TokenGaps

_TIMINGS = itemgetter(TokenOutput._fields.index("timings"))
"""A request's first output with a token has them, and its last."""


class InprocClient:
    """Runs the engine from `start` to `close`."""

    def __init__(
        self, scheduler: Scheduler, executor: Executor, options: HostOptions = DEFAULT_OPTIONS
    ) -> None:
        self._host = EngineHost(scheduler, executor, self._deliver, options)
        self._streams: dict[str, OutputStream] = {}
        self._gaps: TokenGaps[str] | None = None

    def time_tokens(self, seconds: Distribution) -> None:
        """From now on count in `seconds` how far apart the tokens of each stream come."""
        self._gaps = TokenGaps(seconds)

    def start(self) -> None:
        """Begin to step, in the running event loop."""
        self._host.start()

    async def close(self) -> None:
        """Stop stepping and free the device; streams that still run end with an error."""
        await self._host.close()
        for stream in self._streams.values():
            stream.fail(EngineStoppedError("the engine was stopped"))
        self._streams.clear()

    async def wait_dead(self) -> str:
        """Return the cause when the engine has died; never, if it does not."""
        return await self._host.wait_dead()

    def submit(self, request: Request) -> OutputStream:
        """See EngineClient. Raises RequestError (400) for what the KV cache could never hold."""
        compiling = self._host.add(request)
        stream = OutputStream(partial(self.abort, request.request_id))
        self._streams[request.request_id] = stream
        quota = self._host.quota(request)
        if compiling is None:
            stream.accept(quota)
        else:
            compiling.add_done_callback(partial(self._settle, request.request_id, quota))
        return stream

    def pulse(self) -> Pulse:
        """The engine's state at this moment."""
        return self._host.pulse()

    @property
    def stuck(self) -> bool:
        """The device could not be freed; see Engine."""
        return self._host.stuck

    def stats(self) -> EngineStats:
        """A moment of the engine."""
        return self._host.stats()

    async def look(self, since: int) -> EngineView:
        """A view for the live page; see Engine."""
        return self._host.look(since)

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request and forget its stream."""
        if self._streams.pop(request_id, None) is not None:
            self._forget(request_id)
            self._host.abort(request_id, reason)

    def _forget(self, request_id: str) -> None:
        if self._gaps is not None:
            self._gaps.forget(request_id)

    def _settle(self, request_id: str, quota: Quota | None, compiling: asyncio.Task[None]) -> None:
        """Compiling a grammar has ended."""
        stream = None if compiling.cancelled() else self._streams.get(request_id)
        if stream is None:
            return  # nobody waits
        error = compiling.exception()
        if error is not None:
            del self._streams[request_id]
            stream.fail(error if isinstance(error, RequestError) else GenerationError(OUR_FAULT))
        else:
            stream.accept(quota)

    def _deliver(self, outputs: Sequence[TokenOutput]) -> None:
        streams = self._streams
        if self._gaps is not None:
            self._gaps.step(
                self._num_going_on(outputs),
                lambda: streams.keys() & {each.request_id for each in outputs if each.token_ids},
            )
        for output in outputs:
            stream = streams.get(output.request_id)
            if stream is not None:
                stream.push(output)
                if output.finish_reason is not None:
                    del streams[output.request_id]
                    self._forget(output.request_id)

    def _num_going_on(self, outputs: Sequence[TokenOutput]) -> int:
        """See TokenGaps.step. That all streams hear says it without a look at each output."""
        if not outputs or not outputs[0].token_ids:
            return 0
        if len(outputs) != len(self._streams) and any(map(_TIMINGS, outputs)):
            return 0
        return len(outputs)
