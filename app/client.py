"""The seam between whoever speaks to clients and the engine, and the outputs that come back through it.

What a step brings is queued and wakes the reader once; a slow reader finds all that has piled up. A reader
can pass a function for plain outputs (`divert`) instead of being woken for them, since waking a task costs
more than what it does for one token. Either way, all outputs of one turn of the loop are handed on together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from ..scheduler.request import FinishReason, Request, TokenOutput
from .rate_limits import Quota


class OutputStream:
    """Outputs of one request, in order. Its owner, an EngineClient, calls `accept`, `push` and `fail`.

    quota: what the request left to its tenant, once it is accepted, if that is limited.
    abort: called when the reader aborts.
    """

    __slots__ = ("_abort", "_accepted", "_error", "_is_due", "_outputs", "_reader", "_take", "quota")

    def __init__(self, abort: Callable[[FinishReason], None]) -> None:
        self._abort = abort
        self._outputs: list[TokenOutput] = []
        self._accepted = False
        self.quota: Quota | None = None
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._take: Callable[[Sequence[TokenOutput]], bool] | None = None
        self._is_due = False

    def accept(self, quota: Quota | None = None) -> None:
        """The engine has taken the request, which left so much of its tenant's quota."""
        self._accepted = True
        self.quota = quota
        self._wake()

    def push(self, output: TokenOutput) -> None:
        """Queue an output and wake the reader."""
        self._outputs.append(output)
        if self._take is None:
            self._wake()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._offer)

    def fail(self, error: Exception) -> None:
        """No output follows: the reader gets `error` after those that are queued."""
        self._error = error
        self._wake()

    async def accepted(self) -> None:
        """Wait until the engine has taken the request. Raises RequestError, like `submit`, if it does not."""
        while not self._accepted and not self._outputs:
            if self._error is not None:
                raise self._error
            await self._change()

    async def next(self) -> Sequence[TokenOutput]:
        """All that has arrived since the last call, at least one; waits if there is nothing.

        Not to be called again after an output with a finish reason. Raises EngineDeadError, and RequestError
        if the engine has not taken the request.
        """
        while not self._outputs:
            if self._error is not None:
                raise self._error
            await self._change()
        outputs, self._outputs = self._outputs, []
        return outputs

    def divert(self, take: Callable[[Sequence[TokenOutput]], bool]) -> None:
        """Have the event loop pass what arrives while the reader waits in `next` to `take`.

        If `take` returns False, the outputs go through `next`.
        """
        self._take = take

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        """Stop the request if it still runs, and forget the stream. Safe at any time, any number of times.

        reason: STOP if a stop string was found and the text is complete; ABORT if the work was in vain.
        """
        self._abort(reason)

    async def _change(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def _offer(self) -> None:
        self._is_due = False
        if self._reader is None or self._reader.done() or not self._outputs:
            return  # the reader is at work, and will look for more when it is done
        assert self._take is not None, "nobody takes outputs"
        try:
            if not self._take(self._outputs):
                self._wake()
                return
        except Exception as error:
            self._error = error  # raised where the reader waits
            self._wake()
        self._outputs = []

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class EngineClient(Protocol):
    """What requests need of an engine."""

    def submit(self, request: Request) -> OutputStream:
        """Queue the request.

        Raises EngineDeadError, EngineOverloadedError when the queue is full, and RequestError for what can
        never fit. An engine in another process refuses later: the stream's `accepted` raises it then.
        """
