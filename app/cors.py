"""Which web pages' scripts may call: Starlette's rules, errors in the shape of all. Knows no routes."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from .errors import RequestError
from .json_response import json_response


class Cors(CORSMiddleware):
    """Answers the questions that browsers ask first, and tells them who may read the answers."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser asks before a script's request goes out."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        message = f"{bytes(response.body).decode()}."  # Starlette's words: which of origin, method, headers
        refusal = RequestError(message, code="cors_refused", status=response.status_code)
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-length", "content-type")
        }
        return json_response(refusal.body(), refusal.status, headers)
