"""How one model writes tool calls and reasoning, and what that means for a request. Knows no HTTP.

The formats are read off the model's chat template, or set by `--tool-call-parser` and `--reasoning-parser`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..model.grammar import Grammar
from ..scheduler.thinking_limit import ThinkingLimit
from .answer_grammar import COMBINABLE, AnswerGrammar
from .answer_parts import AnswerParts, PartsMaker
from .chat_template import ChatTemplate
from .errors import RequestError
from .reasoning import ReasoningFormat, ReasoningStream, reasoning_format
from .tokenizer import Tokenizer
from .tool_formats import HERMES, ToolFormat, tool_format
from .tool_stream import ToolStream
from .tool_types import ToolMode, ToolUse

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class ChatFormats(NamedTuple):
    """A model's formats; None where none is known."""

    tools: ToolFormat | None
    reasoning: ReasoningFormat | None

    @classmethod
    def of(cls, template: ChatTemplate, tool_parser: str, reasoning_parser: str) -> ChatFormats:
        """The formats that the settings name, else those that `template` teaches."""
        tools = tool_format(tool_parser, template.source)
        if tools is None and not template.shows_tools:
            tools = HERMES  # the model is told so
        return cls(tools, reasoning_format(reasoning_parser, template.source))

    def beside(self, answer: Grammar | None) -> ChatFormats:
        """The formats that fit a request: beside a grammar that cannot follow reasoning, there is none."""
        bars = answer is not None and answer.kind not in COMBINABLE
        return self._replace(reasoning=None) if bars else self

    def grammar(
        self, use: ToolUse | None, answer: Grammar | None, prompt: str, tokenizer: Tokenizer
    ) -> Grammar | None:
        """The grammar of an answer to `prompt`. answer: what the request asks for apart from tools.

        Raises ValueError if it gets too long.
        """
        reasoning, tools = self.reasoning, self.tools
        inside = reasoning is not None and reasoning.begins_inside(prompt)
        writer = AnswerGrammar(reasoning, inside, tokenizer.special_id)
        if use is None:
            return answer if answer is None or reasoning is None else writer.thoughtful(answer)
        assert tools is not None, "see check"
        if use.mode is not ToolMode.AUTO:
            return writer.calling(use, tools)
        if answer is not None:
            return writer.calling_or(use, tools, answer)
        return writer.strictly(use, tools) if any(tool.strict for tool in use.allowed) else None

    def check(self, use: ToolUse | None) -> None:
        """Raise RequestError if the model's way of calling tools is not known."""
        if use is not None and self.tools is None:
            raise RequestError(
                "tools must be left out: how this model writes calls is not known, and the server runs "
                "without --tool-call-parser",
                param="tools",
                code="unsupported_parameter",
            )

    def parts(self, use: ToolUse | None, prompt: str, include_reasoning: bool) -> PartsMaker | None:
        """What takes the answers to `prompt` apart; None if they are content only."""
        reasoning, tools = self.reasoning, self.tools
        if reasoning is None and use is None:
            return None
        inside = reasoning is not None and reasoning.begins_inside(prompt)
        calls_reason = "stop" if use is not None and use.mode is ToolMode.NAMED else "tool_calls"

        def make() -> AnswerParts:
            stream = None
            if use is not None:
                assert tools is not None, "see check"
                only_one = tools.single or not use.parallel
                stream = ToolStream(tools.syntax, use.names, tools.new_id, only_one=only_one)
            return AnswerParts(
                None if reasoning is None else ReasoningStream(reasoning, inside=inside),
                stream,
                shows_reasoning=include_reasoning,
                calls_reason=calls_reason,
            )

        return make

    def thinking_limit(
        self, budget: int | None, prompt: str, tokenizer: Tokenizer, vocab_size: int
    ) -> ThinkingLimit | None:
        """The limit that ends the reasoning in an answer to `prompt` after `budget` tokens.

        Raises RequestError if the model does not reason, or not between tokens of their own.
        """
        if budget is None:
            return None
        form = self.reasoning
        tags = () if form is None else (form.opening, form.closing)
        ids = [tokenizer.encode(tag, False) for tag in tags]
        if form is None or any(len(spelled) != 1 for spelled in ids):
            cause = "is not known to reason" if form is None else "has no tokens of their own for its tags"
            raise RequestError(
                f"thinking_token_budget must be left out: this model {cause}",
                param="thinking_token_budget",
                code="unsupported_parameter",
            )
        ((opening,), (closing,)) = ids
        return ThinkingLimit(budget, opening, closing, form.begins_inside(prompt), vocab_size)

    def needs_special_tokens(self, use: ToolUse | None, tokenizer: Tokenizer) -> bool:
        """Whether an answer can only be taken apart with the text of special tokens in it."""
        markers = [] if self.reasoning is None else [self.reasoning.opening, self.reasoning.closing]
        if use is not None and self.tools is not None:
            markers += self.tools.markers
        return any(tokenizer.special_id(marker) is not None for marker in markers)

    def fitting_ids(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`messages` with ids of calls that this model's template takes; another server may have made
        them."""
        if self.tools is None or not self.tools.id_length:
            return list(messages)
        return [_with_ids(message, self.tools) for message in messages]


def check_combination(use: ToolUse | None, answer: Grammar | None, field: str) -> None:
    """Raise RequestError if an answer cannot both call tools and keep to what `field` asks for."""
    if use is None or answer is None:
        return
    if use.mode is not ToolMode.AUTO:
        rule = f"{field} must be left out when tool_choice asks for a call"
    elif answer.kind not in COMBINABLE:
        rule = f"{field} must be left out when there are tools: only JSON and choices go with them"
    else:
        return
    raise RequestError(rule, param=field)


def effort_variables(effort: str | None, template: ChatTemplate) -> dict[str, Any]:
    """The variables that tell the template of `reasoning_effort`. Raises RequestError if it uses none."""
    if effort is None:
        return {}
    if effort not in _EFFORTS:
        rule = f"one of {', '.join(_EFFORTS)}"
        raise RequestError(f"reasoning_effort must be {rule}, got {effort!r}", param="reasoning_effort")
    told = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    heard = {name: value for name, value in told.items() if name in template.variables}
    if not heard:
        raise RequestError(
            "reasoning_effort must be left out: this model's chat template knows nothing of it",
            param="reasoning_effort",
            code="unsupported_parameter",
        )
    return heard


def _with_ids(message: dict[str, Any], syntax: ToolFormat) -> dict[str, Any]:
    changed = dict(message)
    if "tool_call_id" in message:
        changed["tool_call_id"] = syntax.fitting_id(message["tool_call_id"])
    if calls := message.get("tool_calls"):
        changed["tool_calls"] = [_with_id(call, syntax) for call in calls]
    return changed


def _with_id(call: Mapping[str, Any], syntax: ToolFormat) -> dict[str, Any]:
    return {**call, "id": syntax.fitting_id(call["id"])} if "id" in call else dict(call)
