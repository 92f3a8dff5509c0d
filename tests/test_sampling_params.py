"""Settings of one request: what is taken, what is refused and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.model.sampling_params import MAX_BIASES, SamplingParams


def test_none_means_no_stops_as_in_vllm() -> None:
    given: Any = None  # which the annotations do not say, since nobody who reads the fields finds it there
    params = SamplingParams(stop=given, stop_token_ids=given)
    assert (params.stop, params.stop_token_ids) == ((), ())
    assert params == SamplingParams()


def test_lists_become_tuples_and_one_string_is_one_stop() -> None:
    params = SamplingParams(stop="ab", stop_token_ids=[1, 2])
    assert (params.stop, params.stop_token_ids) == (("ab",), (1, 2))


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (1e-6, True), (1e-5, False), (0.7, False)])
def test_a_tiny_temperature_is_greedy(temperature: float, greedy: bool) -> None:
    params = SamplingParams(temperature=temperature)
    assert params.greedy is greedy
    assert params.temperature == (0 if greedy else temperature)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("n", 2.0, "an integer"),
        ("n", True, "an integer"),
        ("n", 0, "at least 1"),
        ("top_k", 2.5, "an integer"),
        ("top_k", -2, "-1 (off), 0 (off) or positive"),
        ("min_tokens", 1.0, "an integer"),
        ("min_tokens", -1, "in [0, 2147483647)"),
        ("max_tokens", 2.5, "an integer or None"),
        ("max_tokens", "16", "an integer or None"),
        ("max_tokens", 0, "at least 1"),
        ("seed", 1.5, "an integer or None"),
        ("seed", 2**63, "a signed 64-bit integer"),
        ("logprobs", True, "an integer or None"),
        ("logprobs", -2, "-1 (all tokens) or not negative"),
        ("temperature", "hot", "a finite number"),
        ("temperature", None, "a finite number"),
        ("temperature", float("nan"), "a finite number"),
        ("temperature", -1e-6, "in [0, 2]"),
        ("top_p", True, "a finite number"),
        ("top_p", 0.0, "in (0, 1]"),
        ("min_p", 1.5, "in [0, 1]"),
        ("repetition_penalty", 0.001, "in [0.01, 100]"),
        ("repetition_penalty", 1e30, "in [0.01, 100]"),
        ("presence_penalty", float("inf"), "a finite number"),
        ("frequency_penalty", 3, "in [-2, 2]"),
        ("ignore_eos", 1, "True or False"),
        ("detokenize", None, "True or False"),
        ("stop", 5, "a string or a list of strings"),
        ("stop", ["a", 5], "a string or a list of strings"),
        ("stop", {"a"}, "a string or a list of strings"),
        ("stop", [""], "made of non-empty strings"),
        ("stop_token_ids", [1.0], "a list of integers"),
        ("stop_token_ids", "12", "a list of integers"),
        ("stop_token_ids", [-1], "token ids, which are not negative"),
        ("logit_bias", [1], "a mapping from token ids to numbers"),
        ("logit_bias", {"1": 1.0}, "keyed by token ids, which are integers"),
        ("logit_bias", {-1: 1.0}, "keyed by token ids, which are not negative"),
        ("logit_bias", {1: "a"}, "made of finite numbers"),
        ("logit_bias", {1: 101}, "in [-100, 100]"),
    ],
)
def test_a_refusal_names_field_rule_and_value(field: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError) as caught:
        SamplingParams(**{field: value})
    assert str(caught.value).startswith(f"{field} must be {rule}, got ")


def test_min_tokens_fits_the_device_and_max_tokens() -> None:
    assert SamplingParams(min_tokens=2**31 - 2, max_tokens=None).min_tokens == 2**31 - 2
    with pytest.raises(ValueError, match="min_tokens must be in "):
        SamplingParams(min_tokens=2**31 - 1, max_tokens=None)
    with pytest.raises(ValueError, match=r"min_tokens must be at most max_tokens \(3\), got 4"):
        SamplingParams(min_tokens=4, max_tokens=3)


def test_stops_and_biases_share_their_room() -> None:
    ids = list(range(MAX_BIASES - 32))
    assert len(SamplingParams(stop_token_ids=ids[:-1], logit_bias={0: 1.0}).stop_token_ids) == 991
    with pytest.raises(ValueError, match="logit_bias must be at most 0 entries"):
        SamplingParams(stop_token_ids=ids, logit_bias={0: 1.0})
    with pytest.raises(ValueError, match="stop_token_ids must be at most 992 ids"):
        SamplingParams(stop_token_ids=[*ids, 0])


def test_a_stop_string_needs_text() -> None:
    with pytest.raises(ValueError, match="stop must be empty when detokenize is off"):
        SamplingParams(stop="a", detokenize=False)
