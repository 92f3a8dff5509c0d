"""The cursor against Python's json, on JSON and on what is nearly JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.app.json_cursor import JsonCursor, Step

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def length(text: str) -> int | None:
    """Characters of the value at the beginning of `text`; None if there is none."""
    cursor = JsonCursor()
    for i, char in enumerate(text):
        match cursor.step(char):
            case Step.ENDS:
                return i + 1
            case Step.HAD_ENDED:
                return i
            case Step.BROKEN:
                return None
    return None


def reference(text: str) -> int | None:
    """The same by Python's decoder, which also takes NaN and Infinity."""
    decoder = json.JSONDecoder(strict=False)
    start = len(text) - len(text.lstrip(" \t\n\r"))
    try:
        value, end = decoder.raw_decode(text, start)
    except ValueError:
        return None
    return None if isinstance(value, float) and text[start] in "NI" else end


@settings(deadline=None)
@given(value=JSON, indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def test_values_end_where_they_end(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert length(text + " x") == len(text)


@settings(deadline=None)
@given(st.text(alphabet=' \n{}[]:,"\\u0a1-.eEtruflsn', max_size=12))
def test_what_is_nearly_json(text: str) -> None:
    ours, theirs = length(text + "\n"), reference(text + "\n")
    # A number that goes on wrongly is refused as a whole, where the decoder takes its beginning.
    if ours is None and theirs is not None:
        assert text[theirs : theirs + 1] in "0123456789+-.eEtrufalsn" and text[theirs - 1] != '"'
    else:
        assert ours == theirs


def test_control_characters_may_stand_in_strings() -> None:
    assert length('"a\nb\t"') == 6


@pytest.mark.parametrize("text", ["[" * 10_000, '{"a":' * 10_000])
def test_depth_has_a_limit(text: str) -> None:
    assert length(text) is None
    cursor = JsonCursor()
    steps = [cursor.step("[") for _ in range(201)]
    assert set(steps[:200]) == {Step.GOES_ON} and steps[200] is Step.BROKEN


def test_it_knows_when_it_stands_in_a_string() -> None:
    cursor = JsonCursor()
    seen = []
    for char in '{"a": "b\\"c", "d": 1}':
        seen.append(cursor.in_string)
        cursor.step(char)
    assert (
        "".join(c for c, inside in zip('{"a": "b\\"c", "d": 1}', seen, strict=True) if inside) == 'a"b\\c"d"'
    )
