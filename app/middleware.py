"""What stands around the routes: ids and counts, bugs, API keys, CORS, a proxy's prefix. Plain ASGI."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..scheduler.cause import OUR_FAULT
from .errors import AuthenticationError, RequestError
from .json_response import REQUEST_ID_HEADER, error_response, is_anthropic, json_response
from .metrics import ServerMetrics
from .protocol import usable_id
from .request_summary import Observer, RequestSummary

log = logging.getLogger(__name__)

_OTHER_ROUTE = "other"
_HOW = "Authorization: Bearer KEY, or x-api-key: KEY"


class Accounting:
    """Gives each request an id, returns it as `x-request-id`, and counts the response by route and status.

    A client's own `x-request-id` is kept if it is fit for headers and logs.
    observers: called with every request's summary when it has ended.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        routes: Iterable[Route],
        observers: Sequence[Observer] = (),
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._observers = observers
        routes = list(routes)
        self._plain = {route.path for route in routes if not route.param_convertors}
        self._patterns = [(route.path_regex, route.path) for route in routes if route.param_convertors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        status = 0
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        state = scope.setdefault("state", {})
        state["request_id"] = given if usable_id(given) else token_hex(12)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Read as late as this, since the body may name the id.
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = state["request_id"]
                if is_anthropic(scope["path"]):
                    headers["request-id"] = state["request_id"]  # where its clients look
                self._metrics.count_response(self._route_of(scope["path"]), status, state.get("error_code"))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._metrics.count_duration(self._route_of(scope["path"]), time.monotonic() - began_s)
            for observe in self._observers:
                observe(self._summary(scope, began_s, status))

    def _summary(self, scope: Scope, began_s: float, status: int) -> RequestSummary:
        state = scope["state"]
        summarize = state.get("summarize")
        return RequestSummary(
            request_id=state["request_id"],
            method=scope["method"],
            route=self._route_of(scope["path"]),
            status=status,
            client=scope["client"][0] if scope.get("client") else "",
            began_s=began_s,
            ended_s=time.monotonic(),
            error_code=state.get("error_code"),
            traceparent=Headers(scope=scope).get("traceparent"),
            generates=state.get("generates", False),
            answer=None if summarize is None else summarize(),
        )

    def _route_of(self, path: str) -> str:
        """The route's path as it was declared: a bounded set, whatever clients ask for."""
        if path in self._plain:
            return path
        return next((route for regex, route in self._patterns if regex.match(path)), _OTHER_ROUTE)


class Bugs:
    """Answers 500 to a request that raised an unexpected exception, and logs it with the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception:
            if started:
                raise  # The server cuts the connection: the client sees that the answer is not whole.
            request_id = scope["state"]["request_id"]
            log.exception("request %s failed", request_id, extra={"fields": {"request_id": request_id}})
            bug = RequestError(OUR_FAULT, status=500, code="internal_error", type="server_error")
            await error_response(Request(scope), bug)(scope, receive, send)


class ApiKeys:
    """Lets requests through that carry one of `keys`; `open_paths` need none.

    names: one for each key; the name of the key that was given becomes `tenant` in the scope's state.
    """

    def __init__(
        self, app: ASGIApp, keys: Iterable[str], names: Iterable[str], open_paths: Iterable[str]
    ) -> None:
        self._app = app
        self._digests = [(sha256(key.encode()).digest(), name) for key, name in zip(keys, names, strict=True)]
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        needed = scope["type"] == "http" and scope["method"] != "OPTIONS"
        if not needed or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        # ASGI decodes headers as Latin-1; their bytes are UTF-8.
        headers = Headers(scope=scope)
        kind, _, key = headers.get("authorization", "").partition(" ")
        bearer = key.strip() if kind.lower() == "bearer" else ""
        given = [key for key in (bearer, headers.get("x-api-key", "")) if key]  # the latter is Anthropic's
        tenants = [tenant for key in given if (tenant := self._tenant_of(key)) is not None]
        if tenants:
            scope.setdefault("state", {})["tenant"] = tenants[0]
            await self._app(scope, receive, send)
            return
        message = "The API key is not valid." if key or given else f"An API key is needed: {_HOW}."
        await error_response(Request(scope), AuthenticationError(message))(scope, receive, send)

    def _tenant_of(self, key: str) -> str | None:
        digest = sha256(key.encode("latin-1")).digest()
        # All are compared, in constant time: how long it takes must not tell how close a guess was.
        names = [name for known, name in self._digests if hmac.compare_digest(digest, known)]
        return names[0] if names else None


class Cors(CORSMiddleware):
    """Starlette's CORS, with refusals in the shape of all errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to what a browser asks before it sends a script's request."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        message = f"{bytes(response.body).decode()}."  # it names what is wrong: origin, method or headers
        refusal = RequestError(message, code="cors_refused", status=response.status_code)
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-length", "content-type")
        }
        return json_response(refusal.body(), refusal.status, headers)


class RootPath:
    """Takes off the prefix under which a proxy offers the server, if it is there. root_path: as in `/llm`."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path
        self._raw = root_path.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path == self._root_path or path.startswith(f"{self._root_path}/"):
                raw: bytes = scope["raw_path"]
                shorter = raw[len(self._raw) :] if raw.startswith(self._raw) else raw
                scope = {**scope, "path": path[len(self._root_path) :] or "/", "raw_path": shorter or b"/"}
        await self._app(scope, receive, send)
