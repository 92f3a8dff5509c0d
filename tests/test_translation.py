"""Errors on their way back to a client that never wrote a chat request."""

from __future__ import annotations

import pytest

from octavo.app.errors import RequestError
from octavo.app.translation import Translation, passed_on

TRANSLATION = Translation(
    chat={},
    names={"messages": "input", "stop": "stop_sequences"},
    places=["instructions", "input[0]", "input[4]"],
    ignored=(),
)


@pytest.mark.parametrize(
    "param, message, expected",
    [
        ("messages", "messages must end", ("input", "input must end")),
        ("messages[2].content[1]", "messages[2].content[1] is odd", ("input[4].content[1]",) * 1),
        ("messages[0].role", "messages[0].role is odd", ("instructions.role", "instructions.role is odd")),
        ("stop", "stop_token_ids beside stop", ("stop_sequences", "stop_token_ids beside stop_sequences")),
        ("seed", "seed must be whole", ("seed", "seed must be whole")),
        (None, "messages are fine", (None, "messages are fine")),
    ],
)
def test_names_are_the_clients(param: str | None, message: str, expected: tuple[str | None, ...]) -> None:
    error = TRANSLATION.clients(RequestError(message, param=param))
    assert (error.param, error.message)[: len(expected)] == expected


def test_only_fields_of_one_meaning_are_passed_on() -> None:
    assert passed_on({"seed": 1, "n": 2, "stop": "x", "stream": True}) == {"seed": 1, "stream": True}
