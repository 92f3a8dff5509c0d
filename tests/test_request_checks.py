"""Words and tokens that an answer may not have, with the demo model: what is refused does not come."""

from __future__ import annotations

from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.app.errors import RequestError
from octavo.app.request_checks import token_limits

PROMPT = "The capital of France is"


@pytest.fixture(name="llm")
def _llm(demo_llm: LLM) -> LLM:
    return demo_llm


def text(llm: LLM, **settings: Any) -> str:
    params = SamplingParams(**({"temperature": 0, "max_tokens": 12, "ignore_eos": True} | settings))
    return llm.generate([PROMPT], params, use_tqdm=False)[0].outputs[0].text


def test_bad_words_do_not_come_about(llm: LLM) -> None:
    plain = text(llm)
    said = plain.split()
    assert "Paris" in plain and len(said) >= 4
    for bad in (["Paris"], said[:3], ["Paris", " " + said[3]], [" ".join(said[2:4])]):
        other = text(llm, bad_words=bad)
        assert not [word for word in bad if word.strip() in other], (bad, other)
        assert other.strip()


def test_only_allowed_tokens_come(llm: LLM) -> None:
    """More of them than logit_bias takes, greedy and drawn, alone and in a batch with others."""
    allowed = list(range(100, 40_000, 7))
    params = [
        SamplingParams(temperature=0, max_tokens=8, allowed_token_ids=allowed),
        SamplingParams(temperature=0, max_tokens=8, ignore_eos=True),
        SamplingParams(seed=1, max_tokens=8, allowed_token_ids=[500, 600], logprobs=1),
    ]
    tokens = [out.outputs[0].token_ids for out in llm.generate([PROMPT] * 3, params, use_tqdm=False)]
    assert set(tokens[0]) <= set(allowed)
    assert not set(tokens[1]) <= set(allowed)
    assert set(tokens[2]) <= {500, 600}
    assert tokens[1] == llm.generate([PROMPT], params[1], use_tqdm=False)[0].outputs[0].token_ids


def test_beside_a_grammar(llm: LLM) -> None:
    from octavo import StructuredOutputsParams

    choice = StructuredOutputsParams(choice=["Paris", "London", "Rome"])
    assert text(llm, structured_outputs=choice, ignore_eos=False) == "Paris"
    bad = ["Paris", "P", "Par"]
    assert text(llm, structured_outputs=choice, ignore_eos=False, bad_words=bad) in ("London", "Rome")


def test_words_are_spelled_alone_and_after_a_space(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    assert tokenizer is not None
    limits = token_limits(SamplingParams(bad_words=["Paris"]), tokenizer, 50_000)
    assert limits is not None and limits.allowed is None
    assert [tokenizer.decode(ids) for ids in limits.banned] == ["Paris", " Paris"]
    assert token_limits(SamplingParams(), tokenizer, 50_000) is None


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
    ],
)
def test_what_the_model_does_not_have(llm: LLM, settings: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        text(llm, **settings)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids must be a list of integers, not empty"),
        ({"allowed_token_ids": ["a"]}, "allowed_token_ids must be a list of integers"),
        ({"bad_words": [" "]}, "bad_words must be a list of strings, none of them blank"),
        ({"bad_words": "Paris"}, "bad_words must be a list of strings"),
    ],
)
def test_what_is_no_limit(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SamplingParams(**settings)
