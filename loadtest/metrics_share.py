"""What share of a server's work is counting: the same streams with the numbers and without, turn about.

    python loadtest/metrics_share.py [--rounds 9]

All of the product is there but sockets and a device, whose steps take no time: the share is the largest that
there can be. Processor time, so other programs on the machine matter little; the best round of each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import uvloop
from frontends import ScriptedExecutor, write_tokenizer
from starlette.types import ASGIApp, Message, Scope

from octavo.app.application import create_app
from octavo.app.choice_record import ChoiceRecord
from octavo.app.generation import Generation, ServedModel, TextDelta
from octavo.app.inproc_client import InprocClient
from octavo.app.metrics import ServerMetrics
from octavo.app.model_source import read_texts
from octavo.app.server_settings import ServerSettings
from octavo.cache.config import CacheConfig
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.distribution import Distribution
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.step_meter import StepMeter

_NUM_STREAMS = 64
_NUM_TOKENS = 300


def _only_count_tokens(record: ChoiceRecord, delta: TextDelta) -> None:
    """What `usage` needs anyway."""
    record.num_tokens += len(delta.token_ids)
    if delta.finish_reason is not None:
        record.end(delta.finish_reason.value)


@contextmanager
def without_numbers() -> Iterator[None]:
    """Nothing is counted but what an answer tells its client."""
    nothing = {
        StepMeter: ("planned", "completed"),
        Distribution: ("observe",),
        ServerMetrics: ("count_response", "count_duration"),
    }
    with ExitStack() as stack:
        stack.enter_context(patch.object(ChoiceRecord, "receive", _only_count_tokens))
        for owner, names in nothing.items():
            for name in names:
                stack.enter_context(patch.object(owner, name, lambda *args: None))
        yield


async def stream(app: ASGIApp, number: int) -> None:
    """One request, whose answer nobody reads."""
    asked = {"prompt": f"{number}", "max_tokens": _NUM_TOKENS, "stream": True, "temperature": 0}
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False})
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "server": ("here", 80),
        "http_version": "1.1",
        "headers": [],
        "extensions": {},
    }

    async def send(message: Message) -> None:
        return None

    await app(scope, incoming.get, send)


async def round_s(folder: Path) -> float:
    """Processor time of all streams."""
    scheduler = SchedulerConfig(
        max_num_seqs=_NUM_STREAMS, max_num_batched_tokens=2048, max_model_len=512, max_queued_requests=None
    )
    client = InprocClient(Scheduler(scheduler, CacheConfig(_NUM_STREAMS * 32, 16)), ScriptedExecutor(0.0))
    tokenizer, template = read_texts(folder)
    model = ServedModel(
        name="toy", max_model_len=512, vocab_size=2000, eos_token_ids=frozenset(), default_params={}
    )
    generation = Generation(client, tokenizer, template, model)
    settings = ServerSettings(model_names=("toy",), version="0")
    app = create_app(generation, settings, ServerMetrics("toy", "0", client.stats))
    client.start()
    began_s = time.process_time()
    await asyncio.gather(*(stream(app, number) for number in range(_NUM_STREAMS)))
    took_s = time.process_time() - began_s
    await client.close()
    return took_s


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    counted, bare = [], []
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        folder = Path(name)
        write_tokenizer(folder)
        for number in range(2 * options.rounds + 2):
            if number % 2:
                with without_numbers():
                    bare.append(runner.run(round_s(folder)))
            else:
                counted.append(runner.run(round_s(folder)))
    tokens = _NUM_STREAMS * _NUM_TOKENS
    best, best_bare = min(counted[1:]), min(bare[1:])  # the first of each warms up
    pairs = [1 - without / whole for whole, without in zip(counted[1:], bare[1:], strict=True)]
    figures = {
        "with_numbers_us_per_token": round(best / tokens * 1e6, 3),
        "without_us_per_token": round(best_bare / tokens * 1e6, 3),
        "share_of_the_best": round(1 - best_bare / best, 4),
        "share_of_neighbours_median": round(statistics.median(pairs), 4),
    }
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
