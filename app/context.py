"""What the route handlers of one server share. Knows no route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from .errors import BodyTooLargeError, ModelNotFoundError, RequestError
from .generation import Generation
from .metrics import ServerMetrics
from .server_settings import ServerSettings
from .template_worker import TemplateWorker

T = TypeVar("T")

_INLINE_BYTES = 2048
"""Tokenizing costs about a microsecond a byte, and a step of a small model takes a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """generation: starts completions.   metrics: where this process counts.

    threads: for work that would block the event loop.   templates: renders those that requests bring.
    """

    generation: Generation
    settings: ServerSettings
    metrics: ServerMetrics
    threads: ThreadPoolExecutor
    templates: TemplateWorker

    def served_name(self, model: str | None) -> str:
        """The name that the client used, the first one if none. Raises ModelNotFoundError."""
        names = self.settings.model_names
        if not model:
            return names[0]
        if model not in names:
            raise ModelNotFoundError(model)
        return model

    async def read(self, request: Request, reader: Callable[[bytes], T]) -> T:
        """`reader` of the request's body: here if that is small, else in a thread, so that streams go on.

        A body that may bring a template takes as long as the template does.
        Raises BodyTooLargeError as soon as the body is known to be too long; the rest stays unread; and
        RequestError for a body that is compressed.
        """
        body = await _read_body(request, self.settings.max_body_bytes)
        if len(body) <= _INLINE_BYTES and not self.settings.trust_request_chat_template:
            return reader(body)
        return await asyncio.get_running_loop().run_in_executor(self.threads, reader, body)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    for name, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        given = request.headers.get(name, plain)
        if given.lower() not in (plain, "identity"):
            message = f"The header {name} must be {plain} or absent, got {given[:100]!r}."
            raise RequestError(message, code="unsupported_encoding", status=415)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    parts = []
    num_bytes = 0
    async for part in request.stream():
        num_bytes += len(part)
        if num_bytes > max_bytes:
            raise BodyTooLargeError(max_bytes)
        parts.append(part)
    return b"".join(parts)
