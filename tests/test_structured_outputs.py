"""Structured outputs with the real demo model: offline, and by the official client from a server process.

A small model says what it wants; the form must be right all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field
from server_process import CLIENT_KEY, CLIENT_MODEL, serve_demo

from octavo import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from octavo.app.errors import RequestError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", None]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 1},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}
MESSAGES: list[Any] = [{"role": "user", "content": "Describe a pet."}]


@pytest.fixture(name="llm")
def _llm(demo_llm: LLM) -> LLM:
    return demo_llm


def ask(llm: LLM, *params: SamplingParams) -> list[RequestOutput]:
    return llm.chat([MESSAGES] * len(params), list(params), use_tqdm=False)


def bound(asked: dict[str, Any], **params: Any) -> SamplingParams:
    defaults = {"temperature": 1.0, "seed": 1, "max_tokens": 200}  # hotter, it writes blanks
    return SamplingParams(structured_outputs=StructuredOutputsParams(**asked), **(defaults | params))


def test_every_answer_has_its_form_and_unbound_ones_are_untouched(llm: LLM) -> None:
    free = SamplingParams(temperature=0, max_tokens=20)
    (alone,) = ask(llm, free)
    compact = {"json": SCHEMA, "disable_any_whitespace": True}
    blanks = {"json": SCHEMA, "whitespace_pattern": " {1,2}"}
    pattern = "[A-Z][a-z]{1,8}( [a-z]{1,8}){2}"
    *bound_ones, beside = ask(
        llm,
        bound(blanks, seed=3, repetition_penalty=1.1),
        bound(compact, n=3, logprobs=1, min_tokens=4),
        bound({"regex": pattern}, top_p=0.9),
        bound({"choice": ["cat", "dog", "parrot"]}, temperature=0),
        bound({"grammar": 'root ::= "(" [0-9] [0-9]? ")"'}, ignore_eos=True),
        free,
    )
    assert beside.outputs[0].token_ids == alone.outputs[0].token_ids
    assert {choice.finish_reason for output in bound_ones for choice in output.outputs} == {"stop"}
    assert all(choice.stop_reason is None for output in bound_ones for choice in output.outputs)
    texts = [[choice.text for choice in output.outputs] for output in bound_ones]
    for text in [*texts[0], *texts[1]]:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts[1])) == 3, "three seeds, three answers"
    assert all(re.search(r'[{,:]"', text) and '": ' not in text for text in texts[1])
    assert re.fullmatch(pattern, texts[2][0])
    assert texts[3][0] in ("cat", "dog", "parrot")
    assert re.fullmatch(r"\(\d\d?\)", texts[4][0])
    for choice in bound_ones[1].outputs:
        assert choice.logprobs is not None and len(choice.logprobs) == len(choice.token_ids)


def test_answers_are_the_same_alone_and_among_others_and_again(llm: LLM) -> None:
    word = {"regex": "[a-z]{8}(-[a-z]{8}){2}"}
    (alone,) = ask(llm, bound(word, seed=5))
    crowd = ask(llm, *[bound(word, seed=seed) for seed in (4, 5, 6)])
    assert crowd[1].outputs[0].token_ids == alone.outputs[0].token_ids


def test_an_answer_that_is_too_long_is_cut_as_any_other(llm: LLM) -> None:
    ((choice,),) = (output.outputs for output in ask(llm, bound({"json": SCHEMA}, max_tokens=5)))
    assert (choice.finish_reason, len(choice.token_ids)) == ("length", 5)


def test_a_stop_string_ends_an_answer_before_its_grammar_does(llm: LLM) -> None:
    ((choice,),) = (output.outputs for output in ask(llm, bound({"json": SCHEMA}, stop=['"age"'])))
    assert (choice.finish_reason, choice.stop_reason) == ("stop", '"age"')
    assert choice.text.rstrip().endswith(",")


def test_a_bad_grammar_is_refused_and_the_llm_goes_on(llm: LLM) -> None:
    with pytest.raises(RequestError, match="The JSON schema cannot be compiled: Invalid type: nope"):
        ask(llm, bound({"json": {"type": "nope"}}))
    assert ask(llm, bound({"regex": "ab"}))[0].outputs[0].text == "ab"


class Pet(BaseModel):
    """What a client's program makes of an answer."""

    name: str = Field(max_length=6)
    age: int = Field(ge=0, le=120)
    kind: Literal["cat", "dog"]
    friend: str | None = Field(max_length=5)


@pytest.fixture(scope="module")
def front_end_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ("--frontends", "1", "--api-key", CLIENT_KEY, "--served-model-name", CLIENT_MODEL)
    with serve_demo(tmp_path_factory.mktemp("server"), *flags) as url:
        yield url


@pytest.fixture(scope="module", params=["demo_url", "front_end_url"])
def client(request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    """Of a server whose grammars are compiled in its only process, and of one with a front end."""
    url = request.getfixturevalue(request.param)
    with OpenAI(base_url=f"{url}/v1", api_key=CLIENT_KEY, max_retries=0, timeout=120) as client:
        yield client


def test_parse_gives_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=CLIENT_MODEL, messages=MESSAGES, response_format=Pet, temperature=0.7, seed=1, n=2
    )
    pets = [choice.message.parsed for choice in answer.choices]
    assert all(isinstance(pet, Pet) for pet in pets)
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]


def test_parse_of_a_stream_gives_an_object(client: OpenAI) -> None:
    settings: dict[str, Any] = {"model": CLIENT_MODEL, "messages": MESSAGES, "temperature": 0}
    with client.chat.completions.stream(response_format=Pet, **settings) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion().choices[0].message
    assert {"content.delta", "content.done"} <= kinds
    assert isinstance(streamed.parsed, Pet)


def test_any_object_and_extensions(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CLIENT_MODEL,
        messages=MESSAGES,
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=300,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    text = client.completions.create(
        model=CLIENT_MODEL,
        prompt="A pet: ",
        max_tokens=9,
        extra_body={"structured_outputs": {"choice": ["ox", "cow"]}},
    )
    assert text.choices[0].text in ("ox", "cow")


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_kept_to_is_a_bad_request(client: OpenAI, stream: bool) -> None:
    schema: Any = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}
    settings: dict[str, Any] = {"model": CLIENT_MODEL, "messages": MESSAGES, "stream": stream}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        client.chat.completions.create(
            response_format={"type": "json_schema", "json_schema": schema}, **settings
        )
    assert (caught.value.param, caught.value.code) == ("response_format.json_schema.schema", "invalid_value")
