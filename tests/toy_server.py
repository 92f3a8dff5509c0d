"""A server whose device is a toy: front-end processes, sockets, signals and scheduler are the product's.

Run as a program, `python tests/toy_server.py FOLDER [flags]`; `toy_server` starts it that way. Tokens are
bytes, and `expected_output` of fakes.py knows every answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import uvloop
from engine_clock import EngineClock
from expected import expected_output
from fakes import FakeExecutor, ToyModel
from http_harness import TEMPLATE, byte_tokenizer

from octavo.app.control_messages import Setup
from octavo.app.engine_host import HostOptions
from octavo.app.engine_server import EngineServer
from octavo.app.frames import PROTOCOL_VERSION
from octavo.app.generation import ServedModel
from octavo.app.lifecycle import serve_until_signal
from octavo.app.listener import address_of, bind, bind_unix
from octavo.app.logs import set_up_logging
from octavo.app.rate_limits import RateLimits
from octavo.app.server_settings import EdgeSettings, ServerSettings
from octavo.app.supervisor import Supervisor
from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler import engine
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request
from octavo.scheduler.scheduler import Scheduler

TOY = ToyModel(vocab_size=256)
MAX_MODEL_LEN = 2000
NUM_BLOCKS = 2000
HOST = "127.0.0.1"
START_S = 300.0
PACE = "seconds of a step"
"""A file in the server's folder; `ToyServer.pace` writes it."""
SIGNAL_PASSES_S = 600.0
"""So long passes for the engine at once when its process is sent SIGUSR1."""


def write_tokenizer(folder: Path) -> None:
    """The files that a front end reads."""
    byte_tokenizer().backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))


def latency(options: argparse.Namespace) -> Callable[[StepPlan], float]:
    """Steps take `--latency`, or what a file says; one takes `--hang-for` instead, if asked to."""
    steps = itertools.count()

    def of(plan: StepPlan) -> float:
        if next(steps) == options.hang_at:
            return float(options.hang_for)
        with contextlib.suppress(FileNotFoundError):
            return float((options.folder / PACE).read_text())
        return float(options.latency)

    return of


async def serve(options: argparse.Namespace) -> int:
    """What octavo.app.serve does, around a toy."""
    listener = bind(HOST, 0) if options.uds is None else bind_unix(options.uds)
    setup = Setup(
        version=PROTOCOL_VERSION,
        model_path=str(options.folder),
        model=ServedModel(
            name="toy",
            max_model_len=MAX_MODEL_LEN,
            vocab_size=256,
            eos_token_ids=frozenset(),
            default_params={"temperature": 0.0},
        ),
        settings=ServerSettings(
            model_names=("toy",),
            version="9.9",
            api_keys=tuple(options.keys),
            edge=EdgeSettings(ssl_certfile=options.cert, ssl_keyfile=options.key),
        ),
        log_level="info",
    )
    supervisor = Supervisor(setup, listener, options.frontends)
    executor = FakeExecutor(
        TOY,
        num_slots=options.max_seqs,
        num_blocks=NUM_BLOCKS,
        block_size=16,
        latency_s=latency(options),
        fail_at_step=options.fail_at,
    )
    scheduler = SchedulerConfig(
        max_num_seqs=options.max_seqs,
        max_num_batched_tokens=512,
        max_model_len=MAX_MODEL_LEN,
        max_queued_requests=options.max_queued,
        max_ttft_s=options.max_ttft,
    )
    server = EngineServer(
        Scheduler(scheduler, CacheConfig(NUM_BLOCKS, 16)),
        executor,
        HostOptions(
            step_timeout_s=options.step_timeout,
            rates=RateLimits(options.rpm, options.tpm) if options.rpm or options.tpm else None,
        ),
        max_silent_s=options.max_silent,
    )
    clock = EngineClock()
    vars(engine)["time"] = clock
    signal.signal(signal.SIGUSR1, lambda *_: clock.pass_s(SIGNAL_PASSES_S))
    server.start()
    supervisor.serve(server, {"weights": 3000, "KV cache": 5000, "total": 8000})
    try:
        return await serve_until_signal(
            supervisor,
            server,
            ready_line=lambda: f"ready at {address_of(listener)}",
            drain_timeout_s=options.drain_timeout,
        )
    finally:
        await server.close()
        supervisor.kill()


class ToyServer:
    """The running program. log: what it and its front ends have said."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self._pace = folder / PACE
        self.log = ""
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._ready.wait(START_S), f"it did not get ready: {self.log}"
        assert self.url, self.log

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line
            if line.startswith("ready at "):
                self.url = line.split()[2]
                self._ready.set()
        self._ready.set()

    def frontends(self) -> list[int]:
        """Process ids of the front ends, in order of age."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return sorted(map(int, children.split()))

    def pace(self, step_s: float) -> None:
        """From the next step on, steps take so long: what runs lasts as long as is needed, and then ends."""
        new = self._pace.with_suffix(".new")
        new.write_text(str(step_s))
        new.rename(self._pace)

    def end(self, number: signal.Signals | None = None, within_s: float = 60) -> int:
        """The exit code, after a signal if one is given; all output has been read then."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(within_s)
        self._reader.join(within_s)  # which ends when every front end has closed its output
        assert not self._reader.is_alive(), "a process outlives the server"
        return code


@contextlib.contextmanager
def toy_server(
    folder: Path,
    *,
    log: IO[bytes] | None = None,
    before: Callable[[], None] | None = None,
    **flags: object,
) -> Iterator[ToyServer]:
    """Start the program with `--name value` for each of `flags`; killed in the end, if it still runs.

    log: where standard error goes, with standard output by default.   before: done in the new process first.
    """
    write_tokenizer(folder)
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if log is None else log,
        text=True,
        preexec_fn=before,
    )
    server = None
    try:
        server = ToyServer(process, folder)
        yield server
    finally:
        process.kill()
        process.wait()
        if server is not None:
            server.end()
        if process.stdout is not None:
            process.stdout.close()


def answer_of(prompt: str, max_tokens: int) -> str:
    """What the toy says, greedily, computed alone."""
    request = Request(
        request_id="alone",
        prompt_token_ids=list(prompt.encode()),
        params=SamplingParams(temperature=0),
        max_tokens=max_tokens,
    )
    return byte_tokenizer().decode(expected_output(request, TOY).token_ids)


def alive(pid: int) -> bool:
    """Whether the process runs: one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(holds: object, within_s: float = 60.0) -> None:
    """Until `holds()` is true; fails if it does not become so."""
    assert callable(holds)
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frontends", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.01)
    parser.add_argument("--drain-timeout", type=float, default=20.0)
    parser.add_argument("--max-seqs", type=int, default=64)
    parser.add_argument("--max-queued", type=int, default=100)
    parser.add_argument("--max-silent", type=float, default=30.0)
    parser.add_argument("--rpm", type=int)
    parser.add_argument("--tpm", type=int)
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--max-ttft", type=float)
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--hang-at", type=int)
    parser.add_argument("--hang-for", type=float, default=3600.0)
    parser.add_argument("--step-timeout", type=float)
    for name in ("--cert", "--key", "--uds"):
        parser.add_argument(name)
    set_up_logging("info")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
