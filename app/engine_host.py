"""The engine's step coroutine as a task, and its refusals as errors for clients. Knows no client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from ..model.grammar import Grammar
from ..model.plan import Executor
from ..scheduler.engine import Deliver, Engine
from ..scheduler.errors import CapacityError, QueueFullError
from ..scheduler.request import FinishReason, Request
from ..scheduler.scheduler import Scheduler
from ..scheduler.stats import EngineStats
from .errors import EngineDeadError, EngineOverloadedError, GenerationError, RequestError
from .grammar_compiler import GrammarCompiler
from .grammar_matcher import CompiledGrammar

log = logging.getLogger(__name__)


@contextlib.contextmanager
def contained(request: Request) -> Iterator[None]:
    """What goes wrong inside ends this request and nothing else. Raises RequestError."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        log.exception("request %s failed", request.request_id)
        raise GenerationError("The server failed at this request; its log says why.") from error


class EngineHost:
    """Owns the step coroutine, which runs from `start` to `close`. deliver: see Engine.

    grammars: None refuses requests with a grammar.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        deliver: Deliver,
        *,
        overlap: bool,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self._engine = Engine(scheduler, executor, deliver, overlap=overlap)
        self._grammars = grammars
        self._compiling: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to step, in the running event loop."""
        self._task = asyncio.create_task(self._engine.run(), name="octavo-engine")

    async def close(self) -> None:
        """Stop stepping and free the device."""
        for compiling in self._compiling.values():
            compiling.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait_dead(self) -> str:
        """Return the cause when the engine has died; never, if it does not."""
        assert self._task is not None, "the engine was not started"
        await asyncio.wait([self._task])
        return self._cause()

    def add(self, request: Request) -> asyncio.Task[None] | None:
        """Queue the request. Raises RequestError (400) for what the KV cache could never hold,
        EngineOverloadedError when the queue is full, EngineDeadError.

        A request whose grammar is not compiled yet is queued later: by the task, which raises the like.
        """
        grammar = request.params.grammar
        if grammar is None:
            self._add(request)
            return None
        if self._grammars is None:
            message = "structured_outputs must be left out: no grammars are compiled here"
            raise RequestError(message, param="structured_outputs")
        compiled = self._grammars.kept(grammar)
        if compiled is not None:
            self._add(request, compiled)
            return None
        task = asyncio.create_task(self._add_later(request, grammar, self._grammars))
        self._compiling[request.request_id] = task
        task.add_done_callback(lambda task: self._compiling.pop(request.request_id))
        return task

    async def _add_later(self, request: Request, grammar: Grammar, grammars: GrammarCompiler) -> None:
        with contained(request):
            self._add(request, await grammars.compile(grammar))

    def _add(self, request: Request, grammar: CompiledGrammar | None = None) -> None:
        if self._task is None or self._task.done():
            raise EngineDeadError(self._cause())
        constraint = None if grammar is None else grammar.follower(ignore_eos=request.params.ignore_eos)
        try:
            self._engine.add(request, constraint)
        except CapacityError as refusal:
            raise RequestError(str(refusal), param="max_tokens", code="context_length_exceeded") from refusal
        except QueueFullError as refusal:
            raise EngineOverloadedError(str(refusal)) from refusal

    def abort(self, request_id: str, reason: FinishReason) -> None:
        """End a request; see Engine. One whose grammar is being compiled leaves without a word."""
        compiling = self._compiling.get(request_id)
        if compiling is not None:
            compiling.cancel()
        self._engine.abort(request_id, reason)

    def stats(self) -> EngineStats:
        """A moment of the engine."""
        return self._engine.stats()

    def _cause(self) -> str:
        if self._task is None or self._task.cancelled() or not self._task.done():
            return "the engine is not running"
        cause = self._task.exception()
        return f"{type(cause).__name__}: {cause}"
