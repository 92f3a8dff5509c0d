"""The engine's step coroutine as a task, and its refusals as errors for clients. Knows no client."""

from __future__ import annotations

import asyncio

from ..model.plan import Executor
from ..scheduler.engine import Deliver, Engine
from ..scheduler.errors import CapacityError, QueueFullError
from ..scheduler.request import FinishReason, Request
from ..scheduler.scheduler import Scheduler
from ..scheduler.stats import EngineStats
from .errors import EngineDeadError, EngineOverloadedError, RequestError


class EngineHost:
    """Owns the step coroutine, which runs from `start` to `close`. deliver: see Engine."""

    def __init__(self, scheduler: Scheduler, executor: Executor, deliver: Deliver, *, overlap: bool) -> None:
        self._engine = Engine(scheduler, executor, deliver, overlap=overlap)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to step, in the running event loop."""
        self._task = asyncio.create_task(self._engine.run(), name="octavo-engine")

    async def close(self) -> None:
        """Stop stepping and free the device."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait_dead(self) -> str:
        """Return the cause when the engine has died; never, if it does not."""
        assert self._task is not None, "the engine was not started"
        await asyncio.wait([self._task])
        return self._cause()

    def add(self, request: Request) -> None:
        """Queue the request. Raises RequestError (400) for what the KV cache could never hold,
        EngineOverloadedError when the queue is full, EngineDeadError."""
        if self._task is None or self._task.done():
            raise EngineDeadError(self._cause())
        try:
            self._engine.add(request)
        except CapacityError as refusal:
            raise RequestError(str(refusal), param="max_tokens", code="context_length_exceeded") from refusal
        except QueueFullError as refusal:
            raise EngineOverloadedError(str(refusal)) from refusal

    def abort(self, request_id: str, reason: FinishReason) -> None:
        """End a request; see Engine."""
        self._engine.abort(request_id, reason)

    def stats(self) -> EngineStats:
        """A moment of the engine."""
        return self._engine.stats()

    def _cause(self) -> str:
        if self._task is None or self._task.cancelled() or not self._task.done():
            return "the engine is not running"
        cause = self._task.exception()
        return f"{type(cause).__name__}: {cause}"
