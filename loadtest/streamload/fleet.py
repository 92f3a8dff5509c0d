"""The client processes of one run: started, held until all are ready, let go together, heard."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from time import monotonic

from .ask import Ask, Target
from .client import ClientResult, Share, work
from .streams import Streams, join

_HEAD_START_S = 0.2
"""From the word to begin until the beginning, so that every process has heard it."""


@dataclass(frozen=True)
class Load:
    """A run: requests, and how many processes with how many open streams send them."""

    target: Target
    asks: Sequence[Ask]
    num_clients: int = 1
    max_open: int | None = None
    timeout_s: float = 600.0


@dataclass(frozen=True)
class Run:
    """What a run observed.   cpu_s: each client's processor time, of wall_s."""

    streams: Streams
    cpu_s: list[float]
    wall_s: float


def run(load: Load) -> Run:
    """Send everything. Raises RuntimeError if a client process dies."""
    context = multiprocessing.get_context("spawn")
    shares = deal(load)
    pipes: list[Pipe] = []
    processes = []
    for share in shares:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, share), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            _receive(pipe)
        zero_s = monotonic() + _HEAD_START_S
        for pipe in pipes:
            pipe.send(zero_s)
        results = [_receive(pipe) for pipe in pipes]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    return Run(
        streams=join([result.streams for result in results]),
        cpu_s=[result.cpu_s for result in results],
        wall_s=max(result.wall_s for result in results),
    )


def deal(load: Load) -> list[Share]:
    """Requests dealt out like cards; open streams as evenly as they divide."""
    count = min(load.num_clients, len(load.asks), load.max_open or len(load.asks))
    return [
        Share(
            index=i,
            target=load.target,
            asks=load.asks[i::count],
            max_open=None if load.max_open is None else (load.max_open + count - 1 - i) // count,
            timeout_s=load.timeout_s,
        )
        for i in range(count)
    ]


def _receive(pipe: Pipe) -> ClientResult:
    try:
        received: ClientResult = pipe.recv()
    except EOFError:
        raise RuntimeError("a client process died; its words are above") from None
    return received
