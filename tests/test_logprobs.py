"""Log-probabilities in answers: half characters, running offsets, and numbers that JSON has not."""

from __future__ import annotations

from octavo.app.logprobs import CompletionLogprobs, chat_logprobs
from octavo.model.plan import TokenLogprobs


def test_logprobs_carry_bytes_of_half_characters() -> None:
    entry = TokenLogprobs(-0.25, 1, ((1, -0.25), (2, float("-inf"))))
    pieces = {1: "ü".encode()[:1], 2: b"x"}
    content = chat_logprobs([1], [entry], pieces.__getitem__)["content"]
    assert content == [
        {
            "token": "\ufffd",
            "logprob": -0.25,
            "bytes": [0xC3],
            "top_logprobs": [
                {"token": "\ufffd", "logprob": -0.25, "bytes": [0xC3]},
                {"token": "x", "logprob": -9999.0, "bytes": [0x78]},
            ],
        }
    ]


def test_nothing_comes_before_a_prompts_first_token() -> None:
    builder = CompletionLogprobs({1: b"ab", 2: b"c"}.__getitem__)
    assert builder.build([1, 2], [None, TokenLogprobs(-1.0, 1, ())]) == {
        "text_offset": [0, 2],
        "token_logprobs": [None, -1.0],
        "tokens": ["ab", "c"],
        "top_logprobs": [None, {"c": -1.0}],
    }


def test_offsets_run_through_all_chunks() -> None:
    pieces = {1: b"ab", 2: "ü".encode(), 3: b"c"}
    builder = CompletionLogprobs(pieces.__getitem__)
    first = builder.build([1], [TokenLogprobs(-1.0, 2, ((3, -0.5),))])
    second = builder.build(
        [2, 3], [TokenLogprobs(-2.0, 1, ()), TokenLogprobs(float("-inf"), 9, ((1, -3.0),))]
    )
    assert first == {
        "text_offset": [0],
        "token_logprobs": [-1.0],
        "tokens": ["ab"],
        "top_logprobs": [{"ab": -1.0, "c": -0.5}],
    }
    assert second == {
        "text_offset": [2, 3],
        "token_logprobs": [-2.0, -9999.0],
        "tokens": ["ü", "c"],
        "top_logprobs": [{"ü": -2.0}, {"c": -9999.0, "ab": -3.0}],
    }


def test_offsets_count_characters_that_are_whole() -> None:
    """Of the text as clients see it: tokens that are parts of a character stand where it stands."""
    pieces = {1: b"a", 2: b"\xe8\xaa", 3: b"\x9e", 4: b" b", 5: b"\xff"}
    builder = CompletionLogprobs(pieces.__getitem__)
    entry = TokenLogprobs(-1.0, 1, ())
    assert builder.build([1, 2], [entry, entry])["text_offset"] == [0, 1]
    assert builder.build([3, 4, 5, 1], [entry] * 4)["text_offset"] == [1, 2, 4, 5]
