"""Content and calls out of text, in every format and cut at every place."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.app.tool_formats import HERMES, LLAMA3_JSON, MISTRAL, MISTRAL_ARGS, ToolFormat, WrittenCall
from octavo.app.tool_stream import CallArguments, CallPiece, CallStart, Content, ToolStream

FORMATS = {"hermes": HERMES, "llama3_json": LLAMA3_JSON, "mistral": MISTRAL, "mistral_args": MISTRAL_ARGS}
TOOLS = frozenset({"f", "get_weather"})
WORDS = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "</tool"]


class Heard(NamedTuple):
    """What a client puts together."""

    content: str
    calls: list[tuple[str, str]]


def heard(pieces: Sequence[CallPiece]) -> Heard:
    """Checks the order of pieces, too: a call's id and name once and first, then its arguments."""
    content, calls, ids = "", list[list[str]](), set[str]()
    for piece in pieces:
        match piece:
            case Content(text):
                assert text
                content += text
            case CallStart(number, call_id, name):
                assert number == len(calls) and call_id not in ids
                ids.add(call_id)
                calls.append([name, ""])
            case CallArguments(number, text):
                assert text and number == len(calls) - 1
                calls[number][1] += text
    return Heard(content, [(name, arguments) for name, arguments in calls])


def parse(form: ToolFormat, chunks: Sequence[str], *, only_one: bool = False) -> Heard:
    numbers = itertools.count()
    stream = ToolStream(form.syntax, TOOLS, lambda: f"id{next(numbers)}", only_one=only_one)
    pieces = [piece for chunk in chunks for piece in stream.push(chunk)] + stream.finish()
    got = heard(pieces)
    assert only_one or stream.num_calls == len(got.calls)
    return got


def everywhere(form: ToolFormat, text: str) -> Heard:
    """The parse of `text` in one piece, which is that of its characters and of every two pieces."""
    whole = parse(form, [text])
    assert parse(form, text) == whole
    for i in range(len(text)):
        assert parse(form, [text[:i], text[i:]]) == whole, text[:i]
    return whole


# What may stand before calls without being taken for one.
PROSE = st.text(alphabet="aé<[{|( \n", max_size=12).map(lambda text: f"x{text.rstrip()}y")
ARGUMENTS = st.dictionaries(
    st.text(max_size=5), st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(WORDS), max_size=3
).map(json.dumps)
CALLS = st.lists(st.builds(WrittenCall, st.sampled_from(sorted(TOOLS)), ARGUMENTS), min_size=1, max_size=3)


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=15)
@given(
    calls=CALLS, before=st.just("") | PROSE, gap=st.sampled_from(["", " ", "\n\n"]), after=st.just("") | PROSE
)
def test_what_is_written_is_read(
    name: str, calls: list[WrittenCall], before: str, gap: str, after: str
) -> None:
    form = FORMATS[name]
    if name == "llama3_json" and before:
        before += "<|python_tag|>"
    got = everywhere(form, f"{before}{gap}{form.write(calls)}{gap}{after}")
    said = before.removesuffix("<|python_tag|>")
    assert got == Heard(f"{said}\n{after}" if said and after else said + after, [*calls])


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None)
@given(
    text=st.lists(
        st.sampled_from([*WORDS, '{"name": "f"', ', "arguments": ', '{"a": 1}', "}", "{", "[", "]", ","])
        | st.sampled_from(["f", ";", " ", "\n", '"', "x", "é", "get_weather", '"parameters":{}']),
        max_size=14,
    ).map("".join)
)
def test_whatever_is_written_nothing_depends_on_the_cut(name: str, text: str) -> None:
    got = everywhere(FORMATS[name], text)
    if not got.calls:
        assert got.content == text, "what is no call is content, to the last character"


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=50)
@given(text=st.text())
def test_text_without_calls_is_content(name: str, text: str) -> None:
    assert parse(FORMATS[name], [text]) == Heard(text, [])


@pytest.mark.parametrize(
    "name, text, content, calls",
    [
        # As models really write.
        (
            "hermes",
            'Sure.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>',
            "Sure.",
            [("f", '{"a": 1}'), ("get_weather", "{}")],
        ),
        ("llama3_json", '{"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
        (
            "llama3_json",
            '<|python_tag|>{"type": "function", "name": "f", "parameters": {}}; {"name": "f"}',
            "",
            [("f", "{}")] * 2,
        ),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]',
            "",
            [("f", '{"a": 1}')],
        ),
        (
            "mistral",
            '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{}',
            "",
            [("f", '{"a": 1}'), ("f", "{}")],
        ),
        ("mistral", '[TOOL_CALLS]f{"a": 1}', "", [("f", '{"a": 1}')]),
        ("mistral", '[TOOL_CALLS] {"name": "f", "arguments": {}}', "", [("f", "{}")]),
        # What is malformed before a call is certain is content.
        ("hermes", '<tool_call>{"name": "no", "arguments": {}}</tool_call>', None, []),
        ("hermes", "<tool_call>f(1)</tool_call>", None, []),
        ("hermes", '<tool_call>{"name": "f", "argu', None, []),
        ("hermes", '{"name": "f", "arguments": {}}', None, []),
        ("llama3_json", '{"answer": {"name": "f"}}', None, []),
        ("llama3_json", 'Use {"name": "f", "parameters": {}}', None, []),
        ("llama3_json", '<|python_tag|>f.call(query="x")', None, []),
        ("mistral", "[TOOL_CALLS]no[ARGS]{}", None, []),
        ("mistral", "[TOOL_CALLS] []", None, []),
        ("mistral", "[TOOL_CALLS] nothing", None, []),
        # A broken call does not hide the next.
        (
            "hermes",
            '<tool_call>oops<tool_call>{"name": "f"}</tool_call>',
            "<tool_call>oops",
            [("f", "{}")],
        ),
        # Once its arguments have begun, a call cannot be taken back; what follows them is content.
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>x', "x", [("f", '{"a": 1}')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1 oops', "oops", [("f", '{"a": 1 ')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": ', "", [("f", '{"a": ')]),
        ("hermes", '<tool_call>{"name": "f"}', "", [("f", "{}")]),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "no"}]',
            ', {"name": "no"}]',
            [("f", "{}")],
        ),
    ],
)
def test_examples(name: str, text: str, content: str | None, calls: list[tuple[str, str]]) -> None:
    assert everywhere(FORMATS[name], text) == Heard(text if content is None else content, calls)


def test_arguments_are_handed_out_as_they_come() -> None:
    stream = ToolStream(HERMES.syntax, TOOLS, lambda: "id")
    assert stream.push('Well.\n<tool_call>\n{"name": "f"') == [Content("Well.")]
    assert stream.push(', "arguments": {"ci') == [CallStart(0, "id", "f"), CallArguments(0, '{"ci')]
    assert stream.push('ty": "Par') == [CallArguments(0, 'ty": "Par')]
    assert stream.push('is"}}\n</tool_call>') == [CallArguments(0, 'is"}')]
    assert stream.finish() == []


def test_half_a_marker_waits_and_no_longer_than_it_must() -> None:
    stream = ToolStream(HERMES.syntax, TOOLS, lambda: "id")
    assert stream.push("a <tool_") == [Content("a")]
    assert stream.push("box") == [Content(" <tool_box")]
    assert stream.push(" b <") == [Content(" b")]
    assert stream.finish() == [Content(" <")]


def test_only_one_call() -> None:
    calls = [WrittenCall("f", '{"a": 1}'), WrittenCall("get_weather", "{}")]
    for name, form in FORMATS.items():
        assert parse(form, form.write(calls), only_one=True) == Heard("", [("f", '{"a": 1}')]), name
