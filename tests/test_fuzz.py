"""Parsers of what strangers send: whatever comes, an error of the right kind or a value, nothing else.

Frames of random bytes are in test_frames.py.
"""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_harness import TEMPLATE, ScriptedClient, make_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.app import control_messages as messages
from octavo.app.chat_template import ChatTemplate, TemplateError
from octavo.app.chunks import CHAT_CHUNK, ChunkEncoder
from octavo.app.errors import StartupError
from octavo.app.frames import ProtocolError
from octavo.model.gguf_file import GGUFError, GGUFFile

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "logit_bias",
    "seed",
    "timeout",
    "queue_timeout",
    "priority",
    "cache_salt",
    "tools",
    "tool_choice",
    "response_format",
    "structured_outputs",
    "input",
    "system",
    "echo",
    "user",
    "metadata",
    "min_tokens",
    "stop_token_ids",
    "truncate_prompt_tokens",
    "request_id",
    "reasoning",
]
VALID: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hello", "max_tokens": 3},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    "/v1/responses": {"input": "hello", "max_output_tokens": 3},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [65]},
}


def post(path: str, body: bytes) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(ScriptedClient()))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await http.post(path, content=body, headers={"content-type": "application/json"})

    return asyncio.run(send())


@given(st.sampled_from(sorted(VALID)), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
@settings(QUICK, max_examples=120)
def test_any_value_in_any_field_is_taken_or_refused_by_name(path: str, changes: dict[str, Any]) -> None:
    response = post(path, json.dumps(VALID[path] | changes).encode())
    assert response.status_code < 500, (response.text, changes)
    if response.status_code >= 400:
        assert response.json()["error"]["message"], changes


@given(st.sampled_from(sorted(VALID)), st.binary(max_size=80))
@QUICK
def test_any_bytes_for_a_body_are_refused(path: str, body: bytes) -> None:
    response = post(path, body)
    assert response.status_code == 400, response.text


@given(st.binary(max_size=100))
@QUICK
def test_any_bytes_for_a_message_are_a_protocol_error(data: bytes) -> None:
    for decode in (messages.decode_from_engine, messages.decode_from_frontend):
        with pytest.raises(ProtocolError):
            decode(memoryview(b"\xc1" + data))  # a byte that msgpack never uses
        try:
            decode(memoryview(data))
        except ProtocolError:
            continue


def gguf_header() -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    pairs = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    pairs += text(b"llama.block_count") + struct.pack("<II", 4, 2)
    tensor = text(b"w") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + pairs + tensor
    return header + bytes(-len(header) % 32) + bytes(64)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6), st.integers(0, 10_000))
@QUICK
def test_a_damaged_gguf_file_is_a_gguf_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(gguf_header())
    for place, value in changes:
        data[place % len(data)] = value
    path: Path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(data[: length if length < len(data) else None])
    try:
        GGUFFile.open(path)
    except GGUFError:
        return


PIECES = st.sampled_from(
    [
        "{{",
        "{%",
        "%}",
        "}}",
        "if",
        "for",
        "in",
        "endif",
        "endfor",
        "messages",
        "m.role",
        "m['content']",
        "+",
        "-",
        "|",
        "tojson",
        "trim",
        "raise_exception('x')",
        "not",
        "is",
        "defined",
        "loop.first",
        "[0]",
        "[::-1]",
        "set",
        "x",
        "=",
        "'a'",
        '"',
        "(",
        ")",
        "namespace(a=1)",
        "range(9)",
        "1/0",
        "none.x",
    ]
)


@given(st.lists(PIECES, max_size=14))
@QUICK
def test_any_template_renders_or_is_an_error_of_its_own(pieces: list[str]) -> None:
    try:
        template = ChatTemplate(" ".join(pieces))
        template.render([{"role": "user", "content": "hi"}])
    except (StartupError, TemplateError):
        return


@given(st.text(), st.text())
@QUICK
def test_any_conversation_renders(role: str, content: str) -> None:
    rendered = ChatTemplate(TEMPLATE).render([{"role": role, "content": content}])
    assert role in rendered and content in rendered


@given(st.lists(st.text(), max_size=5))
@QUICK
def test_any_text_is_one_event_and_comes_back(texts: list[str]) -> None:
    encoder = ChunkEncoder(
        CHAT_CHUNK, {"id": "x", "object": "y", "created": 1, "model": "m"}, with_usage=False
    )
    stream = b"".join(encoder.text(0, text) for text in texts)
    events = [event for event in stream.split(b"\n\n") if event]
    assert all(event.startswith(b"data: ") and b"\n" not in event and b"\r" not in event for event in events)
    heard = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events]
    assert heard == texts
