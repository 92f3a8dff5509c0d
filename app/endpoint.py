"""The handler of a route that generates: body, question, answer. Chat and completions are two of these."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..scheduler.request import Claim
from .answer import Answer
from .asked import Asked
from .body import read_body
from .choice_record import cause_of_refusal
from .claims import claim_of
from .context import ServerContext

A = TypeVar("A", bound=Asked)
A_contra = TypeVar("A_contra", bound=Asked, contravariant=True)


class StartAnswer(Protocol[A_contra]):
    """Starts what was asked for; raises RequestError."""

    def __call__(self, asked: A_contra, *, request_id: str, claim: Claim) -> Answer: ...


class GenerationEndpoint(Generic[A]):
    """Reads a body with `read`, which raises RequestError, and answers as `start` does."""

    def __init__(self, server: ServerContext, read: Callable[[bytes], A], start: StartAnswer[A]) -> None:
        self._server = server
        self._read = read
        self._start = start

    async def post(self, request: Request) -> Response:
        """The response. What fails before it is known how many choices are asked for counts as one."""
        arrival_s = time.monotonic()
        request.state.generates = True
        server = self._server
        try:
            body = await read_body(request, server.settings.max_body_bytes)
            asked = await server.read(self._read, body)
            server.metrics.histograms.tokenize.observe(asked.tokenize_s)
            self._count_ignored(asked.ignored)
            if asked.fields.request_id is not None and "x-request-id" not in request.headers:
                request.state.request_id = asked.fields.request_id
            claim = claim_of(request, asked.fields, server.settings, arrival_s)
        except ClientDisconnect:
            server.metrics.count_end("disconnect")
            raise
        except Exception as error:
            cause = cause_of_refusal(error)
            server.metrics.count_end(cause)
            server.metrics.count_refused(error, cause == "refused")
            raise
        answer = self._start(asked, request_id=request.state.request_id, claim=claim)
        request.state.summarize = answer.summary
        return await answer.respond(request)

    def _count_ignored(self, fields: Iterable[str]) -> None:
        for field in fields:
            self._server.metrics.count_ignored(field)
