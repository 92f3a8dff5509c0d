"""The seam between whoever speaks to clients and the engine: in process, or over a socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..scheduler.request import FinishReason, Request, TokenOutput
from .rate_limits import Quota


class OutputStream(Protocol):
    """Outputs of one request, in order. quota: what it left to its tenant, once it is accepted, if that is
    limited."""

    quota: Quota | None

    async def accepted(self) -> None:
        """Wait until the engine has taken the request. Raises RequestError, like `submit`, if it does not."""

    async def next(self) -> Sequence[TokenOutput]:
        """All that has arrived since the last call, at least one; waits if there is nothing.

        Not to be called again after an output with a finish reason. Raises EngineDeadError, and RequestError
        if the engine has not taken the request.
        """

    def divert(self, take: Callable[[Sequence[TokenOutput]], bool]) -> None:
        """Let `take` have what arrives while the reader waits in `next`, unless it returns False.

        It is called from the event loop. A stream may leave it alone: all goes through `next` then.
        """

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        """Stop the request if it still runs, and forget the stream. Safe at any time, any number of times.

        reason: STOP if its text is complete, since a stop string was found; ABORT if its work was in vain.
        """


class EngineClient(Protocol):
    """What a front end needs of an engine."""

    def submit(self, request: Request) -> OutputStream:
        """Queue the request.

        Raises EngineDeadError, EngineOverloadedError when the queue is full, and RequestError for what can
        never fit. An engine in another process refuses later: the stream's `accepted` raises it then.
        """
