"""`deterministic`: tokens and their log-probabilities are the same to the last bit, however computed.

Alone, in a batch of 256, by graphs or kernel by kernel, in chunks of any size, prompts cold or in the prefix
cache, preempted. bfloat16, random models. Needs a GPU and about a minute.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from octavo import LLM, SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

COMMON: dict[str, Any] = {
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 3,
    "intermediate_size": 1216,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama, 3 heads a group": LlamaConfig(
        **COMMON, hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_dim=64
    ),
    "qwen2, 6 heads a group": Qwen2Config(
        **COMMON, hidden_size=1536, num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True
    ),
    "mistral, window": MistralConfig(
        **COMMON,
        hidden_size=512,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=128,
        sliding_window=40,
    ),
}
MODES: dict[str, dict[str, Any]] = {
    "graphs": {},
    "kernel by kernel": {"enforce_eager": True},
    "chunks of 48": {"max_num_batched_tokens": 48, "max_num_seqs": 40},
    "starved": {"num_gpu_blocks_override": 90, "max_model_len": 768},
}
Answer = tuple[list[int], list[float]]


def prompts() -> list[list[int]]:
    """256, of 1 to 600 tokens, some of which begin alike."""
    rng = random.Random(1)
    shared = [rng.randrange(1000) for _ in range(200)]
    made = []
    for number in range(256):
        own = [rng.randrange(1000) for _ in range(rng.choice([1, 2, 7, 16, 17, 33, 64, 129, 300, 400]))]
        made.append(shared[: rng.randrange(200)] + own if number % 4 == 0 else own)
    return made


def params(number: int) -> SamplingParams:
    """Greedy and drawn ones in turn; every token's log-probability tells of the logits' bits."""
    return SamplingParams(
        temperature=(number % 2) * 0.9,
        top_p=0.9,
        seed=number,
        max_tokens=16,
        ignore_eos=True,
        logprobs=0,
    )


def answers(llm: LLM, asked: list[int]) -> list[Answer]:
    requests = [{"prompt_token_ids": prompts()[number]} for number in asked]
    outputs = llm.generate(requests, [params(number) for number in asked], use_tqdm=False)
    told = []
    for output in outputs:
        answer = output.outputs[0]
        assert answer.logprobs is not None
        tokens = list(answer.token_ids)
        told.append((tokens, [at[token].logprob for at, token in zip(answer.logprobs, tokens, strict=True)]))
    return told


@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_to_an_answer_gives_the_same_bits(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    everyone, some = list(range(256)), list(range(0, 256, 17))
    common = {
        "device": "cuda",
        "skip_tokenizer_init": True,
        "gpu_memory_utilization": 0.3,
        "deterministic": True,
    }
    alone: list[Answer] = []
    for name, settings in MODES.items():
        with LLM(str(tmp_path), **common, **settings) as llm:
            if not alone:
                alone = [answers(llm, [number])[0] for number in some]
            for cache in ("cold" if name != "graphs" else "partly warm", "warm"):
                together = answers(llm, everyone)
                assert [together[number] for number in some] == alone, f"{name}, cache {cache}"
