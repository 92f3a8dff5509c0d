"""The outputs of one request on their way to their reader. Knows neither engine nor socket.

What a step brings is filed at once and wakes the reader once; a reader that lags finds all that has piled up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..scheduler.request import FinishReason, TokenOutput


class BufferedStream:
    """See OutputStream. The owner calls `accept`, `push` and `fail`; `abort` calls the owner back."""

    __slots__ = ("_abort", "_accepted", "_error", "_outputs", "_reader")

    def __init__(self, abort: Callable[[FinishReason], None]) -> None:
        self._abort = abort
        self._outputs: list[TokenOutput] = []
        self._accepted = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None

    def accept(self) -> None:
        """The engine has taken the request."""
        self._accepted = True
        self._wake()

    def push(self, output: TokenOutput) -> None:
        """File an output and wake the reader."""
        self._outputs.append(output)
        self._wake()

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

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        """See OutputStream."""
        self._abort(reason)

    async def _change(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
