"""JSON bodies to typed requests: every complaint names the field, the rule and the value.

Knows msgspec's types and messages, and that a field is understood, refused by name, or unknown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from .errors import RequestError

T = TypeVar("T")

Refused = Mapping[str, tuple[Any, ...]]
"""Field -> the values that are accepted because they ask for nothing. Any other value is refused."""

_PLACE = re.compile(r" - at `(?P<path>[^`]*)`$")
_EXPECTED = re.compile(r"Expected `(?P<types>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")
_PATH_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_IN_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
}
_MAX_VALUE_CHARS = 80


def decode_object(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object in `body`, keys with null left out: null means the default.

    Raises RequestError for anything that is not one JSON object in UTF-8.
    """
    if not body:
        raise RequestError("The request body is empty; it must be a JSON object.", code="invalid_json")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(f"The request body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise RequestError("The request body is nested too deeply.", code="invalid_json") from error
    if not isinstance(value, dict):
        raise RequestError(f"The request body must be a JSON object, got {show(value)}", code="invalid_json")
    return without_nulls(value)


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not null."""
    return {name: entry for name, entry in value.items() if entry is not None}


def convert(value: Any, into: type[T], path: str = "") -> T:
    """`value` as the type `into`; raises RequestError with the path of the field at fault, below `path`."""
    try:
        return msgspec.convert(value, into)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value, path) from error


def check_fields(
    value: Mapping[str, Any], into: type[msgspec.Struct], refused: Refused, path: str = ""
) -> list[str]:
    """Paths of the fields of `value` that nobody knows. Raises RequestError for one that is refused."""
    unknown = []
    for name, entry in value.items():
        if name in into.__struct_fields__:
            continue
        field = join(path, name)
        if name not in refused:
            unknown.append(field)
        elif entry is not None and entry not in refused[name]:
            raise _refusal(field, entry, refused[name])
    return unknown


def refuse_unknown(fields: Iterable[str], known: Iterable[str] | None) -> None:
    """What `--strict` does: raise RequestError for the first of `fields`, with the nearest known name.

    Without known names the server is not strict, and nothing is refused.
    """
    if known is None:
        return
    for field in fields:
        near = difflib.get_close_matches(field.rpartition(".")[2], list(known), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"Unknown field {show(field)}{hint}", param=field, code="unknown_field")


def join(path: str, name: str) -> str:
    """`name` below `path`, as in `messages[0].content`."""
    return f"{path}.{name}" if path else name


def show(value: Any) -> str:
    """`value` for a message, as JSON, cut to a length that a person reads."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def wrong(path: str, rule: str, value: Any, code: str = "invalid_value") -> RequestError:
    """The field at `path` must be what `rule` says, and is `value`."""
    return RequestError(f"{path} must be {rule}, got {show(value)}", param=path, code=code)


def missing(path: str) -> RequestError:
    """The field at `path` must be given."""
    return RequestError(f"{path} is required", param=path, code="missing_required_parameter")


def read_object(
    entry: Any, into: type[msgspec.Struct], refused: Refused, path: str, ignored: list[str]
) -> Any:
    """`entry`, if it is an object, without nulls and without `refused`; unknown fields go to `ignored`.

    Anything else comes back as it is: `convert` will complain of it.
    """
    if not isinstance(entry, Mapping):
        return entry
    ignored += check_fields(entry, into, refused, path)
    return {name: value for name, value in without_nulls(entry).items() if name not in refused}


def _refusal(field: str, value: Any, accepted: tuple[Any, ...]) -> RequestError:
    if not accepted:
        return RequestError(
            f"{field} is not supported by this server", param=field, code="unsupported_parameter"
        )
    values = " or ".join(show(entry) for entry in accepted)
    return wrong(field, f"{values} on this server", value, "unsupported_value")


def _explain(complaint: str, value: Any, path: str) -> RequestError:
    """msgspec's complaint, `Expected ..., got ... - at $.x[0]`, in our words."""
    place = _PLACE.search(complaint)
    # "[...]" and "~" stand for a mapping's value and key: then the mapping is the field at fault.
    below = place["path"].removeprefix("$").split("[...]")[0].removesuffix(".~") if place else ""
    field = f"{path}{below}" if path else below.removeprefix(".")
    if absent := _MISSING.search(complaint):
        return missing(join(field, absent["name"]))
    if expected := _EXPECTED.search(complaint):
        kinds = [kind for kind in expected["types"].split(" | ") if kind != "null"]
        rule = " or ".join(_IN_WORDS.get(kind, kind) for kind in kinds)
        # For a wrong value in a mapping, the whole mapping is shown.
        each = "made of entries that are each " if place and "[...]" in place["path"] else ""
        message = f"{field or 'the request body'} must be {each}{rule}, got {show(_at(value, below))}"
        return RequestError(message, param=field or None, code="invalid_type")
    return RequestError(f"{field}: {complaint[: place.start()] if place else complaint}", param=field or None)


def _at(value: Any, path: str) -> Any:
    for name, index in _PATH_STEP.findall(path):
        value = value[name] if name else value[int(index)]
    return value
