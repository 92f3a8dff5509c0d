"""The handler of a route that generates: it reads the body, makes the claim, starts the answer.

A claim says whose a request is, its share of the engine, and how long it may take: the shortest of what the
server allows, a header says and the body says. Knows neither routes nor the queue.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..scheduler.request import Claim
from .answer import Answer
from .asked import Asked
from .choice_record import cause_of_refusal
from .context import ServerContext
from .errors import RequestError
from .protocol import SamplingFields
from .server_settings import ServerSettings

TIMEOUT_HEADER = "x-request-timeout"
QUEUE_TIMEOUT_HEADER = "x-queue-timeout"
ANYBODY = ""
"""The tenant of all requests where no API key is needed."""

Handler = Callable[[Request], Awaitable[Response]]
"""Of a route."""
A = TypeVar("A", bound=Asked)
A_contra = TypeVar("A_contra", bound=Asked, contravariant=True)


class StartAnswer(Protocol[A_contra]):
    """Starts what was asked for; raises RequestError."""

    def __call__(self, asked: A_contra, *, request_id: str, claim: Claim) -> Answer: ...


def generation_handler(server: ServerContext, read: Callable[[bytes], A], start: StartAnswer[A]) -> Handler:
    """Reads a body with `read`, which raises RequestError, and answers as `start` does.

    A request that fails before its number of choices is known counts as one.
    """

    async def post(request: Request) -> Response:
        arrival_s = time.monotonic()
        request.state.generates = True
        metrics = server.metrics
        try:
            asked = await server.read(request, read)
            metrics.histograms.tokenize.observe(asked.tokenize_s)
            for field in asked.ignored:
                metrics.count_ignored(field)
            if asked.fields.request_id is not None and "x-request-id" not in request.headers:
                request.state.request_id = asked.fields.request_id
            claim = claim_of(request, asked.fields, server.settings, arrival_s)
        except ClientDisconnect:
            metrics.count_end("disconnect")
            raise
        except Exception as error:
            cause = cause_of_refusal(error)
            metrics.count_end(cause)
            metrics.count_refused(error, cause == "refused")
            raise
        answer = start(asked, request_id=request.state.request_id, claim=claim)
        request.state.summarize = answer.summary
        return await answer.respond(request)

    return post


def claim_of(request: Request, fields: SamplingFields, settings: ServerSettings, arrival_s: float) -> Claim:
    """The claim of a request that came at `arrival_s`. Raises RequestError for a header that is wrong."""
    total_s = _shortest(settings.request_timeout_s, request.headers, TIMEOUT_HEADER, fields.timeout)
    queue_s = _shortest(settings.queue_timeout_s, request.headers, QUEUE_TIMEOUT_HEADER, fields.queue_timeout)
    tenant = getattr(request.state, "tenant", ANYBODY)
    return Claim(
        tenant=tenant,
        weight=settings.weight_of(tenant),
        arrival_s=arrival_s,
        deadline_s=arrival_s + total_s,
        queue_deadline_s=arrival_s + queue_s,
    )


def _shortest(allowed_s: float | None, headers: Mapping[str, str], name: str, asked_s: float | None) -> float:
    text = headers.get(name)
    limits_s = [limit_s for limit_s in (allowed_s, asked_s) if limit_s is not None]
    if text is not None:
        limits_s.append(_seconds(name, text))
    return min(limits_s, default=math.inf)


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise RequestError(f"{name} must be a number of seconds above 0, got {text!r}", param=name)
    return value
