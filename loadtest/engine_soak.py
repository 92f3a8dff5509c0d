"""An engine on its device under random load for so many seconds: no leaked block, no NaN, no growth.

    python loadtest/engine_soak.py --seconds 600 --device cuda --model tests/data/models/qwen2.5-1.5b

Requests arrive in bursts of random size, with random lengths and settings; some are aborted, and the KV cache
is so small that sequences are preempted. Without HTTP and tokenizer, which soak.py has. A few greedy requests
are asked again and again; how often their answers differ is told, no fault: sums depend on the batch.
Random weights; without `--model`, a model of two layers. Exit status 1 past a limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from soak import resident_bytes

from octavo.app.config import EngineConfig
from octavo.app.launch import Launched, launch
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason, Request

_SMALL_MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 1.0, "top_k": 50, "min_p": 0.02},
    {"temperature": 0.7, "presence_penalty": 0.5, "repetition_penalty": 1.1, "logprobs": 3},
    {"temperature": 0, "logit_bias": {5: 2.0}, "logprobs": 0},
    {"temperature": 0, "prompt_logprobs": 1},
)
_NUM_PROBES = 8
_ABORTED = 0.1
_SAMPLE_S = 2.0
_SLOPE_FROM = 0.4
"""Share of the run after which growth is looked at: caches and pools are full by then."""


class Soak:
    """What is asked, how it ended, and what memory did meanwhile."""

    def __init__(self, launched: Launched, max_open: int, seed: int) -> None:
        self.ends: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.memory: list[tuple[float, int, int]] = []
        self.num_tokens = 0
        self._launched = launched
        self._max_length = launched.model.max_model_len
        self._max_open = max_open
        self._random = random.Random(seed)
        self._answers: dict[int, Counter[tuple[int, ...]]] = {}
        self._open: set[asyncio.Task[None]] = set()
        self._numbers = iter(range(1 << 60))

    async def run(self, seconds: float) -> None:
        """Ask for so long, then wait for the last answers."""
        began_s = sampled_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + seconds:
            for _ in range(min(self._random.choice((1, 1, 2, 4, 40)), self._max_open - len(self._open))):
                task = asyncio.create_task(self._ask())
                self._open.add(task)
                task.add_done_callback(self._ended)
            if now_s > sampled_s + _SAMPLE_S:
                sampled_s = now_s
                self._sample(now_s - began_s)
            await asyncio.sleep(self._random.expovariate(1 / 0.02))
        await asyncio.gather(*self._open)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if error := task.exception():
            self.errors[repr(error)] += 1

    def _sample(self, at_s: float) -> None:
        device = torch.cuda.memory_reserved() if torch.cuda.is_available() else 0
        self.memory.append((at_s, resident_bytes(), device))
        print(
            f"{at_s:6.0f} s  {sum(self.ends.values()):>8} ended  {len(self._open):>4} open  "
            f"{self.memory[-1][1] / 2**20:8.1f} MiB here  {device / 2**20:8.1f} MiB on the device",
            file=sys.stderr,
            flush=True,
        )

    async def _ask(self) -> None:
        draw = self._random
        number = next(self._numbers)
        probe = draw.randrange(_NUM_PROBES) if draw.random() < 0.05 else None
        vocab_size = self._launched.model.vocab_size
        if probe is None:
            longest = self._max_length * 3 // 4
            longest = draw.choice((8, min(60, longest), min(300, longest), longest))
            num_prompt = draw.randint(1, longest)
            num_output = draw.randint(1, min(self._max_length // 2, self._max_length - num_prompt))
            prompt = [draw.randrange(vocab_size) for _ in range(num_prompt)]
            params = SamplingParams(**draw.choice(_SETTINGS), ignore_eos=draw.random() < 0.7)
        else:
            num_output = 24
            prompt = [random.Random(probe).randrange(vocab_size)] * (10 + 10 * probe)
            params = SamplingParams(temperature=0, ignore_eos=True)
        stream = self._launched.engine.submit(
            Request(
                request_id=str(number),
                prompt_token_ids=prompt,
                params=params,
                max_tokens=num_output,
                eos_token_ids=frozenset({7}),
            )
        )
        leaves_after = draw.randint(0, num_output) if draw.random() < _ABORTED and probe is None else None
        tokens: list[int] = []
        while True:
            outputs = await stream.next()
            tokens += [token for output in outputs for token in output.token_ids]
            last = outputs[-1]
            if last.finish_reason is not None:
                break
            if leaves_after is not None and len(tokens) >= leaves_after:
                stream.abort()
                self.ends["left"] += 1
                return
        self.num_tokens += len(tokens)
        self.ends[last.finish_reason.name.lower()] += 1
        if last.finish_reason is FinishReason.ERROR:
            self.errors[last.error or ""] += 1
        if last.finish_reason is FinishReason.LENGTH:
            assert len(tokens) == num_output, f"{len(tokens)} tokens of {num_output}"
        if probe is not None:
            self._answers.setdefault(probe, Counter())[tuple(tokens)] += 1

    def differing(self) -> float:
        """Share of the probes' answers that are not the most frequent one."""
        answers = [count for counts in self._answers.values() for count in counts.values()]
        usual = sum(max(counts.values()) for counts in self._answers.values())
        return 1 - usual / sum(answers) if answers else 0.0


def growth(memory: list[tuple[float, int, int]]) -> tuple[float, int]:
    """(bytes of this process per minute, by least squares; bytes of the device) over the later part."""
    late = memory[int(_SLOPE_FROM * len(memory)) :]
    if len(late) < 3:
        return 0.0, 0
    at_s, resident, device = np.array(late, float).T
    return 60 * float(np.polyfit(at_s, resident, 1)[0]), int(device[-1] - device[0])


async def soak(options: argparse.Namespace) -> dict[str, Any]:
    """A whole run."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_SMALL_MODEL))
        config = EngineConfig(
            model=options.model or folder,
            load_format="dummy",
            device=options.device,
            skip_tokenizer_init=True,
            max_queued_requests=None,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            num_gpu_blocks_override=options.num_blocks,
        )
        launched = await launch(config)
    load = Soak(launched, 2 * options.max_num_seqs, options.seed)
    began_s = time.monotonic()
    await load.run(options.seconds)
    took_s = time.monotonic() - began_s
    for _ in range(200):
        stats = launched.engine.stats()
        if not stats.num_running and not stats.num_waiting and not stats.kv_usage:
            break
        await asyncio.sleep(0.05)
    await launched.close()
    per_minute, device_growth = growth(load.memory)
    return {
        "seconds": round(took_s, 1),
        "ends": dict(load.ends),
        "errors": dict(load.errors),
        "tokens_per_s": round(load.num_tokens / took_s),
        "preemptions": stats.counters.num_preemptions,
        "not_finite": stats.counters.num_corrupted,
        "graph_steps": {"replayed": stats.graphs.replayed, "launched": stats.graphs.launched},
        "differing_answers": round(load.differing(), 4),
        "blocks_held": stats.num_blocks - stats.num_free_blocks - stats.num_evictable_blocks,
        "left": stats.num_running + stats.num_waiting,
        "growth_mib_per_minute": round(per_minute / 2**20, 3),
        "device_growth_mib": round(device_growth / 2**20, 1),
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--model", help="a directory with a config.json")
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--num-blocks", type=int, default=2000, help="of the KV cache; few of them preempt")
    parser.add_argument("--max-growth", type=float, default=4.0, help="MiB per minute of this process")
    parser.add_argument("--seed", type=int, default=0)
    seen = asyncio.run(soak(options := parser.parse_args()))
    print(json.dumps(seen, indent=1))
    faults = ("not_finite", "blocks_held", "left", "errors")
    grew = seen["growth_mib_per_minute"] > options.max_growth or seen["device_growth_mib"] > 64
    return 1 if grew or any(seen[name] for name in faults) else 0


if __name__ == "__main__":
    sys.exit(main())
