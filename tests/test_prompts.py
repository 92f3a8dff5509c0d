"""The forms in which prompts may be given."""

from __future__ import annotations

from typing import Any

import pytest
from http_harness import byte_tokenizer

from octavo.app.prompts import Prompt, PromptInput, parse_prompts

TOKENIZER = byte_tokenizer()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ab", [Prompt("ab", [97, 98])]),
        (["ab", "c"], [Prompt("ab", [97, 98]), Prompt("c", [99])]),
        ([97, 98], [Prompt(None, [97, 98])]),
        ((97, 98), [Prompt(None, (97, 98))]),
        ([[97], [98]], [Prompt(None, [97]), Prompt(None, [98])]),
        ({"prompt": "a", "cache_salt": "s"}, [Prompt("a", [97], "s")]),
        ({"prompt": "shown", "prompt_token_ids": [1]}, [Prompt("shown", [1])]),
        (["a", {"prompt_token_ids": [1]}, [2]], [Prompt("a", [97]), Prompt(None, [1]), Prompt(None, [2])]),
        ("", [Prompt("", [])]),
        ([], []),
    ],
)
def test_every_form(given: Any, expected: list[Prompt]) -> None:
    assert parse_prompts(given, TOKENIZER) == expected


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (3, TypeError, "prompts must be text, token ids, a dict or a list of these, got 3"),
        (["a", None], TypeError, "prompts[1] must be text, token ids or a dict, got None"),
        ([{"prompts": "a"}], ValueError, "prompts[0] must hold only cache_salt, prompt, prompt_token_ids"),
        ({}, ValueError, "prompt must hold prompt (text) or prompt_token_ids"),
        ({"prompt": 3}, ValueError, "got {'prompt': 3}"),
        ({"prompt_token_ids": []}, TypeError, "as a list of integers, got []"),
        ({"prompt_token_ids": [1.5]}, TypeError, "as a list of integers"),
        ({"prompt_token_ids": [True]}, TypeError, "as a list of integers"),
        ("\ud800", ValueError, "lone surrogate"),
        ([1, 2.5], ValueError, "prompt must hold integers only, got 2.5"),
        (["a", [1, True]], ValueError, "prompts[1] must hold integers only, got True"),
        ({"prompt_token_ids": [1, "2"]}, ValueError, "prompt_token_ids must hold integers only, got '2'"),
        ({"prompt": "a", "cache_salt": 5}, ValueError, "cache_salt must be a string, got 5"),
        ({"prompt": "a", "cache_salt": b"s"}, ValueError, "cache_salt must be a string"),
        (
            [[1], {"prompt": "a", "cache_salt": "x\udfff"}],
            ValueError,
            "prompts[1]'s cache_salt must be valid",
        ),
    ],
)
def test_what_is_refused(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        parse_prompts(given, TOKENIZER)
    assert words in str(caught.value)


def test_text_needs_a_tokenizer_and_ids_do_not() -> None:
    assert parse_prompts([[1]], None) == [Prompt(None, [1])]
    mixed: list[PromptInput] = [[1], "a"]
    with pytest.raises(ValueError, match=r"prompts\[1\] must be token ids: there is no tokenizer"):
        parse_prompts(mixed, None)
