"""What a request may claim of the engine: whose it is, its share, how long it may take. From body, headers,
settings and API key; knows no queue.

The shortest of what the server allows, the header says and the body says counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.requests import Request

from ..scheduler.request import Claim
from .context import ServerSettings
from .errors import RequestError
from .protocol import SamplingFields

TIMEOUT_HEADER = "x-request-timeout"
QUEUE_TIMEOUT_HEADER = "x-queue-timeout"
ANYBODY = ""
"""The tenant of all requests, where no API key is needed."""


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
