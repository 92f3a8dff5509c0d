"""The outputs of one request on their way to their reader. Knows neither engine nor socket.

What a step brings is filed at once and wakes the reader once; a reader that lags finds all that has piled up.
A reader that says what is to be done with plain outputs (`divert`) is not woken for them: a task's turn costs
more than all that is done in it. Either way, what a loop's turn brings is handed on as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..scheduler.request import FinishReason, TokenOutput
from .rate_limits import Quota


class BufferedStream:
    """See OutputStream. The owner calls `accept`, `push` and `fail`; `abort` calls the owner back."""

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
        """File an output and wake the reader."""
        self._outputs.append(output)
        if self._take is None:
            self._wake()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._offer)

    def fail(self, error: Exception) -> None:
        """No output follows: the reader gets `error` after those that are filed."""
        self._error = error
        self._wake()

    async def accepted(self) -> None:
        """See OutputStream."""
        while not self._accepted and not self._outputs:
            if self._error is not None:
                raise self._error
            await self._change()

    async def next(self) -> Sequence[TokenOutput]:
        """See OutputStream."""
        while not self._outputs:
            if self._error is not None:
                raise self._error
            await self._change()
        outputs, self._outputs = self._outputs, []
        return outputs

    def divert(self, take: Callable[[Sequence[TokenOutput]], bool]) -> None:
        """See OutputStream."""
        self._take = take

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        """See OutputStream."""
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
