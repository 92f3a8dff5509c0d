"""A front end's side of the engine's socket, behind the EngineClient protocol. Knows no text and no HTTP."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..scheduler.cause import OUR_FAULT
from ..scheduler.distribution import Distribution
from ..scheduler.request import FinishReason, Request
from ..scheduler.view import EngineView
from . import control_messages as messages
from . import frames
from .client import OutputStream
from .errors import EngineDeadError, EngineStoppedError, GenerationError
from .frame_link import FrameLink
from .pulse import Pulse
from .token_gaps import TokenGaps

Control = messages.Setup | messages.Start | messages.Drain | messages.Stop | messages.AskNumbers

_SILENT_S = 3.0
"""The engine speaks every second."""


class RemoteClient:
    """Speaks to the engine from `attach` until the engine is gone.

    control: the engine's messages to this process, in order; None when the engine is gone.
    """

    def __init__(self) -> None:
        self.control: asyncio.Queue[Control | None] = asyncio.Queue()
        # The engine may not read for long: a model's first steps are slow.
        self._link = FrameLink(self._receive, self._on_lost, max_stalled_s=3600)
        self._streams: dict[int, OutputStream] = {}
        self._next_number = 0
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._num_questions = 0
        self._dead: str | None = None
        self._pulse = Pulse()
        self._heard_s: float | None = None
        self._gaps: TokenGaps[int] | None = None

    def time_tokens(self, seconds: Distribution) -> None:
        """From now on count in `seconds` how far apart the tokens of each stream come."""
        self._gaps = TokenGaps(seconds)

    async def attach(self, end: socket.socket) -> None:
        """Speak over `end`, a connected socket that is this object's from now on."""
        await self._link.attach(end)

    def submit(self, request: Request) -> OutputStream:
        """See EngineClient."""
        if self._dead is not None:
            raise EngineDeadError(self._dead)
        number = self._free_number()
        self._link.send(frames.encode_add(number, request))
        stream = self._streams[number] = OutputStream(partial(self._abort, number))
        return stream

    def pulse(self) -> Pulse:
        """The engine's state. If it has fallen silent, its step has lasted since its last message."""
        if self._heard_s is None:
            return self._pulse
        silent_s = time.monotonic() - self._heard_s
        if silent_s < _SILENT_S and not self._pulse.step_age_s:
            return self._pulse
        return replace(self._pulse, step_age_s=self._pulse.step_age_s + silent_s)

    def tell(self, message: messages.Message) -> None:
        """Send a message to the engine."""
        self._link.send(messages.encode(message))

    async def scrape(self) -> messages.Scraped:
        """What all other front ends have counted, and the engine's moment. Raises EngineDeadError."""
        scraped: messages.Scraped = await self._ask(messages.Scrape)
        return scraped

    async def look(self, since: int) -> EngineView:
        """A view for the live page; see Engine. Raises EngineDeadError."""
        seen: messages.Seen = await self._ask(lambda look_id: messages.Look(look_id, since))
        return seen.view

    async def _ask(self, question: Callable[[int], messages.Message]) -> Any:
        """The engine's answer to `question(number)`. Raises EngineDeadError."""
        if self._dead is not None:
            raise EngineDeadError(self._dead)
        self._num_questions += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[self._num_questions] = answer
        self.tell(question(self._num_questions))
        return await answer

    def _answer(self, number: int, message: messages.Message) -> None:
        answer = self._questions.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _free_number(self) -> int:
        """A number is reused only after all others, since outputs may still come for an aborted stream."""
        while self._next_number in self._streams:
            self._next_number = (self._next_number + 1) % frames.MAX_STREAMS
        number = self._next_number
        self._next_number = (number + 1) % frames.MAX_STREAMS
        return number

    def _abort(self, number: int, reason: FinishReason) -> None:
        if self._streams.pop(number, None) is not None:
            self._forget(number)
            self._link.send(frames.encode_abort(number, reason))

    def _forget(self, number: int) -> None:
        if self._gaps is not None:
            self._gaps.forget(number)

    def _receive(self, kind: int, payload: memoryview) -> None:
        if kind == frames.Kind.STEP:
            streams = self._streams
            outputs = frames.decode_step(payload)
            if self._gaps is not None:
                self._gaps.step(
                    frames.num_going_on(payload),
                    lambda: streams.keys() & frames.streams_with_tokens(payload),
                )
            for number, output in outputs:
                stream = streams.get(number)
                if stream is not None:
                    stream.push(output)
                    if output.finish_reason is not None:
                        del streams[number]
                        self._forget(number)
        elif kind == frames.Kind.CONTROL:
            self._hear(messages.decode_from_engine(payload))
        else:
            raise frames.ProtocolError(f"the engine sends no frames of kind {kind}")

    def _hear(self, message: messages.FromEngine) -> None:
        match message:
            case messages.Accepted(numbers, quotas):
                for number in numbers:
                    if (stream := self._streams.get(number)) is not None:
                        stream.accept(quotas.get(number))
            case messages.Refused():
                refused = self._streams.pop(message.number, None)
                if refused is not None:
                    refused.fail(message.error())
            case messages.Scraped(scrape_id):
                self._answer(scrape_id, message)
            case messages.Seen(look_id):
                self._answer(look_id, message)
            case messages.Unanswered(number):
                answer = self._questions.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_exception(GenerationError(OUR_FAULT))
            case messages.Cut(cause):
                self._fail_all(EngineStoppedError(cause))
            case _:
                if isinstance(message, messages.AskNumbers):
                    self._pulse, self._heard_s = message.pulse, time.monotonic()
                self.control.put_nowait(message)

    def _on_lost(self, cause: str) -> None:
        self._fail_all(EngineDeadError("the engine's process is gone"))
        self.control.put_nowait(None)

    def _fail_all(self, error: EngineDeadError) -> None:
        self._dead = error.message
        for stream in self._streams.values():
            stream.fail(error)
        self._streams.clear()
        for answer in self._questions.values():
            if not answer.done():
                answer.set_exception(error)
        self._questions.clear()
