"""Log-probabilities of the demo model are Transformers' log-softmax: of answers, and of prompts in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from octavo import LLM, RequestOutput, SamplingParams
from octavo.app.demo import demo_model

PROMPTS = ["The capital of France is", "def fibonacci(n):\n    if n < 2:\n", "Überall grüßen 🙂 Grüße"]
TOLERANCE = 2e-3
"""Two float32 computations that sum in different orders; logits are in the tens."""


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    settings: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_model_len": 256}
    chunks: dict[str, Any] = {"max_num_batched_tokens": 5, "max_num_seqs": 4}
    with LLM("demo", num_gpu_blocks_override=256, **chunks, **settings) as llm:
        yield llm


@pytest.fixture(scope="module")
def answers(llm: LLM) -> list[RequestOutput]:
    params = SamplingParams(seed=3, max_tokens=8, logprobs=20, prompt_logprobs=4, logit_bias={9: 3})
    return llm.generate(PROMPTS, params, use_tqdm=False)


@pytest.fixture(scope="module")
def expected(answers: list[RequestOutput]) -> list[torch.Tensor]:
    """Per answer, [tokens - 1, vocab]: of every token but the first, given those before it."""
    path = demo_model()
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    texts = [[*answer.prompt_token_ids, *answer.outputs[0].token_ids] for answer in answers]
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1) for ids in texts]


def test_of_answers(answers: list[RequestOutput], expected: list[torch.Tensor]) -> None:
    for answer, all_logprobs in zip(answers, expected, strict=True):
        completion = answer.outputs[0]
        assert completion.logprobs is not None
        reference = all_logprobs[len(answer.prompt_token_ids) - 1 :]
        for token, position, logprobs in zip(
            completion.token_ids, completion.logprobs, reference, strict=True
        ):
            assert position[token].logprob == pytest.approx(logprobs[token].item(), abs=TOLERANCE)
            best = logprobs.topk(20)
            likeliest = [entry.logprob for entry in position.values() if (entry.rank or 0) <= 20][-20:]
            assert sorted(likeliest, reverse=True) == pytest.approx(best.values.tolist(), abs=TOLERANCE)
            for other, entry in position.items():
                assert entry.logprob == pytest.approx(logprobs[other].item(), abs=TOLERANCE)


def test_of_prompts(answers: list[RequestOutput], expected: list[torch.Tensor]) -> None:
    for answer, all_logprobs in zip(answers, expected, strict=True):
        ids, told = answer.prompt_token_ids, answer.prompt_logprobs
        assert told is not None and len(told) == len(ids) and told[0] is None
        for token, position, logprobs in zip(ids[1:], told[1:], all_logprobs, strict=False):
            assert position is not None
            assert position[token].logprob == pytest.approx(logprobs[token].item(), abs=TOLERANCE)
            assert abs((position[token].rank or 0) - int((logprobs > logprobs[token]).sum()) - 1) <= 1
            assert {*logprobs.topk(3).indices.tolist()} <= {*position}
            for other, entry in position.items():
                assert entry.logprob == pytest.approx(logprobs[other].item(), abs=TOLERANCE)


def test_a_warm_cache_is_not_read_but_filled(llm: LLM) -> None:
    prompt = {"prompt_token_ids": list(range(100, 150))}
    plain, asking = SamplingParams(max_tokens=1), SamplingParams(max_tokens=1, prompt_logprobs=0)
    assert llm.generate([prompt], asking, use_tqdm=False)[0].num_cached_tokens == 0
    (warm,) = llm.generate([prompt], plain, use_tqdm=False)
    (asked,) = llm.generate([prompt], asking, use_tqdm=False)
    assert (warm.num_cached_tokens, asked.num_cached_tokens) == (48, 0)
    assert asked.prompt_logprobs is not None and len(asked.prompt_logprobs) == 50
    skipping = SamplingParams(max_tokens=1, skip_reading_prefix_cache=True)
    assert llm.generate([prompt], skipping, use_tqdm=False)[0].num_cached_tokens == 0
