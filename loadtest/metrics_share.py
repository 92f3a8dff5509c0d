"""What share of a server's work is counting: steps with the numbers and steps without, turn about.

    python loadtest/metrics_share.py [--seconds 120] [--streams 256] [--route completions]
    python loadtest/metrics_share.py --no-sockets

A real server: clients in another process read streams over connections; octavo's engine and front end are in
this one, over a device that is a script. All of this thread's processor time is the server's own work, so the
share of counting is the share of throughput that it costs where Python is the limit, the most that it can
cost anywhere. Without sockets and clients the rest is smaller and the share larger.
Counting is switched every few steps and neighbours are compared: other programs slow both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import queue
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import uvloop
from frontends import read_streams
from starlette.types import ASGIApp, Message, Scope
from toy import ScriptedExecutor, ScriptedStep, toy_model, write_tokenizer

from octavo.app.application import create_app
from octavo.app.client import EngineClient
from octavo.app.generation import Generation
from octavo.app.http_front import HttpFront
from octavo.app.inproc_client import InprocClient
from octavo.app.listener import bind
from octavo.app.metrics import ServerMetrics
from octavo.app.model_source import read_texts
from octavo.app.server_settings import ServerSettings
from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.step_meter import StepMeter

_MAX_MODEL_LEN = 512
_SETTINGS = ServerSettings(model_names=("toy",), version="0")
_BLOCK = 12
"""Steps with the numbers, then as many without."""
_ADAPTING = 4
"""Steps that are left out after a switch: the interpreter adapts to what has changed."""


class _NoMeter(StepMeter):
    """Meters nothing."""

    def planned(self, plan: StepPlan, schedule_s: float, launch_s: float) -> None:
        """See StepMeter."""

    def completed(self, step_s: float, wait_s: float, commit_s: float, deliver_s: float) -> None:
        """See StepMeter."""


class SwitchingExecutor(ScriptedExecutor):
    """Switches counting off and on every so many steps, and notes what each full step took of the thread.

    blocks: (whether it was counted, seconds of a step: the median of a block).
    """

    def __init__(self, step_s: float, num_rows: int) -> None:
        super().__init__(step_s)
        self.blocks: list[tuple[bool, float]] = []
        self._num_rows = num_rows
        self._is_counting = True
        self._engine: InprocClient | None = None
        self._counted: list[Any] = []
        self._block: list[float] = []
        self._num_launched = 0
        self._last_s = 0.0

    def launch(self, plan: StepPlan) -> ScriptedStep:
        """The next step; between two launches lies all that one of them brings."""
        now_s = time.thread_time()
        self._num_launched += 1
        place = self._num_launched % _BLOCK
        if place == 0:
            if self._block:
                self.blocks.append((self._is_counting, statistics.median(self._block)))
            self._block = []
            self.count(not self._is_counting)
        elif place > _ADAPTING and len(plan.rows) == self._num_rows:
            self._block.append(now_s - self._last_s)
        self._last_s = time.thread_time()
        return super().launch(plan)

    def of(self, engine: InprocClient) -> None:
        """Whose numbers are switched."""
        self._engine = engine
        self._counted = [engine._gaps, engine._host._engine._meter]

    def count(self, counting: bool) -> None:
        """Switch what steps and tokens count. In full steps no request begins or ends, so what those count
        is no part of this."""
        engine = self._engine
        assert engine is not None, "the engine was not told"
        engine._gaps, engine._host._engine._meter = self._counted if counting else (None, _NoMeter())
        self._is_counting = counting


class Toy:
    """octavo without a device."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        limits = SchedulerConfig(
            max_num_seqs=options.streams, max_num_batched_tokens=8192, max_model_len=_MAX_MODEL_LEN
        )
        scheduler = Scheduler(limits, CacheConfig(options.streams * _MAX_MODEL_LEN // 16, 16))
        step_s = options.step_ms / 1000 if options.sockets else 0.0
        self.executor = SwitchingExecutor(step_s, options.streams)
        self.engine = InprocClient(scheduler, self.executor)
        self._texts = read_texts(folder)

    def generation(self, client: EngineClient) -> Generation:
        """Of its model."""
        return Generation(client, *self._texts, toy_model(_MAX_MODEL_LEN))


async def served(toy: Toy, options: argparse.Namespace) -> None:
    """A server and its clients, for so long."""
    listener = bind("127.0.0.1", 0)
    metrics = ServerMetrics("toy", "0", toy.engine.stats)
    front = HttpFront(toy.engine, toy.generation, _SETTINGS, metrics, listener)
    toy.executor.of(toy.engine)
    toy.engine.start()
    await front.open()
    clients = multiprocessing.get_context("spawn").Process(
        target=read_for_ever, args=(listener.getsockname()[1], options)
    )
    clients.start()
    await asyncio.sleep(options.seconds)
    toy.executor.count(True)
    clients.kill()
    clients.join()
    await toy.engine.close()
    await front.stop()


def read_for_ever(port: int, options: argparse.Namespace) -> None:
    """The clients' process: streams that begin together, again and again."""
    while True:
        nobody_asks = queue.SimpleQueue[Any]()
        read_streams(port, options.streams, options.tokens, options.route, {}, nobody_asks)


async def alone(toy: Toy, options: argparse.Namespace) -> None:
    """The server's application, for so long."""
    metrics = ServerMetrics("toy", "0", toy.engine.stats)
    toy.engine.time_tokens(metrics.histograms.inter_token)
    toy.executor.of(toy.engine)
    app = create_app(toy.generation(toy.engine), _SETTINGS, metrics)
    toy.engine.start()
    until_s = time.monotonic() + options.seconds
    while time.monotonic() < until_s:
        await asyncio.gather(*(stream(app, number, options.tokens) for number in range(options.streams)))
    toy.executor.count(True)
    await toy.engine.close()


async def stream(app: ASGIApp, number: int, num_tokens: int) -> None:
    """One request, whose answer nobody reads."""
    asked = {"prompt": f"{number}", "max_tokens": num_tokens, "stream": True, "temperature": 0}
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


def summary(blocks: list[tuple[bool, float]], num_rows: int) -> dict[str, Any]:
    """Shares of neighbouring blocks, one with the numbers and one without."""
    us = [(counting, step_s / num_rows * 1e6) for counting, step_s in blocks]
    shares = [
        1 - one / other if other_counts else 1 - other / one
        for (one_counts, one), (other_counts, other) in pairwise(us)
        if one_counts != other_counts
    ]
    low, middle, high = statistics.quantiles(shares, n=4)
    # A block is in two pairs, so there are half as many independent ones.
    error = 1.25 * (high - low) / 1.35 / (len(shares) / 2) ** 0.5
    figures = {
        "with_numbers_us_per_token": statistics.median(each for counting, each in us if counting),
        "without_us_per_token": statistics.median(each for counting, each in us if not counting),
        "share_median_of_neighbours": middle,
        "share_standard_error": error,
    }
    return {"blocks": len(blocks)} | {name: round(figure, 4) for name, figure in figures.items()}


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--route", default="completions")
    parser.add_argument("--no-sockets", dest="sockets", action="store_false")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        write_tokenizer(Path(name))
        toy = Toy(options, Path(name))
        runner.run(served(toy, options) if options.sockets else alone(toy, options))
    print(json.dumps(summary(toy.executor.blocks, options.streams), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
