"""Where chat templates run: jinja2's immutable sandbox, with bounds on time and output. Knows no messages.

A template is a program from a stranger. Every turn of a loop and every call checks the clock, so that a
runaway template ends in an error; operators that would make huge values are refused. What templates may use
beyond Jinja is in Transformers' documentation of chat templates.
"""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from .errors import RequestError

MAX_CHARACTERS = 1 << 26
"""64 Mi characters are beyond every model: a template that writes more has run away."""
MAX_SECONDS = 2.0
"""Of processor time. A conversation of a megabyte takes some milliseconds."""
_MAX_POWER_BITS = 4096
_GUARD = "octavo_guard"


class TemplateError(RequestError):
    """The template refused the messages, or failed on them."""

    def __init__(self, message: str, *, param: str = "messages") -> None:
        super().__init__(message, param=param)


class GuardedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates whose loops and calls check the clock. Each thread runs one template at a time."""

    intercepted_binops = frozenset(("*", "**"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self._running = threading.local()
        self.filters["tojson"] = _to_json
        self.filters[_GUARD] = self._guarded
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda layout: datetime.datetime.now().strftime(layout),
            "namespace": _namespace,
        }

    def run(self, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
        """What the template writes. Raises TemplateError."""
        pieces: list[str] = []
        num_characters = 0
        self._running.deadline_s = time.thread_time() + MAX_SECONDS
        try:
            for piece in template.generate(variables):
                pieces.append(piece)
                num_characters += len(piece)
                if num_characters > MAX_CHARACTERS:
                    raise TemplateError(f"the chat template wrote more than {MAX_CHARACTERS} characters")
        except RequestError:
            raise
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template refused the messages: {error.message}") from error
        except Exception as error:  # a template can raise whatever its data makes Python raise
            raise TemplateError(f"the chat template failed: {type(error).__name__}: {error}") from error
        finally:
            del self._running.deadline_s
        return "".join(pieces)

    def look_at_the_clock(self) -> None:
        """Raise TemplateError if the template that runs in this thread has had its time."""
        deadline_s = getattr(self._running, "deadline_s", None)  # None: constants are folded by the compiler
        if deadline_s is not None and time.thread_time() > deadline_s:
            raise TemplateError(f"the chat template ran for more than {MAX_SECONDS:g} s")

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Of the sandbox: every call that a template makes, macros included."""
        self.look_at_the_clock()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Of the sandbox: the operators that make much out of little."""
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    _check_size(len(text) * times)
        elif isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_POWER_BITS:
            raise SecurityError("a chat template may not make a number so large")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Of jinja2: put the guard around what every loop goes through."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _GUARD, [], [], None, None, lineno=loop.lineno)
            loop.iter.set_environment(self)
        return tree

    def _guarded(self, values: Any) -> _Guarded:
        return _Guarded(values, self)


class _Guarded:
    """What a loop goes through; each turn looks at the clock."""

    def __init__(self, values: Any, environment: GuardedEnvironment) -> None:
        self._values = values
        self._environment = environment

    def __iter__(self) -> Iterator[Any]:
        look = self._environment.look_at_the_clock
        for value in self._values:
            look()
            yield value

    def __len__(self) -> int:
        return len(self._values)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text for training; here it is only its contents."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _SafeNamespace(Namespace):
    """Jinja's namespace() without names that mean something to Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template may not set the attribute {name!r}")
        super().__setitem__(name, value)


def _namespace(*args: Any, **kwargs: Any) -> _SafeNamespace:
    made = _SafeNamespace()
    for name, value in dict(*args, **kwargs).items():
        made[name] = value
    return made


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter, does not escape HTML, which no model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)


def _check_size(num_items: int) -> None:
    if num_items > MAX_CHARACTERS:
        raise SecurityError(f"a chat template may not repeat a value to more than {MAX_CHARACTERS} items")
