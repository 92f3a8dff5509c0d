"""Messages to a prompt, by the Jinja template that came with the model. Knows neither HTTP nor token ids.

A template is a program from a stranger: it runs in template_sandbox.py and sees plain JSON data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from .errors import StartupError
from .json_file import read_json_object
from .template_sandbox import GuardedEnvironment
from .template_sandbox import TemplateError as TemplateError
from .tool_formats import HERMES, ToolFormat
from .tool_prompt import plain_messages

_MARK = "\ue000octavo:continues\ue001"
_OWN_NAMES = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
    + ("raise_exception", "strftime_now", "namespace")
)


class ChatTemplate:
    """A compiled template, and the one for requests with tools where a model has two.

    special_tokens: "bos_token", "eos_token", ... to their text; visible to the template.
    source: the text of all templates.   variables: the names that they ask for.
    Raises StartupError if a template is not valid Jinja.
    """

    def __init__(
        self, source: str | Mapping[str, str], special_tokens: Mapping[str, str] | None = None
    ) -> None:
        sources = {"default": source} if isinstance(source, str) else source
        self._special_tokens = dict(special_tokens or {})
        environment = self._environment = GuardedEnvironment()
        self._templates = {name: _compile(environment, text) for name, text in sources.items()}
        self.source = "\n".join(sources.values())
        self.variables = frozenset(meta.find_undeclared_variables(environment.parse(self.source)))
        if "default" not in self._templates:
            raise StartupError(f"the model has chat templates {', '.join(sources)} but none named default")

    @classmethod
    def of_request(cls, source: str, special_tokens: Mapping[str, str]) -> ChatTemplate:
        """A request's own template. Raises TemplateError."""
        try:
            return cls(source, special_tokens)
        except StartupError as error:
            raise TemplateError(f"chat_template: {error}", param="chat_template") from error

    @property
    def shows_tools(self) -> bool:
        """Whether the template shows tools; else plain messages describe them."""
        return "tools" in self.variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        plain_format: ToolFormat = HERMES,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt, special tokens included: encode it without adding any.

        continue_final_message: the prompt ends where the last message's text ends, for the model to go on.
        variables: more of them for the template, e.g. `enable_thinking`; the API's chat_template_kwargs.
        documents: for templates that know how to show some, for retrieval.
        plain_format: of tool calls, if the template knows none.
        Raises TemplateError.
        """
        _check_names(variables or {})
        if not self.shows_tools:
            messages = plain_messages(messages, tools or (), plain_format)
        conversation = [_with_parsed_arguments(message) for message in messages]
        if continue_final_message:
            if add_generation_prompt:
                raise TemplateError(
                    "continue_final_message and add_generation_prompt cannot both be true",
                    param="continue_final_message",
                )
            conversation = _with_mark(conversation)
        template = self._templates["tool_use" if tools and "tool_use" in self._templates else "default"]
        visible = {
            **self._special_tokens,
            **(variables or {}),
            "messages": conversation,
            "tools": tools or None,
            "documents": documents or None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._environment.run(template, visible)
        return _cut_at_mark(text) if continue_final_message else text


def find_chat_template(directory: Path) -> str | dict[str, str] | None:
    """The template of a model in the Hugging Face layout, by name if it has several; None if it has none."""
    if (path := directory / "chat_template.jinja").is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"{path} cannot be read: {error}") from error
    for file_name in ("chat_template.json", "tokenizer_config.json"):
        path = directory / file_name
        found = read_json_object(path).get("chat_template") if path.is_file() else None
        if isinstance(found, list):
            try:
                return {str(entry["name"]): str(entry["template"]) for entry in found}
            except (KeyError, TypeError) as error:
                raise StartupError(f"{path} has a chat_template list without names and templates") from error
        if isinstance(found, str):
            return found
    return None


def _compile(environment: GuardedEnvironment, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise StartupError(
            f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
        ) from error


def _check_names(variables: Mapping[str, Any]) -> None:
    for name in variables:
        if name in _OWN_NAMES:
            path = f"chat_template_kwargs.{name}"
            raise TemplateError(f"{path} must be left out: it is no free variable", param=path)


def _with_parsed_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    """The API carries a tool call's arguments as JSON text; templates expect the object."""
    message = dict(message)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        message["tool_calls"] = [_with_parsed_call(call) for call in calls]
    return message


def _with_parsed_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call  # a model may have written what is no JSON: the template shows it as it is
    return {**call, "function": {**function, "arguments": arguments}}


def _with_mark(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put a mark after the last message's text; a space behind it shows whether the template trims."""
    content = messages[-1].get("content") if messages else None
    if isinstance(content, list) and content and isinstance(content[-1], Mapping) and "text" in content[-1]:
        marked: Any = [*content[:-1], {**content[-1], "text": f"{content[-1]['text']}{_MARK} "}]
    elif isinstance(content, str):
        marked = f"{content}{_MARK} "
    else:
        raise TemplateError("continue_final_message needs a last message whose content is text")
    return [*messages[:-1], {**messages[-1], "content": marked}]


def _cut_at_mark(text: str) -> str:
    end = text.rfind(_MARK)
    if end < 0:
        raise TemplateError("continue_final_message: the chat template leaves out the last message's text")
    trims = not text.startswith(" ", end + len(_MARK))
    return text[:end].rstrip() if trims else text[:end]
