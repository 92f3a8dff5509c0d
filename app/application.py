"""The web application: routes, middleware, start and end. Knows no engine and no socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .answer import TIMES_HEADER
from .chat import chat_completions
from .completions import completions
from .context import ServerContext
from .errors import RequestError
from .generation import Generation
from .health import Health
from .json_response import (
    IGNORED_HEADER,
    REQUEST_ID_HEADER,
    on_disconnect,
    on_http_exception,
    on_request_error,
)
from .live import Live
from .loop_watch import measure_lag
from .metrics import ServerMetrics
from .middleware import Accounting, ApiKeys, Bugs, Cors
from .models import Models
from .page import Page
from .prompt_encoder import PromptEncoder
from .pulse import Pulse
from .rate_limits import QUOTA_HEADERS
from .reference import Reference
from .request_log import log_request
from .request_summary import Observer
from .server_settings import ServerSettings
from .template_worker import TemplateWorker
from .tokenize import Tokenize
from .tracing import RequestTracer
from .translated_apis import anthropic_messages, count_tokens, responses_api

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]

_OPEN_PATHS = ("/health", "/livez", "/readyz", "/openapi.json", "/docs")
_NUM_THREADS = 2


def create_app(
    generation: Generation,
    settings: ServerSettings,
    metrics: ServerMetrics,
    *,
    live: Live | None = None,
    gather: Callable[[], Awaitable[ServerMetrics]] | None = None,
    complaint: Callable[[], str | None] = lambda: None,
    pulse: Callable[[], Pulse] = Pulse,
) -> Starlette:
    """The server for one model.

    metrics: where this front end counts.
    live: the live view of its engine; None if there is nobody to watch.
    gather: the numbers of the whole server, called at every scrape; None if `metrics` are all there are.
    complaint: one sentence why no new request is taken; None if they are.   pulse: how the engine is.
    """
    server = ServerContext(
        generation=generation,
        settings=settings,
        metrics=metrics,
        threads=ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="octavo-read"),
        templates=TemplateWorker(),
    )
    page = Page()
    routes = _routes(server, page, live, Health(server, complaint, pulse), gather)
    tracer = None if settings.otlp_endpoint is None else RequestTracer.to(settings)
    observers: list[Observer] = [log_request]
    if tracer is not None:
        observers.append(tracer)
    app = Starlette(
        routes=routes,
        middleware=_middleware(server, routes, observers, open_paths=(*_OPEN_PATHS, *page.paths)),
        exception_handlers={
            RequestError: on_request_error,
            HTTPException: on_http_exception,
            ClientDisconnect: on_disconnect,
        },
        lifespan=_lifespan(server, tracer),
    )
    app.router.redirect_slashes = False
    return app


def _routes(
    server: ServerContext,
    page: Page,
    live: Live | None,
    health: Health,
    gather: Callable[[], Awaitable[ServerMetrics]] | None,
) -> list[Route]:
    settings = server.settings
    encoder = PromptEncoder(
        server.generation, server.templates, settings.tool_call_parser, settings.reasoning_parser
    )
    models = Models(server)
    tokenize = Tokenize(server, encoder)
    reference = Reference(server.settings.version)
    return [
        Route("/v1/chat/completions", chat_completions(server, encoder), methods=["POST"]),
        Route("/v1/completions", completions(server, encoder), methods=["POST"]),
        Route("/v1/responses", responses_api(server, encoder), methods=["POST"]),
        Route("/v1/messages", anthropic_messages(server, encoder), methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens(server, encoder), methods=["POST"]),
        Route("/v1/models", models.list),
        Route("/v1/models/{model:path}", models.get),
        Route("/tokenize", tokenize.tokenize, methods=["POST"]),
        Route("/detokenize", tokenize.detokenize, methods=["POST"]),
        Route("/health", health.well),
        Route("/readyz", health.ready),
        Route("/livez", health.alive),
        Route("/version", health.version),
        Route("/openapi.json", reference.document),
        Route("/docs", reference.page),
        Route("/metrics", _metrics_handler(server.metrics, gather)),
        *([] if live is None else [Route("/live", live.get, include_in_schema=False)]),
        Route("/", page.index, include_in_schema=False),
        Route("/page/{name}", page.file, include_in_schema=False),
    ]


def _middleware(
    server: ServerContext, routes: list[Route], observers: Sequence[Observer], *, open_paths: tuple[str, ...]
) -> list[Middleware]:
    """Outermost first, so that a refused key is counted, has an id, and a browser may read why."""
    settings = server.settings
    layers = [
        Middleware(Accounting, metrics=server.metrics, routes=routes, observers=observers),
        Middleware(
            Cors,
            allow_origins=settings.cors.origins,
            allow_methods=settings.cors.methods,
            allow_headers=settings.cors.headers,
            allow_credentials=settings.cors.credentials,
            expose_headers=[REQUEST_ID_HEADER, IGNORED_HEADER, TIMES_HEADER, "retry-after", *QUOTA_HEADERS],
        ),
        Middleware(Bugs),
    ]
    if settings.api_keys:
        names = list(map(settings.tenant_of, range(len(settings.api_keys))))
        layers.append(Middleware(ApiKeys, keys=settings.api_keys, names=names, open_paths=open_paths))
    return layers


def _metrics_handler(
    metrics: ServerMetrics, gather: Callable[[], Awaitable[ServerMetrics]] | None
) -> Callable[[Request], Awaitable[Response]]:
    # The process that owns the device: this one, or the parent of this front end.
    process = os.getpid() if gather is None else os.getppid()

    async def expose(request: Request) -> Response:
        registry = CollectorRegistry()
        registry.register(metrics if gather is None else await gather())
        ProcessCollector(registry=registry, pid=lambda: process)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return expose


def _lifespan(server: ServerContext, tracer: RequestTracer | None) -> Lifespan:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        lag = asyncio.create_task(measure_lag(server.metrics.histograms.loop_lag))
        try:
            yield
        finally:
            lag.cancel()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)
            server.threads.shutdown(wait=False, cancel_futures=True)
            server.templates.close()

    return lifespan
