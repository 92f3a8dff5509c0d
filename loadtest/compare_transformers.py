"""octavo beside Transformers' `generate`, on a CPU: same file, same prompts, same threads, greedy, float32.

    .venv/bin/python loadtest/compare_transformers.py --rounds 5 --json compare.json

Each library has a child process of its own and waits while the other works. Rounds alternate, so that what
else the machine does meets both. Every prompt is new in every round: octavo's prefix cache finds nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Prompts = list[list[int]]
Complete = Callable[[Prompts, int], Prompts]
"""(prompts, tokens to generate for each) -> generated token ids."""


@dataclass(frozen=True)
class Case:
    """num_prompts prompts of prompt_len tokens; octavo gets them at once, Transformers one by one."""

    name: str
    num_prompts: int
    prompt_len: int
    output_len: int

    def prompts(self, seed: int) -> Prompts:
        """Token ids that are ordinary text pieces of every vocabulary in question, drawn at random."""
        rng = random.Random(f"{self.name} {seed}")
        return [rng.choices(range(1000, 20000), k=self.prompt_len) for _ in range(self.num_prompts)]

    def show(self, seconds: float) -> str:
        """As tokens per second; a single token as the time to it."""
        if self.output_len == 1:
            return f"{seconds * 1000:.0f} ms"
        return f"{self.num_prompts * self.output_len / seconds:.1f} tok/s"


CASES = (
    Case("one stream, 32 in, 64 out", 1, 32, 64),
    Case("16 streams, 32 in, 32 out", 16, 32, 32),
    Case("first token of a 500-token prompt", 1, 500, 1),
)


def octavo(path: Path) -> Complete:
    """octavo with its defaults."""
    from octavo import LLM, SamplingParams

    llm = LLM(str(path), device="cpu", dtype="float32", max_model_len=1024)

    def complete(prompts: Prompts, output_len: int) -> Prompts:
        params = SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return complete


def transformers(path: Path) -> Complete:
    """`generate` as its documentation has it: KV cache and SDPA attention are its defaults."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    def complete(prompts: Prompts, output_len: int) -> Prompts:
        answers = []
        for ids in prompts:
            prompt = torch.tensor([ids])
            mask = torch.ones_like(prompt)
            out = model.generate(prompt, attention_mask=mask, max_new_tokens=output_len, do_sample=False)
            answers.append(out[0, len(ids) :].tolist())
        return answers

    return complete


LIBRARIES: dict[str, Callable[[Path], Complete]] = {"octavo": octavo, "transformers": transformers}


def work(connection: Connection, library: str, path: Path) -> None:
    """A child's life: load, then answer (prompts, output_len) with (seconds, answers) until told to stop."""
    complete = LIBRARIES[library](path)
    for case in CASES:
        complete(case.prompts(-1), min(case.output_len, 4))
    connection.send("ready")
    while (order := connection.recv()) is not None:
        began_s = time.perf_counter()
        answers = complete(*order)
        connection.send((time.perf_counter() - began_s, answers))


@contextmanager
def child(library: str, path: Path) -> Iterator[Connection]:
    """A loaded and warmed-up library behind a pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, library, path))
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    try:
        yield ours
    finally:
        ours.send(None)
        process.join()


@dataclass
class Measured:
    """Seconds by library, one entry a round, and how many prompts both continued with the same tokens."""

    case: Case
    seconds: dict[str, list[float]]
    num_same: int = 0
    num_prompts: int = 0

    @property
    def ratios(self) -> list[float]:
        """How many times faster octavo was, round by round."""
        return [b / a for a, b in zip(self.seconds["octavo"], self.seconds["transformers"], strict=True)]

    def line(self) -> str:
        """One row of the table: medians, and the spread of the ratio."""
        ours, theirs = (statistics.median(self.seconds[library]) for library in LIBRARIES)
        spread = f"{min(self.ratios):.2f}-{max(self.ratios):.2f}"
        return (
            f"{self.case.name:<36}{self.case.show(ours):>14}{self.case.show(theirs):>14}"
            f"{statistics.median(self.ratios):>8.2f}  ({spread}){self.num_same:>6} of {self.num_prompts}"
        )


def compare(path: Path, num_rounds: int) -> list[Measured]:
    """Every case in every round, the two libraries in turn; who begins alternates."""
    measured = [Measured(case, {library: [] for library in LIBRARIES}) for case in CASES]
    with child("octavo", path) as first, child("transformers", path) as second:
        pipes = {"octavo": first, "transformers": second}
        for index in range(num_rounds):
            order = list(pipes.items()) if index % 2 == 0 else list(pipes.items())[::-1]
            for entry in measured:
                prompts = entry.case.prompts(index)
                answers = {}
                for library, pipe in order:
                    pipe.send((prompts, entry.case.output_len))
                    seconds, answers[library] = pipe.recv()
                    entry.seconds[library].append(seconds)
                pairs = list(zip(answers["octavo"], answers["transformers"], strict=True))
                entry.num_prompts += len(pairs)
                entry.num_same += sum(a == b for a, b in pairs)
            print(f"round {index + 1} of {num_rounds} done", file=sys.stderr)
    return measured


def report(measured: Sequence[Measured], num_threads: int) -> dict[str, Any]:
    """Everything needed to judge the figures later."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": num_threads,
        "versions": {name: version(name) for name in ("octavo", "torch", "transformers")},
        "cases": [
            {"name": m.case.name, "seconds": m.seconds, "ratios": m.ratios, "same_tokens": m.num_same}
            for m in measured
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each library")
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the demo model)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement here")
    options = parser.parse_args()
    # Read by torch's OpenMP and MKL when the children start.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.model is None:
        from octavo.app.demo import demo_model

        options.model = demo_model()
    measured = compare(options.model, options.rounds)
    heads = f"{'octavo':>14}{'Transformers':>14}{'times':>8}"
    print(f"{f'{options.threads} threads, {options.rounds} rounds':<36}{heads}  (spread)  same tokens")
    for entry in measured:
        print(entry.line())
    if options.json is not None:
        options.json.write_text(json.dumps(report(measured, options.threads), indent=2) + "\n")


if __name__ == "__main__":
    main()
