"""`octavo serve`: from settings to an engine and its HTTP front, in this process or in others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import FrameType
from typing import cast

import uvloop

from ..ops.compiler_process import CompilerProcess
from .config import EngineConfig, ServerConfig
from .control_messages import Setup
from .engine_plan import choose_device, plan_engine
from .engine_server import EngineServer
from .frames import PROTOCOL_VERSION
from .http_front import HttpFront
from .launch import build, launch, new_scheduler, plan_launch, served_model
from .lifecycle import Front, RunningEngine, serve_until_signal
from .listener import address_of, bound
from .logs import set_up_logging
from .loop_watch import guarded
from .metrics import ServerMetrics
from .model_source import LoadFormat, find_model
from .process import freeze_garbage, raise_file_limit
from .rate_limits import RateLimits
from .server_settings import ServerSettings, check_certificate
from .start import Start
from .supervisor import Supervisor
from .tracing import check_tracing

log = logging.getLogger(__name__)

_MAX_AUTO_FRONTENDS = 8
_RARE_COLLECTIONS = (50_000, 20, 100)
"""Thresholds of the garbage collector: a full collection visits every prompt and takes 10 ms and more."""


def run(engine: EngineConfig, server: ServerConfig, compiler: CompilerProcess | None = None) -> int:
    """Serve until a signal. 0 after a drain, 1 if the engine died; raises StartupError.

    compiler: see Start.
    """
    start = Start(compiler)
    start.mark("installation, imports")  # scripts/serve becomes this process once it has installed
    set_up_logging(server.log_level, server.log_format)
    check_tracing(server.otlp_endpoint)
    raise_file_limit()
    gc.set_threshold(*_RARE_COLLECTIONS)
    if server.dry_run:
        print(_fit(engine))
        return 0
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    check_certificate(server.ssl_certfile, server.ssl_keyfile)
    listening = bound(server.host, server.port, server.uds)
    with listening as listener, _interruptible(), runner:
        return runner.run(_guarded(engine, server, listener, start))


def _fit(engine: EngineConfig) -> str:
    """How memory would be divided, and how many requests that serves."""
    load_format = cast(LoadFormat, engine.load_format)
    source = find_model(engine.model, load_format=load_format, with_tokenizer=False, with_weights=False)
    plan = plan_engine(engine, source)
    at_once = plan.ledger.capacity_tokens // plan.max_model_len
    return (
        f"{plan.ledger.table()}\n"
        f"A request may have {plan.max_model_len:,} tokens; {at_once:,} such requests fit at once, "
        f"and at most {plan.scheduler.max_num_seqs:,} requests run together."
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt; asyncio would cancel the task, which loading does not notice."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


async def _guarded(engine: EngineConfig, server: ServerConfig, listener: socket.socket, start: Start) -> int:
    limit_s = None if engine.step_timeout is None else 2 * engine.step_timeout
    async with guarded(limit_s):
        return await _serve(engine, server, listener, start)


def _leave(engine: RunningEngine, code: int) -> int:
    """The exit code. Exits at once if a stuck device holds a thread that the interpreter would wait for."""
    if engine.stuck:
        log.error("the device is stuck and left as it is")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


async def _serve(engine: EngineConfig, server: ServerConfig, listener: socket.socket, start: Start) -> int:
    names = server.served_model_name or (engine.model,)
    settings = ServerSettings.of(server, names, engine.max_queued_requests)
    address = address_of(listener, tls=server.ssl_certfile is not None)

    def ready_line() -> str:
        start.mark("connections")
        log.info("the start, by what it waited for:\n%s", start.table())
        return f"octavo: {', '.join(names)} ready at {address} after {start.elapsed_s:.1f} s"

    serve = partial(serve_until_signal, ready_line=ready_line, drain_timeout_s=server.drain_timeout)
    rates = None
    if server.requests_per_minute is not None or server.tokens_per_minute is not None:
        rates = RateLimits(server.requests_per_minute, server.tokens_per_minute)
    num_frontends = choose_frontends(server.frontends, engine.device)
    if num_frontends:
        return await _serve_in_processes(
            engine, server, settings, listener, num_frontends, serve, rates, start
        )
    launched = await launch(engine, rates, start)
    try:
        metrics = ServerMetrics(
            names[0], settings.version, launched.engine.stats, memory_bytes=launched.ledger.entries()
        )
        front = HttpFront(launched.engine, launched.generation, settings, metrics, listener)
        code = await serve(front, launched.engine)
    finally:
        await launched.close()
    return _leave(launched.engine, code)


async def _serve_in_processes(
    engine: EngineConfig,
    config: ServerConfig,
    settings: ServerSettings,
    listener: socket.socket,
    num_frontends: int,
    serve: Callable[[Front, RunningEngine], Awaitable[int]],
    rates: RateLimits | None,
    start: Start,
) -> int:
    source, plan = plan_launch(engine, start)
    supervisor = Supervisor(
        Setup(
            version=PROTOCOL_VERSION,
            model_path=str(source.path) if source.tokenizer else None,
            model=served_model(source, plan),
            settings=settings,
            log_level=config.log_level,
            log_format=config.log_format,
        ),
        listener,
        num_frontends,
    )
    try:
        start.mark("front ends begun")
        executor, plan, options = build(engine, source, plan, rates, start)
        server = EngineServer(new_scheduler(engine, plan), executor, options)
        server.start()
        supervisor.serve(server, plan.ledger.entries())
        freeze_garbage()
        try:
            code = await serve(supervisor, server)
        finally:
            await server.close()
    finally:
        supervisor.kill()
    return _leave(server, code)


def choose_frontends(wanted: int | str, device: str) -> int:
    """How many front-end processes `--frontends` means; auto leaves half of the cores to the engine."""
    if wanted != "auto":
        return int(wanted)
    if choose_device(device).type == "cpu":
        return 0  # the model needs all cores
    return min(_MAX_AUTO_FRONTENDS, len(os.sched_getaffinity(0)) // 2)
