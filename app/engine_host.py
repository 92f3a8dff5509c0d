"""The engine's step coroutine as a task, and its refusals as errors for clients. Knows no client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..model.grammar import Grammar
from ..model.plan import Executor
from ..scheduler.cause import OUR_FAULT, cause_of
from ..scheduler.engine import Deliver, Engine
from ..scheduler.errors import BusyError, CapacityError, TooLateError
from ..scheduler.request import FinishReason, Request, TokenOutput
from ..scheduler.scheduler import Scheduler
from ..scheduler.stats import EngineStats
from ..scheduler.view import EngineView
from ..scheduler.watchdog import Watchdog
from .errors import EngineDeadError, EngineOverloadedError, GenerationError, RequestError
from .grammar_compiler import GrammarCompiler
from .grammar_matcher import CompiledGrammar
from .pulse import Pulse
from .rate_limits import Quota, RateLimits

log = logging.getLogger(__name__)

_STUCK_RETRY_S = 30


@contextlib.contextmanager
def contained(request: Request) -> Iterator[None]:
    """Turns any exception inside into a RequestError, which ends this request and nothing else."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        fields = {"engine_id": request.request_id}
        log.exception("request %s failed", request.request_id, extra={"fields": fields})
        raise GenerationError(OUR_FAULT) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """How an engine is run, wherever its clients are.

    overlap: see Engine.   grammars: None refuses requests with a grammar.
    step_timeout_s: see Watchdog; None watches nothing.   rates: None limits no tenant.
    """

    overlap: bool = True
    grammars: GrammarCompiler | None = None
    step_timeout_s: float | None = None
    rates: RateLimits | None = None


DEFAULT_OPTIONS = HostOptions()


class EngineHost:
    """Owns the step coroutine, which runs from `start` to `close`. deliver: see Engine."""

    def __init__(
        self, scheduler: Scheduler, executor: Executor, deliver: Deliver, options: HostOptions
    ) -> None:
        self._rates = rates = options.rates
        self._deliver = deliver
        self._tenants: dict[str, str] = {}  # of requests under way, where rates are limited
        heard = deliver if rates is None else self._charge
        self._engine = Engine(scheduler, executor, heard, overlap=options.overlap)
        self._limits = scheduler.config
        self._step_timeout_s = options.step_timeout_s
        self._watch: asyncio.Task[None] | None = None
        self._grammars = options.grammars
        self._compiling: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to step, in the running event loop."""
        self._task = asyncio.create_task(self._engine.run(), name="octavo-engine")
        if self._step_timeout_s is not None:
            self._watch = asyncio.create_task(Watchdog(self._engine, self._step_timeout_s).run())

    @property
    def stuck(self) -> bool:
        """The device could not be freed; see Engine."""
        return self._engine.stuck

    def pulse(self) -> Pulse:
        """The engine's state at this moment."""
        num_running, num_waiting, ttft_s = self._engine.load()
        return Pulse(
            step_age_s=self._engine.step_age_s(),
            step_timeout_s=self._step_timeout_s,
            num_running=num_running,
            num_waiting=num_waiting,
            max_waiting=self._limits.max_queued_requests,
            ttft_s=ttft_s,
            max_ttft_s=self._limits.max_ttft_s,
        )

    async def close(self) -> None:
        """Stop stepping and free the device."""
        if self._watch is not None:
            self._watch.cancel()
        for compiling in self._compiling.values():
            compiling.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._grammars is not None:
            self._grammars.close()

    async def wait_dead(self) -> str:
        """Return the cause when the engine has died; never, if it does not."""
        assert self._task is not None, "the engine was not started"
        await asyncio.wait([self._task])
        return self._cause()

    def add(self, request: Request) -> asyncio.Task[None] | None:
        """Queue the request, or return the task that queues it once its grammar is compiled.

        Both raise RequestError (400) for what the KV cache could never hold, EngineOverloadedError when the
        queue is full, RateLimitError, EngineDeadError.
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
        trouble = self.pulse().trouble()
        if trouble is not None:
            raise EngineOverloadedError(trouble, retry_after_s=_STUCK_RETRY_S, refusal="stuck")
        tenant = request.claim.tenant
        if self._rates is not None:
            self._rates.take(tenant, len(request.prompt_token_ids))
            self._tenants[request.request_id] = tenant
        try:
            self._queue(request, grammar)
        except Exception:
            self._tenants.pop(request.request_id, None)
            raise

    def _queue(self, request: Request, grammar: CompiledGrammar | None) -> None:
        constraint = None if grammar is None else grammar.follower(ignore_eos=request.params.ignore_eos)
        try:
            self._engine.add(request, constraint)
        except CapacityError as refusal:
            raise RequestError(str(refusal), param="max_tokens", code="context_length_exceeded") from refusal
        except BusyError as refusal:
            why = "late" if isinstance(refusal, TooLateError) else "queue_full"
            raise EngineOverloadedError(
                str(refusal), retry_after_s=refusal.retry_after_s, refusal=why
            ) from refusal

    def quota(self, request: Request) -> Quota | None:
        """What is left for the tenant of a request; None without limits."""
        return None if self._rates is None else self._rates.quota(request.claim.tenant)

    def _charge(self, outputs: Sequence[TokenOutput]) -> None:
        """Charge tenants for what was generated, then deliver."""
        assert self._rates is not None, "nobody is limited"
        for output in outputs:
            tenant = self._tenants.get(output.request_id)
            if tenant is not None and output.token_ids:
                self._rates.spend(tenant, len(output.token_ids))
            if output.finish_reason is not None:
                self._tenants.pop(output.request_id, None)
        self._deliver(outputs)

    def abort(self, request_id: str, reason: FinishReason) -> None:
        """End a request; see Engine. One whose grammar is being compiled just goes."""
        compiling = self._compiling.get(request_id)
        if compiling is not None:
            compiling.cancel()
        self._engine.abort(request_id, reason)

    def stats(self) -> EngineStats:
        """A moment of the engine."""
        return self._engine.stats()

    def look(self, since: int) -> EngineView:
        """A view for the live page; see Engine."""
        return self._engine.look(since)

    def _cause(self) -> str:
        if self._task is None or self._task.cancelled() or not self._task.done():
            return "the engine is not running"
        cause = self._task.exception()
        return "the engine has stopped" if cause is None else cause_of(cause)
