"""What holds for every response: a request id, a count, and an API key where one is needed. Plain ASGI."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from hashlib import sha256
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import AuthenticationError, RequestError
from .metrics import ServerMetrics
from .protocol import usable_id
from .responses import REQUEST_ID_HEADER, error_response

log = logging.getLogger(__name__)

_OTHER_ROUTE = "other"


class Accounting:
    """Gives each request an id, returns it as `x-request-id`, and counts the response by route and status.

    A client's own `x-request-id` is kept if it is fit for headers and logs. An exception that nobody expected
    is logged with the id and answered with 500; other requests do not notice.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, routes: Iterable[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        state = scope.setdefault("state", {})
        state["request_id"] = given if usable_id(given) else token_hex(12)

        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # Asked for now, since a body may name the id too.
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = state["request_id"]
                path = scope["path"]
                self._metrics.count_response(
                    path if path in self._routes else _OTHER_ROUTE, message["status"]
                )
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            if started:
                raise  # The server cuts the connection: the client must not take half an answer for all.
            log.exception("request %s failed", state["request_id"])
            await error_response(Request(scope), _bug())(scope, receive, send_with_id)


class ApiKeys:
    """Lets requests through that carry one of `keys`; `open_paths` need none."""

    def __init__(self, app: ASGIApp, keys: Iterable[str], open_paths: Iterable[str]) -> None:
        self._app = app
        self._digests = [sha256(key.encode()).digest() for key in keys]
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        needed = scope["type"] == "http" and scope["method"] != "OPTIONS"
        if not needed or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        # Headers are Latin-1 on the wire as far as ASGI is concerned; what they mean is UTF-8.
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._knows(key.strip()):
            await self._app(scope, receive, send)
            return
        message = "The API key is not valid." if key else "An API key is needed: Authorization: Bearer KEY."
        await error_response(Request(scope), AuthenticationError(message))(scope, receive, send)

    def _knows(self, key: str) -> bool:
        digest = sha256(key.encode("latin-1")).digest()
        # Each is compared, and in constant time: how long it takes says nothing of how close a guess was.
        return any([hmac.compare_digest(digest, known) for known in self._digests])


def _bug() -> RequestError:
    return RequestError(
        "The server failed at this request; its log says why.",
        status=500,
        code="internal_error",
        type="server_error",
    )
