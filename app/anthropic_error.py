"""The error body of Anthropic's API. Knows no request and no response."""

from __future__ import annotations

from typing import Any

from .errors import RequestError

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(error: RequestError, request_id: str) -> dict[str, Any]:
    """Anthropic's error body, with the `param` and `code` that every error of this server has."""
    kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    told = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    return {"type": "error", "error": told, "request_id": request_id}
