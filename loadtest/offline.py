"""Offline throughput of `LLM.generate` on the workloads of docs/performance.md, as one table.

    python loadtest/offline.py --model tests/data/models/qwen2.5-1.5b

Random weights, token-id prompts, forced output lengths. The columns beside ours are for one H100 80 GB: vLLM
0.24's measured figure, the limit of a perfect scheduler, what we must and what we aim to reach.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo import LLM, SamplingParams

SHAREGPT_LENGTHS = Path(__file__).parent.parent / "tests" / "data" / "sharegpt_lengths.json"
Lengths = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Workload:
    """requests: (input, output) lengths in tokens.   count_prompt: the figure counts prompt tokens."""

    name: str
    requests: Callable[[], Lengths]
    count_prompt: bool = False


def _ragged() -> Lengths:
    rng = random.Random(0)
    return [(rng.randint(100, 1024), rng.randint(100, 1024)) for _ in range(256)]


def _sharegpt() -> Lengths:
    return [(a, b) for a, b in json.loads(SHAREGPT_LENGTHS.read_text())[:1000]]


WORKLOADS = {
    "bs1": Workload("1 x (128, 256)", lambda: [(128, 256)]),
    "bs32": Workload("32 x (512, 256)", lambda: [(512, 256)] * 32),
    "bs256": Workload("256 x (512, 256)", lambda: [(512, 256)] * 256),
    "ragged": Workload("256 x (100-1024, 100-1024)", _ragged),
    "sharegpt": Workload("first 1,000 ShareGPT lengths", _sharegpt),
    "prefill": Workload("16 x (8192, 1), prompt tok/s", lambda: [(8192, 1)] * 16, count_prompt=True),
}

# vLLM 0.24, limit, must, aim; tokens per second on one H100 80 GB, by hidden size of the model.
REFERENCES = {
    1536: {
        "bs1": (440, 581, 560, 680),
        "bs32": (8340, 14100, 12500, 14500),
        "bs256": (22260, 41000, 34000, 40000),
        "ragged": (21550, 34700, 29000, 34000),
        "sharegpt": (13790, 37700, 28000, 35000),
        "prefill": (165000, 204000, 162000, 182000),
    },
    4096: {
        "bs1": (149, 173, 165, 174),
        "bs32": (3460, 3830, 3600, 3850),
        "bs256": (8980, 9220, 8900, 9250),
        "ragged": (8380, 8450, 8300, 8500),
        "sharegpt": (7220, 9620, 8400, 9500),
        "prefill": (38000, 41800, 36500, 39500),
    },
}
SAMPLED = {
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 50,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.05,
}


def measure(llm: LLM, lengths: Lengths, vocab_size: int, rng: random.Random, **sampling: Any) -> float:
    """Seconds that one batch takes, with prompts never seen before."""
    prompts = [{"prompt_token_ids": [rng.randrange(vocab_size) for _ in range(n)]} for n, _ in lengths]
    params = [
        SamplingParams(**({"temperature": 0.0} | sampling), max_tokens=m, ignore_eos=True, detokenize=False)
        for _, m in lengths
    ]
    began = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    elapsed = time.perf_counter() - began
    produced = [len(output.outputs[0].token_ids) for output in outputs]
    assert produced == [m for _, m in lengths], "an output is shorter or longer than was forced"
    return elapsed


def main() -> None:
    """Measure, print one line per workload, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="directory with a config.json")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument(
        "--rounds", type=int, default=2, help="measurements of each workload; the median counts"
    )
    parser.add_argument("--sampled", action="store_true", help="temperature, top-p, top-k and penalties on")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of LLM")
    arguments = parser.parse_args()
    settings = {name: json.loads(value) for name, value in (item.split("=", 1) for item in arguments.set)}
    config = json.loads((Path(arguments.model) / "config.json").read_text())
    references = REFERENCES.get(config["hidden_size"], {})
    rng = random.Random(1)
    began = time.perf_counter()
    llm = LLM(model=arguments.model, load_format="dummy", skip_tokenizer_init=True, **settings)
    print(f"{arguments.model}: ready in {time.perf_counter() - began:.1f} s", flush=True)
    measure(llm, [(64, 8)] * 4, config["vocab_size"], rng)
    print(f"{'workload':32}{'octavo':>10}{'vLLM':>10}{'limit':>10}{'must':>10}{'aim':>10}   rounds")
    figures: dict[str, list[float]] = {}
    for key in arguments.workloads:
        workload = WORKLOADS[key]
        lengths = workload.requests()
        tokens = sum(n if workload.count_prompt else m for n, m in lengths)
        sampling = SAMPLED if arguments.sampled else {}
        rounds = [
            tokens / measure(llm, lengths, config["vocab_size"], rng, **sampling)
            for _ in range(arguments.rounds)
        ]
        figures[key] = rounds
        beside = "".join(f"{value:>10,}" for value in references.get(key, ())) or f"{'-':>10}" * 4
        spread = " ".join(f"{value:,.0f}" for value in rounds)
        print(f"{workload.name:32}{statistics.median(rounds):>10,.0f}{beside}   {spread}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))
    llm.close()


if __name__ == "__main__":
    main()
