"""Complaints about JSON bodies: the field's path, the rule and the value."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from octavo.app.errors import RequestError
from octavo.app.validation import Refused, check_fields, convert, decode_object, refuse_unknown, show


class Inner(Struct, kw_only=True):
    text: str
    weights: dict[str, float] = {}


class Outer(Struct, kw_only=True):
    name: str = ""
    count: int = 0
    ratio: float = 0.0
    stop: str | list[str] | None = None
    inner: list[Inner] = []


@pytest.mark.parametrize(
    "body, complaint",
    [
        (b"", "is empty"),
        (b"{", "truncated"),
        (b"[1]", "must be a JSON object, got [1]"),
        (b"null", "must be a JSON object, got null"),
        (b'"x"', "must be a JSON object"),
        (b"{} {}", "trailing"),
        (b'{"a": NaN}', "malformed"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"\xef\xbb\xbf{}", "malformed"),
        (b'{"a": "\\ud800"}', "truncated"),
        (b'{"a":' + b"[" * 50_000, "nested too deeply"),
    ],
)
def test_bodies_that_are_no_json_object(body: bytes, complaint: str) -> None:
    with pytest.raises(RequestError, match="(?i)^the request body") as caught:
        decode_object(body)
    assert complaint in caught.value.message
    assert (caught.value.code, caught.value.status) == ("invalid_json", 400)


def test_null_means_the_default() -> None:
    assert decode_object(b'{"a": null, "b": 0, "c": false}') == {"b": 0, "c": False}


@pytest.mark.parametrize(
    "value, param, message",
    [
        ({"name": 3}, "name", "name must be a string, got 3"),
        ({"count": 1.5}, "count", "count must be an integer, got 1.5"),
        ({"count": True}, "count", "count must be an integer, got true"),
        ({"count": "7"}, "count", 'count must be an integer, got "7"'),
        ({"ratio": "0.5"}, "ratio", 'ratio must be a number, got "0.5"'),
        ({"stop": 1}, "stop", "stop must be a string or a list, got 1"),
        ({"stop": ["a", 2]}, "stop[1]", "stop[1] must be a string, got 2"),
        ({"inner": [{}]}, "inner[0].text", "inner[0].text is required"),
        ({"inner": [{"text": []}]}, "inner[0].text", "inner[0].text must be a string, got []"),
        (
            {"inner": [{"text": "", "weights": {"a": "b"}}]},
            "inner[0].weights",
            'inner[0].weights must be made of entries that are each a number, got {"a":"b"}',
        ),
    ],
)
def test_wrong_types_name_field_rule_and_value(value: Any, param: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        convert(value, Outer)
    assert (caught.value.param, caught.value.message) == (param, message)


def test_path_continues_the_one_given() -> None:
    with pytest.raises(RequestError) as caught:
        convert({"text": 5}, Inner, "messages[2]")
    assert caught.value.param == "messages[2].text"


def test_long_values_are_cut() -> None:
    assert len(show("x" * 10_000)) < 100


def test_fields_are_known_refused_or_unknown() -> None:
    refused: Refused = {"tools": ([],), "audio": ()}
    assert check_fields({"name": "x", "tools": [], "zzz": 1}, Outer, refused) == ["zzz"]
    assert check_fields({"zzz": 1}, Outer, refused, "messages[0]") == ["messages[0].zzz"]
    with pytest.raises(RequestError, match=r"^tools must be \[\] on this server, got \[1\]$") as caught:
        check_fields({"tools": [1]}, Outer, refused)
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_value")
    with pytest.raises(RequestError, match="^audio is not supported by this server$") as caught:
        check_fields({"audio": {}}, Outer, refused)
    assert (caught.value.param, caught.value.code) == ("audio", "unsupported_parameter")


def test_strict_names_the_nearest_field() -> None:
    refuse_unknown([], ["temperature"])
    with pytest.raises(
        RequestError, match=r'^Unknown field "temprature"; did you mean temperature\?$'
    ) as caught:
        refuse_unknown(["temprature"], ["temperature", "top_p"])
    assert (caught.value.param, caught.value.code) == ("temprature", "unknown_field")
    with pytest.raises(RequestError, match=r'^Unknown field "zzzz"$'):
        refuse_unknown(["zzzz"], ["temperature"])
