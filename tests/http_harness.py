"""A real uvicorn server on a real socket over a scripted engine: all above EngineClient is the product.

Tokens are bytes, so that every character outside ASCII is cut in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Send
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from octavo.app.application import create_app
from octavo.app.chat_template import ChatTemplate
from octavo.app.client import EngineClient, OutputStream
from octavo.app.errors import EngineDeadError, EngineOverloadedError
from octavo.app.generation import Generation, ServedModel
from octavo.app.live import Live
from octavo.app.metrics import ServerMetrics
from octavo.app.server_settings import ServerSettings
from octavo.app.tokenizer import Tokenizer
from octavo.cache.config import CacheConfig
from octavo.model.plan import TokenLogprobs
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import FinishReason, Request, RequestTimings, TokenOutput
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.stats import Counters, EngineStats
from octavo.scheduler.timeline import StepRecord
from octavo.scheduler.view import EngineView

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}

EOS = 256
VOCAB_SIZE = 300
MAX_MODEL_LEN = 2000
REPLY = "Grüße an alle, 🙂 und bis bald!"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if forbidden %}{{ raise_exception('forbidden was set') }}{% endif %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Token i is byte i, 256 is the end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    backend = Backend(models.BPE({names[byte]: byte for byte in range(256)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", special=True)])
    return Tokenizer(backend, eos_token_ids=[EOS])


class ScriptedClient:
    """An EngineClient whose answers the prompt chooses, by a word that it contains.

    slow: a letter every 10 ms, up to max_tokens.   count: the seed in digits.
    late: nothing for 0.5 s.   held: nothing before `go` is set.   ponder: some reasoning, then an answer.
    broken: fails after three tokens.   dead: the engine dies after three tokens.   full: the queue is full.
    Otherwise `reply`, ended by the end token.
    """

    def __init__(self, reply: str = REPLY) -> None:
        self.reply = reply
        self.requests: list[Request] = []
        self.running: set[str] = set()
        self.aborted: set[str] = set()
        self.go = threading.Event()

    def submit(self, request: Request) -> OutputStream:
        text = bytes(token for token in request.prompt_token_ids if token < EOS).decode(errors="replace")
        if "full" in text:
            raise EngineOverloadedError("1 request waits, and no more may", retry_after_s=7)
        assert request.request_id not in self.running, "request ids must be unique"
        self.requests.append(request)
        self.running.add(request.request_id)
        return ScriptedStream(self, request, text)

    def stats(self) -> EngineStats:
        num_running = len(self.running)
        return EngineStats(
            num_running, 0, 100, 100 - num_running, 0, num_running / 100, 0.25, Counters(prompt_tokens=7)
        )

    async def look(self, since: int) -> EngineView:
        """An engine of which nothing but the stats moves, and a new step at every look."""
        now_s = time.perf_counter()
        scheduler = Scheduler(SchedulerConfig(), CacheConfig(100, 16))
        step = StepRecord(since + 1, now_s - 0.01, now_s, len(self.running), 0, 0)
        return replace(EngineView.of(scheduler, now_s, 0.0, [step]), num_running=len(self.running))


class PushingClient(ScriptedClient):
    """The same answers, as an engine brings them: each output is pushed, whether or not anybody waits."""

    def __init__(self, reply: str = REPLY) -> None:
        super().__init__(reply)
        self._pushing: set[asyncio.Future[None]] = set()

    def submit(self, request: Request) -> OutputStream:
        scripted = super().submit(request)
        stream = OutputStream(scripted.abort)
        stream.accept()
        pushing = asyncio.ensure_future(self._push(scripted, stream))
        self._pushing.add(pushing)
        pushing.add_done_callback(self._pushing.discard)
        return stream

    async def _push(self, scripted: OutputStream, stream: OutputStream) -> None:
        finished = None
        while finished is None:
            await asyncio.sleep(0.002)
            try:
                for output in await scripted.next():
                    finished = output.finish_reason
                    stream.push(output)
            except EngineDeadError as error:
                stream.fail(error)
                return


class ScriptedStream(OutputStream):
    """One answer, a token at a time."""

    def __init__(self, client: ScriptedClient, request: Request, prompt: str) -> None:
        super().__init__(lambda reason: None)
        self._client = client
        self._request = request
        self._prompt, self._position = prompt, 0
        self._timings = RequestTimings(time.monotonic(), num_cached_tokens=3)
        if "slow" in prompt:
            self._tokens = [ord("a") + i % 26 for i in range(request.max_tokens)]
        else:
            reply = str(request.params.seed) if "count" in prompt else client.reply
            thought = "<think>It *may* be so.</think>It is."
            self._tokens = [*(thought if "ponder" in prompt else reply).encode(), EOS][: request.max_tokens]

    async def accepted(self) -> None:
        """The constructor's caller has taken it."""

    async def next(self) -> Sequence[TokenOutput]:
        await asyncio.sleep(self._pause_s())
        while "held" in self._prompt and not self._client.go.is_set():
            await asyncio.sleep(0.01)
        token = self._tokens[self._position]
        self._position += 1
        if self._position == 1:
            self._timings.scheduled_s = self._timings.first_token_s = time.monotonic()
        if self._position == 4 and "broken" in self._prompt:
            self._client.running.discard(self._request.request_id)
            reason = FinishReason.ERROR
            return [TokenOutput(self._request.request_id, finish_reason=reason, error="The logits were NaN.")]
        if self._position == 4 and "dead" in self._prompt:
            raise EngineDeadError("The engine died of DeviceError: out of luck")
        return [self._output(token)]

    def divert(self, take: Callable[[Sequence[TokenOutput]], bool]) -> None:
        """All goes through `next`."""

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        if self._request.request_id in self._client.running:
            self._client.running.discard(self._request.request_id)
            self._client.aborted.add(self._request.request_id)

    def _pause_s(self) -> float:
        if "late" in self._prompt and self._position == 0:
            return 0.5
        return 0.01 if "slow" in self._prompt else 0

    def _output(self, token: int) -> TokenOutput:
        num_top = self._request.params.logprobs
        entry = TokenLogprobs(-0.5, 1, tuple((65 + i, -0.5 - i) for i in range(num_top or 0)))
        reason = None
        if token == EOS:
            reason = FinishReason.STOP
        elif self._position == self._request.max_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            self._client.running.discard(self._request.request_id)
            self._timings.finished_s = time.monotonic()
        return TokenOutput(
            self._request.request_id,
            (token,),
            () if num_top is None else (entry,),
            reason,
            timings=self._timings if reason is not None else None,
            prompt_logprobs=self._prompt_logprobs() if self._position == 1 else (),
        )

    def _prompt_logprobs(self) -> list[TokenLogprobs]:
        num_top = self._request.params.prompt_logprobs
        if num_top is None:
            return []
        top = tuple((65 + i, -0.5 - i) for i in range(num_top))
        return [TokenLogprobs(-0.125 * i, 2, top) for i in range(1, len(self._request.prompt_token_ids))]


def make_generation(client: EngineClient, **changes: Any) -> Generation:
    """Generation over `client`; changes: a tokenizer, a chat template, fields of ServedModel."""
    tokenizer = changes.pop("tokenizer", byte_tokenizer())
    template = changes.pop("chat_template", ChatTemplate(TEMPLATE))
    model: dict[str, Any] = {
        "name": "toy",
        "max_model_len": MAX_MODEL_LEN,
        "vocab_size": VOCAB_SIZE,
        "eos_token_ids": frozenset([EOS]),
        "default_params": {"temperature": 0.25, "top_k": 7},
    }
    return Generation(client, tokenizer, template, ServedModel(**(model | changes)))


def make_app(
    client: ScriptedClient,
    settings: dict[str, Any] | None = None,
    *,
    complaint: Callable[[], str | None] = lambda: None,
    **changes: Any,
) -> Starlette:
    """The server over `client`; `settings` go to ServerSettings, `changes` to Generation."""
    merged = {"model_names": ("toy", "Org/alias"), "version": "9.9", **(settings or {})}
    metrics = ServerMetrics(merged["model_names"][0], merged["version"], client.stats)

    async def gather() -> ServerMetrics:
        return metrics

    return create_app(
        make_generation(client, **changes),
        ServerSettings(**merged),
        metrics,
        live=Live(client.look, gather, period_s=0.02),
        complaint=complaint,
    )


@contextlib.contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Run `app` in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield f"http://localhost:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


async def live(receive: Receive, send: Send) -> None:
    """The lifespan of an ASGI application that has nothing to start or end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def check_error(response: httpx.Response, status: int, code: str, param: str | None) -> str:
    """The response must be this error, in the OpenAI API's shape; returns its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert list(body) == ["error"] and list(body["error"]) == ["message", "type", "param", "code"]
    assert (body["error"]["code"], body["error"]["param"]) == (code, param), body
    assert body["error"]["type"] and isinstance(body["error"]["message"], str)
    message: str = body["error"]["message"]
    return message


def metric(http: httpx.Client, sample: str) -> float:
    """One number of /metrics, 0 if it is not there."""
    for line in http.get("/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if name == sample:
            return float(value)
    return 0.0
