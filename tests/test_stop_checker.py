"""Stop strings in text, however it is cut; the reference looks at one character after the other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.app.detokenizer import StopChecker


def stop_reference(text: str, stops: Sequence[str], include: bool) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return (text[:end] if include else text[: end - len(stop)]), stop
    return text, None


@given(
    text=st.text("ab\n", max_size=30),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4, unique=True),
    cuts=st.lists(st.integers(0, 100), max_size=12),
    include=st.booleans(),
)
@settings(deadline=None, max_examples=500)
def test_stop_strings_do_not_depend_on_the_cuts(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    checker = StopChecker(stops, include)
    borders = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    emitted, matched = "", None
    for a, b in zip(borders, borders[1:], strict=False):
        piece, matched = checker.push(text[a:b])
        emitted += piece
        if matched is not None:
            break
        assert not any(stop in emitted for stop in stops)
    whole, expected = stop_reference(text, stops, include)
    assert matched == expected
    assert emitted == whole if matched is not None else whole.startswith(emitted)
    if matched is None:
        assert not whole[len(emitted) :] or any(s.startswith(whole[len(emitted) :]) for s in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "include", "expected"),
    [
        (["Hello\n", "\nUser: x"], ["\n\nUser:"], False, ("Hello", "\n\nUser:")),
        (["Hello\n", "\nUser: x"], ["\n\nUser:"], True, ("Hello\n\nUser:", "\n\nUser:")),
        (["Hello\n", "\nUse nothing"], ["\n\nUser:"], False, ("Hello\n\nUse nothing", None)),
        (["Hello\n", "\nUse"], ["\n\nUser:"], False, ("Hello", None)),
        (["abcd"], ["cd", "abcd"], False, ("", "abcd")),
        (["abcdef"], ["abcdef", "cd"], False, ("ab", "cd")),
        (["aaab"], ["aab"], False, ("a", "aab")),
        (["x"], [], False, ("x", None)),
    ],
)
def test_stop_strings(
    pieces: list[str], stops: list[str], include: bool, expected: tuple[str, str | None]
) -> None:
    checker = StopChecker(stops, include)
    emitted, matched = "", None
    for piece in pieces:
        text, matched = checker.push(piece)
        emitted += text
        if matched:
            break
    assert (emitted, matched) == expected


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    checker = StopChecker(["END"])
    assert checker.push("the E") == ("the ", None)
    assert checker.push("N") == ("", None)
    assert checker.push("orm") == ("ENorm", None)
    assert checker.push("END") == ("", "END")
