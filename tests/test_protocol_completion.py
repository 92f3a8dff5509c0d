"""Completion requests: prompts in four forms, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.app.errors import RequestError
from octavo.app.protocol_completion import (
    COMPLETION_REFUSED,
    CompletionRequest,
    read_completion,
    read_prompts,
)


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_four_forms_of_prompts(prompt: Any, expected: list[Any]) -> None:
    assert read_prompts(prompt) == expected


@pytest.mark.parametrize(
    "prompt, param, rule",
    [
        ("", "prompt", "must not be empty"),
        ([], "prompt", "must not be empty, got []"),
        (["a", ""], "prompt[1]", "must not be empty"),
        ([[1], []], "prompt[1]", "must not be empty"),
        ([""], "prompt[0]", "must not be empty"),
        (5, "prompt", "must be a string, a list of strings"),
        ({}, "prompt", "must be a string, a list of strings"),
        (["a", 1], "prompt[1]", "must be a string, got 1"),
        ([1, "a"], "prompt[1]", 'must be an integer, got "a"'),
        ([1.5], "prompt[0]", "must be an integer, got 1.5"),
        ([[1], ["a"]], "prompt[1][0]", 'must be an integer, got "a"'),
        ([None], "prompt[0]", "must be an integer, got null"),
    ],
)
def test_bad_prompts_name_the_place(prompt: Any, param: str, rule: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_prompts(prompt)
    assert caught.value.param == param
    assert rule in caught.value.message


def test_defaults() -> None:
    request = read_completion({"prompt": "a"}).request
    assert (request.max_tokens, request.logprobs, request.echo, request.add_special_tokens) == (
        16,
        None,
        False,
        True,
    )


def test_prompt_is_required() -> None:
    with pytest.raises(RequestError, match="^prompt is required$"):
        read_completion({"max_tokens": 4})


@pytest.mark.parametrize("fields", [{"logprobs": 21}, {"logprobs": -1}])
def test_logprobs_out_of_range(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        read_completion({"prompt": "a", **fields})
    assert caught.value.param == "logprobs"


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, None),
        ({"logprobs": 3}, None),
        ({"logprobs": 3, "echo": True}, 3),
        ({"logprobs": 3, "echo": True, "prompt_logprobs": 1}, 1),
        ({"prompt_logprobs": 0}, 0),
    ],
)
def test_prompt_logprobs_are_asked_for_by_name_or_by_echo(
    fields: dict[str, Any], expected: int | None
) -> None:
    assert read_completion({"prompt": "a", **fields}).request.num_prompt_logprobs == expected


@pytest.mark.parametrize("field", sorted(COMPLETION_REFUSED))
def test_known_fields_that_do_nothing_here_are_refused_by_name(field: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_completion({"prompt": "a", field: {"anything": "else"}})
    assert (caught.value.param, caught.value.status) == (field, 400)
    assert field not in CompletionRequest.__struct_fields__
