"""JSON responses and errors, in the shape of the API that was asked; the handlers of exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from msgspec.json import encode
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .errors import AuthenticationError, BodyTooLargeError, RequestError

REQUEST_ID_HEADER = "x-request-id"
IGNORED_HEADER = "x-octavo-ignored-fields"
_MAX_NAMED_FIELDS = 20
_MAX_NAME_CHARS = 64
_ANTHROPIC_PATH = "/v1/messages"
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return Response(encode(value), status, headers, "application/json")


def ignored_header(fields: Sequence[str]) -> dict[str, str]:
    """The header that names unknown fields; clients choose the names, so they are quoted and cut."""
    if not fields:
        return {}
    names = [quote(field[:_MAX_NAME_CHARS], safe="[]") for field in fields[:_MAX_NAMED_FIELDS]]
    if len(fields) > _MAX_NAMED_FIELDS:
        names.append("...")
    return {IGNORED_HEADER: ", ".join(names)}


def error_response(request: Request, error: RequestError) -> Response:
    """The response of `error`; its code is left in the request's state, where it is counted."""
    request.state.error_code = error.code
    request_id = getattr(request.state, "request_id", "")
    headers = {REQUEST_ID_HEADER: request_id, **error.headers}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, BodyTooLargeError):
        headers["connection"] = "close"  # The rest of the body stays unread.
    body = error.anthropic_body(request_id) if is_anthropic(request.url.path) else error.body()
    return json_response(body, error.status, headers)


def is_anthropic(path: str) -> bool:
    """Whether a client of Anthropic's API asks for `path`."""
    return path == _ANTHROPIC_PATH or path.startswith(f"{_ANTHROPIC_PATH}/")


async def on_request_error(request: Request, error: Exception) -> Response:
    """For RequestError."""
    assert isinstance(error, RequestError), error
    return error_response(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """For the router's errors: no such route, or not with this method."""
    assert isinstance(error, HTTPException), error
    status = error.status_code
    where = f"{request.method} {request.url.path}"
    sentences = {404: f"There is no route {where}.", 405: f"{where} is not allowed; see the Allow header."}
    refusal = RequestError(
        sentences.get(status, str(error.detail)),
        status=status,
        code=_HTTP_CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "_")),
    )
    response = error_response(request, refusal)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def on_disconnect(request: Request, error: Exception) -> Response:
    """For ClientDisconnect: nobody reads the response, but its status, nginx's for this case, is counted."""
    return Response(status_code=499)
