"""The demo model, float32, greedy: tokens are those of Transformers, in every mode that must not change them.

The reference is the `transformers` library on its own reading of the same file, one prompt at a time and
without padding. Its greedy continuation is found as speculative decoding finds it: one forward pass over a
prompt and a draft tells what `generate` would have chosen up to the first token where the draft is wrong. The
draft is ours; a wrong one leaves an answer of few certain tokens, which is a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from prompts import PROMPTS
from transformers import AutoModelForCausalLM

from octavo import LLM, RequestOutput, SamplingParams
from octavo.app.demo import demo_model

NUM_TOKENS = 24
TIE = 1e-4
"""Two float32 computations in different orders may rank logits that are nearer than this differently."""


@dataclass(frozen=True)
class Answer:
    """What Transformers says to one prompt.

    num_certain: leading tokens that follow from tokens of its own and are chosen by more than a tie.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    num_certain: int


@pytest.fixture(scope="module")
def demo() -> Path:
    return demo_model()


@pytest.fixture(scope="module")
def answers(demo: Path) -> list[Answer]:
    """To every prompt; whether token ids are those of its text is test_gguf_tokenizer's business."""
    with engine(demo) as llm:
        tokenizer = llm.get_tokenizer()
        assert tokenizer is not None
        prompts = [tokenizer.encode(text) for text in PROMPTS]
        drafts = [list(output.outputs[0].token_ids) for output in complete(llm, prompts)]
    model: Any = AutoModelForCausalLM.from_pretrained(demo.parent, gguf_file=demo.name, dtype=torch.float32)
    return [reference(model, ids, draft) for ids, draft in zip(prompts, drafts, strict=True)]


def reference(model: Any, ids: list[int], draft: list[int]) -> Answer:
    with torch.inference_mode():
        logits = model(torch.tensor([ids + draft[:-1]]), logits_to_keep=len(draft)).logits[0]
    best = logits.topk(2)
    tokens = best.indices[:, 0].tolist()
    ties = (best.values[:, 0] - best.values[:, 1] < TIE).tolist()
    return Answer(ids, tokens, num_certain(tokens, ties, draft))


def num_certain(tokens: list[int], ties: list[bool], draft: list[int]) -> int:
    for i, token in enumerate(tokens):
        if ties[i]:
            return i
        if token != draft[i]:  # what Transformers says next follows from a token that it would not have said
            return i + 1
    return len(tokens)


def engine(demo: Path, **settings: Any) -> LLM:
    roomy = {"num_gpu_blocks_override": 1024, "max_model_len": 1024, "max_num_seqs": 64}
    return LLM(str(demo), **{"dtype": "float32", "device": "cpu", **roomy, **settings})


def complete(llm: LLM, prompts: Sequence[list[int]]) -> list[RequestOutput]:
    greedy = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    return llm.generate([{"prompt_token_ids": ids} for ids in prompts], greedy, use_tqdm=False)


def assert_same(outputs: Sequence[RequestOutput], answers: Sequence[Answer]) -> None:
    """Every token up to an answer's first tie is the reference's; after a tie both are right to differ."""
    wrong = []
    for output, answer in zip(outputs, answers, strict=True):
        tokens = list(output.outputs[0].token_ids)
        assert len(tokens) == NUM_TOKENS
        if tokens[: answer.num_certain] != answer.token_ids[: answer.num_certain]:
            wrong.append((answer.prompt_token_ids[-8:], tokens, answer.token_ids))
    assert not wrong


def test_reference_covers_much_and_ties_are_rare(answers: list[Answer]) -> None:
    lengths = [len(answer.prompt_token_ids) for answer in answers]
    assert len(answers) >= 40
    assert min(lengths) == 1
    assert max(lengths) >= 650
    assert sum(answer.num_certain < NUM_TOKENS for answer in answers) <= 2


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"max_num_batched_tokens": 16, "max_num_seqs": 16}, id="chunks of 16"),
        pytest.param({"max_num_batched_tokens": 64}, id="chunks of 64"),
        pytest.param({"enable_chunked_prefill": False}, id="chunking off"),
        pytest.param({"enable_prefix_caching": False, "block_size": 8}, id="no prefix cache, blocks of 8"),
        pytest.param({"overlap": False}, id="overlap off"),
        pytest.param({"max_num_seqs": 3}, id="three at a time"),
    ],
)
def test_mode_does_not_change_the_answer(demo: Path, answers: list[Answer], settings: dict[str, Any]) -> None:
    with engine(demo, **settings) as llm:
        assert_same(complete(llm, [answer.prompt_token_ids for answer in answers]), answers)


def test_prefix_cache_cold_and_warm(demo: Path, answers: list[Answer]) -> None:
    prompts = [answer.prompt_token_ids for answer in answers]
    with engine(demo) as llm:
        assert_same(complete(llm, prompts), answers)
        warm = complete(llm, prompts)
    assert_same(warm, answers)
    # Every full block but the one of the last token, which must be computed to give logits.
    assert [out.num_cached_tokens for out in warm] == [(len(ids) - 1) // 16 * 16 for ids in prompts]


def test_preemption_does_not_change_the_answer(demo: Path, answers: list[Answer]) -> None:
    with engine(demo, num_gpu_blocks_override=64) as llm:
        outputs = complete(llm, [answer.prompt_token_ids for answer in answers])
    assert_same(outputs, answers)
    assert sum(output.metrics.num_preemptions for output in outputs if output.metrics) > 0


def test_batch_mates_do_not_change_the_answer(demo: Path, answers: list[Answer]) -> None:
    """Beside sampled neighbours of other lengths, and in the opposite order."""
    greedy = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    prompts, params = [], []
    for answer in reversed(answers):
        prompts += [{"prompt_token_ids": answer.prompt_token_ids}, {"prompt_token_ids": answer.token_ids}]
        params += [greedy, SamplingParams(temperature=1.5, max_tokens=7 + len(prompts) % 13, top_p=0.9)]
    with engine(demo) as llm:
        outputs = llm.generate(prompts, params, use_tqdm=False)
    assert_same(outputs[-2::-2], answers)


def test_alone(demo: Path, answers: list[Answer]) -> None:
    some = answers[::6]
    with engine(demo) as llm:
        outputs = [complete(llm, [answer.prompt_token_ids])[0] for answer in some]
    assert_same(outputs, some)
