"""An engine in the caller's own event loop, behind the EngineClient protocol. Knows no text and no HTTP.

One wake-up per stream and step: what a step brought is filed into the streams' buffers at once, and a reader
that lags finds all that has piled up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..model.plan import Executor
from ..scheduler.engine import Engine
from ..scheduler.errors import CapacityError, QueueFullError
from ..scheduler.request import Request, TokenOutput
from ..scheduler.scheduler import Scheduler
from ..scheduler.stats import EngineStats
from .errors import EngineDeadError, EngineOverloadedError, RequestError


class InprocClient:
    """Owns the engine's step coroutine, which runs from `start` to `close`."""

    def __init__(self, scheduler: Scheduler, executor: Executor, *, overlap: bool) -> None:
        self._engine = Engine(scheduler, executor, self._deliver, overlap=overlap)
        self._streams: dict[str, InprocStream] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to step, in the running event loop."""
        self._task = asyncio.create_task(self._engine.run(), name="octavo-engine")

    async def close(self) -> None:
        """Stop stepping and free the device; streams that still run end with an error."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for stream in self._streams.values():
            stream.fail()
        self._streams.clear()

    async def wait_dead(self) -> str:
        """Return the cause when the engine has died; never, if it does not."""
        assert self._task is not None, "the engine was not started"
        await asyncio.wait([self._task])
        return self._cause()

    def submit(self, request: Request) -> InprocStream:
        """See EngineClient. Raises RequestError (400) for what the KV cache could never hold."""
        if self._task is None or self._task.done():
            raise EngineDeadError(self._cause())
        try:
            self._engine.add(request)
        except CapacityError as refusal:
            raise RequestError(str(refusal), param="max_tokens", code="context_length_exceeded") from refusal
        except QueueFullError as refusal:
            raise EngineOverloadedError(str(refusal)) from refusal
        stream = self._streams[request.request_id] = InprocStream(self, request.request_id)
        return stream

    def stats(self) -> EngineStats:
        """A moment of the engine."""
        return self._engine.stats()

    def abort(self, request_id: str) -> None:
        """End a request and forget its stream."""
        if self._streams.pop(request_id, None) is not None:
            self._engine.abort(request_id)

    def _deliver(self, outputs: Sequence[TokenOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.push(output)
                if output.finish_reason is not None:
                    del self._streams[output.request_id]

    def _cause(self) -> str:
        if self._task is None or self._task.cancelled() or not self._task.done():
            return "the engine is not running"
        cause = self._task.exception()
        return f"{type(cause).__name__}: {cause}"


class InprocStream:
    """Outputs of one request; see OutputStream."""

    __slots__ = ("_client", "_failed", "_outputs", "_reader", "_request_id")

    def __init__(self, client: InprocClient, request_id: str) -> None:
        self._client = client
        self._request_id = request_id
        self._outputs: list[TokenOutput] = []
        self._failed = False
        self._reader: asyncio.Future[None] | None = None

    def push(self, output: TokenOutput) -> None:
        """File an output and wake the reader."""
        self._outputs.append(output)
        self._wake()

    def fail(self) -> None:
        """The engine was stopped: the reader gets EngineDeadError."""
        self._failed = True
        self._wake()

    async def next(self) -> Sequence[TokenOutput]:
        """See OutputStream."""
        while not self._outputs:
            if self._failed:
                raise EngineDeadError("the engine was stopped")
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        outputs, self._outputs = self._outputs, []
        return outputs

    def abort(self) -> None:
        """See OutputStream."""
        self._client.abort(self._request_id)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
