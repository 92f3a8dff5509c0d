"""`octavo serve` from the socket to the exit code: signals, drain, a dying engine, a taken port."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fakes import FakeExecutor, ToyModel
from free_port import free_port
from http_harness import TEMPLATE, byte_tokenizer
from toy_server import wait_for

from octavo.app import serve
from octavo.app.chat_template import ChatTemplate
from octavo.app.config import EngineConfig, ServerConfig
from octavo.app.engine_host import HostOptions
from octavo.app.errors import StartupError
from octavo.app.generation import ServedModel
from octavo.app.inproc_client import InprocClient
from octavo.app.launch import Launched
from octavo.cache.config import CacheConfig
from octavo.cache.ledger import MemoryLedger
from octavo.model.plan import StepPlan
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.scheduler import Scheduler

HOST = "127.0.0.1"
STEP_S = 0.01


class Pace:
    """Seconds of a step, which a test may change while streams run."""

    def __init__(self, step_s: float = STEP_S) -> None:
        self.step_s = step_s

    def __call__(self, plan: StepPlan) -> float:
        return self.step_s


def launcher(fail_at_step: int | None = None, pace: Pace | None = None) -> Callable[[EngineConfig], Any]:
    """A launch of the real engine on a fake device, a token every `STEP_S` unless `pace` says otherwise."""

    async def launch(config: EngineConfig, *others: object) -> Launched:
        cache = CacheConfig(num_blocks=200, block_size=16)
        executor = FakeExecutor(
            ToyModel(vocab_size=256),
            num_slots=4,
            num_blocks=200,
            block_size=16,
            latency_s=pace or STEP_S,
            fail_at_step=fail_at_step,
        )
        scheduler = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=2000)
        engine = InprocClient(Scheduler(scheduler, cache), executor, HostOptions(overlap=config.overlap))
        engine.start()
        return Launched(
            engine=engine,
            tokenizer=byte_tokenizer(),
            chat_template=ChatTemplate(TEMPLATE),
            model=ServedModel(
                name=config.model,
                max_model_len=2000,
                vocab_size=256,
                eos_token_ids=frozenset(),
                default_params={},
            ),
            ledger=MemoryLedger(
                total_bytes=1,
                weights_bytes=0,
                activations_bytes=0,
                graphs_bytes=0,
                num_blocks=1,
                block_bytes=1,
                block_size=16,
            ),
        )

    return launch


class Stream:
    """A streamed completion, read frame by frame."""

    def __init__(self, port: int, max_tokens: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)
        self._response = post(self._connection, {"prompt": "x", "max_tokens": max_tokens, "stream": True})
        self.status = self._response.status

    def read(self) -> list[str]:
        """The remaining frames' data."""
        lines = [line.decode().strip() for line in self._response]
        self._connection.close()
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    def read_one(self) -> None:
        while not self._response.readline().startswith(b"data: "):
            pass


def readiness(port: int) -> int:
    return httpx.get(f"http://{HOST}:{port}/readyz", timeout=60).status_code


def post(connection: http.client.HTTPConnection, body: dict[str, Any]) -> http.client.HTTPResponse:
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    return connection.getresponse()


@contextlib.contextmanager
def visitor(port: int, visit: Callable[[int], None]) -> Iterator[None]:
    """Runs `visit(port)` in a thread once the server listens; if it fails, server and test stop."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            deadline_s = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection((HOST, port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline_s, "the server never listened"
                    time.sleep(0.01)
            visit(port)
        except BaseException as failure:  # raised below, in the test's thread
            failures.append(failure)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


def serve_for(visit: Callable[[int], None], *, drain_timeout: float = 10.0) -> int:
    port = free_port()
    with visitor(port, visit):
        return serve.run(
            EngineConfig(model="toy"), ServerConfig(port=port, frontends=0, drain_timeout=drain_timeout)
        )


def serve_at(visit: Callable[[int], None], **settings: Any) -> None:
    """Serve with these settings until `visit(port)` has returned; drained."""

    def visit_and_leave(port: int) -> None:
        visit(port)
        kill()

    port = free_port()
    with visitor(port, visit_and_leave):
        assert serve.run(EngineConfig(model="toy"), ServerConfig(port=port, frontends=0, **settings)) == 0


def kill(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_requests_finish_and_new_ones_are_refused(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = Pace(0.3)
    monkeypatch.setattr(serve, "launch", launcher(pace=pace))

    def visit(port: int) -> None:
        stream = Stream(port, max_tokens=80)
        stream.read_one()
        kill(number)
        wait_for(lambda: readiness(port) == 503)
        late = http.client.HTTPConnection(HOST, port, timeout=60)
        refused = post(late, {"prompt": "x"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert json.load(refused)["error"]["code"] == "server_draining"
        late.close()
        pace.step_s = 0
        frames = stream.read()
        assert frames[-1] == "[DONE]"
        assert json.loads(frames[-2])["choices"][0]["finish_reason"] == "length"
        assert len(frames) > 20

    assert serve_for(visit, drain_timeout=120) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"octavo: toy ready at http://{HOST}:") and out.count("\n") == 1


@pytest.mark.parametrize(("drain_timeout", "num_signals"), [(0.2, 1), (60.0, 2)])
def test_what_does_not_finish_in_time_is_told_so(
    drain_timeout: float, num_signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "launch", launcher(pace=Pace(0.1)))

    def visit(port: int) -> None:
        stream = Stream(port, max_tokens=1900)
        stream.read_one()
        for last in [False, True][-num_signals:]:
            kill()
            if not last:
                wait_for(lambda: readiness(port) == 503)  # two signals at once are one
        frames = stream.read()
        assert frames[-1] == "[DONE]"
        assert "error" in json.loads(frames[-2])

    assert serve_for(visit, drain_timeout=drain_timeout) == 0


def test_a_dead_engine_ends_streams_and_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "launch", launcher(fail_at_step=5))

    def visit(port: int) -> None:
        frames = Stream(port, max_tokens=100).read()
        assert frames[-1] == "[DONE]"
        assert "step 5 failed" in json.loads(frames[-2])["error"]["message"]

    with caplog.at_level(logging.ERROR):
        assert serve_for(visit) == 1
    assert "DeviceError: step 5 failed" in caplog.text


def test_an_idle_server_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "launch", launcher())
    began_s = time.monotonic()
    assert serve_for(lambda port: kill(), drain_timeout=300) == 0
    assert time.monotonic() - began_s < 100


def test_ctrl_c_is_heard_while_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def load_for_long(config: EngineConfig, *others: object) -> Launched:
        threading.Timer(0.2, kill, [signal.SIGINT]).start()
        time.sleep(60)
        raise AssertionError("the load went on")

    monkeypatch.setattr(serve, "launch", load_for_long)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        serve.run(EngineConfig(), ServerConfig(port=0, frontends=0))
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_address_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "launch", None)  # not reached: the port comes first
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StartupError, match=f"cannot listen on {HOST} port {port}: Address already in use"
        ):
            serve.run(EngineConfig(), ServerConfig(port=port))
    with pytest.raises(StartupError, match="cannot listen on 192.0.2.1 port 0: .* another --host"):
        serve.run(EngineConfig(), ServerConfig(host="192.0.2.1", port=0))


def test_dry_run_shows_the_division_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.run(EngineConfig(max_model_len=1000), ServerConfig(dry_run=True)) == 0
    out = capsys.readouterr().out
    assert "KV cache" in out and "weights" in out
    assert "A request may have 1,000 tokens" in out


def test_a_real_process_serves_the_demo_and_leaves_the_port() -> None:
    port = free_port()
    command = [sys.executable, "-m", "octavo", "serve", "--port", str(port), "--max-model-len", "256"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert f"ready at http://{HOST}:{port}" in server.stdout.readline()
        second = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1
        assert f"octavo serve: cannot listen on {HOST} port {port}" in second.stderr
        connection = http.client.HTTPConnection(HOST, port, timeout=60)
        reply = post(connection, {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0})
        assert "Paris" in json.load(reply)["choices"][0]["text"]
        connection.close()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=300) == 0
        with socket.create_server((HOST, port)):
            pass
    finally:
        server.kill()
        server.communicate()
