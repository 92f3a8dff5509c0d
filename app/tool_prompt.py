"""Tools for models whose chat template knows none: plain messages say what the template leaves out.

The template itself is untouched. Conversations for templates that show tools do not come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.json import encode

from .tool_formats import ToolFormat, WrittenCall

_RESPONSE = "<tool_response>\n{}\n</tool_response>"


def plain_messages(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], syntax: ToolFormat
) -> list[dict[str, Any]]:
    """`messages` with tools described in the first, calls as the assistant's text, results as the user's.

    messages, tools: as a chat template takes them.
    """
    plain: list[dict[str, Any]] = []
    last_role = None
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "tool":
            result = _RESPONSE.format(content)
            if last_role == "tool":  # many templates demand that user and assistant take turns
                plain[-1]["content"] += f"\n{result}"
            else:
                plain.append({"role": "user", "content": result})
        elif calls := message.get("tool_calls"):
            written = syntax.write(_written(call) for call in calls)
            content = f"{content}\n{written}" if content else written
            plain.append({**_without_calls(message), "content": content})
        else:
            plain.append(dict(message))
        last_role = role
    return _with_instructions(plain, _instructions(tools, syntax)) if tools else plain


def _instructions(tools: Sequence[Mapping[str, Any]], syntax: ToolFormat) -> str:
    described = "\n".join(encode(tool).decode() for tool in tools)
    call = syntax.write([WrittenCall("NAME", "ARGUMENTS")])
    return (
        "These functions may be called; each is described with the JSON schema of its arguments:\n"
        f"<tools>\n{described}\n</tools>\n"
        f"To call one, answer with its name and a JSON object of arguments, in this form:\n{call}\n"
        "What it returns follows between <tool_response> and </tool_response>."
    )


def _with_instructions(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """In the system message, but only if there is one: some templates refuse it, others have their own."""
    if not messages:
        return [{"role": "user", "content": text}]
    first = messages[0]
    pieces = [first.get("content"), text] if first.get("role") == "system" else [text, first.get("content")]
    return [{**first, "content": "\n\n".join(piece for piece in pieces if piece)}, *messages[1:]]


def _written(call: Mapping[str, Any]) -> WrittenCall:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else encode(arguments).decode()
    return WrittenCall(call["function"]["name"], text)


def _without_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "tool_calls"}
