"""Chunks as bytes: valid JSON, the same keys in each, whatever the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.app.chunks import CHAT_CHUNK, COMPLETION_CHUNK, DONE, ChunkEncoder, ChunkShape, error_frame

COMMON = {"id": 'x"1', "object": "whole", "created": 5, "model": "müller"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def parse(frame: bytes) -> dict[str, Any]:
    assert frame.startswith(b"data: ") and frame.endswith(b"\n\n") and frame.count(b"\n") == 2
    value: dict[str, Any] = json.loads(frame[6:])
    return value


@pytest.mark.parametrize("shape", [CHAT_CHUNK, COMPLETION_CHUNK], ids=["chat", "completion"])
@pytest.mark.parametrize("with_usage", [False, True])
def test_every_chunk_has_the_same_keys(shape: ChunkShape, with_usage: bool) -> None:
    encoder = ChunkEncoder(shape, COMMON, with_usage=with_usage)
    frames = [encoder.text(3, "a"), encoder.text(3, "b", {"x": 1}), encoder.closing(3, "stop", "END")]
    if shape.opening:
        frames.insert(0, encoder.opening(3))
    chunks = [parse(frame) for frame in frames]
    expected = ["id", "object", "created", "model", "choices"] + ["usage"] * with_usage
    payload = "delta" if shape is CHAT_CHUNK else "text"
    for chunk in chunks:
        assert list(chunk) == expected
        assert list(chunk["choices"][0]) == ["index", payload, "logprobs", "finish_reason", "stop_reason"]
        assert chunk["choices"][0]["index"] == 3
        assert chunk["object"] == shape.object
        assert chunk.get("usage") is None
    assert list(parse(encoder.usage(USAGE))) == expected[:5] + ["usage"]


def test_chat_begins_with_the_role_and_ends_with_an_empty_delta() -> None:
    encoder = ChunkEncoder(CHAT_CHUNK, COMMON, with_usage=True)
    opening = parse(encoder.opening(0, USAGE))
    closing = parse(encoder.closing(0, "length", 7))
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert opening["usage"] == USAGE
    assert closing["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": 7,
    }


def test_completions_have_no_opening() -> None:
    assert ChunkEncoder(COMPLETION_CHUNK, COMMON, with_usage=False).opening(0) == b""


@pytest.mark.parametrize("shape", [CHAT_CHUNK, COMPLETION_CHUNK], ids=["chat", "completion"])
def test_ids_and_prompts_do_not_change_the_keys(shape: ChunkShape) -> None:
    encoder = ChunkEncoder(shape, COMMON, with_usage=True, with_ids=True, prompt_keys=("prompt_token_ids",))
    told = {"prompt_token_ids": [5]}
    opening = parse(encoder.opening(0, None, told))
    later = [encoder.text(0, "a", None, USAGE, [1, 2]), encoder.closing(0, "stop", None)]
    ends = [parse(frame) for frame in later]
    assert {tuple(chunk) for chunk in ends} == {tuple(opening)}
    assert {tuple(chunk["choices"][0]) for chunk in ends} == {tuple(opening["choices"][0])}
    assert [chunk["choices"][0]["token_ids"] for chunk in ends] == [[1, 2], []]
    place = opening["choices"][0] if shape.prompt_in_choice else opening
    assert place["prompt_token_ids"] == [5]
    assert opening["usage"] is None and ends[0]["usage"] == USAGE


def test_usage_chunk_has_no_choices() -> None:
    chunk = parse(ChunkEncoder(CHAT_CHUNK, COMMON, with_usage=True).usage(USAGE))
    assert (chunk["choices"], chunk["usage"]) == ([], USAGE)


@given(texts=st.lists(st.text()), shape=st.sampled_from([CHAT_CHUNK, COMPLETION_CHUNK]))
def test_any_text_survives(texts: list[str], shape: ChunkShape) -> None:
    encoder = ChunkEncoder(shape, COMMON, with_usage=False)
    choices = [parse(encoder.text(0, text))["choices"][0] for text in texts]
    assert [c["delta"]["content"] if shape is CHAT_CHUNK else c["text"] for c in choices] == texts


def test_errors_and_the_end() -> None:
    assert parse(error_frame({"error": {"message": "a\nb"}})) == {"error": {"message": "a\nb"}}
    assert DONE == b"data: [DONE]\n\n"
