"""Reasoning told apart from the answer, cut at every place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_templates import DEEPSEEK_R1, LLAMA31, QWEN

from octavo.app.config import ServerConfig
from octavo.app.reasoning import ReasoningFormat, ReasoningStream, reasoning_format

THINK = ReasoningFormat("<think>", "</think>")


def split(chunks: Sequence[str], *, inside: bool = False) -> tuple[str, str]:
    stream = ReasoningStream(THINK, inside=inside)
    pairs = [stream.push(chunk) for chunk in chunks] + [stream.push("", final=True)]
    return "".join(thought for thought, _ in pairs), "".join(answer for _, answer in pairs)


@pytest.mark.parametrize(
    "text, inside, thought, answer",
    [
        ("<think>\nHm.\n\nYes.\n</think>\n\nHello!\n", False, "Hm.\n\nYes.", "Hello!\n"),
        (" \n<think>a</think>b", False, "a", "b"),
        ("Hm.</think>Hello", True, "Hm.", "Hello"),
        ("\n<think>\nHm.</think>Hello", True, "Hm.", "Hello"),
        ("<think>\n\n</think>\n\nHello", False, "", "Hello"),
        ("Hello <think>x</think>", False, "", "Hello <think>x</think>"),
        ("Hello </think>", False, "", "Hello </think>"),
        ("<think>a</think>b<think>c</think>", False, "a", "b<think>c</think>"),
        ("<think>never ends </th", False, "never ends </th", ""),
        ("never ends\n", True, "never ends\n", ""),
        ("<thin", False, "", "<thin"),
        ("  ", False, "", "  "),
        ("", True, "", ""),
    ],
)
def test_examples(text: str, inside: bool, thought: str, answer: str) -> None:
    assert split([text], inside=inside) == (thought, answer)
    assert split(text, inside=inside) == (thought, answer)
    for i in range(len(text)):
        assert split([text[:i], text[i:]], inside=inside) == (thought, answer)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "</th", "\n", " ", "a", "é"]), max_size=10),
    st.booleans(),
)
def test_nothing_depends_on_the_cut_and_only_newlines_are_lost(parts: list[str], inside: bool) -> None:
    text = "".join(parts)
    whole = split([text], inside=inside)
    assert split(text, inside=inside) == whole == split(parts, inside=inside)
    said = "".join(whole).replace("\n", "").replace(" ", "")
    written = text.replace("\n", "").replace(" ", "")
    assert said == written or written.removeprefix("<think>").replace("</think>", "", 1) in (
        said,
        said.replace("<think>", "", 1),
    )


def test_thoughts_come_as_they_are_thought() -> None:
    stream = ReasoningStream(THINK, inside=False)
    assert [stream.push(text) for text in ("<th", "ink>\nHm", ", well\n", "\nyes</", "think>", "\n\nA")] == [
        ("", ""),
        ("Hm", ""),
        (", well", ""),
        ("\n\nyes", ""),
        ("", ""),
        ("", "A"),
    ]
    assert stream.is_over


@pytest.mark.parametrize(
    "prompt, inside",
    [
        ("<|Assistant|><think>\n", True),
        ("<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("What does <think> mean?<|Assistant|>", False),
    ],
)
def test_the_prompt_may_have_opened_the_tag(prompt: str, inside: bool) -> None:
    assert THINK.begins_inside(prompt) is inside
    assert THINK._replace(always=True).begins_inside(prompt)


def test_the_template_tells_the_format() -> None:
    assert reasoning_format("auto", QWEN) == reasoning_format("auto", DEEPSEEK_R1) == THINK
    assert reasoning_format("auto", LLAMA31) is None
    assert reasoning_format("auto", "[THINK]{{ x }}[/THINK]") == ReasoningFormat("[THINK]", "[/THINK]")
    assert reasoning_format("none", QWEN) is None
    assert reasoning_format("deepseek_r1", LLAMA31) == THINK._replace(always=True)
    for parser in ("qwen3", "deepseek_r1", "mistral"):
        assert ServerConfig(reasoning_parser=parser).reasoning_parser == parser
        assert reasoning_format(parser, LLAMA31) is not None
