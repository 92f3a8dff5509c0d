"""One choice in parts: as a message, as deltas, and why it ended."""

from __future__ import annotations

import json

import pytest

from octavo.app.answer_parts import AnswerParts, Reasoning, delta_json
from octavo.app.reasoning import ReasoningFormat, ReasoningStream
from octavo.app.tool_formats import HERMES
from octavo.app.tool_stream import CallArguments, CallStart, Content, ToolStream
from octavo.scheduler.request import FinishReason

CALL = '<tool_call>{"name": "f", "arguments": {"a": "<think>"}}</tool_call>'
THINK = ReasoningFormat("<think>", "</think>")


def parts(*, thinks: bool = True, calls: bool = True, shows_reasoning: bool = True) -> AnswerParts:
    return AnswerParts(
        ReasoningStream(THINK, inside=False) if thinks else None,
        ToolStream(HERMES.syntax, {"f"}, lambda: "id") if calls else None,
        shows_reasoning=shows_reasoning,
    )


def test_message_with_everything() -> None:
    call = {"id": "id", "type": "function", "function": {"name": "f", "arguments": '{"a": "<think>"}'}}
    text = f"<think>\nHm. {CALL}\n</think>\n\nOn it.\n{CALL}"
    assert parts().message(text, "And: ") == {
        "content": "And: On it.",
        "reasoning": f"Hm. {CALL}",
        "tool_calls": [call],
    }
    assert parts(shows_reasoning=False).message(text)["reasoning"] is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("Hi", {"content": "Hi", "reasoning": None}),
        ("", {"content": "", "reasoning": None}),
        ("<think>endless", {"content": None, "reasoning": "endless"}),
    ],
)
def test_messages_without_calls(text: str, message: dict[str, str | None]) -> None:
    assert parts().message(text) == message


def test_keys_are_those_that_can_have_a_value() -> None:
    assert parts(thinks=False).message("Hi") == {"content": "Hi"}
    assert parts(thinks=False, calls=False).message(CALL) == {"content": CALL}


def test_finish_reasons() -> None:
    ended = parts()
    assert ended.finish_reason(FinishReason.STOP) == "stop"
    ended.push(CALL, final=True)
    assert ended.finish_reason(FinishReason.STOP) == "tool_calls"
    assert ended.finish_reason(FinishReason.LENGTH) == "length"


def test_deltas() -> None:
    pieces = parts().push(f"<think>Hm.</think>Ü{CALL}", final=True)
    assert pieces == [
        Reasoning("Hm."),
        Content("Ü"),
        CallStart(0, "id", "f"),
        CallArguments(0, '{"a": "<think>"}'),
    ]
    function = {"name": "f", "arguments": ""}
    assert [json.loads(delta_json(piece)) for piece in pieces] == [
        {"reasoning": "Hm."},
        {"content": "Ü"},
        {"tool_calls": [{"index": 0, "id": "id", "type": "function", "function": function}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": "<think>"}'}}]},
    ]


@pytest.mark.parametrize(("every_push", "found"), [(True, [False, True, True, False]), (False, [True])])
def test_readings_are_counted_for_each_text_or_for_all(every_push: bool, found: list[bool]) -> None:
    counted: list[bool] = []
    streamed = parts()
    streamed.count_readings(counted.append, every_push=every_push)
    for text in ("Hi ", '<tool_call>{"name": "f", "arguments": {"a', '": 1}}</tool_call>'):
        streamed.push(text, final=False)
    streamed.push("", final=True)
    assert counted == found


def test_an_answer_without_tools_is_not_read_for_calls() -> None:
    plain = parts(calls=False)
    plain.count_readings(lambda found: pytest.fail("it cannot have calls"), every_push=True)
    plain.push("Hi", final=True)
