"""`octavo run-batch`: requests of an OpenAI batch file, answered by the server's application, unserved.

    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "batch_req_...", "custom_id": "1", "error": null,
     "response": {"status_code": 200, "request_id": "...", "body": {...}}}

Every line that is not empty gets a line, written when its answer is there. A failed request has its error as
`response`; a line that is no request has an `error` and no `response`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

import msgspec
import uvloop
from starlette.types import ASGIApp, Message, Scope
from tqdm import tqdm

from .. import __version__
from .application import create_app
from .client_config import BatchConfig
from .config import EngineConfig
from .errors import StartupError
from .launch import launch
from .logs import set_up_logging
from .metrics import ServerMetrics
from .process import drop_output
from .server_settings import ServerSettings

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


class LineError(Exception):
    """A line is no request. code: a word that programs compare."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.custom_id = custom_id


class BatchRequest(msgspec.Struct, kw_only=True):
    """A line that is a request."""

    custom_id: str
    url: str
    body: dict[str, Any]
    method: str = "POST"


def run(engine: EngineConfig, batch: BatchConfig) -> int:
    """Answer all lines. 0, or 1 if the engine died on the way; raises StartupError."""
    set_up_logging(batch.log_level)
    _check_different(batch.input_file, batch.output_file)
    files = _opened(batch.input_file, "r"), _opened(batch.output_file, "w")
    with files[0] as source, files[1] as sink, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(engine, batch, source, sink))


async def _run(engine: EngineConfig, batch: BatchConfig, source: IO[str], sink: IO[str]) -> int:
    launched = await launch(replace(engine, max_queued_requests=None))  # the lines wait, none is refused
    names = batch.served_model_name or (engine.model,)
    settings = ServerSettings(model_names=names, version=__version__, max_queued_requests=None)
    metrics = ServerMetrics(names[0], __version__)
    app = create_app(launched.generation(), settings, metrics)
    try:
        num_failed = await answer_lines(app, source, sink, batch.max_concurrent_requests)
        stopped = asyncio.ensure_future(launched.engine.wait_dead())
        await asyncio.sleep(0)
        died = stopped.done()
        stopped.cancel()
    finally:
        await launched.close()
    if num_failed:
        print(f"octavo: {num_failed} of the requests failed; their lines say why", file=sys.stderr)
    return 1 if died else 0


async def answer_lines(app: ASGIApp, source: IO[str], sink: IO[str], max_concurrent: int) -> int:
    """Answer each line of `source` with one in `sink`, at most so many at once; how many have failed."""
    num_failed = 0
    places = asyncio.Semaphore(max_concurrent)
    progress = tqdm(desc="requests", unit="", file=sys.stderr, disable=None)

    async def answer(line: str) -> None:
        nonlocal num_failed
        try:
            told = await answer_line(app, line)
            num_failed += told["error"] is not None or told["response"]["status_code"] != 200
            sink.write(msgspec.json.encode(told).decode() + "\n")
            sink.flush()
            progress.update()
        finally:
            places.release()

    try:
        with progress:
            async with asyncio.TaskGroup() as tasks:
                for line in source:
                    if line.strip():
                        await places.acquire()
                        tasks.create_task(answer(line))
    except* OSError as errors:
        if sink is sys.stdout:
            drop_output()
        raise StartupError(f"--output-file cannot be written: {errors.exceptions[0]}") from errors
    return num_failed


async def answer_line(app: ASGIApp, line: str) -> dict[str, Any]:
    """The line that answers `line`."""
    told: dict[str, Any] = {
        "id": f"batch_req_{token_hex(12)}",
        "custom_id": None,
        "response": None,
        "error": None,
    }
    try:
        request = read_line(line)
    except LineError as error:
        return {**told, "custom_id": error.custom_id, "error": {"code": error.code, "message": str(error)}}
    status, request_id, body = await _post(app, request.url, msgspec.json.encode(request.body))
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return {**told, "custom_id": request.custom_id, "response": response}


def read_line(line: str) -> BatchRequest:
    """Raises LineError."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise LineError("invalid_json", f"The line is not valid JSON: {error}") from error
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    custom_id = custom_id if isinstance(custom_id, str) else None
    try:
        request = msgspec.convert(value, BatchRequest)
    except msgspec.ValidationError as error:
        raise LineError("invalid_request", f"The line is not a request: {error}", custom_id) from error
    if request.method != "POST":
        raise LineError("invalid_method", f"method must be POST, got {request.method!r}", custom_id)
    if request.url not in URLS:
        raise LineError(
            "invalid_url", f"url must be one of {', '.join(URLS)}, got {request.url!r}", custom_id
        )
    if request.body.get("stream"):
        raise LineError("invalid_request", "body.stream must be false in a batch, got true", custom_id)
    return request


async def _post(app: ASGIApp, path: str, body: bytes) -> tuple[int, str, bytes]:
    """Status, request id and body that the application answers with."""
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
    status, request_id, answered = 0, "", b""

    async def send(message: Message) -> None:
        nonlocal status, request_id, answered
        if message["type"] == "http.response.start":
            status = message["status"]
            request_id = dict(message["headers"])[b"x-request-id"].decode()
        else:
            answered += message.get("body", b"")

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "server": ("batch", 80),
        "http_version": "1.1",
        "headers": [(b"content-length", str(len(body)).encode())],
    }
    await app(scope, incoming.get, send)
    return status, request_id, answered


def _check_different(input_file: str, output_file: str) -> None:
    """To open the output empties it."""
    with contextlib.suppress(OSError):
        if "-" not in (input_file, output_file) and Path(input_file).samefile(output_file):
            raise StartupError(f"--output-file must be another file than --input-file, got {output_file!r}")


@contextlib.contextmanager
def _opened(path: str, mode: str) -> Iterator[IO[str]]:
    if path == "-":
        yield sys.stdin if mode == "r" else sys.stdout
        return
    try:
        file = Path(path).open(mode, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except OSError as error:
        flag = "--input-file" if mode == "r" else "--output-file"
        message = f"{flag} must name a file that can be opened, got {path!r} ({error})"
        raise StartupError(message) from None
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # every line was flushed: what fails now has failed before
            file.close()
