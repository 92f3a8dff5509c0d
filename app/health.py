"""Probes and pointers: is the server alive, is it ready, which version, where to look."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from .context import ServerContext
from .errors import RequestError
from .responses import json_response

_RETRY_AFTER_S = 1


class Health:
    """The handlers. `complaint` says in one sentence why no request can be served, None if one can."""

    def __init__(self, server: ServerContext, complaint: Callable[[], str | None]) -> None:
        self._server = server
        self._complaint = complaint

    async def ready(self, request: Request) -> Response:
        """200, or 503 with the reason: /health and /readyz."""
        complaint = self._complaint()
        if complaint is not None:
            raise RequestError(
                complaint,
                code="server_not_ready",
                status=503,
                type="server_error",
                retry_after_s=_RETRY_AFTER_S,
            )
        return json_response({"status": "ok"})

    async def alive(self, request: Request) -> Response:
        """200 as long as the event loop turns: /livez."""
        return json_response({"status": "ok"})

    async def version(self, request: Request) -> Response:
        """octavo's version."""
        return json_response({"version": self._server.settings.version})

    async def pointer(self, request: Request) -> Response:
        """What a person sees who opens the address in a browser."""
        settings = self._server.settings
        return PlainTextResponse(
            f"octavo {settings.version} serves {settings.model_names[0]} over the OpenAI API.\n"
            "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /metrics\n"
        )
