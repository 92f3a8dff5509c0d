"""Whole streams as bytes, compared with files: what a change does to them shows in the diff.

`python tests/test_golden_streams.py` writes the files anew. Times, and nothing else, are made equal first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_harness import PushingClient, ScriptedClient, make_app, serve
from tool_templates import QWEN, TOKENS

from octavo.app.chat_template import ChatTemplate
from octavo.app.direct_writer import DirectWriter
from octavo.app.drain import OpenRequests

FOLDER = Path(__file__).parent / "data" / "golden"
MESSAGES = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "look", "parameters": PARAMETERS}
WORDS = "Grüße 🙂!"
ARGUMENTS = '{"city": "Köln"}'
CALL = f'<tool_call>\n{{"name": "look", "arguments": {ARGUMENTS}}}\n</tool_call>'
CALL = f"<think>\nHm.\n</think>\n\nSo.\n{CALL}"
USAGE = {"stream_options": {"include_usage": True}}
STREAMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", WORDS, {"messages": MESSAGES, **USAGE}),
    "chat-logprobs": (
        "/v1/chat/completions",
        WORDS,
        {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "n": 1, "max_tokens": 3},
    ),
    "chat-tools": (
        "/v1/chat/completions",
        CALL,
        {"messages": MESSAGES, "tools": [{"type": "function", "function": FUNCTION}]},
    ),
    "chat-error": ("/v1/chat/completions", WORDS, {"messages": [{"role": "user", "content": "broken"}]}),
    "completions": ("/v1/completions", WORDS, {"prompt": "hi", "stop": "!", **USAGE}),
    "responses": ("/v1/responses", WORDS, {"input": "hi"}),
    "responses-tools": ("/v1/responses", CALL, {"input": "hi", "tools": [{"type": "function", **FUNCTION}]}),
    "responses-error": ("/v1/responses", WORDS, {"input": "broken"}),
    "messages": ("/v1/messages", WORDS, {"messages": MESSAGES, "max_tokens": 5}),
    "messages-tools": (
        "/v1/messages",
        CALL,
        {"messages": MESSAGES, "max_tokens": 999, "tools": [{"name": "look", "input_schema": PARAMETERS}]},
    ),
    "messages-error": (
        "/v1/messages",
        WORDS,
        {"messages": [{"role": "user", "content": "broken"}], "max_tokens": 9},
    ),
}


def stream(name: str, *, pushed: bool = False) -> bytes:
    """The stream's bytes, with times, and the random ids of calls, made equal.

    pushed: outputs come as an engine's do, so they may be written past the response's task.
    """
    path, reply, body = STREAMS[name]
    client = PushingClient(reply) if pushed else ScriptedClient(reply)
    app = OpenRequests(make_app(client, chat_template=ChatTemplate(QWEN, TOKENS)))
    with serve(app) as url:
        content = httpx.post(
            f"{url}{path}", json={**body, "stream": True}, headers={"x-request-id": "golden"}, timeout=30
        ).content
    content = re.sub(rb'("(?:created|created_at|completed_at)":)\d+', rb"\g<1>0", content)
    content = re.sub(rb'("(?:queue|prefill|decode)_ms":)[\d.e-]+', rb"\g<1>0", content)
    ids = dict.fromkeys(re.findall(rb'"(call_[\w-]+|chatcmpl-tool-[\w-]+)"', content))
    for number, call_id in enumerate(ids):
        content = content.replace(call_id, b"call_%d" % number)
    return content


@pytest.mark.parametrize("name", STREAMS)
def test_stream_is_the_file(name: str) -> None:
    assert stream(name) == (FOLDER / f"{name}.sse").read_bytes()


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_written_past_the_task_is_the_same_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = DirectWriter.write

    def watched(writer: DirectWriter, body: bytes) -> None:
        written.append(body)
        write(writer, body)

    monkeypatch.setattr(DirectWriter, "write", watched)
    assert stream(name, pushed=True) == (FOLDER / f"{name}.sse").read_bytes()
    assert written, "all went the usual way"


def test_every_file_is_a_stream() -> None:
    assert {path.stem for path in FOLDER.glob("*.sse")} == set(STREAMS)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in STREAMS:
        (FOLDER / f"{each}.sse").write_bytes(stream(each))
