"""`octavo chat` and `octavo complete`: the session, a model here, a model behind a URL."""

from __future__ import annotations

import builtins
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest
from http_harness import REPLY, ScriptedClient, make_app, serve

from octavo.app import terminal
from octavo.app.client_config import TerminalConfig
from octavo.app.config import EngineConfig
from octavo.app.errors import OctavoError, StartupError
from octavo.app.local_model import LocalModel
from octavo.app.remote_model import RemoteModel
from octavo.app.terminal import Session


class ScriptedModel:
    """Answers each question with the next script; an exception in it is raised."""

    def __init__(self, *scripts: Sequence[str | BaseException]) -> None:
        self._scripts = list(scripts)
        self.asked: list[Any] = []
        self.num_stopped = 0
        self.closed = False

    def chat(self, messages: Sequence[dict[str, Any]]) -> Generator[str]:
        return self._answer([dict(message) for message in messages])

    def complete(self, prompt: str) -> Generator[str]:
        return self._answer(prompt)

    def close(self) -> None:
        self.closed = True

    def _answer(self, asked: Any) -> Generator[str]:
        self.asked.append(asked)
        try:
            for piece in self._scripts.pop(0):
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.num_stopped += 1


def converse(
    monkeypatch: pytest.MonkeyPatch, model: ScriptedModel, *said: str | BaseException, chats: bool = True
) -> str:
    """What a person who types `said` and leaves sees on standard output."""
    lines: Iterator[str | BaseException] = iter([*said, EOFError()])

    def read(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", read)
    output = io.StringIO()
    assert Session(model, chats=chats, system_prompt=None, output=output).converse() == 0
    return output.getvalue()


def test_a_chat_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(["He", "llo"], ["Fine"])
    assert converse(monkeypatch, model, "Hi", "  ", "How are you?") == "Hello\nFine\n"
    assert model.asked[1] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "How are you?"},
    ]


def test_a_completion_does_not_remember(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(["b"], ["d"])
    assert converse(monkeypatch, model, "a", "c", chats=False) == "b\nd\n"
    assert model.asked == ["a", "c"]


def test_ctrl_c_stops_the_answer_and_not_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(["half of", KeyboardInterrupt(), "never"], ["again"])
    assert converse(monkeypatch, model, "one", "two") == "half of\nagain\n"
    assert model.num_stopped == 2
    assert model.asked[1][1] == {"role": "assistant", "content": "half of"}


def test_ctrl_c_at_the_prompt_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert converse(monkeypatch, ScriptedModel(), KeyboardInterrupt(), "not read") == ""


def test_an_error_is_told_and_the_question_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel([OctavoError("too long")], ["short"])
    converse(monkeypatch, model, "long", "brief")
    assert "too long" in capsys.readouterr().err
    assert model.asked[1] == [{"role": "user", "content": "brief"}]


@pytest.mark.parametrize(
    ("script", "code"), [(["fine"], 0), ([OctavoError("no")], 1), ([KeyboardInterrupt()], 130)]
)
def test_one_prompt_gives_an_exit_code_and_closes_the_model(
    script: list[str | BaseException], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ScriptedModel(script)
    monkeypatch.setattr(terminal, "_model", lambda *_: model)
    config = TerminalConfig(prompt="Hi", system_prompt="Be brief.")
    assert terminal.run("chat", EngineConfig(), config, model_given=False) == code
    assert model.asked[0][0] == {"role": "system", "content": "Be brief."}
    assert model.closed


def test_a_pipe_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel([" and so on"])
    monkeypatch.setattr(terminal, "_model", lambda *_: model)
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert terminal.run("complete", EngineConfig(), TerminalConfig(), model_given=False) == 0
    assert model.asked == ["first\nsecond"]
    assert capsys.readouterr().out == " and so on\n"


@pytest.mark.parametrize(
    ("target", "code", "told"),
    [("| true", 141, ""), (">/dev/full", 1, "standard output cannot be written: No space left on device\n")],
)
def test_output_that_nobody_takes(url: str, target: str, code: int, told: str) -> None:
    words = [
        sys.executable,
        "-m",
        "octavo",
        "complete",
        "--url",
        url,
        "--prompt",
        "slow",
        "--max-tokens",
        "1500",
    ]
    shell = f'set -o pipefail; "$0" "$@" {target}'
    environment = {**os.environ, "OCTAVO_API_KEY": "secret"}
    done = subprocess.run(
        ["bash", "-c", shell, *words], capture_output=True, text=True, env=environment, timeout=300
    )
    assert (done.returncode, done.stderr) == (code, told)


def test_text_in_another_encoding_is_refused_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel()
    monkeypatch.setattr(terminal, "_model", lambda *_: model)
    config = TerminalConfig(prompt=b"caf\xe9".decode(errors="surrogateescape"))
    assert terminal.run("complete", EngineConfig(), config, model_given=False) == 1
    assert "not valid in its encoding: see character 4" in capsys.readouterr().err
    assert not model.asked


# Behind a URL.


@pytest.fixture
def engine() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture
def url(engine: ScriptedClient) -> Iterator[str]:
    with serve(make_app(engine, {"api_keys": ("secret",)})) as address:
        yield address


def remote(url: str, model: str | None = None, **settings: Any) -> RemoteModel:
    config = TerminalConfig(**{"url": url, "api_key": "secret", "max_tokens": 100, **settings})
    return RemoteModel(config, model, seed=7)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_remote_model_streams(url: str, suffix: str) -> None:
    model = remote(url + suffix)
    pieces = list(model.chat([{"role": "user", "content": "Hi"}]))
    assert "".join(pieces) == REPLY
    assert len(pieces) > 5
    assert "".join(model.complete("Hi")) == REPLY


def test_settings_reach_the_server(url: str, engine: ScriptedClient) -> None:
    list(remote(url, "Org/alias", temperature=0.5, top_p=0.9, max_tokens=9).complete("Hi"))
    params = engine.requests[-1].params
    assert (params.seed, params.temperature, params.top_p, params.max_tokens) == (7, 0.5, 0.9, 9)


def test_leaving_an_answer_stops_it_at_the_server(url: str, engine: ScriptedClient) -> None:
    answer = remote(url, max_tokens=1900).complete("slow")
    next(answer)
    answer.close()
    deadline_s = time.monotonic() + 60
    while engine.running:
        assert time.monotonic() < deadline_s, "the server went on"
        time.sleep(0.01)
    assert len(engine.aborted) == 1


def test_what_the_server_refuses_is_told(url: str) -> None:
    with pytest.raises(StartupError, match="401, The API key is not valid"):
        remote(url, api_key="wrong")
    with pytest.raises(OctavoError, match="404, The model 'gpt-5' does not exist"):
        list(remote(url, "gpt-5").complete("Hi"))
    with pytest.raises(OctavoError, match="The logits were NaN"):
        list(remote(url).complete("broken"))
    with pytest.raises(StartupError, match="cannot be reached"):
        remote("http://localhost:9")
    with pytest.raises(StartupError, match="cannot be reached"):
        remote("no address at all")
    with pytest.raises(StartupError, match="cannot be reached: nonnumeric port"):
        remote("http://localhost:80x")
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(StartupError, match="SSH-2.0"):
        threading.Thread(target=_greet_as_ssh, args=[other], daemon=True).start()
        remote(f"http://127.0.0.1:{other.getsockname()[1]}")


def _greet_as_ssh(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


# Here.


def test_a_local_model_chats_and_completes() -> None:
    engine = EngineConfig(max_model_len=256, kv_cache_memory_bytes=32 << 20)
    model = LocalModel(engine, TerminalConfig(temperature=0, max_tokens=12))
    try:
        assert "Paris" in "".join(model.complete("The capital of France is"))
        question = "What is the capital of France? Answer with one word."
        assert "Paris" in "".join(model.chat([{"role": "user", "content": question}]))
        answer = model.complete("On and on")
        next(answer)
        answer.close()
        assert "Paris" in "".join(model.complete("The capital of France is"))
    finally:
        model.close()


def test_a_real_process_answers_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "octavo", "complete", "--max-tokens", "8", "--temperature", "0"],
        input="The capital of France is\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" Paris")
    assert "Traceback" not in done.stderr
