"""Probes: is the server alive, does it make progress, is it ready, which version. Knows only the pulse."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from .context import ServerContext
from .errors import RequestError
from .json_response import json_response
from .pulse import Pulse

_RETRY_AFTER_S = 1


class Health:
    """The handlers. `complaint` says in one sentence why no new request is taken, None if they are.

    A server accepts connections only when its model is loaded, so all of them imply that.
    """

    def __init__(
        self, server: ServerContext, complaint: Callable[[], str | None], pulse: Callable[[], Pulse]
    ) -> None:
        self._server = server
        self._complaint = complaint
        self._pulse = pulse

    async def well(self, request: Request) -> Response:
        """/health: 503 while the server drains or its device is stuck."""
        pulse = self._pulse()
        return _told(self._complaint() or pulse.trouble(), pulse)

    async def ready(self, request: Request) -> Response:
        """/readyz: 503 in these cases, and while one more request would be refused."""
        pulse = self._pulse()
        return _told(self._complaint() or pulse.trouble() or pulse.saturation(), pulse)

    async def alive(self, request: Request) -> Response:
        """/livez: 200 as long as the event loop turns."""
        return json_response({"status": "ok"})

    async def version(self, request: Request) -> Response:
        """/version."""
        return json_response({"version": self._server.settings.version})


def _told(complaint: str | None, pulse: Pulse) -> Response:
    if complaint is not None:
        raise RequestError(
            complaint,
            code="server_not_ready",
            status=503,
            type="server_error",
            retry_after_s=_RETRY_AFTER_S,
        )
    return json_response(
        {
            "status": "ok",
            "step_age_s": round(pulse.step_age_s, 3),
            "running": pulse.num_running,
            "waiting": pulse.num_waiting,
            "predicted_ttft_s": round(pulse.ttft_s, 3),
        }
    )
