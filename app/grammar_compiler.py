"""Compiles grammars in threads, within limits, and keeps compiled ones.

Grammars come from strangers. Their length is bounded (model/grammar.py), the compiling thread's stack is
large enough for that length, and compiling has a time limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from ..model.grammar import Grammar
from .errors import EngineOverloadedError, RequestError
from .grammar_matcher import CompiledGrammar, GrammarError, GrammarVocabulary

_STACK_BYTES = 512 << 20
"""Of a compiling thread; only what is used takes memory. Rules in 128 KiB of text can overflow 8 MiB."""
_NUM_THREADS = 2
_NUM_KEPT = 128
_MAX_WAITING = 256
_LIMIT_S = 10.0


class GrammarCompiler:
    """Used from one event loop. limit_s: how long a grammar may take, its turn included."""

    def __init__(self, vocabulary: GrammarVocabulary, *, limit_s: float = _LIMIT_S) -> None:
        self._vocabulary = vocabulary
        self._limit_s = limit_s
        self._kept: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._under_way: dict[Grammar, asyncio.Task[CompiledGrammar]] = {}
        self._turns = asyncio.Semaphore(_NUM_THREADS)

    def close(self) -> None:
        """End the threads that compute masks."""
        self._vocabulary.workers.close()

    def kept(self, grammar: Grammar) -> CompiledGrammar | None:
        """The grammar, if it has been compiled and not been forgotten."""
        compiled = self._kept.get(grammar)
        if compiled is not None:
            self._kept.move_to_end(grammar)
        return compiled

    async def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compile, once for all callers meanwhile. Raises RequestError, param structured_outputs."""
        task = self._under_way.get(grammar)
        if task is None:
            if len(self._under_way) >= _MAX_WAITING:
                message = f"{_MAX_WAITING} grammars are being compiled already"
                raise EngineOverloadedError(message, refusal="grammars")
            task = self._under_way[grammar] = asyncio.create_task(self._compile(grammar))
            task.add_done_callback(lambda task: self._file(grammar, task))
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._limit_s)
        except TimeoutError:
            message = f"The grammar must be compiled within {self._limit_s:g} s, and was not"
            raise RequestError(message, param="structured_outputs") from None
        except GrammarError as error:
            raise RequestError(str(error), param="structured_outputs") from error

    async def _compile(self, grammar: Grammar) -> CompiledGrammar:
        async with self._turns:
            return await asyncio.wrap_future(_in_deep_thread(lambda: self._vocabulary.compile(grammar)))

    def _file(self, grammar: Grammar, task: asyncio.Task[CompiledGrammar]) -> None:
        del self._under_way[grammar]
        if not task.cancelled() and task.exception() is None:
            self._kept[grammar] = task.result()
            if len(self._kept) > _NUM_KEPT:
                self._kept.popitem(last=False)


def _in_deep_thread(function: Callable[[], CompiledGrammar]) -> Future[CompiledGrammar]:
    """Run `function` in a daemon thread with a large stack."""
    outcome: Future[CompiledGrammar] = Future()
    outcome.set_running_or_notify_cancel()  # cannot be cancelled from now on

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    usual = threading.stack_size(_STACK_BYTES)
    try:
        threading.Thread(target=run, name="octavo-grammar", daemon=True).start()
    finally:
        threading.stack_size(usual)
    return outcome
