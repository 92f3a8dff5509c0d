"""Reading a request's body within bounds. Knows nothing of what it says."""

from __future__ import annotations

from starlette.requests import Request

from .errors import BodyTooLargeError


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLargeError as soon as it is known to be longer; the rest stays unread."""
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
