"""Memory of a GPU under load: never more than was allowed, and who asks for too much fails alone."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.app.config import EngineConfig
from octavo.app.errors import StartupError
from octavo.app.launch import Launched, launch
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason, Request, TokenOutput

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GIB = 1 << 30
VOCAB_SIZE = 50_000
HF_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16_384,
    "eos_token_id": 2,
}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[str]:
    """A directory; what an engine of it set for this process is undone."""
    (tmp_path / "config.json").write_text(json.dumps(HF_CONFIG))
    yield str(tmp_path)
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


def settings(model: str, **others: Any) -> EngineConfig:
    return EngineConfig(
        model=model,
        load_format="dummy",
        device="cuda",
        skip_tokenizer_init=True,
        max_queued_requests=None,
        **others,
    )


def request(name: str, num_prompt: int, max_tokens: int, **params: Any) -> Request:
    rng = random.Random(name)
    return Request(
        request_id=name,
        prompt_token_ids=[rng.randrange(VOCAB_SIZE) for _ in range(num_prompt)],
        params=SamplingParams(**({"ignore_eos": True} | params)),
        max_tokens=max_tokens,
    )


async def last_output(launched: Launched, asked: Request) -> TokenOutput:
    stream = launched.engine.submit(asked)
    while True:
        outputs = await stream.next()
        if outputs[-1].finish_reason is not None:
            return outputs[-1]


def test_no_load_takes_more_than_the_share_that_was_allowed(model: str) -> None:
    """Full steps, log-probabilities of everything, every kind of sampling; graphs included."""
    utilization = 0.2
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9, "top_p": 0.9, "presence_penalty": 0.5},
        {"temperature": 0.7, "logprobs": 20},
        {"temperature": 0, "prompt_logprobs": 20},
    ]

    async def main() -> tuple[int, int]:
        launched = await launch(settings(model, gpu_memory_utilization=utilization, max_num_seqs=256))
        others_bytes = launched.ledger.others_bytes
        rng = random.Random(5)
        asked = [
            request(str(i), rng.choice([5, 300, 3000, 9000]), rng.randrange(1, 60), **kinds[i % len(kinds)])
            for i in range(600)
        ]
        ends = await asyncio.gather(*(last_output(launched, one) for one in asked))
        assert {end.finish_reason for end in ends} == {FinishReason.LENGTH}
        free, total = torch.cuda.mem_get_info()
        driver_bytes = total - free - torch.cuda.memory_reserved()
        if "PYTEST_XDIST_WORKER" in os.environ:  # other tests have memory of their own
            driver_bytes = others_bytes
        peak_bytes = driver_bytes + torch.cuda.max_memory_reserved()
        assert torch.cuda.memory_stats()["num_alloc_retries"] == 0, "memory was short"
        await launched.close()
        return peak_bytes, total

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    peak_bytes, total_bytes = asyncio.run(main())
    assert peak_bytes <= utilization * total_bytes
    assert peak_bytes > 0.9 * utilization * total_bytes, "most of what was allowed lies idle"


def test_a_prompt_whose_logprobs_do_not_fit_fails_alone(model: str) -> None:
    async def main() -> None:
        launched = await launch(settings(model, kv_cache_memory_bytes=GIB, max_num_seqs=64))
        torch.cuda.empty_cache()
        total_bytes = torch.cuda.mem_get_info()[1]
        little = (torch.cuda.memory_reserved() + (24 << 20)) / total_bytes
        torch.cuda.set_per_process_memory_fraction(little, 0)
        small = [request(f"small {i}", 20, 40, temperature=0) for i in range(4)]
        large = request("large", 8000, 4, temperature=0, prompt_logprobs=5)
        *ends, lost = await asyncio.gather(*(last_output(launched, one) for one in (*small, large)))
        assert [end.finish_reason for end in ends] == [FinishReason.LENGTH] * 4
        assert lost.finish_reason is FinishReason.ERROR
        assert "out of memory at this request" in (lost.error or "")
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
        again = await last_output(launched, request("again", 8000, 4, temperature=0, prompt_logprobs=5))
        assert again.finish_reason is FinishReason.LENGTH
        stats = launched.engine.stats()
        assert stats.num_running == 0 and stats.kv_usage == 0
        await launched.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("others", "flag"),
    [
        ({"kv_cache_memory_bytes": 1000 * GIB}, "--kv-cache-memory-bytes"),
        ({"num_gpu_blocks_override": 1 << 30}, "--num-gpu-blocks-override"),
        ({"gpu_memory_utilization": 0.001}, "--gpu-memory-utilization"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_to_change(
    model: str, others: dict[str, Any], flag: str
) -> None:
    with pytest.raises(StartupError) as refusal:
        asyncio.run(launch(settings(model, **others)))
    assert flag in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_cache_hardly_smaller_than_the_refusal_allows_starts(model: str) -> None:
    """The refusal reckons, the start measures: what the sentence names is right within a tenth."""
    with pytest.raises(StartupError) as refusal:
        asyncio.run(launch(settings(model, num_gpu_blocks_override=1 << 30)))
    allowed = int(str(refusal.value).rpartition(" ")[2])

    async def main() -> None:
        launched = await launch(settings(model, num_gpu_blocks_override=allowed * 9 // 10))
        end = await last_output(launched, request("one", 100, 5, temperature=0))
        assert end.finish_reason is FinishReason.LENGTH
        await launched.close()

    asyncio.run(main())
